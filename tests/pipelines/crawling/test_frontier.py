"""Which URLs a round requests."""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.crawling import frontier
from pipelines.crawling.frontier import FrontierUrl, Mark, ScopedUrl
from pipelines.crawling.ledger import LEDGER_SCHEMA, LedgerRow, RequestedUnit
from pipelines.crawling.part_writer import CrawlPartWriter
from pipelines.drop_reasons import FETCHED
from pipelines.layout import crawl_folder
from pipelines.parts import write_table
from pipelines.spec import CrawlSettings

SETTINGS = CrawlSettings(seeds=["http://127.0.0.1:8000/a/"], path_prefixes=["/a/", "/b"], max_depth=2)
URL = "http://127.0.0.1:8000/a/1"


def scoped(*marks: Mark, url: str = URL) -> list[tuple[str, ScopedUrl]]:
    return list(frontier.scoped_urls((url, marks), SETTINGS))


@pytest.mark.parametrize(
    ("url", "depth", "reason"),
    [
        (URL, 2, None),
        ("http://127.0.0.1:8000/bottle", 0, None),
        (URL, 3, "too_deep"),
        ("http://127.0.0.1:8000/", 0, "out_of_scope"),
        ("http://127.0.0.1:8001/a/1", 0, "out_of_scope"),
        ("https://127.0.0.1:8000/c", 9, "out_of_scope"),
    ],
)
def test_scope(url: str, depth: int, reason: str | None):
    assert frontier.scope_reason(url, depth, SETTINGS) == reason


def test_scope_of_hosts_that_are_named():
    settings = CrawlSettings(seeds=["https://a.example/"], hosts=["b.example"])
    assert settings.scope == {"b.example"}
    assert frontier.scope_reason("https://a.example/", 0, settings) == "out_of_scope"
    assert frontier.scope_reason("https://b.example", 0, settings) is None  # an empty path is the root


def test_a_round_requests_what_was_found_and_not_requested_at_its_least_depth():
    assert scoped(Mark("found", 2), Mark("found", 1)) == [("127.0.0.1:8000", ScopedUrl(1, URL, False))]
    assert scoped(Mark("found", 1), Mark("requested_before", 1)) == []
    assert scoped(Mark("found", 3)) == []
    assert scoped(Mark("found", 1), url="http://127.0.0.1:8000/") == []


def test_a_file_of_a_site_is_not_requested_as_a_page_nor_counted_as_one():
    assert scoped(Mark("found", 1), Mark("site_file", 1)) == []
    requested = ScopedUrl(1, URL, True)
    assert scoped(Mark("site_file", 1), Mark("requested_now", 1)) == [("127.0.0.1:8000", requested)]


def test_what_a_killed_round_has_requested_is_still_counted():
    assert scoped(Mark("found", 1), Mark("requested_now", 1)) == [("127.0.0.1:8000", ScopedUrl(1, URL, True))]


def capped(found: list[ScopedUrl], num_requested: int, max_pages: int) -> list[FrontierUrl]:
    joined = {"num_before": [num_requested] if num_requested else [], "others": found}
    rows = list(frontier.cap_host(("h", joined), max_pages))
    assert {authority for authority, _ in rows} <= {"h"}
    return [row for _, row in rows]


def test_the_page_cap_takes_the_nearest_pages_and_counts_those_done():
    found = [ScopedUrl(2, "/d", False), ScopedUrl(1, "/b", False), ScopedUrl(1, "/a", True), ScopedUrl(0, "/c", False)]
    assert [row.url for row in capped(found, 0, 3)] == ["/c", "/b"]  # and /a, which is done
    assert [row.url for row in capped(found, 2, 3)] == ["/c"]
    assert capped(found, 3, 3) == capped(found, 5, 3) == []


def test_a_host_of_which_nothing_was_requested_is_new():
    assert capped([ScopedUrl(0, "/a", False)], 0, 9) == [FrontierUrl(0, "/a", is_new_host=True)]
    assert capped([ScopedUrl(0, "/a", False)], 1, 9) == [FrontierUrl(0, "/a", is_new_host=False)]


@pytest.mark.slow
@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 3), max_size=12), st.data(), st.integers(0, 4), st.integers(1, 10))
def test_a_killed_round_ends_with_the_pages_of_an_undisturbed_one(depths, data, num_requested: int, max_pages: int):
    whole = [ScopedUrl(depth, f"/{i}", False) for i, depth in enumerate(depths)]
    wanted = {row.url for row in capped(whole, num_requested, max_pages)}
    done = data.draw(st.sets(st.sampled_from(sorted(wanted)))) if wanted else set()
    resumed = [row._replace(is_requested=row.url in done) for row in reversed(whole)]
    assert {row.url for row in capped(resumed, num_requested, max_pages)} == wanted - done


def ledger(tmp_path, rounds: dict[int, str], unit: RequestedUnit = "page") -> list[str]:
    """A ledger part a round, in which URL came out so."""
    folder = crawl_folder(str(tmp_path), "site")
    paths = []
    for number, outcome in rounds.items():
        writer = CrawlPartWriter(folder, number)
        writer.add(LedgerRow(URL, 1, outcome, unit=unit))
        paths.append(folder.file(writer.close() or "", ".parquet"))
    return paths


def test_a_retry_asks_again_for_what_can_pass_and_failed_before_it(tmp_path):
    paths = ledger(tmp_path, {0: "http_503", 1: "http_404", 2: FETCHED, 3: "http_503"})

    def states(retry_round: int) -> list[str]:
        return [
            mark.state for path in paths for _, mark in frontier.ledger_marks(path, "requested_before", retry_round)
        ]

    assert states(3) == ["found", "requested_before", "requested_before", "requested_before"]
    assert states(0) == ["requested_before"] * 4


def test_a_retry_asks_again_for_a_sitemap_that_failed_but_not_as_a_page(tmp_path):
    (path,) = ledger(tmp_path, {0: "http_503"}, unit="site_file")
    marks = [next(iter(frontier.ledger_marks(path, "requested_before", retry)))[1] for retry in (0, 1)]
    assert marks == [Mark("site_file", 1), Mark("failed_site_file", 1)]
    assert scoped(marks[1]) == []
    again = ("127.0.0.1:8000", FrontierUrl(1, URL, is_new_host=False, unit="site_file"))
    assert list(frontier.failed_site_files((URL, marks[1:]))) == [again]
    assert list(frontier.failed_site_files((URL, marks))) == []  # which a later round could not pass


def test_a_page_that_is_no_sitemap_is_a_page(tmp_path):
    (path,) = ledger(tmp_path, {0: "malformed_sitemap"}, unit="site_file")
    assert list(frontier.ledger_marks(path, "requested_before", 0)) == []


def test_sitemaps_of_a_killed_round_are_followed_again(tmp_path):
    (path,) = ledger(tmp_path, {1: "http_404"}, unit="site_file")
    assert list(frontier.ledger_marks(path, "requested_now", 0)) == []


def test_a_ledger_of_an_earlier_version_has_pages_only(tmp_path):
    path = str(tmp_path / "r000-old.parquet")
    write_table(path, [{"url": URL, "depth": 1, "outcome": "http_404"}], pa.schema(list(LEDGER_SCHEMA)[:3]))
    assert list(frontier.ledger_marks(path, "requested_before", 0)) == [(URL, Mark("requested_before", 1))]
