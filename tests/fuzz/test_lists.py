"""Fuzz tests of lists and archives: no row or file is an error of ours, and what a library writes is read."""

import csv
import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from warcio.archiveiterator import ArchiveIterator as WarcioIterator

from pipelines.candidate import Candidate
from pipelines.crawling.warc_records import exchange_records, file_record
from pipelines.document import Document, Drop
from pipelines.errors import UserError
from pipelines.shards.tar_samples import member_header, tar_end, walk_members, walk_samples
from pipelines.sources import FORMATS, lines
from pipelines.sources.files import Files, Part
from pipelines.sources.grit import GritSettings
from pipelines.sources.jsonl_text import JsonlTextSettings
from pipelines.sources.mmc4 import Mmc4Settings
from pipelines.sources.obelics import ObelicsSettings
from pipelines.sources.origin import BrokenFileError
from pipelines.sources.storyboard import StoryboardSettings
from pipelines.sources.tables import open_table
from pipelines.sources.url_table import UrlTableSettings
from pipelines.sources.video_list import VideoListSettings
from pipelines.sources.warc import CrawledPage, read_pages, read_records
from pipelines.sources.webdataset import WebDatasetSettings
from pipelines.web.answers import Fetched
from tests.fuzz.mutations import IN_A_FOLDER, changed_json, in_time, mutated
from tests.pipelines.sources.storyboard_files import INFO, VTT, sheet, storyboard
from tests.pipelines.stage_records import image_bytes


def outcomes(format: str, settings: Files, kind: str) -> list[Candidate | Drop]:
    """Return what the reader of a format gives for its files, within the bound; none if it refuses them in one line."""
    found: list[Candidate | Drop] = []
    with in_time():
        try:
            for part in FORMATS[format].parts(settings):
                found += FORMATS[format].read(part, settings, "fuzz", kind)  # type: ignore[arg-type]
        except UserError as refused:
            message = str(refused)
            assert "\n" not in message
    for outcome in found:
        if isinstance(outcome, Drop):
            assert outcome.reason != "internal_error", outcome.detail
        else:
            written = outcome.document.to_json()
            assert Document.from_json(written).to_json() == written  # of a score, six digits
            Candidate.from_columns(written, outcome.requests_json(), outcome.record)
    return found


# --- rows -----------------------------------------------------------------------------------------------------------

_BOX = [0, 6, 0.1, 0.1, 0.5, 0.5, 0.9]
_PAIR = {
    "url": "https://x.example/a.jpg",
    "caption": "A boat on the sea",
    "width": 9,
    "similarity": 0.3,
    "id": 7,
    "nsfw": "UNLIKELY",
}
_MMC4 = {
    "url": "https://x.example/", "text_list": ["One.", "Two."], "similarity_matrix": [[0.1, 0.9]],
    "image_info": [{"raw_url": "https://x.example/a.jpg", "matched_text_index": 1, "matched_sim": 0.9, "face_detections": None}],
}  # fmt: skip
_INLINE = {**_MMC4, "image_info": [{"image_base64": "/9j/", "matched_text_index": 0}]}
_VIDEO = {
    "url": "https://x.example/v.mp4",
    "caption": "A film",
    "duration": "PT00H00M17S",
    "subtitles_url": "https://x.example/t.vtt",
}
_SPEECH = {
    "abc": {"start": [0.5, 2.0], "end": [1.0, 3.0], "text": ["one", "two"]},
    "def": {"start": [1], "end": [2], "text": ["x"]},
}
_PILE = {"text": "Words.", "meta": {"pile_set_name": "Github", "url": "https://x.example/"}, "id": "7"}
_GRIT = {**_PAIR, "noun_chunks": [_BOX], "ref_exps": [_BOX], "clip_similarity_vitb32": 0.3}

JSON_LINES: dict[str, tuple[str, Any, str, list[Any]]] = {
    "url_table": ("url_table", UrlTableSettings, "pair", [_PAIR]),
    "mmc4": ("mmc4", Mmc4Settings, "interleaved", [_MMC4, _INLINE]),
    "video_list": ("video_list", VideoListSettings, "video", [_VIDEO]),
    "pile": ("jsonl_text", JsonlTextSettings, "text", [_PILE]),
    "grit": ("grit", GritSettings, "grounded", [_GRIT]),
}


