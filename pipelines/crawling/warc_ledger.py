"""A ledger for WARC files of another crawler, so that they are read like a crawl of our own."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace

import apache_beam as beam

from pipelines.crawling.ledger import LEDGER_SCHEMA, LINK_SCHEMA, LedgerRow, part_name
from pipelines.drop_reasons import FETCHED, Outcome, http_reason
from pipelines.faults import fault, keep_tracebacks
from pipelines.parts import PartFolder, Receipt, Tally, digest, stage_inputs, write_table
from pipelines.sources.archived_page import parse_record
from pipelines.sources.files import expand
from pipelines.sources.input_files import record_inputs
from pipelines.sources.warc import CrawledPage, read_records
from pipelines.web import urls
from pipelines.web.redirects import parse_refresh


class IndexWarc(beam.DoFn):
    """Write the ledger part of a WARC file, given with the hash of its content.

    A truncated file gives its pages and one row that says so.
    """

    def __init__(self, folder: PartFolder, version: int, tracebacks: str) -> None:
        self._folder, self._version, self._tracebacks = folder, version, tracebacks

    def process(self, file: tuple[str, str]) -> Iterator[str]:
        keep_tracebacks(self._tracebacks)
        path, content = file
        part = indexed_part(path)
        inputs = stage_inputs(self._version, path, content)
        yield self._folder.once(part, inputs, lambda: self._index(path, part, inputs)).part

    def _index(self, path: str, part: str, inputs: str) -> Receipt:
        rows: list[LedgerRow] = []
        for record in read_records(path):
            if isinstance(record, CrawledPage):
                try:
                    rows.append(_page_row(path, record))
                except Exception as error:
                    name = urls.resolve(record.url, "") or record.url
                    row = LedgerRow(name, 0, *fault(error))
                    rows.append(replace(row, warc=path, offset=record.warc_offset, length=record.warc_length))
            else:
                name = f"{path.rpartition('/')[2]}#{record.warc_offset}"
                rows.append(LedgerRow(name, 0, record.reason, record.detail))
        files = {
            ".parquet": write_table(self._folder.file(part, ".parquet"), [r.to_columns() for r in rows], LEDGER_SCHEMA),
            ".links.parquet": write_table(self._folder.file(part, ".links.parquet"), [], LINK_SCHEMA),
        }
        return self._folder.finish(part, inputs, Tally("crawl"), files, num=len(rows))


def _page_row(path: str, page: CrawledPage) -> LedgerRow:
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
        warc=path,
        offset=page.warc_offset,
        length=page.warc_length,
    )
    if url is None:
        return replace(row, outcome="scheme_not_allowed")
    if page.warc_offset is None:
        return replace(row, outcome="record_without_offset", detail="the WARC is not compressed record by record")
    if row.outcome != FETCHED or page.refusal not in (None, "truncated_page"):
        return row
    parsed = parse_record(page, url)
    refresh = parse_refresh(page.header("refresh"), url) or parsed.refresh
    if refresh is not None and refresh.is_redirect:
        return replace(row, outcome="redirected", detail=refresh.url)
    return replace(row, canonical_url=parsed.canonical_url)


def indexed_part(path: str) -> str:
    """Return the name of the ledger part of a WARC file."""
    return part_name(0, hashlib.sha256(path.encode()).hexdigest()[:16])


def archive_hashes(out: str, crawl: str, paths: list[str]) -> dict[str, str]:
    """Return the hash of the content of each WARC file of a crawl, by path; they are recorded as its inputs."""
    found = record_inputs(out, {crawl: [(path, path.rpartition("/")[2]) for path in paths]}) if paths else {}
    return {path: digest(file.content) for (_, path), file in found.items()}


def warc_paths(patterns: list[str]) -> list[str]:
    """Return the WARC files that the patterns match.

    Raises:
        UserError: If one matches no file.
    """
    # A path without a folder would be one beside the ledger (`layout.warc_path`).
    return [path if "/" in path else f"./{path}" for path, _ in expand(patterns)]
