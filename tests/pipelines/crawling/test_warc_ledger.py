"""Tests of ledgers of other crawlers' archives: one row per page, and a reason for each page that cannot be read."""

import gzip
import io
import itertools
import json
from pathlib import Path

import pytest
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from pipelines import storage
from pipelines.crawl import run_crawls
from pipelines.crawling.archive_files import warc_paths
from pipelines.crawling.index_archive import IndexArchive
from pipelines.crawling.ledger import ledger_parts
from pipelines.crawling.warc_ledger import index_pages, indexed_part
from pipelines.drop_reasons import FETCHED
from pipelines.errors import UserError
from pipelines.extract import run_extract
from pipelines.layout import account_folder, candidates_folder, crawl_folder
from pipelines.parts import PartFolder, read_rows, sum_counts
from pipelines.running.runner import Runner
from pipelines.spec import CorpusSpec

WORDS = b"The harbour was quiet and the lantern was golden. "


def page(body: bytes = WORDS * 3, head: bytes = b"") -> bytes:
    return b"<html><head>" + head + b"</head><body><main><p>" + body + b"</p></main></body></html>"


def write_warc(path: Path, *pages: tuple[str, bytes], status: str = "200 OK", by_record: bool = True) -> str:
    with path.open("wb") as file:
        writer = WARCWriter(file, gzip=by_record)
        for url, body in pages:
            headers = StatusAndHeaders(status, [("Content-Type", "text/html")], protocol="HTTP/1.1")
            writer.write_record(writer.create_warc_record(url, "response", io.BytesIO(body), http_headers=headers))
    return str(path)


def index(path: str, folder: str, version: int = 1) -> list[dict]:
    work = IndexArchive(PartFolder(folder), indexed_part, index_pages, version, f"{folder}-tracebacks")
    (part,) = work.process((path, "content"))
    return list(read_rows(PartFolder(folder).file(part, ".parquet")))


def test_each_page_is_a_row_that_finds_it(tmp_path: Path):
    canonical = page(head=b'<link rel="canonical" href="/own">')
    path = write_warc(tmp_path / "a.warc.gz", ("https://a.example/x#top", canonical), ("https://a.example/y", page()))
    rows = index(path, str(tmp_path / "ledger"))
    assert [(r["url"], r["outcome"], r["canonical_url"], r["warc"]) for r in rows] == [
        ("https://a.example/x", FETCHED, "https://a.example/own", path),
        ("https://a.example/y", FETCHED, None, path),
    ]
    assert rows[0]["offset"] == 0
    assert rows[1]["offset"] == rows[0]["length"]


@pytest.mark.parametrize(
    ("url", "options", "outcome"),
    [
        ("https://a.example/x", {"status": "404 Not Found"}, "http_404"),
        ("ftp://a.example/x", {}, "scheme_not_allowed"),
    ],
)
def test_a_page_that_is_none_bears_its_reason(tmp_path: Path, url: str, options: dict, outcome: str):
    (row,) = index(write_warc(tmp_path / "a.warc.gz", (url, page()), **options), str(tmp_path / "ledger"))
    assert (row["url"], row["outcome"]) == (url, outcome)


def test_a_file_that_is_cut_short_gives_what_it_holds_and_says_so(tmp_path: Path):
    path = write_warc(tmp_path / "a.warc.gz", ("https://a.example/x", page()), ("https://a.example/y", page()))
    data = Path(path).read_bytes()
    Path(path).write_bytes(data[:-40])
    rows = index(path, str(tmp_path / "ledger"))
    assert (rows[0]["url"], rows[0]["outcome"]) == ("https://a.example/x", FETCHED)
    assert rows[-1]["outcome"] == "truncated_file"
    assert (rows[-1]["url"], rows[-1]["offset"]) == ("https://a.example/y", rows[0]["length"])


