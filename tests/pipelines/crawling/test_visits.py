"""Tests of visits: odd answers and our own faults become rows of the ledger, and what is sound is kept."""

import asyncio
import builtins
import gzip
import io
import itertools
import json
import random
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from fastwarc.warc import ArchiveIterator as FastIterator
from warcio.archiveiterator import ArchiveIterator

from pipelines import faults, storage
from pipelines.crawling import part_writer, visits, warc_records
from pipelines.crawling.frontier import FrontierUrl
from pipelines.crawling.ledger import LedgerRow
from pipelines.crawling.part_writer import CrawlPartWriter
from pipelines.crawling.visits import follow_sitemaps, store_site_files, visit
from pipelines.errors import UserError
from pipelines.parts import PartFolder, read_rows
from pipelines.sources.warc import CrawledPage, read_records
from pipelines.web import http_client, site_rules, sitemaps, urls
from pipelines.web.http_client import HttpSettings, PoliteClient
from pipelines.web.permission import PolicySettings

HOST = "127.0.0.1"
HTTP = HttpSettings(delay_seconds=0, backoff_seconds=0, timeout_seconds=10, max_retries=0, error_budget=100)
PAGE = "<!doctype html><html><head><title>t</title></head><body><p>A boat lies at the dock.</p><a href='/next'>x</a>"


def answer(
    body: str | bytes = PAGE, content_type: str | None = "text/html", status: str | bytes = b"200 OK", **headers: str
) -> bytes:
    """An answer, to the byte."""
    data = body.encode() if isinstance(body, str) else body
    code = status.encode() if isinstance(status, str) else status
    lines = [f"Content-Type: {content_type}"] if content_type is not None else []
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    head = "".join(f"{line}\r\n" for line in [*lines, f"Content-Length: {len(data)}", "Connection: close"])
    return b"HTTP/1.1 " + code + b"\r\n" + head.encode() + b"\r\n" + data


class Crawled(NamedTuple):
    """What a crawl of one host left."""

    rows: dict[str, LedgerRow]
    links: dict[str, int]
    pages: dict[str, CrawledPage]
    warc: bytes
    asked: list[str]

    def outcomes(self) -> dict[str, str]:
        return {path: row.outcome for path, row in self.rows.items()}


def crawled(folder: Path, answers: dict[str, bytes], *paths: str, follows: bool = True, **policy: Any) -> Crawled:
    """Visit these paths of a host that gives these answers, and 404 for any other path.

    `{host}` in an answer stands for the host and its port.
    """
    asked: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            path = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1].decode()
            asked.append(path)
            port = writer.get_extra_info("sockname")[1]
            given = answers.get(path, answer("gone", status="404 Not Found"))
            if b"{host}" in given:
                head, _, body = given.replace(b"{host}", f"{HOST}:{port}".encode()).partition(b"\r\n\r\n")
                given = re.sub(rb"Content-Length: \d+", b"Content-Length: %d" % len(body), head) + b"\r\n\r\n" + body
            writer.write(given)
            await writer.drain()
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    writer = CrawlPartWriter(PartFolder(str(folder)), 0)

    async def main() -> str:
        server = await asyncio.start_server(serve, HOST, 0)
        base = f"http://{HOST}:{server.sockets[0].getsockname()[1]}"
        rules = PolicySettings(allow_hosts=[HOST], **policy)
        async with server, PoliteClient(rules, HTTP) as client:
            items = [FrontierUrl(0, base + path, is_new_host=True) for path in paths]
            if follows:
                await follow_sitemaps(client, writer, items[0], [base.removeprefix("http://"), "sibling.example"])
            for item in items:
                await visit(client, writer, item)
                store_site_files(client, writer, item)
        return base

    base = asyncio.run(main())
    name = writer.close() or ""
    parts = PartFolder(str(folder))
    rows = [LedgerRow.from_columns(row) for row in read_rows(parts.file(name, ".parquet"))]
    links = {row["url"].removeprefix(base): row["depth"] for row in read_rows(parts.file(name, ".links.parquet"))}
    path = parts.file(name, ".warc.gz")
    records = list(read_records(path)) if storage.exists(path) else []
    assert all(isinstance(record, CrawledPage) for record in records)
    pages = {record.url.removeprefix(base): record for record in records if isinstance(record, CrawledPage)}
    warc = storage.read_bytes(path) if storage.exists(path) else b""
    return Crawled({row.url.removeprefix(base): row for row in rows}, links, pages, warc, asked)


