"""Tests of the crawl: the URLs that a round requests, and the final outcome of each."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import crawl
from pipelines.crawl import _Asked, _Verdict
from pipelines.crawling.ledger import ledger_row
from pipelines.crawling.part_writer import CrawlPartWriter
from pipelines.drop_reasons import FETCHED
from pipelines.layout import account_folder, crawl_folder
from pipelines.parts import read_rows
from pipelines.spec import CrawlSettings

SETTINGS = CrawlSettings(seeds=["http://127.0.0.1:8000/a/"], path_prefixes=["/a/", "/b"], max_depth=2)
URL = "http://127.0.0.1:8000/a/1"


def frontier(*marks: tuple[str, int], url: str = URL) -> list:
    return list(crawl._frontier((url, marks), SETTINGS))


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
    assert crawl.scope_reason(url, depth, SETTINGS) == reason


def test_scope_of_hosts_that_are_named():
    settings = CrawlSettings(seeds=["https://a.example/"], hosts=["b.example"])
    assert settings.scope == {"b.example"}
    assert crawl.scope_reason("https://a.example/", 0, settings) == "out_of_scope"
    assert crawl.scope_reason("https://b.example", 0, settings) is None  # an empty path is the root


def test_a_round_asks_for_what_was_found_and_not_asked_for_at_its_least_depth():
    assert frontier(("found", 2), ("found", 1)) == [("127.0.0.1:8000", (URL, 1, False))]
    assert frontier(("found", 1), ("known", 1)) == []
    assert frontier(("found", 3)) == []
    assert frontier(("found", 1), url="http://127.0.0.1:8000/") == []


def test_what_a_killed_round_has_asked_for_is_still_counted():
    assert frontier(("found", 1), ("done", 1)) == [("127.0.0.1:8000", (URL, 1, True))]


def capped(new: list[tuple[str, int, bool]], num_known: int, max_pages: int) -> list:
    known = [num_known] if num_known else []
    return list(crawl._cap_host(("h", {"known": known, "new": new}), max_pages))


def test_the_page_cap_takes_the_nearest_pages_and_counts_those_done():
    new = [("/d", 2, False), ("/b", 1, False), ("/a", 1, True), ("/c", 0, False)]
    assert [row[1][0] for row in capped(new, 0, 3)] == ["/c", "/b"]  # /a is done already
    assert [row[1][0] for row in capped(new, 2, 3)] == ["/c"]
    assert capped(new, 3, 3) == capped(new, 5, 3) == []


def test_a_host_of_which_nothing_is_known_is_new():
    assert capped([("/a", 0, False)], 0, 9) == [("h", ("/a", 0, True))]
    assert capped([("/a", 0, False)], 1, 9) == [("h", ("/a", 0, False))]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 3), max_size=12), st.data(), st.integers(0, 4), st.integers(1, 10))
def test_a_killed_round_ends_with_the_pages_of_an_undisturbed_one(depths, data, num_known: int, max_pages: int):
    whole = [(f"/{i}", depth, False) for i, depth in enumerate(depths)]
    wanted = {row[1][0] for row in capped(whole, num_known, max_pages)}
    done = data.draw(st.sets(st.sampled_from(sorted(wanted)))) if wanted else set()
    resumed = [(url, depth, url in done) for url, depth, _ in reversed(whole)]
    assert {row[1][0] for row in capped(resumed, num_known, max_pages)} == wanted - done


def verdict(*asked: _Asked, url: str = URL) -> tuple[str, str]:
    ((part, found),) = crawl._verdicts((url, asked), SETTINGS)
    assert 0 <= part < crawl.ACCOUNT_PARTS
    assert found.url == url
    return found.outcome, found.detail


ONLY_FOUND = _Asked(-1, 1)


def test_a_page_that_was_ever_fetched_is_kept():
    assert verdict(_Asked(1, 1, "http_503", "busy"), ONLY_FOUND, _Asked(0, 1, FETCHED)) == (FETCHED, "")


def test_a_page_that_an_archive_holds_twice_is_two_pages():
    twice = [_Asked(0, 0, FETCHED), _Asked(0, 0, FETCHED), _Asked(0, 0, "http_404")]
    found = [verdict for _, verdict in crawl._verdicts((URL, twice), SETTINGS)]
    assert [(verdict.url, verdict.outcome) for verdict in found] == [(URL, FETCHED)] * 2


def test_a_page_that_failed_again_bears_its_last_failure():
    # Ordered by round, not alphabetically.
    assert verdict(_Asked(2, 1, "http_404", "gone"), _Asked(0, 1, "timeout", "slow"), ONLY_FOUND) == (
        "http_404",
        "gone",
    )
    assert verdict(_Asked(0, 1, "http_404", "gone"), _Asked(2, 1, "timeout", "slow")) == ("timeout", "slow")


def test_a_page_that_was_not_asked_for_says_why():
    assert verdict(ONLY_FOUND) == ("over_page_cap", "")
    assert verdict(_Asked(-1, 5), _Asked(-1, 3)) == ("too_deep", "")
    assert verdict(_Asked(-1, 5), ONLY_FOUND) == ("over_page_cap", "")
    assert verdict(ONLY_FOUND, url="http://127.0.0.1:8000/")[0] == "out_of_scope"


def ledger(tmp_path, rounds: dict[int, str]) -> list[str]:
    """Write one ledger part per round, in which the URL has the given outcome."""
    folder = crawl_folder(str(tmp_path), "site")
    paths = []
    for number, outcome in rounds.items():
        writer = CrawlPartWriter(folder, number)
        writer.add(ledger_row(URL, 1) | {"outcome": outcome})
        paths.append(folder.file(writer.close() or "", ".parquet"))
    return paths


def test_a_retry_asks_again_for_what_can_pass_and_failed_before_it(tmp_path):
    paths = ledger(tmp_path, {0: "http_503", 1: "http_404", 2: FETCHED, 3: "http_503"})
    marks = [next(crawl._ledger_marks(path, "known", 3))[1][0] for path in paths]
    assert marks == ["found", "known", "known", "known"]
    assert [next(crawl._ledger_marks(path, "known", 0))[1][0] for path in paths] == ["known"] * 4


def test_outcomes_know_the_round_they_are_of(tmp_path):
    paths = ledger(tmp_path, {0: "timeout", 2: "http_404"})
    rows = [outcome for path in paths for _, outcome in crawl._ledger_outcomes(path)]
    assert rows == [_Asked(0, 1, "timeout"), _Asked(2, 1, "http_404")]


def test_accounts_count_pages_and_hide_credentials(tmp_path):
    folder = account_folder(str(tmp_path), "site")
    secret = "https://u:p@a.example/x"
    rows = [_Verdict(URL, FETCHED), _Verdict(secret, "out_of_scope")]
    crawl._write_account((0, rows), folder, "site")
    (receipt,) = folder.receipts()
    (count,) = receipt.counts
    assert (count.kept, count.dropped, count.in_) == (1, {"out_of_scope": 1}, 2)
    (drop,) = read_rows(folder.drops()[0])
    assert (drop["url"], drop["page_url"], drop["detail"]) == ("https://a.example/x",) * 2 + (None,)
    assert "u:p" not in json.dumps(drop)


def test_a_drop_of_a_stored_page_names_the_record_that_holds_it(tmp_path):
    folder = crawl_folder(str(tmp_path), "site")
    writer = CrawlPartWriter(folder, 0)
    writer.add(ledger_row(URL, 0) | {"outcome": "http_404", "warc": "/archives/a.warc.gz", "offset": 512})
    path = folder.file(writer.close() or "", ".parquet")
    asked = [row for _, row in crawl._ledger_outcomes(path)]
    crawl._write_account((0, [row for _, row in crawl._verdicts((URL, asked), SETTINGS)]), folder, "site")
    (drop,) = read_rows(folder.drops()[0])
    assert (drop["reason"], drop["record"], drop["excerpt"]) == ("http_404", "a.warc.gz 512", None)
