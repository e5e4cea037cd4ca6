"""Tests of pages that others fetched: robots.txt of their hosts decides, is asked for once, and is evidence."""

import gzip
import json
import random
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.crawl import run_crawls
from pipelines.decisions.decided import parse_decided, read_decided
from pipelines.document import Document, Signal
from pipelines.extract import run_extract
from pipelines.fetch import run_fetch
from pipelines.filter import run_filter
from pipelines.funnel import checked_funnel
from pipelines.layout import decisions_folder, documents_folder
from pipelines.media import site_files
from pipelines.parts import read_rows
from pipelines.running.runner import Runner
from pipelines.sources.input_files import recorded_inputs
from pipelines.spec import CorpusSpec
from pipelines.web.http_client import PoliteClient
from pipelines.web.permission import UNASKED
from tests.pipelines.crawling.test_visits import made_error
from tests.pipelines.stage_records import image_bytes
from tests.serving import Quiet, send, serving

OPEN, SHUT, BUSY, IMAGES = "127.0.2.1", "127.0.2.2", "127.0.2.3", "127.0.2.4"
HOSTS = (OPEN, SHUT, BUSY)
ROBOTS = {OPEN: "User-agent: *\nDisallow: /private\n", SHUT: "User-agent: GPTBot, CCBot\nDisallow: /\n"}
PROSE = "The harbour was quiet and the lantern was golden, and nobody knew who had lit it in the night. " * 9