@pytest.mark.parametrize("name", sorted(JSON_LINES))
@given(data=st.data())
@IN_A_FOLDER
def test_no_row_of_json_is_an_error_of_ours(name: str, data: st.DataObject, tmp_path: Path):
    format, settings_of, kind, seeds = JSON_LINES[name]
    rows = [seeds[0], *(data.draw(changed_json(seeds)) for _ in range(3))]
    path = tmp_path / "rows.jsonl"
    path.write_bytes("\n".join(map(json.dumps, rows)).encode())
    options = {"exclude_components": "default"} if name == "pile" else {}
    found = outcomes(format, settings_of(files=[str(path)], **options), kind)
    documents = [o for o in found if isinstance(o, Candidate) or o.unit == "document"]
    assert not found or len(documents) == len(rows)


@given(changed_json([_SPEECH]))
@IN_A_FOLDER
def test_no_speech_is_an_error_of_ours(tmp_path: Path, value: Any):
    path = tmp_path / "raw_caption.json"
    path.write_text(json.dumps(value))
    outcomes("video_list", VideoListSettings(files=[str(path)]), "video")


_OBELICS = {
    "images": ["https://x.example/a.jpg", None], "texts": [None, "Words END_OF_DOCUMENT_TOKEN_TO_BE_REPLACED more"],
    "metadata": [{"document_url": "https://x.example/", "unformatted_src": "a.jpg", "alt_text": "A boat"}, None],
    "general_metadata": {"url": "https://x.example/", "warc_filename": "w", "warc_record_offset": 3, "warc_record_length": 4},
}  # fmt: skip


@given(changed_json([_OBELICS]))
@example({**_OBELICS, "general_metadata": {"warc_record_offset": "\u00b2"}})
@IN_A_FOLDER
def test_no_row_of_obelics_is_an_error_of_ours(tmp_path: Path, value: Any):
    assume(isinstance(value, dict))
    columns = {
        "images": value.get("images"),
        "texts": value.get("texts"),
        "metadata": json.dumps(value.get("metadata")),
        "general_metadata": json.dumps(value.get("general_metadata")),
    }
    path = tmp_path / "rows.parquet"
    try:
        table = pa.table({name: [cell] for name, cell in columns.items()})
        pq.write_table(table, path)
    except (pa.ArrowException, UnicodeEncodeError, OverflowError):
        assume(False)  # which no parquet file can hold
    outcomes("obelics", ObelicsSettings(files=[str(path)]), "interleaved")


@given(changed_json([INFO]), mutated([VTT.encode()]), mutated([storyboard((0, sheet(4, 0)), (1, sheet(3, 4)))]))
@IN_A_FOLDER
def test_no_storyboard_is_an_error_of_ours(tmp_path: Path, info: Any, track: bytes, sheets: bytes):
    (tmp_path / "v.info.json").write_text(json.dumps(info))
    (tmp_path / "v.en.vtt").write_bytes(track)
    (tmp_path / "v.mhtml").write_bytes(sheets)
    outcomes("storyboard", StoryboardSettings(files=[str(tmp_path / "v.mhtml")]), "video")


# --- csv and tsv ----------------------------------------------------------------------------------------------------

_CELLS = st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)


@given(
    st.lists(_CELLS, min_size=1, max_size=6),
    st.sampled_from([",", ";", "|", "\t"]),
    st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
)
@IN_A_FOLDER
def test_a_csv_that_pythons_module_writes_is_read(tmp_path: Path, captions: list[str], delimiter: str, quoting: int):
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, quoting=quoting)  # type: ignore[arg-type]
    rows = [[f"https://x.example/{i}.jpg", caption] for i, caption in enumerate(captions)]
    writer.writerows([["url", "caption"], *rows])
    path = tmp_path / "rows.csv"
    path.write_bytes(text.getvalue().encode())
    table = open_table(Part(str(path), path.name))
    assert table.columns == ("url", "caption")
    assert [list(row.values()) for _, row in table.rows if isinstance(row, dict)] == rows


_CSV = (
    b'url,caption\nhttps://x.example/a.jpg,"A ""boat"", at\nsea"\nhttps://x.example/b.jpg,b\n',
    b'https://x.example/a.jpg\tA boat\nhttps://x.example/b.jpg\t"A sea\n',
    b"sep=;\nurl;caption\nhttps://x.example/a.jpg;A boat\n",
    "url,caption\nhttps://x.example/a.jpg,\u00e9\n".encode("utf-16"),
    b"url,caption\nhttps://x.example/a.jpg,\xe9t\xe9 \xe0 la mer\n",
)


@given(mutated(_CSV, (b'""', b"\t", b",", b";", b"url")), st.sampled_from(["csv", "tsv", "txt", "csv.gz"]))
@IN_A_FOLDER
def test_no_csv_is_an_error_of_ours(tmp_path: Path, data: bytes, ending: str):
    path = tmp_path / f"rows{len(data)}.{ending}"
    path.write_bytes(data)
    found = outcomes("url_table", UrlTableSettings(files=[str(path)], part_bytes=64), "pair")
    assert len([o for o in found if isinstance(o, Candidate)]) <= data.count(b"\n") + data.count(b"\r") + 1


