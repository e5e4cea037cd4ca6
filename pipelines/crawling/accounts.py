"""Accounts of a crawl: what became of each URL over all rounds, kept or dropped with its reason."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from pipelines.crawling.frontier import scope_reason
from pipelines.crawling.ledger import round_of, warc_record
from pipelines.document import Drop
from pipelines.drop_reasons import FETCHED, Outcome, Reason
from pipelines.parts import PartFolder, Tally, read_rows, stable_hash
from pipelines.spec import CrawlSettings
from pipelines.web import urls

ACCOUNT_PARTS = 16
ONLY_FOUND = -1  # the round of what was not asked for


class Asked(NamedTuple):
    """What a ledger or the links tell of a URL; they are ordered by it."""

    round: int
    depth: int
    outcome: Outcome | None = None
    detail: str = ""
    record: str = ""


class Verdict(NamedTuple):
    """What became of a URL over all rounds."""

    url: str
    outcome: Outcome
    detail: str = ""
    record: str = ""


def ledger_outcomes(path: str) -> Iterator[tuple[str, Asked]]:
    round_ = round_of(path)
    for row in read_rows(path, ["url", "depth", "outcome", "detail", "warc", "offset"]):
        record = warc_record(row) or ""
        yield row["url"], Asked(round_, row["depth"], row["outcome"], row["detail"] or "", record)


def link_outcomes(path: str) -> Iterator[tuple[str, Asked]]:
    for row in read_rows(path):
        yield row["url"], Asked(ONLY_FOUND, row["depth"])


def verdicts(grouped: tuple[str, Iterable[Asked]], settings: CrawlSettings) -> Iterator[tuple[int, Verdict]]:
    """(part, verdict): `fetched` as often as it was, else the last failure, else why it was not asked.

    A crawl of ours fetches a URL once; the archives of others may hold it several times.
    """
    url, found = grouped[0], list(grouped[1])
    asked = sorted(o for o in found if o.round != ONLY_FOUND)
    num_fetched = sum(o.outcome == FETCHED for o in asked)
    if num_fetched:
        verdict = Verdict(url, FETCHED)
    elif asked:
        last = asked[-1]
        assert last.outcome is not None
        verdict = Verdict(url, last.outcome, last.detail, last.record)
    else:
        reason: Reason = scope_reason(url, min(o.depth for o in found), settings) or "over_page_cap"
        verdict = Verdict(url, reason)
    for _ in range(max(num_fetched, 1)):
        yield stable_hash(url) % ACCOUNT_PARTS, verdict


def write_account(grouped: tuple[int, Iterable[Verdict]], folder: PartFolder, crawl: str) -> None:
    tally = Tally("crawl")
    for url, outcome, detail, record in sorted(grouped[1]):
        shown = urls.without_credentials(url)
        if outcome == FETCHED:
            tally.keep(crawl, "page")
            continue
        tally.drop(
            Drop(
                source=crawl,
                stage="crawl",
                reason=outcome,
                unit="page",
                url=shown,
                page_url=shown,
                record=record or None,
                detail=detail or None,
            )
        )
    folder.finish(f"{grouped[0]:05d}", "", tally, {})
