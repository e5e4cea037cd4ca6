"""A ledger for WARC files of another crawler, so that they are read like a crawl of our own."""

from dataclasses import replace

from pipelines.crawling.archive_files import path_hash
from pipelines.crawling.index_archive import Index
from pipelines.crawling.ledger import LEDGER_SCHEMA, LINK_SCHEMA, LedgerRow, part_name, warc_record
from pipelines.drop_reasons import FETCHED, Outcome, http_reason
from pipelines.faults import refusal_of
from pipelines.parts import PartFolder, Tally, write_table
from pipelines.sources.archived_page import parse_record_links
from pipelines.sources.warc import CrawledPage, read_records
from pipelines.web import urls
from pipelines.web.redirects import parse_refresh


def index_pages(folder: PartFolder, part: str, path: str) -> Index:
    """Write the ledger part of a WARC file; a truncated one gives its pages and one row that says so."""
    rows: list[LedgerRow] = []
    for record in read_records(path):
        name = record.url or warc_record(path, record.warc_offset) or path
        try:
            if isinstance(record, CrawledPage):
                row = page_row(record)
            else:
                row = LedgerRow(urls.resolve(name, "") or name, 0, record.reason, record.detail)
        except Exception as error:
            row = LedgerRow(name, 0, *refusal_of(error))
        rows.append(replace(row, warc=path, offset=record.warc_offset))
    files = {
        ".parquet": write_table(folder.file(part, ".parquet"), [r.to_columns() for r in rows], LEDGER_SCHEMA),
        ".links.parquet": write_table(folder.file(part, ".links.parquet"), [], LINK_SCHEMA),
    }
    return Index(files, Tally("crawl"), len(rows))


def page_row(page: CrawledPage) -> LedgerRow:
    """Return the row of a page of an archive, without its place."""
    url = urls.resolve(page.url, "")
    outcome: Outcome = "revisit_record" if page.record_type == "revisit" else FETCHED
    row = LedgerRow(
        url or page.url,
        0,
        outcome if page.status == 200 else http_reason(page.status),
        status=page.status,
        mime=page.mime,
        truncated=page.truncated is not None,
        fetched_at=page.fetched_at,
        length=page.warc_length,
    )
    if url is None:
        return replace(row, outcome="scheme_not_allowed")
    if page.warc_offset is None:
        return replace(row, outcome="record_without_offset", detail="the WARC is not compressed record by record")
    if row.outcome != FETCHED or page.refusal not in (None, "truncated_page"):
        return row
    parsed = parse_record_links(page, url)
    refresh = parse_refresh(page.header("refresh"), url) or parsed.refresh
    if refresh is not None and refresh.is_redirect:
        return replace(row, outcome="redirected", detail=refresh.url)
    return replace(row, canonical_url=parsed.canonical_url)


def indexed_part(path: str) -> str:
    """Return the name of the ledger part of a WARC file."""
    return part_name(0, path_hash(path))
