"""A ledger for WARC files of another crawler, so that they are read like a crawl of our own."""

from dataclasses import replace

from pipelines import storage
from pipelines.crawling.index_archive import Index, path_hash
from pipelines.crawling.ledger import LEDGER_SCHEMA, LINK_SCHEMA, LedgerRow, part_name, warc_record
from pipelines.drop_reasons import FETCHED, Outcome, http_reason
from pipelines.errors import UserError
from pipelines.faults import refusal_of
from pipelines.parts import PartFolder, Tally, digest, write_table
from pipelines.sources.archived_page import parse_record_links
from pipelines.sources.files import Part, expand, explain_read_errors
from pipelines.sources.input_files import record_inputs
from pipelines.sources.lines import read_text_lines
from pipelines.sources.origin import RowError
from pipelines.sources.warc import CrawledPage, read_records
from pipelines.sources.warc_index import archive_name
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


def archive_hashes(out: str, crawl: str, paths: list[str]) -> dict[str, str]:
    """Return the hash of the content of each WARC file of a crawl, by path; they are recorded as its inputs."""
    with explain_read_errors(f"crawls.{crawl}"):
        found = record_inputs(out, {crawl: [(path, archive_name(path)) for path in paths]}) if paths else {}
    return {path: digest(file.content) for (_, path), file in found.items()}


def warc_paths(patterns: list[str], base: str = "") -> list[str]:
    """Return the WARC files that the patterns match, and those that files of paths (`warc.paths.gz`) list.

    Args:
        patterns: Paths of WARC files and of files of paths.
        base: What the listed paths are relative to.

    Raises:
        UserError: If one matches no file. Whether the listed ones exist shows when they are read.
    """
    found: dict[str, None] = {}
    for path, _ in expand(patterns):
        listed = _listed_paths(path, base) if path.endswith((".paths", ".paths.gz")) else [path]
        # A path without a folder would be one beside the ledger (`layout.warc_path`).
        found |= dict.fromkeys(each if "/" in each else f"./{each}" for each in listed)
    return list(found)


def _listed_paths(path: str, base: str) -> list[str]:
    found: list[str] = []
    for locator, line in read_text_lines(Part(path, path)):
        if isinstance(line, RowError) or line.strip().startswith("<"):
            raise UserError(f"{path}: not a file of paths, one a line: {locator}")
        found.append(line.strip() if "://" in line else storage.join(base, line.strip().lstrip("/")))
    if not found:
        raise UserError(f"{path}: lists no paths")
    return found
