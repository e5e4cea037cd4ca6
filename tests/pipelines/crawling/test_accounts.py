"""What the accounts of a crawl say about each URL: one verdict per page, the latest."""

import json

from pipelines.crawling import accounts
from pipelines.crawling.accounts import Mention, Verdict
from pipelines.crawling.ledger import LedgerRow
from pipelines.crawling.part_writer import CrawlPartWriter
from pipelines.drop_reasons import FETCHED
from pipelines.funnel import funnel_rows
from pipelines.layout import account_folder, crawl_folder
from pipelines.parts import read_rows
from pipelines.spec import CrawlSettings

SETTINGS = CrawlSettings(seeds=["http://127.0.0.1:8000/a/"], path_prefixes=["/a/", "/b"], max_depth=2)
URL = "http://127.0.0.1:8000/a/1"


def verdict(*asked: Mention, url: str = URL) -> tuple[str, str]:
    ((part, found),) = accounts.verdicts((url, asked), SETTINGS)
    assert 0 <= part < accounts.MIN_PARTS
    assert found.url == url
    return found.outcome, found.detail


ONLY_FOUND = Mention(None, 1)


def test_a_page_that_was_ever_fetched_is_kept():
    assert verdict(Mention(1, 1, "http_503", "busy"), ONLY_FOUND, Mention(0, 1, FETCHED)) == (FETCHED, "")


def test_a_page_that_an_archive_holds_twice_is_two_pages():
    twice = [Mention(0, 0, FETCHED), Mention(0, 0, FETCHED), Mention(0, 0, "http_404")]
    found = [verdict for _, verdict in accounts.verdicts((URL, twice), SETTINGS)]
    assert [(verdict.url, verdict.outcome) for verdict in found] == [(URL, FETCHED)] * 2


def test_a_page_that_failed_again_bears_its_last_failure():
    # By the round, not by the alphabet.
    assert verdict(Mention(2, 1, "http_404", "gone"), Mention(0, 1, "timeout", "slow"), ONLY_FOUND) == (
        "http_404",
        "gone",
    )
    assert verdict(Mention(0, 1, "http_404", "gone"), Mention(2, 1, "timeout", "slow")) == ("timeout", "slow")


def test_a_page_that_was_not_asked_for_says_why():
    assert verdict(ONLY_FOUND) == ("over_page_cap", "")
    assert verdict(Mention(None, 5), Mention(None, 3)) == ("too_deep", "")
    assert verdict(Mention(None, 5), ONLY_FOUND) == ("over_page_cap", "")
    assert verdict(ONLY_FOUND, url="http://127.0.0.1:8000/")[0] == "out_of_scope"


def test_a_sitemap_that_failed_is_no_page():
    failed = Mention(0, 1, "http_404", "gone", unit="site_file")
    ((_, found),) = accounts.verdicts((URL, [failed, ONLY_FOUND]), SETTINGS)
    assert found == Verdict(URL, "http_404", "gone", unit="site_file")
    assert verdict(failed, Mention(1, 1, FETCHED)) == (FETCHED, "")
    assert verdict(failed, Mention(1, 1, "timeout")) == ("timeout", "")


def ledger(tmp_path, rounds: dict[int, str]) -> list[str]:
    """A ledger part a round, in which URL came out so."""
    folder = crawl_folder(str(tmp_path), "site")
    paths = []
    for number, outcome in rounds.items():
        writer = CrawlPartWriter(folder, number)
        writer.add(LedgerRow(URL, 1, outcome))
        paths.append(folder.file(writer.close() or "", ".parquet"))
    return paths


def test_outcomes_know_the_round_they_are_of(tmp_path):
    paths = ledger(tmp_path, {0: "timeout", 2: "http_404"})
    rows = [outcome for path in paths for _, outcome in accounts.ledger_mentions(path, 0)]
    assert rows == [Mention(0, 1, "timeout"), Mention(2, 1, "http_404")]


def test_accounts_count_pages_and_hide_credentials(tmp_path):
    folder = account_folder(str(tmp_path), "site")
    secret = "https://u:p@a.example/x"
    rows = [Verdict(URL, FETCHED), Verdict(secret, "redirected", "/login?token=s&next=/")]
    accounts.write_account((0, rows), folder, "site")
    (receipt,) = folder.receipts()
    (count,) = receipt.counts
    assert (count.kept, count.dropped, count.in_) == (1, {"redirected": 1}, 2)
    (drop,) = read_rows(folder.drops()[0])
    assert (drop["url"], drop["page_url"], drop["detail"]) == ("https://a.example/x",) * 2 + ("/login?token=…&next=/",)
    assert "u:p" not in json.dumps(drop)


def test_accounts_count_files_of_sites_apart(tmp_path):
    folder = account_folder(str(tmp_path), "site")
    map_ = "https://u:p@a.example/map.xml"
    accounts.write_account((0, [Verdict(URL, FETCHED), Verdict(map_, "http_404", unit="site_file")]), folder, "site")
    rows = funnel_rows(str(tmp_path), ["site"], [])
    assert [(row.unit, row.in_, row.kept, row.dropped) for row in rows] == [
        ("page", 1, 1, {}),
        ("site_file", 1, 0, {"http_404": 1}),
    ]
    (drop,) = read_rows(folder.drops()[0])
    assert (drop["unit"], drop["url"], drop["page_url"]) == ("site_file", "https://a.example/map.xml", None)


def test_a_drop_of_a_stored_page_names_the_record_that_holds_it(tmp_path):
    folder = crawl_folder(str(tmp_path), "site")
    writer = CrawlPartWriter(folder, 0)
    writer.add(LedgerRow(URL, 0, "http_404", warc="/archives/a.warc.gz", offset=512))
    path = folder.file(writer.close() or "", ".parquet")
    asked = [row for _, row in accounts.ledger_mentions(path, 0)]
    accounts.write_account((0, [row for _, row in accounts.verdicts((URL, asked), SETTINGS)]), folder, "site")
    (drop,) = read_rows(folder.drops()[0])
    assert (drop["reason"], drop["record"], drop["excerpt"]) == ("http_404", "a.warc.gz 512", None)


def test_parts_follow_the_size_of_the_crawl():
    assert accounts.num_account_parts(0) == accounts.num_account_parts(128) == 16
    assert accounts.num_account_parts(8_001) == 1_001
    found = {
        next(accounts.verdicts((f"{URL}?{n}", [Mention(None, 9)]), SETTINGS, num_parts=100))[0] for n in range(900)
    }
    assert max(found) < 100 < len(found) + 20
