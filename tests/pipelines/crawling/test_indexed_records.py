"""Tests of records that an index names: fetched by range from a server or a folder, and read like pages of a crawl."""

import gzip
import json
import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipelines.crawl import run_crawls
from pipelines.crawling.ledger import LedgerRow, ledger_parts
from pipelines.drop_reasons import FETCHED
from pipelines.errors import UserError
from pipelines.extract import run_extract
from pipelines.layout import account_folder, candidates_folder, crawl_folder
from pipelines.parts import read_rows, sum_counts
from pipelines.running.runner import Runner
from pipelines.spec import CorpusSpec
from tests.serving import Quiet, send, serving

FILE = "crawl-data/CC-MAIN-2026-05/segments/1768/warc/CC-MAIN-20260118015810-00000.warc.gz"
WORDS = "The harbour was quiet and the lantern was golden, and nobody knew who had lit it in the night. "


def record(url: str, body: str = WORDS * 9) -> bytes:
    block = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + f"<html><body><p>{body}</p></body></html>".encode()
    fields = f"WARC-Type: response\r\nWARC-Target-URI: {url}\r\nWARC-Date: 2026-01-18T01:58:10Z\r\n"
    return gzip.compress(f"WARC/1.0\r\n{fields}Content-Length: {len(block)}\r\n\r\n".encode() + block + b"\r\n\r\n")


class Archive:
    """A WARC file of five pages and its index, which names four of them, rightly or not."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.places: dict[str, tuple[int, int]] = {}
        data = b""
        for number in range(5):
            page = record(f"https://site.example/{number}", f"{number} {WORDS * 9}")
            self.places[f"https://site.example/{number}"] = (len(data), len(page))
            data += page
        (folder / FILE).parent.mkdir(parents=True)
        (folder / FILE).write_bytes(data)

    def line(self, url: str, /, **more: Any) -> str:
        offset, length = self.places[url]
        row = {"url": url, "status": "200", "languages": "eng", "filename": FILE, "offset": offset, "length": length}
        return f"key 20260118015810 {json.dumps(row | more)}\n"

    def index(self, *lines: str) -> str:
        path = self.folder / "cdx-00000"
        path.write_text("".join(lines))
        return str(path)


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(tmp_path)


class Ranges(Quiet, BaseHTTPRequestHandler):
    """Serves ranges of files, as Common Crawl's server does, after saying once that it is overloaded."""

    folder: Path
    busy: int
    asked: list[tuple[str, str]]

    def do_GET(self) -> None:
        if type(self).busy:
            type(self).busy -= 1
            send(self, 503, b"SlowDown")
            return
        bounds = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"] or "")
        self.asked.append((self.path, self.headers["Range"]))
        path = self.folder / self.path.lstrip("/")
        if not path.is_file():
            send(self, 404, b"")
            return
        data = path.read_bytes()
        if bounds is None:
            send(self, 200, data)
            return
        first, last = int(bounds[1]), int(bounds[2])
        body = data[first : last + 1]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server(archive: Archive) -> Iterator[tuple[str, type[Ranges]]]:
    handler = type("Served", (Ranges,), {"folder": archive.folder, "busy": 0, "asked": []})
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), handler)) as running:
        yield f"http://127.0.0.1:{running.server_address[1]}/", handler


def spec(index: str, base: str, where: dict[str, Any] | None = None, **http: Any) -> CorpusSpec:
    filters = {"language": None, "text": {}}
    return CorpusSpec.model_validate(
        {
            "name": "test",
            "version": "1.0.0",
            "policy": {"robots_of_others": "unasked", "allow_hosts": ["127.0.0.1"]},
            "http": {"delay_seconds": 0, "backoff_seconds": 0.01, **http},
            "crawls": {"cc": {"index": {"files": [index], "where": where or {}}, "warc_base": base}},
            "sources": {"docs": {"kind": "text", "input": {"crawl": "cc"}, "filters": filters}},
        }
    )


def outcomes(out: str) -> dict[str, str]:
    folder = crawl_folder(out, "cc")
    rows = [row for part in ledger_parts(out, "cc") for row in read_rows(folder.file(part, ".parquet"))]
    return {row["url"]: row["outcome"] for row in rows}


def documents(out: str) -> list[dict[str, Any]]:
    folder = candidates_folder(out)
    rows = [row for r in folder.receipts() for row in read_rows(folder.file(r.part, ".parquet"))]
    return [json.loads(row["document"]) for row in rows]


