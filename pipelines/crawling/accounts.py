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


class Mention(NamedTuple):
    """A URL in a ledger, in order of rounds; or a URL that was only found, without a round and an outcome."""

    round: int | None
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


def ledger_mentions(path: str) -> Iterator[tuple[str, Mention]]:
    """Yield (URL, mention) for each row of a ledger part."""
    round_ = round_of(path)
    for row in read_rows(path, ["url", "depth", "outcome", "detail", "warc", "offset"]):
        record = warc_record(row["warc"], row["offset"]) or ""
        yield row["url"], Mention(round_, row["depth"], row["outcome"], row["detail"] or "", record)


def link_mentions(path: str) -> Iterator[tuple[str, Mention]]:
    """Yield (URL, mention) for each link that a part found."""
    for row in read_rows(path):
        yield row["url"], Mention(None, row["depth"])


def verdicts(grouped: tuple[str, Iterable[Mention]], settings: CrawlSettings) -> Iterator[tuple[int, Verdict]]:
    """Yield (part of the accounts, verdict) for each page that a URL stands for.

    The outcome is `fetched` if any request was answered, else the last failure, else the reason why it was not
    requested. A crawl of ours fetches a URL once; an archive of others may contain it several times.
    """
    url, mentions = grouped[0], list(grouped[1])
    requested = sorted(mention for mention in mentions if mention.round is not None)
    num_fetched = sum(mention.outcome == FETCHED for mention in requested)
    if num_fetched:
        verdict = Verdict(url, FETCHED)
    elif requested:
        last = requested[-1]
        assert last.outcome is not None
        verdict = Verdict(url, last.outcome, last.detail, last.record)
    else:
        depth = min(mention.depth for mention in mentions)
        reason: Reason = scope_reason(url, depth, settings) or "over_page_cap"
        verdict = Verdict(url, reason)
    for _ in range(max(num_fetched, 1)):
        yield stable_hash(url) % ACCOUNT_PARTS, verdict


def write_account(grouped: tuple[int, Iterable[Verdict]], folder: PartFolder, crawl: str) -> None:
    """Write a part of the accounts: counts and drops."""
    tally = Tally("crawl")
    for url, outcome, detail, record in sorted(grouped[1]):
        shown = urls.without_credentials(url) if url != record else None  # of a record that names no URL
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