def test_a_record_that_cannot_be_read_is_found_by_its_url_and_its_place(tmp_path: Path):
    """Neither a response, nor one with a damaged coding, nor the end of the file is called by a file's name."""
    parts = [
        write_warc(tmp_path / "a.warc.gz", ("https://a.example/x", page()), status="20000 OK"),
        write_warc(tmp_path / "b.warc.gz", ("http://a.example:80/y#z", page()), status="2 OK"),
        write_warc(tmp_path / "c.warc.gz", ("https://a.example/z", page() + bytes(range(256)) * 9)),
    ]
    nameless = gzip.compress(b"WARC/1.1\r\nWARC-Type: response\r\nContent-Length: 4\r\n\r\nnone\r\n\r\n")
    data = [nameless, *(Path(part).read_bytes() for part in parts)]
    path, out = tmp_path / "all.warc.gz", str(tmp_path / "out")
    path.write_bytes(b"".join(data)[:-300])
    run_crawls(archive_spec(str(path)), out, Runner())
    drops = [row for table in account_folder(out, "web").drops() for row in read_rows(table)]
    found = {(row["record"], row["reason"]): (row["url"], row["page_url"]) for row in drops}
    starts = itertools.accumulate(map(len, data[:-1]), initial=0)
    urls = (None, "https://a.example/x", "http://a.example/y", "https://a.example/z")
    reasons = [*["malformed_record"] * 3, "truncated_file"]
    assert found == {
        (f"all.warc.gz {at}", reason): (url, url) for at, reason, url in zip(starts, reasons, urls, strict=True)
    }


def test_pages_that_share_one_compressed_stream_have_no_place(tmp_path: Path):
    plain = Path(
        write_warc(tmp_path / "a.warc", *((f"https://a.example/{i}", page()) for i in range(2)), by_record=False)
    )
    whole = tmp_path / "whole.warc.gz"
    whole.write_bytes(gzip.compress(plain.read_bytes()))
    rows = index(str(whole), str(tmp_path / "ledger"))
    assert "record_without_offset" in {r["outcome"] for r in rows}


def test_a_finished_part_is_not_read_again(tmp_path: Path):
    path = write_warc(tmp_path / "a.warc.gz", ("https://a.example/x", page()))
    first = index(path, str(tmp_path / "ledger"))
    size = storage.size(path)
    Path(path).write_bytes(bytes(size))  # no longer a WARC
    assert index(path, str(tmp_path / "ledger")) == first
    with pytest.raises(UserError):  # code of another version reads it again
        index(path, str(tmp_path / "ledger"), version=2)


def test_patterns_that_match_nothing_are_reported(tmp_path: Path):
    with pytest.raises(UserError, match=r"\*\.warc\.gz: matches no file$"):
        warc_paths([str(tmp_path / "*.warc.gz")])


def test_a_record_that_refers_to_another_archive_bears_its_reason_and_wets_text_its_place(tmp_path: Path):
    with (tmp_path / "a.warc.gz").open("wb") as file:
        writer = WARCWriter(file, gzip=True)
        for kind, url in (("revisit", "https://a.example/x"), ("conversion", "https://a.example/y")):
            more = {"WARC-Profile": "http://netpreserve.org/warc/1.1/revisit/identical-payload-digest"}
            head = StatusAndHeaders("200 OK", [("Content-Type", "text/html")], protocol="HTTP/1.1")
            body, content_type = (b"", None) if kind == "revisit" else (WORDS, "text/plain")
            writer.write_record(
                writer.create_warc_record(
                    url,
                    kind,
                    io.BytesIO(body),
                    http_headers=head if kind == "revisit" else None,
                    warc_content_type=content_type or "",
                    warc_headers_dict=more if kind == "revisit" else None,
                )
            )
    first, second = index(str(tmp_path / "a.warc.gz"), str(tmp_path / "ledger"))
    assert (first["outcome"], second["outcome"]) == ("revisit_record", FETCHED)
    assert second["offset"] == first["length"]


