"""Accounts of a crawl: what became of each URL over all rounds, kept or dropped with its reason."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from pipelines.block_list import NOTHING, BlockList
from pipelines.crawling.frontier import scope_reason
from pipelines.crawling.ledger import RequestedUnit, read_ledger, round_of, warc_record
from pipelines.document import Drop
from pipelines.drop_reasons import FETCHED, Outcome, Reason
from pipelines.gone_rows import gone_units
from pipelines.parts import PartFolder, Tally, read_rows, stable_hash
from pipelines.spec import CrawlSettings
from pipelines.web import urls
from pipelines.web.answers import is_transient

MIN_PARTS = 16
LEDGERS_PER_PART = 8  # of a thousand pages each, with what these link to: some 10^5 URLs


class Mention(NamedTuple):
    """A URL in a ledger, in order of rounds; or a URL that was only found, without a round and an outcome."""

    round: int | None
    depth: int
    outcome: Outcome | None = None
    detail: str = ""
    record: str = ""
    unit: RequestedUnit = "page"


class Verdict(NamedTuple):
    """What became of a URL over all rounds."""

    url: str
    outcome: Outcome
    detail: str = ""
    record: str = ""
    unit: RequestedUnit = "page"


def ledger_mentions(path: str, retry_round: int) -> Iterator[tuple[str, Mention]]:
    """Yield (URL, mention) for each row of a ledger part, except those of sites' files that were requested again.

    Those have another row if they have failed again, and none if not.
    """
    round_ = round_of(path)
    archive = ["archive_file", "archive_offset"]
    for row in read_ledger(path, ["url", "depth", "outcome", "detail", "warc", "offset", *archive]):
        if row["unit"] == "site_file" and round_ < retry_round and is_transient(row["outcome"]):
            continue
        file, offset = (row.get(name) for name in (archive if row.get("archive_file") else ("warc", "offset")))
        record = warc_record(file, offset) or ""
        yield row["url"], Mention(round_, row["depth"], row["outcome"], row["detail"] or "", record, row["unit"])


def link_mentions(path: str) -> Iterator[tuple[str, Mention]]:
    """Yield (URL, mention) for each link that a part found."""
    for row in read_rows(path):
        yield row["url"], Mention(None, row["depth"])


def num_account_parts(num_ledgers: int) -> int:
    """Return the number of parts of the accounts of a crawl: one worker holds a part."""
    return max(MIN_PARTS, -(-num_ledgers // LEDGERS_PER_PART))


def verdicts(
    grouped: tuple[str, Iterable[Mention]],
    settings: CrawlSettings,
    block: BlockList = NOTHING,
    num_parts: int = MIN_PARTS,
) -> Iterator[tuple[int, Verdict]]:
    """Yield (part of the accounts, verdict) for each page that a URL stands for, or for a site's file.

    The outcome is `fetched` if any request was answered, else the last failure, else the reason why it was not
    requested. A crawl of ours fetches a URL once; an archive of others may contain it several times. What was requested
    as a page as well as a site's file is a page.
    """
    url, mentions = grouped[0], list(grouped[1])
    requested = sorted(mention for mention in mentions if mention.round is not None)
    requested = [mention for mention in requested if mention.unit == "page"] or requested
    num_fetched = sum(mention.outcome == FETCHED for mention in requested)
    if num_fetched:
        verdict = Verdict(url, FETCHED)
    elif requested:
        last = requested[-1]
        assert last.outcome is not None
        verdict = Verdict(url, last.outcome, last.detail, last.record, last.unit)
    else:
        depth = min(mention.depth for mention in mentions)
        reason: Reason = scope_reason(url, depth, settings, block) or "over_page_cap"
        verdict = Verdict(url, reason)
    for _ in range(max(num_fetched, 1)):
        yield stable_hash(url) % num_parts, verdict


def gone_pages(path: str) -> Iterator[tuple[int, Verdict]]:
    """Yield (part of the accounts, verdict) for each page that was fetched, and of which a takedown removed the row.

    It counts as kept, as before: the next stage drops it.
    """
    for num in gone_units(path).values():
        for _ in range(num):
            yield 0, Verdict(url="", outcome=FETCHED)


def write_account(grouped: tuple[int, Iterable[Verdict]], folder: PartFolder, crawl: str) -> None:
    """Write a part of the accounts: counts and drops."""
    tally = Tally("crawl")
    for url, outcome, detail, record, unit in sorted(grouped[1]):
        # A record may name no URL, and that of a page that was taken down is not told.
        shown = urls.without_credentials(url) if url != record and outcome != "taken_down" else None
        if outcome == FETCHED:
            tally.keep(crawl, "page")
            continue
        tally.drop(
            Drop(
                source=crawl,
                stage="crawl",
                reason=outcome,
                unit=unit,
                url=shown,
                page_url=shown if unit == "page" else None,
                record=record or None,
                detail=urls.without_secrets(detail) or None,
            )
        )
    folder.finish(f"{grouped[0]:05d}", "", tally, {})
