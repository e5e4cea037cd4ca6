"""Drops of lists: where each came from, whatever its format and whatever is wrong with it."""

import gzip
import io
import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.sources import FORMATS
from pipelines.sources.files import Part
from pipelines.sources.grit import GritSettings
from pipelines.sources.jsonl_text import JsonlTextSettings
from pipelines.sources.mmc4 import Mmc4Settings
from pipelines.sources.obelics import ObelicsSettings
from pipelines.sources.origin import About, Origin, about_row
from pipelines.sources.url_table import UrlTableSettings
from pipelines.sources.video_list import VideoListSettings
from pipelines.sources.webdataset import WebDatasetSettings

U = "https://u:secret@img.example/1.jpg"
SHOWN = "https://img.example/1.jpg"
PAGE = "https://site.example/p"
PLAIN = "https://a.example/1"
TOKEN = f"{PLAIN}?access_token=SECRET"
OBELICS = {"metadata": "[]", "general_metadata": json.dumps({"url": PAGE})}
GONE = json.dumps({"url": U, "caption": "a boat", "status": "gone"}).encode()
LOST = json.dumps({"url": TOKEN, "status": "failed", "error_message": f"no answer: {TOKEN}"}).encode()


def tar(*members):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def parquet(row):
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([row]), file)
    return file.getvalue()


CASES = [
    ("x.jsonl", UrlTableSettings, {"url": U, "caption": "&nbsp;"}, About(SHOWN, None, "&nbsp;")),
    ("x.jsonl", UrlTableSettings, {"url": "ftp://a/b", "caption": "a boat"}, About("ftp://a/b", None, "a boat")),
    ("x.jsonl", UrlTableSettings, {"caption": "a boat", "page_url": PAGE, "url": None}, About(None, PAGE, "a boat")),
    ("x.csv", UrlTableSettings, b"url,caption\nhttps://a.example/1,a,boat\n", About(PLAIN, None, f"{PLAIN} a boat")),
    ("x.csv", UrlTableSettings, f"url,caption\n{TOKEN},\n".encode(), About(PLAIN)),
    ("x.csv", UrlTableSettings, f"url,caption\n{TOKEN},a,{U}\n".encode(), About(PLAIN, None, f"{PLAIN} a {SHOWN}")),
    ("x.tsv", UrlTableSettings, f"url\tcaption\na\tb\t{U}\n".encode(), About(SHOWN, None, f"a b {SHOWN}")),
    ("x.jsonl", UrlTableSettings, f'{{"url": "{TOKEN}", \n'.encode(), About(PLAIN, None, f'{{"url": "{PLAIN}", ')),
    (
        "x.jsonl",
        UrlTableSettings,
        {"image_url": TOKEN, "capsfusion": None, "laion_2b": "no", "laion_coco": "another caption"},
        About(PLAIN),
    ),
    (
        "x.tsv",
        UrlTableSettings,
        b"url\tcaption\nhttps://a.example/1\t\xc3\xa9\xe9\n",
        About(PLAIN, None, f"{PLAIN}\té\ufffd"),
    ),
    ("x.jsonl", GritSettings, {"url": U, "caption": "a boat", "noun_chunks": []}, About(SHOWN, None, "a boat")),
    ("x.jsonl", Mmc4Settings, {"url": PAGE, "text_list": ["a", "b"], "image_info": []}, About(PAGE, PAGE, "a\n\nb")),
    (
        "x.parquet",
        ObelicsSettings,
        {"images": ["a"], "texts": ["words", "x"], **OBELICS},
        About(PAGE, PAGE, "words\n\nx"),
    ),
    ("x.jsonl", VideoListSettings, {"url": "x", "caption": "film", "page_url": PAGE}, About("x", PAGE, "film")),
    ("x.jsonl", JsonlTextSettings, {"words": 3, "url": PAGE}, About(PAGE, PAGE, None)),
    ("x.jsonl", JsonlTextSettings, b'{"text": "no end\n', About(text='{"text": "no end')),
    ("x.tar", WebDatasetSettings, tar(("a.txt", b"a boat"), ("a.json", b"{")), About(text="a boat")),
    ("x.tar", WebDatasetSettings, tar(("a.json", LOST)), About(PLAIN)),
    ("x.tar", WebDatasetSettings, tar(("a.json", GONE)), About(SHOWN, None, "a boat")),
    ("x.tar.gz", WebDatasetSettings, gzip.compress(tar(("a.txt", b"a boat"))), About(text="a boat")),
]
KIND = {GritSettings: "grounded", VideoListSettings: "video", JsonlTextSettings: "text"}
KIND |= dict.fromkeys((Mmc4Settings, ObelicsSettings), "interleaved")


@pytest.mark.parametrize(("name", "settings", "data", "about"), CASES)
def test_a_drop_of_a_list_has_its_record_urls_and_text(tmp_path, name, settings, data, about):
    if isinstance(data, dict):
        data = parquet(data) if name.endswith("parquet") else json.dumps(data).encode()
    (tmp_path / name).write_bytes(data)
    source = settings(files=[str(tmp_path / name)])
    form = FORMATS[source.format]
    (drop,) = [
        drop for part in form.parts(source) for drop in form.read(part, source, "src", KIND.get(settings, "pair"))
    ]
    assert About(drop.url, drop.page_url, drop.excerpt) == about
    assert drop.record.startswith(f"{name} ")
    assert "SECRET" not in repr(drop)
    assert drop.key


def test_bytes_that_are_no_text_are_shown_as_far_as_they_are():
    origin = Origin("src", "pair", Part("x", "x"), UrlTableSettings(files=["x"]))
    assert about_row({"url": TOKEN.encode(), "caption": b"a \xe9"}, origin) == About(PLAIN, None, "a \ufffd")


def test_columns_that_the_settings_name_come_first():
    settings = UrlTableSettings(files=["x"], columns={"url": "Link", "caption": "Note"})
    origin = Origin("src", "pair", Part("x", "x"), settings)
    row = {"link": "https://a.example/1", "note": "mine", "url": "https://b.example/", "caption": "other"}
    assert about_row(row, origin) == About("https://a.example/1", None, "mine")


@pytest.mark.parametrize(
    "row", [None, 3, [], {}, {"url": 3, "text": {}}, {"general_metadata": "{"}, {"text_list": [1]}]
)
def test_a_row_of_any_form_shows_what_it_can(row):
    origin = Origin("src", "pair", Part("x", "x"), UrlTableSettings(files=["x"]))
    assert about_row(row, origin) == About()
