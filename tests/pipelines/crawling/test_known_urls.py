"""What a crawl carries from round to round says as much as all ledgers and links of the rounds before."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import apache_beam as beam
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import crawl
from pipelines.crawl import run_crawls
from pipelines.crawling import known_urls
from pipelines.crawling.frontier import Mark, failed_site_files, link_marks, requested_before, scoped_urls
from pipelines.crawling.known_urls import KnownUrls, WriteMarks, carried_marks, carry, known_before, known_marks
from pipelines.running.runner import Runner, run_pipeline
from pipelines.spec import CorpusSpec, CrawlSettings
from tests.serving import Quiet, send, serving

HOST = "127.0.2.11"
SETTINGS = CrawlSettings(seeds=["http://127.0.0.1:8000/a/"], path_prefixes=["/a/"], max_depth=2)
URLS = [f"http://127.0.0.1:8000/{path}" for path in ("a/", "a/1", "b/")]
marks = st.lists(
    st.tuples(
        st.sampled_from(URLS),
        st.builds(
            Mark,
            st.sampled_from(["requested_before", "site_file", "failed_site_file", "found"]),
            st.integers(0, 3),
        ),
    ),
    max_size=8,
)


def grouped(rows: Iterable[tuple[str, Mark]]) -> Iterator[tuple[str, list[Mark]]]:
    by_url: dict[str, list[Mark]] = {}
    for url, mark in rows:
        by_url.setdefault(url, []).append(mark)
    yield from sorted(by_url.items())


def decided(rows: Iterable[tuple[str, Mark]]) -> list[list[object]]:
    """All that a round decides by the marks of each URL."""
    by_url = list(grouped(rows))
    rules: list[Callable[[tuple[str, list[Mark]]], Iterator[object]]] = [
        lambda group: scoped_urls(group, SETTINGS),
        requested_before,
        failed_site_files,
    ]
    return [[row for group in by_url for row in rule(group)] for rule in rules]


@given(rounds=st.lists(marks, max_size=4), now=marks)
def test_a_round_decides_by_what_is_carried_as_by_all_earlier_rounds(
    rounds: list[list[tuple[str, Mark]]], now: list[tuple[str, Mark]]
):
    requested_now = [(url, Mark("requested_now", mark.depth)) for url, mark in now if mark.state == "requested_before"]
    carried: list[tuple[str, Mark]] = []
    for found in rounds:
        carried = [row for group in grouped([*carried, *found]) for row in carried_marks(group, SETTINGS)]
        assert len(carried) == len({(url, mark.state) for url, mark in carried})
    everything = [row for found in rounds for row in found]
    assert decided([*carried, *requested_now]) == decided([*everything, *requested_now])


def test_marks_that_never_decide_are_not_carried():
    def carries(url: str, *found: Mark) -> list[Mark]:
        return [mark for _, mark in carried_marks((url, found), SETTINGS)]

    assert carries(URLS[1], Mark("found", 2), Mark("found", 1)) == [Mark("found", 1)]
    assert carries(URLS[1], Mark("found", 3)) == carries(URLS[2], Mark("found", 0)) == []
    assert carries(URLS[1], Mark("found", 1), Mark("requested_before", 2)) == [Mark("requested_before", 2)]
    assert carries(URLS[1], Mark("found", 1), Mark("requested_now", 1)) == [Mark("found", 1)]


def test_what_a_run_wrote_replaces_what_was_carried_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(known_urls, "ROWS_PER_FILE", 2)
    folder = str(tmp_path)
    for run in ("one", "lost", "two"):
        rows = [(f"http://a.example/{run}/{i}", Mark("found", i)) for i in range(5)]

        def build(pipeline: beam.Pipeline, run: str = run, rows: list[tuple[str, Mark]] = rows) -> None:
            _ = pipeline | beam.Create(rows) | beam.ParDo(WriteMarks(folder, run))

        run_pipeline("test", Runner(), build)
        if run != "lost":  # whose run was killed before it was known to have written all
            carry(folder, "inputs", 3, run)
    found = known_before(folder, "inputs", 4)
    assert sorted(row for path in found.files for row in known_marks(path)) == rows
    assert {path.suffix for path in tmp_path.iterdir()} == {".parquet", ".json"}
    assert len(list(tmp_path.iterdir())) == 1 + len(found.files) == 4
    assert known_before(folder, "inputs", 3).round == 3
    assert known_before(folder, "inputs", 2) == known_before(folder, "others", 4) == KnownUrls()


class Chain(ThreadingHTTPServer):
    """A host of pages that each link to the next, and all to the first."""

    def __init__(self) -> None:
        super().__init__((HOST, 0), _Answer)
        self.asked: Counter[str] = Counter()


class _Answer(Quiet, BaseHTTPRequestHandler):
    server: Chain

    def do_GET(self) -> None:
        self.server.asked[self.path] += 1
        number = self.path.removeprefix("/")
        if not number.isdigit() or int(number) > 4:
            send(self, 404, b"", "text/plain")
            return
        send(self, 200, f"<a href='/{int(number) + 1}'>next</a><a href='/0'>first</a>".encode(), "text/html")


READ: Counter[str] = Counter()


def counted_links(path: str) -> Iterator[tuple[str, Mark]]:
    READ[path] += 1
    yield from link_marks(path)


@pytest.mark.nightly
def test_a_crawl_reads_the_links_of_each_round_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(crawl, "link_marks", counted_links)
    READ.clear()
    with serving(Chain()) as site:
        spec = CorpusSpec.model_validate(
            {
                "name": "test",
                "version": "1.0.0",
                "policy": {"user_agent": "Test (mail@example.org)", "allow_hosts": [HOST]},
                "http": {"delay_seconds": 0, "backoff_seconds": 0, "max_retries": 0},
                "crawls": {"web": {"seeds": [f"http://{HOST}:{site.server_port}/0"]}},
                "sources": {"texts": {"kind": "text", "input": {"crawl": "web"}}},
            }
        )
        run_crawls(spec, str(tmp_path), Runner())
        assert [site.asked[f"/{n}"] for n in range(6)] == [1] * 6
    progress = json.loads((tmp_path / "work/warc/web/stage.json").read_bytes())
    assert progress["rounds"] >= 6
    assert len(READ) >= 5
    assert set(READ.values()) == {1}
    assert not list((tmp_path / "work").glob("frontier/*"))