@pytest.mark.slow
def test_a_page_is_fetched_by_its_range_and_keeps_the_place_it_has_in_the_archive(
    archive: Archive, server: tuple[str, type[Ranges]], tmp_path: Path
):
    base, handler = server
    wanted, other = "https://site.example/3", "https://site.example/1"
    index = archive.index(archive.line(wanted), archive.line(other, languages="isl"))
    given, out = spec(index, base, {"languages": {"equals": "eng"}}), str(tmp_path / "out")
    run_crawls(given, out, Runner())
    run_extract(given, out, Runner())
    offset, length = archive.places[wanted]
    assert handler.asked == [(f"/{FILE}", f"bytes={offset}-{offset + length - 1}")]
    (found,) = documents(out)
    source = found["source"]
    assert found["segments"][0]["text"].startswith("3 The harbour")
    assert (source["page_url"], source["crawl"], source["release"]) == (wanted, "cc", "CC-MAIN-2026-05")
    assert (source["warc_file"], source["warc_offset"], source["warc_length"]) == (FILE, offset, length)
    run_crawls(given, out, Runner())
    assert len(handler.asked) == 1, "a finished crawl asks nobody"


@pytest.mark.slow
def test_a_folder_gives_the_same_documents_as_a_server(
    archive: Archive, server: tuple[str, type[Ranges]], tmp_path: Path
):
    index = archive.index(*map(archive.line, archive.places))
    found = []
    for base in (server[0], str(archive.folder), f"file://{archive.folder}"):
        given, out = spec(index, base), str(tmp_path / f"out{len(found)}")
        run_crawls(given, out, Runner())
        run_extract(given, out, Runner())
        found.append(documents(out))
    assert len(found[0]) == 5
    assert found[0] == found[1] == found[2]


def test_each_record_that_is_not_what_the_index_says_bears_its_reason(archive: Archive, tmp_path: Path):
    one, two, three, four = (f"https://site.example/{n}" for n in (1, 2, 3, 4))
    offset = archive.places[two][0]
    index = archive.index(
        archive.line(one, length=20),
        archive.line(two, offset=offset + 1),
        archive.line(three, offset=archive.places[one][0], length=archive.places[one][1]),
        archive.line(four, filename="crawl-data/CC-MAIN-2026-05/none.warc.gz"),
        archive.line(four, url="https://site.example/5", offset=10**9),
        "key 20260118015810 {\n",
    )
    out = str(tmp_path / "out")
    given = spec(index, str(archive.folder))
    run_crawls(given, out, Runner())
    found = outcomes(out)
    assert found.pop(one) in ("truncated_file", "malformed_record")
    assert found == {
        two: "malformed_record",
        three: "malformed_record",
        four: "missing_file",
        "https://site.example/5": "truncated_file",
        f"cdx-00000 {Path(index).read_text().rindex('key')}": "malformed_row",
    }
    drops = [row for table in account_folder(out, "cc").drops() for row in read_rows(table)]
    assert {row["record"] for row in drops if row["url"] == two} == {f"{FILE.rpartition('/')[2]} {offset + 1}"}
    (count,) = sum_counts(account_folder(out, "cc").receipts())
    assert (count.in_, count.kept) == (6, 0)


