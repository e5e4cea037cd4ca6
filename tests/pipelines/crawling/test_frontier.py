"""Which URLs a round asks for."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.crawling import frontier
from pipelines.crawling.ledger import ledger_row
from pipelines.crawling.part_writer import CrawlPartWriter
from pipelines.drop_reasons import FETCHED
from pipelines.layout import crawl_folder
from pipelines.spec import CrawlSettings

SETTINGS = CrawlSettings(seeds=["http://127.0.0.1:8000/a/"], path_prefixes=["/a/", "/b"], max_depth=2)
URL = "http://127.0.0.1:8000/a/1"


def scoped(*marks: tuple[str, int], url: str = URL) -> list:
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


def test_a_round_asks_for_what_was_found_and_not_asked_for_at_its_least_depth():
    assert scoped(("found", 2), ("found", 1)) == [("127.0.0.1:8000", (URL, 1, False))]
    assert scoped(("found", 1), ("known", 1)) == []
    assert scoped(("found", 3)) == []
    assert scoped(("found", 1), url="http://127.0.0.1:8000/") == []


def test_what_a_killed_round_has_asked_for_is_still_counted():
    assert scoped(("found", 1), ("done", 1)) == [("127.0.0.1:8000", (URL, 1, True))]


def capped(new: list[tuple[str, int, bool]], num_known: int, max_pages: int) -> list:
    known = [num_known] if num_known else []
    return list(frontier.cap_host(("h", {"known": known, "new": new}), max_pages))


def test_the_page_cap_takes_the_nearest_pages_and_counts_those_done():
    new = [("/d", 2, False), ("/b", 1, False), ("/a", 1, True), ("/c", 0, False)]
    assert [row[1][0] for row in capped(new, 0, 3)] == ["/c", "/b"]  # and /a, which is done
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


def ledger(tmp_path, rounds: dict[int, str]) -> list[str]:
    """A ledger part a round, in which URL came out so."""
    folder = crawl_folder(str(tmp_path), "site")
    paths = []
    for number, outcome in rounds.items():
        writer = CrawlPartWriter(folder, number)
        writer.add(ledger_row(URL, 1) | {"outcome": outcome})
        paths.append(folder.file(writer.close() or "", ".parquet"))
    return paths


def test_a_retry_asks_again_for_what_can_pass_and_failed_before_it(tmp_path):
    paths = ledger(tmp_path, {0: "http_503", 1: "http_404", 2: FETCHED, 3: "http_503"})
    marks = [next(frontier.ledger_marks(path, "known", 3))[1][0] for path in paths]
    assert marks == ["found", "known", "known", "known"]
    assert [next(frontier.ledger_marks(path, "known", 0))[1][0] for path in paths] == ["known"] * 4
