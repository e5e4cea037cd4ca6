"""Tests of indexes of archives: which records are wanted, and where they are."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.errors import UserError
from pipelines.sources.tables import read_parquet
from pipelines.sources.warc_index import (
    IndexedRecord,
    WarcIndex,
    archive_name,
    crawl_id,
    index_parts,
    read_index,
)

FILE = "crawl-data/CC-MAIN-2026-05/segments/1/warc/CC-MAIN-20260118-00000.warc.gz"


def columnar(number: int, **more: Any) -> dict[str, Any]:
    """Return a row of the columnar index, with the columns that matter here, in its types."""
    return {
        "url_surtkey": f"example,site)/{number}",
        "url": f"https://site.example/{number}",
        "url_host_name": "site.example",
        "fetch_status": 200,
        "content_mime_detected": "text/html",
        "content_languages": "isl",
        "warc_filename": FILE,
        "warc_record_offset": 1000 * number,
        "warc_record_length": 500 + number,
    } | more


def cdxj(number: int, **more: str) -> str:
    """Return a line of Common Crawl's CDXJ index, whose values are all texts."""
    values = {
        "url": f"https://site.example/{number}",
        "mime": "text/html",
        "mime-detected": "text/html",
        "status": "200",
        "digest": "RY7PLBUFQNI2FFV5FTUQK72W6SNPXLQU",
        "length": str(500 + number),
        "offset": str(1000 * number),
        "filename": FILE,
        "charset": "UTF-8",
        "languages": "isl",
    }
    return f"example,site)/{number} 20260118015810 {json.dumps(values | more)}"


def read(path: Path, where: dict[str, Any] | None = None) -> list[IndexedRecord | None]:
    settings = WarcIndex.model_validate({"files": [str(path)], "where": where or {}})
    return [row for part in index_parts(settings) for row in read_index(part, settings.where)]


def wanted(number: int) -> IndexedRecord:
    return IndexedRecord(f"https://site.example/{number}", FILE, 1000 * number, 500 + number)


def test_records_of_the_columnar_index_are_chosen_by_language_host_type_and_status(tmp_path: Path):
    folder = tmp_path / "crawl=CC-MAIN-2026-05" / "subset=warc"
    folder.mkdir(parents=True)
    rows = [
        columnar(0),
        columnar(1, content_languages="eng,isl"),
        columnar(2, content_languages="isl,eng"),
        columnar(3, content_languages=None),
        columnar(4, fetch_status=404),
        columnar(5, content_mime_detected="application/pdf"),
        columnar(6, url_host_name="other.example"),
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "part-00000.gz.parquet", row_group_size=2)
    where = {
        "subset": {"equals": "warc"},
        "content_languages": {"matches": "^isl"},
        "content_mime_detected": {"in": ["text/html", "application/xhtml+xml"]},
        "fetch_status": {"equals": 200},
        "url_host_name": {"matches": r"(^|\.)site\.example$"},
    }
    assert read(folder / "part-00000.gz.parquet", where) == [wanted(0), None, wanted(2), *[None] * 4]


def test_records_of_cdxj_are_chosen_by_the_keys_of_its_json(tmp_path: Path):
    lines = [
        "!meta 0 {}",
        cdxj(0),
        cdxj(1, languages="eng"),
        cdxj(2, url="https://other.example/2"),
        cdxj(3, status="301"),
        cdxj(4, mime="unk"),
        "example,site)/5 20260118015810 {",
    ]
    path = tmp_path / "cdx-00000.gz"
    path.write_bytes(b"".join(gzip.compress(f"{line}\n".encode()) for line in lines))  # as it is published, in blocks
    where = {
        "languages": {"equals": "isl"},
        "url_host_name": {"equals": "site.example"},
        "mime": {"equals": "text/html"},
        "status": {"equals": 200},
        "timestamp": {"min": "20260118"},
    }
    found = read(path, where)
    assert found[:5] == [wanted(0), None, None, None, None]
    assert found[5] is not None
    assert (found[5].file, found[5].reason) == ("cdx-00000.gz", "malformed_row")


def test_what_the_index_server_answers_is_an_index(tmp_path: Path):
    path = tmp_path / "answer.jsonl"
    path.write_text(json.dumps({"urlkey": "example,site)/3"} | json.loads(cdxj(3).split(" ", 2)[2])) + "\n")
    assert read(path) == [wanted(3)]


@pytest.mark.parametrize(
    ("more", "detail"),
    [
        ({"offset": "x"}, "no file, offset and length of a record"),
        ({"length": "0"}, "no file, offset and length of a record"),
        ({"filename": "../../etc/passwd"}, "the file is not below the archive's base"),
        ({"filename": "https://elsewhere.example/x.warc.gz"}, "the file is not below the archive's base"),
    ],
)
def test_a_row_that_names_no_record_below_the_base_says_so(tmp_path: Path, more: dict[str, str], detail: str):
    (tmp_path / "a.cdxj").write_text(cdxj(1, **more) + "\n")
    (found,) = read(tmp_path / "a.cdxj")
    assert found is not None
    assert (found.url, found.reason, found.detail) == ("https://site.example/1", "malformed_row", detail)


def test_what_is_no_index_is_refused_in_one_line(tmp_path: Path):
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"just words\n"))
    (tmp_path / "b.cdxj").write_text("just words\n")
    pq.write_table(pa.Table.from_pylist([{"url": "x", "offset": 1}]), tmp_path / "c.parquet")
    (tmp_path / "d.cdxj").write_text(cdxj(1) + "\n")
    with pytest.raises(UserError, match="neither CDXJ nor a table by its name"):
        read(tmp_path / "b.cdxj")
    with pytest.raises(UserError, match="lacks the columns warc_filename or filename, warc_record_length or length"):
        read(tmp_path / "c.parquet")
    with pytest.raises(UserError, match=r"where\.language: no such column; did you mean 'languages'"):
        read(tmp_path / "d.cdxj", {"language": {"equals": "isl"}})


def test_row_groups_whose_smallest_and_largest_text_exclude_the_wanted_ones_are_not_read(tmp_path: Path):
    path = tmp_path / "a.parquet"
    rows = [columnar(n, url_host_name=f"{'abcd'[n]}.example") for n in range(4)]
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
    where = {"url_host_name": {"in": ["a.example", "b.example"]}}
    settings = WarcIndex.model_validate({"files": [str(path)], "where": where})
    (part,) = index_parts(settings)
    before = [row for _, row in read_parquet(part, ["url"], settings.where)]
    data = bytearray(path.read_bytes())
    chunk = pq.ParquetFile(path).metadata.row_group(1).column(2)
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    data[start : start + chunk.total_compressed_size] = bytes(chunk.total_compressed_size)
    path.write_bytes(data)  # the column of hosts of the second group cannot be read
    after = [row for _, row in read_parquet(part, ["url"], settings.where)]
    assert list(map(str, after)) == list(map(str, before))
    assert after[:2] == [{"url": "https://site.example/0"}, {"url": "https://site.example/1"}]


def test_the_path_of_common_crawls_files_names_the_crawl():
    assert crawl_id(FILE) == "CC-MAIN-2026-05"
    assert archive_name(f"s3://commoncrawl/{FILE}") == archive_name(f"/data/{FILE}") == FILE
    assert archive_name("/data/web/a.warc.gz") == "a.warc.gz"
    assert crawl_id("/data/web/a.warc.gz") is None