@given(
    st.lists(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\n\r"), min_size=1), max_size=9),
    st.integers(1, 40),
)
@IN_A_FOLDER
def test_lines_are_those_of_the_file_however_it_is_split(tmp_path: Path, written: list[str], part_bytes: int):
    path = tmp_path / f"lines{abs(hash(tuple(written)))}.txt"
    path.write_bytes("\n".join(written).encode())
    parts = lines.line_parts(str(path), path.name, part_bytes)
    assume(len(parts) > 1 or not written)
    read = [line for part in parts for _, line in lines.read_lines(part)]
    expected = [line.encode() for line in written]
    if expected:
        expected[0] = expected[0].removeprefix(b"\xef\xbb\xbf")
    assert read == [line for line in expected if line]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda i: st.lists(i, max_size=4),
        max_leaves=8,
    ).map(lambda v: v if isinstance(v, list) else [v])
)
@IN_A_FOLDER
def test_items_of_a_json_array_are_those_that_pythons_reader_finds(tmp_path: Path, items: list[Any]):
    path = tmp_path / "items.json"
    path.write_text(json.dumps(items, ensure_ascii=False), encoding="utf-8", errors="surrogatepass")
    assume("\ud800" not in path.read_text(errors="replace") and "\ufffd" not in path.read_text(errors="replace"))
    assert [value for _, value in lines.read_json_items(str(path))] == items


@given(
    mutated(
        (b'[{"a": 1}, {"b": [2, 3]}, "x"]', b'{"a": {"b": 1e5}, "c": null}'), (b"[", b"{", b",", b"\\u", b"1e", b"NaN")
    )
)
@IN_A_FOLDER
def test_a_json_array_ends_early_or_is_read(tmp_path: Path, data: bytes):
    path = tmp_path / "items.json"
    path.write_bytes(data)
    with in_time():
        try:
            list(lines.read_json_items(str(path)))
        except (BrokenFileError, UserError):
            return


# --- tars -----------------------------------------------------------------------------------------------------------

_NAMES = st.from_regex(r"[A-Za-z0-9_]{1,8}(/[A-Za-z0-9_]{1,8})?\.[a-z]{1,4}", fullmatch=True)


@given(st.lists(st.tuples(_NAMES, st.binary(max_size=1500)), max_size=5, unique_by=lambda member: member[0]))
def test_a_written_tar_is_what_tarfile_reads_and_is_read(members: list[tuple[str, bytes]]):
    data = b"".join(member_header(n, len(c)) + c + bytes(-len(c) % 512) for n, c in members)
    data += tar_end(len(data))
    with tarfile.open(fileobj=io.BytesIO(data)) as file:
        assert [(m.name, file.extractfile(m).read()) for m in file] == members  # type: ignore[union-attr]
    found = list(walk_members(lambda at, n: data[at : at + n], "x.tar", 0, len(data), is_whole=True))
    assert [(m.name, data[m.content : m.content + m.size]) for m in found] == members