# answers that browsers take


@pytest.mark.parametrize(
    "reason", ["200 Успех".encode(), b"200 Trouv\xe9", b"200 \xff\xfe", b" 200 two spaces", b"200"]
)
def test_a_page_is_stored_whatever_the_reason_phrase_is(tmp_path: Path, reason: bytes) -> None:
    found = crawled(tmp_path, {"/a": answer(status=reason, X_Note="café")}, "/a")
    assert found.outcomes() == {"/a": "fetched"}
    assert found.pages["/a"].body == PAGE.encode()
    assert found.pages["/a"].header("x-note") == "café"
    assert reason.strip() in found.warc or reason.strip() in gzip.decompress(found.warc)
    for record in ArchiveIterator(io.BytesIO(found.warc), check_digests="raise"):
        record.content_stream().read()
    num_records = sum(1 for _ in FastIterator(io.BytesIO(found.warc)))
    assert sum(1 for _ in FastIterator(io.BytesIO(found.warc), verify_digests=True)) == num_records


@pytest.mark.parametrize(
    ("given", "mime", "outcome"),
    [
        (answer(content_type=None), "text/html", "fetched"),
        (answer(content_type="text/html, text/html; charset=utf-8"), "text/html", "fetched"),
        (answer(Content_Encoding="utf-8"), "text/html", "fetched"),
        (answer(Content_Security_Policy="x" * 200_000), "text/html", "fetched"),
        (answer(gzip.compress(PAGE[:50].encode()) + gzip.compress(PAGE[50:].encode()), Content_Encoding="gzip"),
         "text/html", "fetched"),
        (answer(gzip.compress(PAGE.encode())[:-20], Content_Encoding="gzip"), None, "incomplete_body"),
    ],
)  # fmt: skip
def test_answers_are_taken_as_browsers_take_them(tmp_path: Path, given: bytes, mime: str | None, outcome: str) -> None:
    found = crawled(tmp_path, {"/a": given}, "/a")
    assert found.outcomes() == {"/a": outcome}
    assert found.rows["/a"].mime == mime
    assert found.links == ({"/next": 1} if outcome == "fetched" else {})


# redirects


@pytest.mark.parametrize(
    "given",
    [
        answer("", status="301 Moved", Location="/caf\u00e9"),
        answer("", status=b"301 D\xe9plac\xe9", Location="/caf%C3%A9"),
        answer(Refresh="0; url=/caf%c3%a9"),
        answer("x", content_type="text/plain", Refresh="5;URL='caf\u00e9'"),
        answer("<meta http-equiv='refresh' content='0; url=caf\u00e9'>"),
        answer("<base href='/sub/'><META HTTP-EQUIV=Refresh CONTENT='3,../caf\u00e9'>"),
    ],
)
def test_a_redirect_leads_on_and_is_no_page(tmp_path: Path, given: bytes) -> None:
    found = crawled(tmp_path, {"/a": given}, "/a")
    assert found.outcomes() == {"/a": "redirected"}
    assert found.links["/caf%C3%A9"] == 1
    assert "/a" not in found.pages


@pytest.mark.parametrize(
    "given",
    [
        answer(Refresh="300; url=/news"),
        answer(Refresh="30"),
        answer("<meta http-equiv=refresh content='0; url=/a'>"),
        answer("<meta http-equiv=refresh content='0; url=/a#top'>"),
        answer("<head><noscript><meta http-equiv=refresh content='0; url=/without-scripts'></noscript></head>"),
    ],
)
def test_a_page_that_loads_itself_or_another_after_a_while_is_a_page(tmp_path: Path, given: bytes) -> None:
    found = crawled(tmp_path, {"/a": given}, "/a")
    assert found.outcomes() == {"/a": "fetched"}
    assert "/without-scripts" not in found.links


# sitemaps


def urlset(*paths: str, encoding: str = "UTF-8") -> str:
    locations = "".join(f"<url><loc>http://{{host}}{path}</loc></url>" for path in paths)
    return f'<?xml version="1.0" encoding="{encoding}"?>\n<urlset>{locations}</urlset>'


def site(sitemap: str | bytes, *more: str) -> dict[str, bytes]:
    robots = "".join(f"Sitemap: {url}\n" for url in ("http://{host}/map.xml", *more))
    return {"/": answer(), "/robots.txt": answer(robots, "text/plain"), "/map.xml": answer(sitemap, "text/xml")}


