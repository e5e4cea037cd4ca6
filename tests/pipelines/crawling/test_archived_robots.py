"""Tests of robots.txt files that another crawler stored: what servers wrote ends no crawl, and each loss is counted."""

import random
from pathlib import Path
from typing import Any

import pytest

from pipelines.crawling import archived_robots
from pipelines.crawling.archived_robots import ArchivedRobots, ArchivedRules, index_robots, robots_of_table
from pipelines.crawling.index_archive import Index
from pipelines.parts import PartFolder, read_rows
from pipelines.web.permission import PolicySettings
from pipelines.web.robots import MAX_BYTES
from tests.pipelines.crawling.test_visits import made_error
from tests.pipelines.test_pages_of_others import write_warc

PLAIN = "200 OK\r\nContent-Type: text/plain"
SHUT = b"User-agent: *\nDisallow: /\n"


def indexed(tmp_path: Path, *answers: tuple[str, str, bytes]) -> tuple[dict[str, ArchivedRobots], Index]:
    """Index a file of (URL, status and headers, body): what is known of each host, and the counts."""
    path = write_warc(tmp_path / "robots.warc.gz", *answers)
    folder = PartFolder(str(tmp_path / "robots"))
    index = index_robots("web", folder, "robots-1", path)
    rows = robots_of_table(("web", folder.file("robots-1", ".parquet")))
    return {name.removeprefix("web "): place for name, place in rows}, index


def is_shut(place: ArchivedRobots) -> bool:
    return not ArchivedRules(PolicySettings(), [place]).verdict("https://a.example/page").allowed


@pytest.mark.parametrize(
    "head",
    [
        *(f"{status} Moved\r\nLocation: {place}"
          for status in (301, 308, 399)
          for place in ("http://[::1/robots.txt", "http://[", "http://a:b/", "http://x.example:99999/", "", "\\")),
        "301 Moved",
    ],
)  # fmt: skip
def test_a_redirect_to_nowhere_leads_out_of_the_file(tmp_path: Path, head: str) -> None:
    found, index = indexed(
        tmp_path, ("https://a.example/robots.txt", head, b""), ("https://b.example/robots.txt", PLAIN, SHUT)
    )
    assert {host: place.status for host, place in found.items()} == {"a.example": None, "b.example": 200}
    assert is_shut(found["a.example"]), "an answer that is not known permits nothing"
    assert not index.tally.drops


@pytest.mark.parametrize("head", ["99999999999 OK", "2000 OK", "20 OK", "000 OK", "-1 OK", "², OK"])
def test_an_answer_without_a_status_is_a_counted_drop(tmp_path: Path, head: str) -> None:
    given = ("https://a.example/robots.txt?key=1", head, b""), ("https://b.example/robots.txt", PLAIN, SHUT)
    found, index = indexed(tmp_path, *given)
    assert set(found) == {"b.example"}
    ((drop,)) = index.tally.drops
    assert (drop.source, drop.reason, drop.record) == ("web", "malformed_record", "robots.warc.gz 0")
    assert drop.url == "https://a.example/robots.txt?key=1"


@pytest.mark.parametrize("place", ["_answer", "resolve", "authority"])
@pytest.mark.parametrize("seed", range(4))
def test_a_record_on_which_our_code_fails_is_a_counted_drop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, seed: int
) -> None:
    module = archived_robots if place == "_answer" else archived_robots.urls
    work, rng = getattr(module, place), random.Random(f"{place} {seed}")

    def fail(url: str, *more: Any) -> Any:
        if "a.example" in url:
            raise made_error(rng)
        return work(url, *more)

    monkeypatch.setattr(module, place, fail)
    given = [(f"https://{host}.example/robots.txt", PLAIN, SHUT) for host in "bac"]
    found, index = indexed(tmp_path, *given)
    assert set(found) == {"b.example", "c.example"}
    ((drop,)) = index.tally.drops
    assert (drop.reason, drop.url) == ("internal_error", "https://a.example/robots.txt")


def test_redirects_are_followed_in_any_order_and_only_the_beginning_of_a_body_counts(tmp_path: Path) -> None:
    large = b"User-agent: *\nDisallow: /\n" + b"#" * 2 * MAX_BYTES
    found, _ = indexed(
        tmp_path,
        ("https://b.example/elsewhere", PLAIN, large),
        ("https://a.example/robots.txt", "302 Found\r\nLocation: //b.example/elsewhere", b""),
    )
    assert set(found) == {"a.example"}
    assert found["a.example"].length == MAX_BYTES
    assert is_shut(found["a.example"])


def test_places_of_equal_content_are_equal_wherever_they_are_stored(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    mine, other = ("https://a.example/robots.txt", PLAIN, SHUT), ("https://0.example/robots.txt", PLAIN, b"#")
    first, second = (
        indexed(tmp_path / "first", mine)[0]["a.example"],
        indexed(tmp_path / "second", other, mine)[0]["a.example"],
    )
    assert first != second
    assert first.content == second.content
    assert sorted([first, second, second._replace(file="b", status=None)])  # in order without comparing a None


def test_rules_are_kept_of_the_hosts_used_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archived_robots, "MAX_KEPT_HOSTS", 3)
    found, _ = indexed(tmp_path, *((f"https://h{n}.example/robots.txt", PLAIN, SHUT) for n in range(9)))
    rules = ArchivedRules(PolicySettings(), list(found.values()))
    assert [rules.verdict(f"https://h{n}.example/x").allowed for n in (*range(9), 0)] == [False] * 10
    assert rules._rules.cache_info().currsize == 3
    assert list(read_rows(str(tmp_path / "robots" / "robots-1.parquet"), ["status"])) == [{"status": 200}] * 9