def test_a_server_that_sends_the_whole_file_gives_no_page(
    archive: Archive, server: tuple[str, type[Ranges]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    base, handler = server
    monkeypatch.setattr(handler, "do_GET", lambda self: send(self, 200, (self.folder / FILE).read_bytes()))
    run_crawls(spec(archive.index(archive.line("https://site.example/0")), base), str(tmp_path / "out"), Runner())
    assert outcomes(str(tmp_path / "out")) == {"https://site.example/0": "bad_response"}


@pytest.mark.slow
def test_an_overloaded_server_is_asked_again_and_by_a_retry_only_for_what_failed(
    archive: Archive, server: tuple[str, type[Ranges]], tmp_path: Path
):
    base, handler = server
    handler.busy = 1
    index, out = archive.index(*map(archive.line, archive.places)), str(tmp_path / "out")
    run_crawls(spec(index, base), str(tmp_path / "patient"), Runner())
    assert set(outcomes(str(tmp_path / "patient")).values()) == {FETCHED}
    handler.busy, handler.asked = 2, []
    hasty = spec(index, base, max_retries=0, error_budget=100)
    run_crawls(hasty, out, Runner())
    assert sorted(outcomes(out).values()) == [FETCHED] * 3 + ["http_503"] * 2
    before = {url for url, outcome in outcomes(out).items() if outcome != FETCHED}
    handler.asked = []
    run_crawls(hasty, out, Runner(), retry=True)
    offsets = sorted(archive.places[url][0] for url in before)
    assert sorted(int(asked.removeprefix("bytes=").partition("-")[0]) for _, asked in handler.asked) == offsets
    (count,) = sum_counts(account_folder(out, "cc").receipts())
    assert (count.kept, count.dropped) == (5, {})
    run_extract(hasty, out, Runner())
    assert len(documents(out)) == 5


@pytest.mark.slow
def test_what_an_index_names_no_longer_is_removed(archive: Archive, tmp_path: Path):
    out, urls = str(tmp_path / "out"), list(archive.places)
    run_crawls(spec(archive.index(*map(archive.line, urls)), str(archive.folder)), out, Runner())
    assert len(outcomes(out)) == 5
    run_crawls(spec(archive.index(*map(archive.line, urls[:2])), str(archive.folder)), out, Runner())
    assert set(outcomes(out)) == set(urls[:2])


@pytest.mark.slow
def test_paths_files_list_the_files_below_the_base(archive: Archive, tmp_path: Path):
    paths = tmp_path / "warc.paths.gz"
    paths.write_bytes(gzip.compress(f"{FILE}\n".encode()))
    tree = spec("unused", str(archive.folder)).model_dump(mode="json")
    tree["crawls"]["cc"] |= {"index": None, "warc_files": [str(paths)]}
    given, out = CorpusSpec.model_validate(tree), str(tmp_path / "out")
    run_crawls(given, out, Runner())
    run_extract(given, out, Runner())
    assert {d["source"]["warc_file"] for d in documents(out)} == {FILE}
    assert {d["source"]["release"] for d in documents(out)} == {"CC-MAIN-2026-05"}
    assert len(documents(out)) == 5
    paths.write_bytes(gzip.compress(b"crawl-data/none.warc.gz\n"))
    with pytest.raises(UserError, match=r"crawls\.cc: cannot be read: FileNotFoundError.*none\.warc\.gz"):
        run_crawls(given, out, Runner())
    paths.write_bytes(gzip.compress(b"<html>not found</html>\n"))
    with pytest.raises(UserError, match="not a file of paths"):
        run_crawls(given, out, Runner())


@pytest.mark.slow
def test_what_the_archive_has_of_robots_txt_judges_its_records(archive: Archive, tmp_path: Path):
    body = b"User-agent: *\nDisallow: /3\n"
    block = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n" + body
    fields = (
        "WARC-Type: response\r\nWARC-Target-URI: https://site.example/robots.txt\r\nWARC-Date: 2026-01-18T01:58:10Z"
    )
    head = f"WARC/1.0\r\n{fields}\r\nContent-Length: {len(block)}\r\n\r\n".encode()
    (tmp_path / "crawl-data" / "robots.warc.gz").write_bytes(gzip.compress(head + block + b"\r\n\r\n"))
    (tmp_path / "robotstxt.paths").write_text("crawl-data/robots.warc.gz\n")
    tree = spec(archive.index(*map(archive.line, archive.places)), str(tmp_path)).model_dump(mode="json")
    tree["crawls"]["cc"]["robots_files"] = [str(tmp_path / "robotstxt.paths")]
    given, out = CorpusSpec.model_validate(tree), str(tmp_path / "out")
    run_crawls(given, out, Runner())
    run_extract(given, out, Runner())
    found = {document["source"]["page_url"]: document for document in documents(out)}
    assert found.keys() == archive.places.keys() - {"https://site.example/3"}
    (signal, *_) = found["https://site.example/0"]["signals"]
    assert (signal["kind"], signal["observed_at"]) == ("robots.txt", "2026-01-18T01:58:10Z")


def test_a_row_of_an_indexed_part_is_read_as_it_was_written():
    row = LedgerRow("https://a.example/", 0, FETCHED, archive_file=FILE, archive_offset=7, archive_length=9)
    assert LedgerRow.from_columns(row.to_columns()) == row
    assert row.record == f"{FILE.rpartition('/')[2]} 7"


def test_a_server_beyond_loopback_needs_a_contact_and_a_crawl_begins_in_one_way():
    with pytest.raises(ValueError, match="must hold a contact address"):
        spec("x.cdxj", "https://data.commoncrawl.org/")
    tree = spec("x.cdxj", "/data").model_dump(mode="json")
    tree["crawls"]["cc"]["seeds"] = ["http://127.0.0.1/"]
    with pytest.raises(ValueError, match="needs either 'seeds' or 'warc_files' or an 'index'"):
        CorpusSpec.model_validate(tree)