@pytest.mark.slow
def test_paths_without_a_folder_are_not_those_beside_the_ledger(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_warc(tmp_path / "a.warc.gz", ("https://a.example/x", page()))
    (tmp_path / "deep").mkdir()
    write_warc(tmp_path / "deep" / "b.warc.gz", ("https://a.example/y", page()))
    for pattern in ("a.warc.gz", "*.warc.gz", "./a.warc.gz", "{a,a}.warc.gz"):
        assert warc_paths([pattern]) == ["./a.warc.gz"]
    assert warc_paths(["deep/*.gz"]) == ["deep/b.warc.gz"]
    assert build(str(tmp_path / "out"), "a.warc.gz", "**/b.warc.gz")[0] == [
        "https://a.example/x",
        "https://a.example/y",
    ]


# --- with the stages around -----------------------------------------------------------------------------------------


def archive_spec(*paths: str) -> CorpusSpec:
    filters = {"text": {"min_words": 3}, "language": None}
    web = {"warc_files": list(paths)}
    source = {"kind": "text", "input": {"crawl": "web"}, "filters": filters}
    policy = {"user_agent": "Dromaius (mail@example.org)"}
    tree = {"name": "x", "version": "1.0.0", "policy": policy, "crawls": {"web": web}, "sources": {"texts": source}}
    return CorpusSpec.model_validate(tree)


def build(out: str, *paths: str) -> tuple[list[str], dict[tuple[str, str], tuple[int, dict[str, int]]]]:
    """Return page URLs of the candidates, and (kept, dropped) by stage and unit of the crawl."""
    given = archive_spec(*paths)
    run_crawls(given, out, Runner())
    run_extract(given, out, Runner())
    folder = candidates_folder(out)
    rows = [row for r in folder.receipts() for row in read_rows(folder.file(r.part, ".parquet"))]
    counts = sum_counts(account_folder(out, "web").receipts() + folder.receipts())
    found = {(c.stage, c.unit): (c.kept, c.dropped) for c in counts if c.source == "web"}
    return sorted(json.loads(row["document"])["source"]["page_url"] for row in rows), found


@pytest.mark.slow
def test_a_page_that_archives_hold_several_times_is_one(tmp_path: Path):
    url = "https://a.example/x"
    first = write_warc(tmp_path / "a.warc.gz", (url, page()), (url, page()))
    second = write_warc(tmp_path / "b.warc.gz", (url, page()), ("https://a.example/y", page(WORDS * 4)))
    out = str(tmp_path / "out")
    pages, counts = build(out, first, second)
    assert pages == [url, "https://a.example/y"]
    assert counts["crawl", "page"] == (4, {})
    assert counts["extract", "page"] == (2, {"duplicate_url": 2})
    assert build(out, second)[0] == pages  # a file that is no longer named is left out
    assert ledger_parts(out, "web") == [indexed_part(second)]
    assert storage.list_files(crawl_folder(out, "web").path, ".links.parquet")


@pytest.mark.slow
def test_a_run_with_other_files_that_is_killed_is_not_taken_for_the_first(tmp_path: Path, monkeypatch):
    first = write_warc(tmp_path / "a.warc.gz", ("https://a.example/x", page()))
    second = write_warc(tmp_path / "b.warc.gz", ("https://a.example/y", page()))
    out = str(tmp_path / "out")
    built = build(out, first)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("pipelines.crawl._Crawl.account", killed)
        run_crawls(archive_spec(first, second), out, Runner())
    assert build(out, first) == built
    assert ledger_parts(out, "web") == [indexed_part(first)]


@pytest.mark.slow
def test_only_a_page_of_the_same_host_speaks_for_another(tmp_path: Path):
    head = b'<link rel="canonical" href="https://a.example/x">'
    path = write_warc(
        tmp_path / "a.warc.gz",
        ("https://a.example/print", page(WORDS * 5, head)),
        ("https://a.example/x", page()),
        ("https://b.example/copy", page(WORDS * 4, head)),
    )
    pages, counts = build(str(tmp_path / "out"), path)
    assert pages == ["https://a.example/x", "https://b.example/copy"]
    assert counts["extract", "page"] == (2, {"duplicate_url": 1})