def test_sitemaps_of_any_encoding_give_pages(tmp_path: Path) -> None:
    found = crawled(tmp_path, site(urlset("/one", "/two", encoding="gb2312").encode("gb2312")), "/")
    assert found.outcomes() == {"/": "fetched"}
    assert set(found.links) == {"/one", "/two", "/next"}


@pytest.mark.parametrize(
    ("sitemap", "pages"),
    [
        (urlset("/one", "/two?a=1&b=2", "/three"), {"/one", "/two?a=1&b=2", "/three"}),
        ("\ufeff\n" + urlset("/one?a=1&amp;b=2"), {"/one?a=1&b=2"}),
    ],
)
def test_a_sitemap_with_the_usual_errors_is_read_whole(tmp_path: Path, sitemap: str, pages: set[str]) -> None:
    found = crawled(tmp_path, site(sitemap), "/")
    assert found.outcomes() == {"/": "fetched"}
    assert set(found.links) == {*pages, "/next"}


def test_what_is_lost_of_sitemaps_is_recorded(tmp_path: Path) -> None:
    index = "<sitemapindex>" + "".join(
        f"<sitemap><loc>http://{{host}}{path}</loc></sitemap>" for path in ("/cut.xml", "/page.xml", "/gone.xml", "/no")
    )
    answers = site(index + "</sitemapindex>", "/relative.xml", "ftp://x/y") | {
        "/cut.xml": answer(urlset("/one", "/two")[:-30], "text/xml"),
        "/page.xml": answer("<!doctype html><p>Nothing here", "text/xml"),
        "/relative.xml": answer(urlset("/three"), "text/xml"),
        "/robots.txt": site("", "/relative.xml", "ftp://x/y")["/robots.txt"].replace(
            b"\r\n\r\n", b"\r\n\r\nUser-agent: *\nDisallow: /no\n"
        ).replace(b"Content-Length: ", b"X-Length: "),
    }  # fmt: skip
    found = crawled(tmp_path, answers, "/")
    assert found.outcomes() == {
        "/": "fetched",
        "/robots.txt": "malformed_sitemap",  # it names one that is no URL
        "/cut.xml": "malformed_sitemap",
        "/page.xml": "malformed_sitemap",
        "/gone.xml": "http_404",
        "/no": "robots_disallowed",
    }
    assert {"/one", "/three"} <= set(found.links)
    assert "not well-formed" in (found.rows["/cut.xml"].detail or "")
    assert found.rows["/page.xml"].detail == "no sitemap"
    assert {path for path, row in found.rows.items() if row.unit == "page"} == {"/"}


@pytest.mark.slow
def test_a_sitemap_may_be_larger_than_a_page(tmp_path: Path) -> None:
    long = urlset(*(f"/{n}{'x' * 200}" for n in range(30_000)))
    assert len(long) > HTTP.max_page_bytes
    found = crawled(tmp_path, site(long), "/")
    assert found.outcomes() == {"/": "fetched"}
    assert len(found.links) == 30_001


def test_there_is_an_end_to_sitemaps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visits, "MAX_SITEMAPS_PER_HOST", 2)
    found = crawled(tmp_path, site("", "http://{host}/2", "http://{host}/3", "http://{host}/4"), "/")
    assert found.rows["/3"].detail == "and 1 others: more than 2 sitemaps of one host"
    assert "/3" not in found.asked


def test_a_sitemap_that_is_visited_gives_links_as_a_page_does(tmp_path: Path) -> None:
    found = crawled(tmp_path, site(urlset("/one")), "/map.xml", follows=False)
    assert found.outcomes() == {"/map.xml": "fetched"}
    assert set(found.links) == {"/one"}


def test_a_sitemap_may_list_pages_of_any_host_as_a_page_may_link_to_them(tmp_path: Path) -> None:
    """`example.com` whose map lists `www.example.com` is the most frequent of all; the scope is looked at later."""
    others = ("https://sibling.example/a", "https://outside.example:8443/b")
    map_ = urlset("/one").replace("</urlset>", "".join(f"<url><loc>{url}</loc></url>" for url in others) + "</urlset>")
    for is_followed in (True, False):
        found = crawled(
            tmp_path / str(is_followed), site(map_), "/" if is_followed else "/map.xml", follows=is_followed
        )
        assert set(found.links) == {"/one", *others, *(["/next"] if is_followed else [])}


