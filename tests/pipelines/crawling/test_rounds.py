"""Tests of a whole crawl of one host, whose sitemaps fail or are none, or whose pages are found one after another."""

import gzip
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import apache_beam as beam
import pytest

from pipelines import crawl
from pipelines.crawl import run_crawls
from pipelines.crawling.frontier import FrontierUrl
from pipelines.crawling.ledger import round_of
from pipelines.funnel import funnel_rows
from pipelines.layout import crawl_folder
from pipelines.parts import read_rows
from pipelines.running.host_buckets import GroupHosts
from pipelines.running.runner import Runner, run_pipeline
from pipelines.spec import CorpusSpec
from pipelines.summary import print_stage
from tests.serving import Quiet, send, serving

HOST = "127.0.2.9"
MAP = "/elsewhere/map.xml.gz"
CHAIN, CHAIN_PAGES = "/chain/", 6


class Site(ThreadingHTTPServer):
    """A host with a sitemap that is down until healed, a page that it calls a sitemap as well, and a chain of pages."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__((HOST, 0), _Answer)
        self.base = f"http://{HOST}:{self.server_port}"
        self.asked: Counter[str] = Counter()
        self.is_healed = False

    def answer(self, path: str) -> tuple[int, str, bytes]:
        urls = "".join(f"<url><loc>{self.base}/in/{n}</loc></url>" for n in range(2))
        page = b"<p>A boat lies at the dock.</p><a href='/in/sitemap.html'>x</a>"
        names = f"Sitemap: {self.base}{MAP}\nSitemap: {self.base}/in/sitemap.html\n"
        if path == MAP:
            body = gzip.compress(f"<urlset>{urls}</urlset>".encode())
            return (200, "application/gzip", body) if self.is_healed else (503, "text/plain", b"")
        if path.startswith(CHAIN):
            number = int(path.removeprefix(CHAIN))
            after = f"<a href='{number + 1}'>x</a>" if number + 1 < CHAIN_PAGES else ""
            return 200, "text/html", f"<p>Page {number} of a chain of pages.</p>{after}".encode()
        if path == "/robots.txt":
            return 200, "text/plain", names.encode()
        return (200, "text/html", page) if path.startswith("/in/") else (404, "text/plain", b"")


class _Answer(Quiet, BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        self.server.asked[self.path] += 1
        status, type_, body = self.server.answer(self.path)
        send(self, status, body, type_)


@pytest.fixture
def site() -> Iterator[Site]:
    with serving(Site()) as server:
        yield server


def counts(out: Path) -> dict[str, tuple[int, dict[str, int]]]:
    """What was kept and dropped, by unit."""
    return {row.unit: (row.kept, dict(row.dropped)) for row in funnel_rows(str(out), ["web"], [])}


def spec_of(site: Site) -> CorpusSpec:
    crawl = {"seeds": [f"{site.base}/in/"], "path_prefixes": ["/in/"], "max_pages_per_host": 4}
    return CorpusSpec.model_validate(
        {
            "name": "test",
            "version": "1.0.0",
            "policy": {"user_agent": "Test (mail@example.org)", "allow_hosts": [HOST]},
            "http": {"delay_seconds": 0, "backoff_seconds": 0, "max_retries": 0, "error_budget": 50},
            "crawls": {"web": crawl},
            "sources": {"texts": {"kind": "text", "input": {"crawl": "web"}, "filters": {"language": None}}},
        }
    )


class Repeated(GroupHosts):
    """What a cluster does where a worker is lost at the end of its work: another one gets its queue again."""

    def expand(self, pairs: beam.PCollection) -> beam.PCollection:
        return super().expand(pairs) | "Twice" >> beam.FlatMap(lambda queue: [queue, queue])


@pytest.fixture(params=[pytest.param(1, marks=pytest.mark.nightly), 4])
def rounds_in_a_pipeline(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(crawl, "rounds_at_once", lambda _: request.param)
    return request.param


@pytest.mark.usefixtures("rounds_in_a_pipeline")
def test_a_queue_that_comes_to_a_second_worker_is_not_requested_again(
    tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(crawl, "GroupHosts", Repeated)
    site.is_healed = True
    run_crawls(spec_of(site), str(tmp_path), Runner())
    pages = {path: num for path, num in site.asked.items() if path.startswith("/in/")}
    assert pages == {"/in/": 1, "/in/sitemap.html": 2, "/in/0": 1, "/in/1": 1}  # read as a sitemap, then as a page
    assert counts(tmp_path)["page"] == (4, {})


def chain_spec(site: Site, max_depth: int = 20) -> CorpusSpec:
    spec = spec_of(site).model_dump(mode="json", exclude_defaults=True)
    spec["crawls"]["web"] = {"seeds": [f"{site.base}{CHAIN}0"], "sitemaps": False, "max_depth": max_depth}
    return CorpusSpec.model_validate(spec)


def rounds_of(out: Path) -> list[tuple[int, str]]:
    """The round and path of each page that was requested."""
    folder = crawl_folder(str(out), "web")
    rows = [(name, row) for name in folder.names() for row in read_rows(folder.file(name, ".parquet"))]
    return sorted((round_of(name), urlsplit(row["url"]).path) for name, row in rows)


class DiedError(Exception):
    """The end of a process, as far as this process can tell."""


@pytest.mark.slow
def test_a_crawl_that_dies_in_a_round_goes_on_with_it(
    tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch, rounds_in_a_pipeline: int
):
    """Also where earlier rounds of the same pipeline are complete."""
    visit = crawl.visit

    async def die(client: object, writer: object, item: FrontierUrl, **options: bool) -> None:
        if item.url.endswith(f"{CHAIN}2"):
            raise DiedError
        await visit(client, writer, item, **options)

    with monkeypatch.context() as patched, pytest.raises(ExceptionGroup):
        patched.setattr(crawl, "visit", die)
        run_crawls(chain_spec(site), str(tmp_path), Runner())
    assert rounds_of(tmp_path) == [(0, f"{CHAIN}0"), (1, f"{CHAIN}1")]
    labels: list[str] = []
    monkeypatch.setattr(crawl, "run_pipeline", lambda label, *rest: labels.append(label) or run_pipeline(label, *rest))
    run_crawls(chain_spec(site), str(tmp_path), Runner())
    assert rounds_of(tmp_path) == [(number, f"{CHAIN}{number}") for number in range(CHAIN_PAGES)]
    assert {num for path, num in site.asked.items() if path.startswith(CHAIN)} == {1}
    assert counts(tmp_path)["page"] == (CHAIN_PAGES, {})
    alone = [f"round {number}" for number in range(2, CHAIN_PAGES + 1)]  # the last finds nothing
    rounds = alone if rounds_in_a_pipeline == 1 else ["round 1 to 4", "round 5 to 8"]
    assert labels == [f"crawl web, {each}" for each in rounds]


@pytest.mark.slow
@pytest.mark.usefixtures("rounds_in_a_pipeline")
def test_a_wider_crawl_goes_on_where_the_narrower_one_ended(tmp_path: Path, site: Site):
    run_crawls(chain_spec(site, max_depth=2), str(tmp_path), Runner())
    assert counts(tmp_path)["page"] == (3, {"too_deep": 1})
    run_crawls(chain_spec(site), str(tmp_path), Runner())
    assert rounds_of(tmp_path) == [(number, f"{CHAIN}{number}") for number in range(CHAIN_PAGES)]
    assert {num for path, num in site.asked.items() if path.startswith(CHAIN)} == {1}
    assert counts(tmp_path)["page"] == (CHAIN_PAGES, {})


@pytest.mark.nightly
@pytest.mark.slow
def test_a_sitemap_that_failed_is_followed_by_a_retry_and_a_page_that_is_called_one_is_a_page(
    tmp_path: Path, site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = spec_of(site)
    out = tmp_path / "out"
    run_crawls(spec, str(out), Runner())
    assert counts(out) == {"page": (2, {}), "site_file": (0, {"http_503": 1})}
    assert site.asked[MAP] == 1
    print_stage(spec, str(out), "crawl")
    assert "crawl kept 2 pages, dropped 1\n" in capsys.readouterr().out  # and not 0 files of sites
    run_crawls(spec, str(out), Runner(), retry=True)
    assert counts(out) == {"page": (2, {}), "site_file": (0, {"http_503": 1})}
    assert site.asked[MAP] == 2
    site.is_healed = True
    run_crawls(spec, str(out), Runner(), retry=True)
    assert counts(out)["page"] == (4, {})
    assert counts(out).get("site_file", (0, {})) == (0, {})
    assert (site.asked[MAP], site.asked["/in/"], site.asked["/in/0"]) == (3, 1, 1)
    folder = crawl_folder(str(out), "web")
    rows = [row for r in folder.receipts() for row in read_rows(folder.file(r.part, ".parquet"))]
    assert not [row for row in rows if row["url"].endswith(MAP) and row["unit"] == "page"]