class Sites(ThreadingHTTPServer):
    """One server for all hosts, by address: it has their robots.txt and images; the busy one is down until healed."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("0.0.0.0", 0), Answer)
        self.asked: Counter[str] = Counter()
        self.is_healed = False

    def url(self, host: str, path: str = "/page") -> str:
        return f"http://{host}:{self.server_port}{path}"


class Answer(Quiet, BaseHTTPRequestHandler):
    server: Sites

    def do_GET(self) -> None:
        host = self.connection.getsockname()[0]
        self.server.asked[f"{host}{self.path}"] += 1
        if host == BUSY and not self.server.is_healed:
            status, body = 503, b""
        elif self.path == "/robots.txt" and host in ROBOTS:
            status, body = 200, ROBOTS[host].encode()
        elif self.path.endswith(".jpg"):
            status, body = 200, image_bytes(int(self.path.strip("/.jpg")))
        else:
            status, body = 404, b""
        send(self, status, body)


@pytest.fixture
def sites() -> Iterator[Sites]:
    with serving(Sites()) as server:
        yield server


def write_warc(path: Path, *answers: tuple[str, str, bytes]) -> str:
    """Write a WARC file of (URL, status and headers, body)."""
    records = []
    for url, head, body in answers:
        block = f"HTTP/1.1 {head}\r\n\r\n".encode() + body
        fields = f"WARC-Type: response\r\nWARC-Target-URI: {url}\r\nWARC-Date: 2024-01-01T00:00:00Z\r\n"
        record = f"WARC/1.1\r\n{fields}Content-Length: {len(block)}\r\n\r\n".encode() + block + b"\r\n\r\n"
        records.append(gzip.compress(record, 0))  # stored, so that equal lengths give equal sizes
    path.write_bytes(b"".join(records))
    return str(path)


def write_pages(path: Path, *pages: str) -> str:
    body = f"<html><body><main><p>{PROSE}</p></main></body></html>"
    return write_warc(
        path, *((url, "200 OK\r\nContent-Type: text/html", f"{body}<!-- {url} -->".encode()) for url in pages)
    )


def spec(kind: str, given: dict[str, Any], web: dict[str, Any] | None = None, **policy: Any) -> CorpusSpec:
    filters = {
        "language": None,
        "text": {},
        "mask_personal_data": False,
        "images": {"min_contrast": None, "max_uses": None},
        "duplicates": {"exact": False, "max_phash_distance": None, "min_jaccard": None},
    }
    tree = {
        "name": "test",
        "version": "1.0.0",
        "policy": {"user_agent": "Test (mail@example.org)", "allow_hosts": ["127.0.2.*"], **policy},
        "http": {"delay_seconds": 0, "backoff_seconds": 0, "max_retries": 0, "error_budget": 50},
        "crawls": {"web": web} if web else {},
        "sources": {"docs": {"kind": kind, "input": given, "filters": filters}},
    }
    return CorpusSpec.model_validate(tree)


def build(given: CorpusSpec, out: str, *, retry: bool = False) -> dict[str, Document]:
    """Return the documents that are decided for, by page URL."""
    run_crawls(given, out, Runner(), retry=retry)
    run_extract(given, out, Runner())
    run_fetch(given, out, Runner(), retry=retry)
    run_filter(given, out, Runner())
    checked_funnel(out, list(given.crawls), list(given.sources), "filter")
    folder = decisions_folder(out)
    found = [parse_decided(data)[0] for part in folder.names() for _, data in read_decided(folder, part)]
    documents = [Document.from_json(text) for text in found]
    return {document.source.page_url or "": document for document in documents}


def drops(out: str) -> dict[str, str]:
    """Reasons of dropped documents, by page URL."""
    rows = [row for path in documents_folder(out).drops() for row in read_rows(path)]
    return {row["page_url"]: row["reason"] for row in rows if row["unit"] == "document"}


def robots_of(document: Document) -> list[Signal]:
    return [signal for signal in document.signals if (signal.kind, signal.target) == ("robots.txt", "page")]


def list_of(form: str, path: Path, sites: Sites, *pages: str) -> dict[str, Any]:
    """A list of pages in one of the formats, each with an image."""
    images = [sites.url(IMAGES, f"/{n}.jpg") for n in range(len(pages))]
    if form == "obelics":
        rows = [
            {
                "images": [image, None],
                "texts": [None, f"{PROSE} {page}"],
                "metadata": json.dumps([{"src": image, "document_url": page, "unformatted_src": image}, None]),
                "general_metadata": json.dumps({"url": page}),
            }
            for page, image in zip(pages, images, strict=True)
        ]
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif form == "mmc4":
        rows = [
            {
                "url": page,
                "text_list": [f"{PROSE} {page}"],
                "image_info": [{"image_name": "a.jpg", "raw_url": image, "matched_text_index": 0, "matched_sim": 0.3}],
                "similarity_matrix": [[0.3]],
            }
            for page, image in zip(pages, images, strict=True)
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        path.write_text("".join(json.dumps({"text": f"{PROSE} {page}", "url": page}) + "\n" for page in pages))
    return {"format": form, "files": [str(path)]}


FORMS = [("obelics", "interleaved", "a.parquet"), ("mmc4", "interleaved", "a.jsonl"), ("jsonl_text", "text", "a.jsonl")]


def source_of(form: str, name: str, tmp_path: Path, sites: Sites, *pages: str) -> tuple[dict[str, Any], dict | None]:
    if form == "warc":
        return {"crawl": "web"}, {"warc_files": [write_pages(tmp_path / name, *pages)]}
    return list_of(form, tmp_path / name, sites, *pages), None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "kind", "name"),
    [*(pytest.param(*form, marks=pytest.mark.nightly) for form in FORMS), ("warc", "text", "a.warc.gz")],
)
def test_each_host_is_asked_once_and_what_it_says_is_done(
    tmp_path: Path, sites: Sites, form: str, kind: str, name: str
) -> None:
    pages = [
        sites.url(OPEN, "/a"),
        sites.url(OPEN, "/b"),
        sites.url(OPEN, "/private/c"),
        sites.url(SHUT),
        sites.url(BUSY),
    ]
    given, web = source_of(form, name, tmp_path, sites, *pages)
    out = str(tmp_path / "out")
    found = build(spec(kind, given, web), out)
    assert set(found) == {sites.url(OPEN, "/a"), sites.url(OPEN, "/b")}
    assert drops(out) == {
        sites.url(OPEN, "/private/c"): "robots_disallowed",
        sites.url(SHUT): "training_crawlers_disallowed",
        sites.url(BUSY): "robots_unreachable",
    }
    asked = {path: num for path, num in sites.asked.items() if path.endswith("robots.txt")}
    assert asked | {f"{IMAGES}/robots.txt": 1} == {f"{host}/robots.txt": 1 for host in (*HOSTS, IMAGES)}
    assert not any(path.endswith(("/a", "/b", "/page")) for path in sites.asked), (
        "the pages themselves are not asked for"
    )
    for document in found.values():
        (signal,) = robots_of(document)
        assert (signal.value, signal.url) == (ROBOTS[OPEN].strip(), sites.url(OPEN, "/robots.txt"))
        assert signal.observed_at is not None
        assert document.decision.policy == "strict"
    images = {path for path in sites.asked if path.endswith(".jpg")}
    assert images == ({f"{IMAGES}/0.jpg", f"{IMAGES}/1.jpg"} if kind == "interleaved" else set()), (
        "only of allowed pages"
    )
    sites.asked.clear()
    assert build(spec(kind, given, web), out) == found
    assert not sites.asked, "a rerun asks nobody"
    sites.is_healed = True
    assert set(build(spec(kind, given, web), out, retry=True)) == {*found, sites.url(BUSY)}
    assert sites.asked[f"{BUSY}/robots.txt"] == 1
    assert sites.asked[f"{OPEN}/robots.txt"] == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "kind", "name"), [pytest.param(*FORMS[0], marks=pytest.mark.nightly), ("warc", "text", "a.warc.gz")]
)
def test_by_the_policy_nobody_is_asked_and_the_sample_says_so(
    tmp_path: Path, sites: Sites, form: str, kind: str, name: str
) -> None:
    given, web = source_of(form, name, tmp_path, sites, sites.url(SHUT), sites.url(BUSY))
    found = build(spec(kind, given, web, robots_of_others="unasked"), str(tmp_path / "out"))
    assert set(found) == {sites.url(SHUT), sites.url(BUSY)}
    assert not any(path.startswith((SHUT, BUSY)) for path in sites.asked)
    for page, document in found.items():
        assert robots_of(document) == [
            Signal("robots.txt", "page", UNASKED, None, page.replace("/page", "/robots.txt"))
        ]
        assert document.decision.policy == "strict, robots.txt not asked"


@pytest.mark.nightly
@pytest.mark.slow
def test_another_policy_judges_the_same_answers(tmp_path: Path, sites: Sites) -> None:
    given, web = source_of("warc", "a.warc.gz", tmp_path, sites, sites.url(SHUT))
    out = str(tmp_path / "out")
    assert build(spec("text", given, web), out) == {}
    num_asked = sum(sites.asked.values())
    assert set(build(spec("text", given, web, training_tokens="named"), out)) == {sites.url(SHUT)}
    assert sum(sites.asked.values()) == num_asked


@pytest.mark.slow
@pytest.mark.parametrize("place", ["site", "page_verdict_of"])
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.nightly)])
def test_a_host_on_whose_answer_our_code_fails_costs_its_own_pages_only(
    tmp_path: Path, sites: Sites, monkeypatch: pytest.MonkeyPatch, place: str, seed: int
) -> None:
    given, web = source_of("obelics", "a.parquet", tmp_path, sites, sites.url(OPEN), sites.url(SHUT))
    module = PoliteClient if place == "site" else site_files
    work, rng = getattr(module, place), random.Random(f"{place} {seed}")

    def fail(*args: Any) -> Any:
        if any(SHUT in str(getattr(arg, "url", arg)) for arg in args):
            raise made_error(rng)
        return work(*args)

    monkeypatch.setattr(module, place, fail)
    out = str(tmp_path / "out")
    assert set(build(spec("interleaved", given, web), out)) == {sites.url(OPEN)}
    assert drops(out) == {sites.url(SHUT): "internal_error"}
    assert f"{IMAGES}/1.jpg" not in sites.asked


@pytest.mark.slow
@pytest.mark.parametrize(
    ("host", "unknown", "reason"),
    [
        ("127.0.9.9", "refuse", None),  # within a network: no crawler from outside could ask
        ("no-such-host.invalid", "refuse", "host_not_found"),
        pytest.param("no-such-host.invalid", "allow", None, marks=pytest.mark.nightly),
    ],
)
def test_hosts_that_cannot_be_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, unknown: str, reason: str | None
) -> None:
    page = f"http://{host}/page"
    web = {"warc_files": [write_pages(tmp_path / "a.warc.gz", page)]}
    out = str(tmp_path / "out")
    found = build(spec("text", {"crawl": "web"}, web, unknown=unknown), out)
    if reason is not None:
        assert (found, drops(out)) == ({}, {page: reason})
        return
    (signal,) = robots_of(found[page])
    assert signal.value in ("not asked: private_address", "not asked: host_not_found")
    assert signal.url == f"http://{host}/robots.txt"


# robots.txt in the archive


def robots_files(path: Path, sites: Sites, closed: str = "/old") -> str:
    plain = "200 OK\r\nContent-Type: text/plain"
    return write_warc(
        path,
        (sites.url(OPEN, "/robots.txt"), plain, f"User-agent: *\nDisallow: {closed}\n".encode()),
        (sites.url(SHUT, "/robots.txt"), "404 Not Found", b"gone"),
        ("https://a.example/robots.txt", f"301 Moved\r\nLocation: {sites.url(OPEN, '/robots.txt')}", b""),
        ("https://b.example/robots.txt", "301 Moved\r\nLocation: https://elsewhere.example/robots.txt", b""),
        (sites.url(OPEN, "/page"), plain, b"no robots.txt"),
    )


@pytest.mark.slow
def test_what_the_archive_says_counts_besides_what_is_said_today(tmp_path: Path, sites: Sites) -> None:
    pages = [
        sites.url(OPEN, "/a"),
        sites.url(OPEN, "/old/b"),
        sites.url(OPEN, "/private"),
        sites.url(SHUT),
        sites.url(BUSY),
    ]
    web = {
        "warc_files": [write_pages(tmp_path / "a.warc.gz", *pages)],
        "robots_files": [robots_files(tmp_path / "robots.warc.gz", sites)],
    }
    out = str(tmp_path / "out")
    found = build(spec("text", {"crawl": "web"}, web), out)
    assert set(found) == {sites.url(OPEN, "/a")}
    then, now = robots_of(found[sites.url(OPEN, "/a")])
    assert (then.value, then.observed_at) == ("User-agent: *\nDisallow: /old", "2024-01-01T00:00:00Z")
    assert now.value == ROBOTS[OPEN].strip()
    assert drops(out) == {
        sites.url(OPEN, "/private"): "robots_disallowed",
        sites.url(SHUT): "training_crawlers_disallowed",
    }
    dropped = {row.stage: row.dropped for row in checked_funnel(out, ["web"], ["docs"], "extract") if row.dropped}
    assert dropped == {"extract": {"robots_disallowed": 1, "robots_unreachable": 1}}  # /old, and what is not there


@pytest.mark.nightly
@pytest.mark.slow
def test_an_archives_own_files_may_be_all_that_counts(tmp_path: Path, sites: Sites) -> None:
    pages = [
        sites.url(SHUT),
        "https://a.example/x",
        "https://a.example/old",
        "https://b.example/x",
        "https://c.example/x",
    ]
    web = {
        "warc_files": [write_pages(tmp_path / "a.warc.gz", *pages)],
        "robots_files": [robots_files(tmp_path / "robots.warc.gz", sites)],
    }
    out = str(tmp_path / "out")
    found = build(spec("text", {"crawl": "web"}, web, robots_of_others="unasked"), out)
    assert set(found) == {sites.url(SHUT), "https://a.example/x"}  # a redirect is followed, but not out of the file
    assert [signal.value for signal in robots_of(found[sites.url(SHUT)])] == ["HTTP 404", UNASKED]
    assert not sites.asked
    # A file of the same size that says something else is noticed, and both kinds of files are named in the manifest.
    size = (tmp_path / "robots.warc.gz").stat().st_size
    robots_files(tmp_path / "robots.warc.gz", sites, closed="/new")
    assert (tmp_path / "robots.warc.gz").stat().st_size == size
    again = spec("text", {"crawl": "web"}, web, robots_of_others="unasked")
    assert set(build(again, out)) == {sites.url(SHUT), "https://a.example/x", "https://a.example/old"}
    assert [file.file for file in recorded_inputs(out, ["web"])] == ["a.warc.gz", "robots.warc.gz"]
    web["robots_files"] = []
    assert len(build(spec("text", {"crawl": "web"}, web, robots_of_others="unasked"), out)) == 5


def test_robots_files_belong_to_archives() -> None:
    with pytest.raises(ValueError, match="'robots_files' belong to 'warc_files'"):
        spec("text", {"crawl": "web"}, {"seeds": ["http://127.0.0.1/"], "robots_files": ["r.warc.gz"]})
