"""Drops of lists: where each came from, whatever its format and whatever is wrong with it."""

import gzip
import io
import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.sources import FORMATS
from pipelines.sources.grit import GritSettings
from pipelines.sources.jsonl_text import JsonlTextSettings
from pipelines.sources.mmc4 import Mmc4Settings
from pipelines.sources.obelics import ObelicsSettings
from pipelines.sources.row_contents import RowContents, contents_of_row
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
    ("x.jsonl", UrlTableSettings, {"url": U, "caption": "&nbsp;"}, RowContents(SHOWN, None, "&nbsp;")),
    ("x.jsonl", UrlTableSettings, {"url": "ftp://a/b", "caption": "a boat"}, RowContents("ftp://a/b", None, "a boat")),
    (
        "x.jsonl",
        UrlTableSettings,
        {"caption": "a boat", "page_url": PAGE, "url": None},
        RowContents(None, PAGE, "a boat"),
    ),
    (
        "x.csv",
        UrlTableSettings,
        b"url,caption\nhttps://a.example/1,a,boat\n",
        RowContents(PLAIN, None, f"{PLAIN} a boat"),
    ),
    ("x.csv", UrlTableSettings, f"url,caption\n{TOKEN},\n".encode(), RowContents(PLAIN)),
    (
        "x.csv",
        UrlTableSettings,
        f"url,caption\n{TOKEN},a,{U}\n".encode(),
        RowContents(PLAIN, None, f"{PLAIN} a {SHOWN}"),
    ),
    ("x.tsv", UrlTableSettings, f"url\tcaption\na\tb\t{U}\n".encode(), RowContents(SHOWN, None, f"a b {SHOWN}")),
    (
        "x.jsonl",
        UrlTableSettings,
        f'{{"url": "{TOKEN}", \n'.encode(),
        RowContents(PLAIN, None, f'{{"url": "{PLAIN}", '),
    ),
    (
        "x.jsonl",
        UrlTableSettings,
        {"image_url": TOKEN, "capsfusion": None, "laion_2b": "no", "laion_coco": "another caption"},
        RowContents(PLAIN),
    ),
    (
        "x.tsv",
        UrlTableSettings,
        b"url\tcaption\nhttps://a.example/1\t\xc3\xa9\xe9\n",
        RowContents(PLAIN, None, f"{PLAIN}\té\ufffd"),
    ),
    ("x.jsonl", GritSettings, {"url": U, "caption": "a boat", "noun_chunks": []}, RowContents(SHOWN, None, "a boat")),
    (
        "x.jsonl",
        Mmc4Settings,
        {"url": PAGE, "text_list": ["a", "b"], "image_info": []},
        RowContents(PAGE, PAGE, "a\n\nb"),
    ),
    (
        "x.parquet",
        ObelicsSettings,
        {"images": ["a"], "texts": ["words", "x"], **OBELICS},
        RowContents(PAGE, PAGE, "words\n\nx"),
    ),
    ("x.jsonl", VideoListSettings, {"url": "x", "caption": "film", "page_url": PAGE}, RowContents("x", PAGE, "film")),
    ("x.jsonl", JsonlTextSettings, {"words": 3, "url": PAGE}, RowContents(PAGE, PAGE, None)),
    ("x.jsonl", JsonlTextSettings, b'{"text": "no end\n', RowContents(text='{"text": "no end')),
    ("x.tar", WebDatasetSettings, tar(("a.txt", b"a boat"), ("a.json", b"{")), RowContents(text="a boat")),
    ("x.tar", WebDatasetSettings, tar(("a.json", LOST)), RowContents(PLAIN)),
    ("x.tar", WebDatasetSettings, tar(("a.json", GONE)), RowContents(SHOWN, None, "a boat")),
    ("x.tar.gz", WebDatasetSettings, gzip.compress(tar(("a.txt", b"a boat"))), RowContents(text="a boat")),
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
    assert RowContents(drop.url, drop.page_url, drop.excerpt) == about
    assert drop.record.startswith(f"{name} ")
    assert "SECRET" not in repr(drop)
    assert drop.key


def test_bytes_that_are_no_text_are_shown_as_far_as_they_are():
    assert contents_of_row({"url": TOKEN.encode(), "caption": b"a \xe9"}, "pair", {}) == RowContents(
        PLAIN, None, "a \ufffd"
    )


def test_columns_that_the_settings_name_come_first():
    columns = {"url": "Link", "caption": "Note"}
    row = {"link": "https://a.example/1", "note": "mine", "url": "https://b.example/", "caption": "other"}
    assert contents_of_row(row, "pair", columns) == RowContents("https://a.example/1", None, "mine")


@pytest.mark.parametrize(
    "row", [None, 3, [], {}, {"url": 3, "text": {}}, {"general_metadata": "{"}, {"text_list": [1]}]
)
def test_a_row_of_any_form_shows_what_it_can(row):
    assert contents_of_row(row, "pair", {}) == RowContents()


@pytest.mark.parametrize("columns", [{}, {"url": "address", "caption": "said"}])
def test_a_column_without_a_name_is_neither_url_nor_text(columns):
    row = {"": "17", "link": PLAIN, "words": "a boat"}
    assert contents_of_row(row, "pair", columns) == RowContents()
    row = {"": "17", "url": PLAIN, "caption": "a boat"}
    assert contents_of_row(row, "pair", columns) == RowContents(PLAIN, None, "a boat")


def test_the_url_of_a_row_that_cannot_be_read_has_no_secrets():
    for url in ("https://u:p;w@a.example/1", TOKEN, r"https:\/\/u:p@a.example\/1"):
        assert contents_of_row(f'{{"url": "{url}"', "text", {}) == RowContents(PLAIN, PLAIN, f'{{"url": "{PLAIN}"')


def test_a_long_text_is_cut_before_it_is_searched_for_secrets():
    text = "a" * 10_000
    for row in (text, {"caption": text}, {"texts": [text]}):
        assert contents_of_row(row, "pair", {}).text == "a" * 2_000