def _tar(*members: tuple[str, bytes], format: int = tarfile.USTAR_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as file:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return out.getvalue()


_SAMPLE = (
    ("k.jpg", image_bytes(0)),
    ("k.txt", b"A boat"),
    ("k.json", json.dumps(_PAIR | {"status": "success"}).encode()),
)
_BUILDER = (("v.0.txt", b"words"), ("v.0.png", b"p"), ("v.final_meta.json", b'{"duration": 9, "frame_num": 1}'))
_TARS = (
    _tar(*_SAMPLE),
    _tar(("a" * 150 + ".jpg", b"x"), ("\u00e9.txt", b"y"), format=tarfile.PAX_FORMAT),
    _tar(("a" * 150 + ".jpg", b"x"), format=tarfile.GNU_FORMAT),
    _tar(*_BUILDER),
    _tar(("m.json", json.dumps(_INLINE).encode())),
)


@st.composite
def damaged_tars(draw: st.DrawFn) -> bytes:
    """Return tars whose headers are changed, with right checksums, so that the rest of the reader is reached."""
    data = bytearray(draw(mutated(_TARS, (b"ustar\0", b"\0" * 512, b"x", b"L", b"20 path=a.jpg\n", b"12 size=-9\n"))))
    for _ in range(draw(st.integers(0, 3))):
        at = 512 * draw(st.integers(0, max(0, len(data) // 512 - 1)))
        if at + 512 <= len(data):
            field, size = draw(st.sampled_from([(0, 100), (124, 12), (156, 1), (345, 155)]))
            data[at + field : at + field + size] = draw(st.binary(min_size=size, max_size=size))
            data[at + 148 : at + 156] = b" " * 8
            data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
    return bytes(data)


@given(damaged_tars(), st.booleans())
def test_a_damaged_tar_ends_and_its_samples_are_within_it(data: bytes, is_whole: bool):
    def read(at: int, length: int) -> bytes:
        assert min(at, length) >= 0
        return data[at : at + length]

    ends = [0]
    with in_time():
        try:
            for sample in walk_samples(read, "x.tar", 0, len(data), is_whole=is_whole):
                assert ends[-1] <= sample.offset < sample.end <= len(data)
                ends.append(sample.end)
        except ValueError as error:
            message = str(error)
            assert message.startswith("x.tar")


@pytest.mark.parametrize("kind", ["pair", "video", "interleaved"])
@given(
    data=damaged_tars(),
    json_part=changed_json([_PAIR, _MMC4, {"duration": 9, "frame_num": 1}]),
    part=st.sampled_from(["k.json", "k.final_meta.json"]),
)
@example(data=_TARS[0], json_part={"duration": 9, "frame_num": 1e18}, part="k.final_meta.json")
@IN_A_FOLDER
def test_no_tar_is_an_error_of_ours(tmp_path: Path, kind: str, data: bytes, json_part: Any, part: str):
    path = tmp_path / "x.tar"
    path.write_bytes(
        _tar(("k.jpg", b"j"), ("k.0.png", b"p"), ("k.99999999999.txt", b"t"), (part, json.dumps(json_part).encode()))[
            :-10240
        ]
        + data
    )
    outcomes("webdataset", WebDatasetSettings(files=[str(path)]), kind)


# --- WARC -----------------------------------------------------------------------------------------------------------


def _fetched(body: bytes, **headers: str) -> Fetched:
    return Fetched(
        url="https://x.example/a", final_url="https://x.example/a", status=200, reason="OK", http_version="1.1",
        headers=tuple({"Content-Type": "text/html", **headers}.items()), body=body,
        request_headers=(("User-Agent", "x"),), ip="192.0.2.1", fetched_at="2026-01-01T00:00:00Z", truncated=False,
    )  # fmt: skip


def _warc(*bodies: bytes) -> bytes:
    exchanges = [exchange_records(_fetched(body), {"depth": 0}) for body in bodies]
    return file_record("x.warc.gz") + b"".join(e.request + e.response + e.note for e in exchanges)


@given(st.lists(st.binary(max_size=300), max_size=3))
@IN_A_FOLDER
def test_a_written_warc_is_what_warcio_reads_and_is_read(tmp_path: Path, bodies: list[bytes]):
    path = tmp_path / "x.warc.gz"
    path.write_bytes(_warc(*bodies))
    with path.open("rb") as file:
        records = [r for r in WarcioIterator(file) if r.rec_type == "response"]
        assert [r.http_headers.get_statuscode() for r in records] == ["200"] * len(bodies)
    assert [page.body for page in read_pages(str(path))] == bodies


_ARCHIVES = (
    _warc(b"<html><p>Words</p></html>", b"x"),
    gzip.decompress(_warc(b"<html><p>Words</p></html>")),
    b"WARC/1.0\r\nWARC-Type: conversion\r\nWARC-Target-URI: https://x.example/\r\nContent-Type: text/plain\r\n"
    b"Content-Length: 5\r\n\r\nwords\r\n\r\n",
    b"WARC/1.0\r\nWARC-Type: metadata\r\nWARC-Target-URI: https://x.example/\r\nContent-Type: application/json\r\n"
    b'Content-Length: 40\r\n\r\n{"Envelope": {"Payload-Metadata": {"a":1}}}\r\n\r\n',
)
_WARC_WORDS = (
    b"WARC/1.0\r\n",
    b"Content-Length: ",
    b"\r\n\r\n",
    b"WARC-Type: revisit",
    b"HTTP/1.1 200 OK\r\n",
    b"chunked",
)


@given(mutated(_ARCHIVES, _WARC_WORDS))
@IN_A_FOLDER
def test_a_damaged_warc_ends_with_a_record_that_says_so(tmp_path: Path, data: bytes):
    path = tmp_path / "x.warc"
    path.write_bytes(data)
    with in_time():
        try:
            for record in read_records(str(path)):
                if isinstance(record, CrawledPage):
                    assert 0 <= record.warc_offset <= len(data)
                    assert record.refusal is None or isinstance(record.refusal, str)
                else:
                    assert record.reason in ("truncated_file", "malformed_record", "record_without_offset")
        except UserError as refused:
            message = str(refused)
            assert str(path) in message