def test_sitemaps_in_a_sitemap_are_asked_for_within_the_scope_and_others_are_links(tmp_path: Path) -> None:
    outside = "https://outside.example/map.xml"
    index = f"<sitemapindex><sitemap><loc>{outside}</loc></sitemap><sitemap><loc>http://{{host}}/2</loc></sitemap>"
    answers = site(index + "</sitemapindex>") | {"/2": answer(urlset("/two"), "text/xml")}
    found = crawled(tmp_path, answers, "/")
    assert found.outcomes() == {"/": "fetched"}
    assert set(found.links) == {"/two", "/next", outside}


def test_a_host_with_sitemaps_of_millions_of_pages_fills_many_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part_writer, "PART_LINKS", 3)
    more = [f"http://{{host}}/{n}.xml" for n in range(4)]
    answers = site(urlset("/a", "/b"), *more)
    answers |= {f"/{n}.xml": answer(urlset(*(f"/{n}/{i}" for i in range(3))), "text/xml") for n in range(4)}
    crawled(tmp_path, answers, "/")
    links = [list(read_rows(str(path), ["url"])) for path in tmp_path.glob("*.links.parquet")]
    assert sorted(map(len, links)) == [1, 3, 3, 3, 5]


def test_the_loop_of_all_hosts_does_not_wait_for_the_urls_of_a_sitemap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left for the loop is to store them: milliseconds for 50,000, where a look at each took seconds."""
    listed = tuple(f"https://outside.example/{n}" for n in range(50_000))
    monkeypatch.setattr(visits, "parse_sitemap", lambda *_, **__: sitemaps.Sitemap(listed, listed))
    canonical, looks = urls.canonical_url, itertools.count()

    def look(url: str) -> str:
        next(looks)
        return canonical(url)

    monkeypatch.setattr(urls, "canonical_url", look)
    assert len(crawled(tmp_path, site(""), "/map.xml").links) == len(listed)
    assert next(looks) < 1000


# what no file can hold


@pytest.mark.parametrize(
    ("given", "outcome", "detail"),
    [
        (answer(status=b"404 Introuv\xe9"), "http_404", "Introuv\ufffd"),
        (answer("", status="301 Moved", Location="/" + "\u00e9" * 3000), "redirect_refused", None),
        (answer("<a href='/" + "\u00e9" * 1500 + "'>x</a><a href='/next'>y</a>"), "fetched", None),
        (answer("<a href='/next'>&#xD800;</a>", X_Robots_Tag="\u00ff", TDM_Policy="\ud7ff"), "fetched", None),
    ],
)
def test_rows_and_links_can_be_written_and_read_whatever_is_sent(
    tmp_path: Path, given: bytes, outcome: str, detail: str | None
) -> None:
    found = crawled(tmp_path, {"/a": given}, "/a")
    assert found.outcomes() == {"/a": outcome}
    assert detail is None or found.rows["/a"].detail == detail
    assert set(found.links) == ({"/next"} if outcome == "fetched" else set())


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999", "1" * 5000])
def test_a_reservation_with_what_json_alone_can_hold_is_evidence(tmp_path: Path, number: str) -> None:
    rules = [
        {"location": "/\ud800*", "tdm-reservation": 1},
        {"location": "/*", "tdm-reservation": 0, "tdm-policy": "\udfff"},
        {"location": "/*", "tdm-reservation": float("nan")},
    ]
    body = json.dumps(rules).replace("NaN", number)
    answers = {"/.well-known/tdmrep.json": answer(body, "application/json"), "/a": answer()}
    found = crawled(tmp_path, answers, "/a")
    assert found.outcomes() == {"/a": "fetched"}
    (signal,) = (signal for signal in found.rows["/a"].signals if signal.kind == "tdmrep.json")
    assert json.loads(signal.value) == {"location": "/*", "tdm-policy": "\ufffd", "tdm-reservation": 0}


# faults of our own

ERRORS = sorted(
    (
        error
        for error in vars(builtins).values()
        if isinstance(error, type)
        and issubclass(error, Exception)
        and not issubclass(error, OSError | MemoryError | Warning | ExceptionGroup)
    ),
    key=lambda error: error.__name__,
)


def made_error(rng: random.Random) -> Exception:
    """An exception of any type that Python has, perhaps with a message that cannot be encoded."""
    kind = rng.choice([*ERRORS, OSError])  # of the system if it has a number
    if issubclass(kind, UnicodeEncodeError):
        return kind("ascii", "\ud800", 0, 1, "by the test")
    if issubclass(kind, UnicodeDecodeError):
        return kind("ascii", b"\xff", 0, 1, "by the test")
    if issubclass(kind, UnicodeTranslateError):
        return kind("\ud800", 0, 1, "by the test")
    return kind(rng.choice(["by the test", "\ud800", ""]))


PLACES = {  # what is replaced, and the paths that it concerns; of the others nothing changes
    "parse_links": (visits, "parse_links", {"/a"}),
    "parse_refresh": (visits, "parse_refresh", {"/a"}),
    "parse_sitemap": (visits, "parse_sitemap", {"/map.xml"}),
    "exchange_records": (warc_records, "_headers_of_decoded_body", {"/a", "/robots.txt", "/.well-known/tdmrep.json"}),
    "media_type": (visits, "media_type", {"/a"}),
    "response_verdict": (http_client, "response_verdict", {"/a", "/map.xml"}),
    "parse_robots": (site_rules, "parse_robots", {"/a"}),
    "resolve": (sitemaps, "resolve", {"/map.xml"}),
    "next_hop": (http_client, "_location", {"/.well-known/tdmrep.json", "/map.xml", "/robots.txt", "/a"}),
}


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Path]:
    """The folder in which tracebacks are kept during a test."""
    faults.keep_tracebacks(str(tmp_path / "tracebacks"))
    yield tmp_path / "tracebacks"
    faults.keep_tracebacks(None)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("seed", range(8))
def test_a_random_exception_becomes_a_row_and_ends_nothing(
    tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch, place: str, seed: int
) -> None:
    module, name, concerned = PLACES[place]
    rng = random.Random(f"{place} {seed}")

    def fail(*_: object, **__: object) -> Any:
        raise made_error(rng)

    monkeypatch.setattr(module, name, fail)
    answers = site(urlset("/one")) | {"/a": answer()}
    if place == "next_hop":
        answers["/map.xml"] = answer("", status="302 Found", Location="/elsewhere.xml")
    found = crawled(tmp_path / "crawl", answers, "/a")
    failed = {path: row for path, row in found.rows.items() if row.outcome == "internal_error"}
    assert failed, "nobody came by"
    assert set(failed) <= concerned
    assert found.rows["/a"].outcome in ("fetched", "internal_error")
    for row in failed.values():
        match = re.fullmatch(r"(?:at \S+: )?\w+ in [\w.]+:\d+ [\w.<>]+, traceback ([0-9a-f]{12})", row.detail or "")
        assert match is not None, row.detail
        assert "in fail" in (kept / f"{match[1]}.txt").read_text()


def test_equal_faults_have_one_hash_and_others_another(kept: Path) -> None:
    def first() -> None:
        raise ValueError("one message")

    def second(depth: int) -> None:
        if depth:
            second(depth - 1)
        raise ValueError("one message")

    def detail(work: Callable[[], object]) -> str | None:
        try:
            work()
        except ValueError as error:
            return faults.refusal_of(error).detail
        return None

    details = [detail(work) for work in (first, first, lambda: second(3), lambda: second(30))]
    assert details[0] == details[1] != details[2] == details[3]
    assert len(list(kept.iterdir())) == 2


def test_a_systematic_fault_looks_at_its_folder_once_and_a_store_that_fails_there_ends_nothing(
    kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []

    def fail(path: str) -> bool:
        looks.append(path)
        raise RuntimeError("the store is gone")

    monkeypatch.setattr(storage, "exists", fail)
    error = KeyError("one")
    assert {faults.refusal_of(error).reason for _ in range(1000)} == {"internal_error"}
    assert len(looks) == 1


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), MemoryError(), UserError("a mistake"), PermissionError(13, "no")]
)
def test_what_no_page_is_to_blame_for_ends_the_run(error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        faults.refusal_of(error)
    assert caught.value is error


def test_a_full_disk_ends_the_crawl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage, "write_whole", fail)
    with pytest.raises(OSError, match="No space left"):
        crawled(tmp_path, {"/a": answer()}, "/a")


@pytest.mark.parametrize("name", ["parse_links", "exchange_records"])
def test_other_hosts_are_read_while_a_page_is_parsed_and_compressed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    done_in: list[str] = []
    work = getattr(visits, name)

    def note(*arguments: Any, **options: Any) -> Any:
        done_in.append(threading.current_thread().name)
        return work(*arguments, **options)

    monkeypatch.setattr(visits, name, note)
    crawled(tmp_path, {"/a": answer()}, "/a")
    assert done_in[0] != threading.main_thread().name
