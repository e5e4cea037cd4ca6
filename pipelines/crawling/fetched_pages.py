"""Pages of a part of a crawl, read again from its WARC file, with the verdict on the use of each."""

from collections.abc import Collection, Iterator
from typing import NamedTuple

from pipelines.crawling.archived_robots import ArchivedRules
from pipelines.crawling.ledger import CrawlTask, LedgerRow
from pipelines.drop_reasons import FETCHED
from pipelines.layout import crawl_folder, warc_path
from pipelines.pages.blocks import Page
from pipelines.parts import read_rows
from pipelines.running.record_coder import shuffle_by_fields
from pipelines.sources.warc import CrawledPage, read_pages
from pipelines.web import urls
from pipelines.web.permission import PolicySettings, Verdict, page_verdict, response_verdict


class PagePlace(NamedTuple):
    """A fetched page, in order of its distance from a seed. An archive may contain one URL several times."""

    depth: int
    url: str
    task: str
    offset: int


shuffle_by_fields(PagePlace)


def fetched_pages(
    out: str, task: CrawlTask, only: Collection[int] | None = None
) -> Iterator[tuple[LedgerRow, CrawledPage | None]]:
    """Yield the fetched pages of a task in the order of its WARC file; at the end those not found, without a record.

    Args:
        out: The corpus's folder.
        task: The part of a crawl.
        only: Offsets of the pages to read; None: all.
    """
    path = crawl_folder(out, task.crawl).file(task.ledger, ".parquet")
    fetched = (LedgerRow.from_columns(row) for row in read_rows(path) if row["outcome"] == FETCHED)
    rows = {row.offset: row for row in fetched if only is None or row.offset in only}
    if not rows:
        return
    warc = next(iter(rows.values())).warc
    assert warc is not None
    for record in read_pages(warc_path(out, task.crawl, warc)):
        row = rows.pop(record.warc_offset, None)
        if row is not None:
            yield row, record
    for row in rows.values():
        yield row, None


def fetched_verdict(
    row: LedgerRow, record: CrawledPage, page: Page, policy: PolicySettings, archived: ArchivedRules
) -> Verdict:
    """Return the verdict on a page: by robots.txt at the time of the request, its headers and its meta elements.

    Args:
        row: The page's row.
        record: Its record.
        page: What was parsed of it.
        policy: What counts as a refusal.
        archived: What robots.txt said by the files that another crawler stored with its pages.
    """
    at = {"url": urls.without_credentials(row.url), "observed_at": row.fetched_at}
    site = archived.verdict(row.url).adding(signals=row.signals)
    response = response_verdict(site, record.headers, "page", policy, **at)
    return page_verdict(response, page.meta, policy, **at)
