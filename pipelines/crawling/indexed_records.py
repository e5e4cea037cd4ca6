"""Records of another crawler's archive, fetched one by one as an index names them, into WARC files of our own.

The bytes of a record are stored as they came, so that they are read like pages that we crawled; the ledger says where
in the archive each one is. A server is asked by the polite client; a folder or a store is read by range.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Protocol

import apache_beam as beam

from pipelines import storage
from pipelines.block_list import BlockList, load_block_list
from pipelines.crawling.archive_files import indexed_name
from pipelines.crawling.ledger import INDEXED_SCHEMA, LINK_SCHEMA, LedgerRow, ledger_parts, part_name, round_of
from pipelines.crawling.part_writer import PART_PAGES
from pipelines.crawling.warc_ledger import page_row
from pipelines.crawling.warc_records import file_record
from pipelines.drop_reasons import Refusal
from pipelines.faults import keep_tracebacks, refusal_of
from pipelines.layout import crawl_folder, gate_folder, index_folder, traceback_folder
from pipelines.parts import PartFolder, Receipt, Tally, digest, read_rows, write_table
from pipelines.sources.files import Part
from pipelines.sources.origin import BrokenFileError
from pipelines.sources.warc import MAX_BODY_BYTES, CrawledPage, UnreadableRecord, parse_record
from pipelines.sources.warc_index import IndexedRecord, read_index
from pipelines.spec import CorpusSpec
from pipelines.web import urls
from pipelines.web.answers import FetchFailure, is_transient
from pipelines.web.http_client import PoliteClient

_WINDOW = 64  # records in memory, fetched at once as far as the host allows


class _Archive(Protocol):
    """Where records are fetched from."""

    async def read(self, record: IndexedRecord) -> bytes | Refusal:
        """Return the bytes of a record, or why they cannot be had."""


class _ServedArchive:
    """An archive on a server."""

    def __init__(self, base: str, client: PoliteClient) -> None:
        self._base, self._client = base, client

    async def read(self, record: IndexedRecord) -> bytes | Refusal:
        url = storage.join(self._base, record.file)
        last = record.offset + record.length - 1
        headers = (("Range", f"bytes={record.offset}-{last}"), ("Accept-Encoding", "identity"))
        try:
            # The files are offered for download; whether a page in them may be used is judged by its own site's rules
            answer = await self._client.fetch(url, "page", max_bytes=record.length, headers=headers, site_rules=False)
        except FetchFailure as failure:
            return Refusal(failure.reason, failure.detail or None)
        if answer.status != 206:
            return Refusal("bad_response", f"HTTP {answer.status} to a request for a range of bytes")
        if answer.truncated or len(answer.body) != record.length:
            return Refusal("incomplete_body", f"{len(answer.body)} bytes of {record.length}")
        return answer.body


class _StoredArchive:
    """An archive in a folder or an object store."""

    def __init__(self, base: str) -> None:
        self._base = base

    async def read(self, record: IndexedRecord) -> bytes | Refusal:
        path = storage.join(self._base, record.file)
        try:
            return await asyncio.to_thread(storage.read_range, path, record.offset, record.length)
        except FileNotFoundError:
            return Refusal("missing_file", record.file)
        except EOFError as error:
            return Refusal("truncated_file", str(error).rpartition(": ")[2])


@asynccontextmanager
async def _open_archive(spec: CorpusSpec, crawl: str, out: str, block: BlockList) -> AsyncIterator[_Archive]:
    base = spec.crawls[crawl].warc_base
    if not base.startswith(("http://", "https://")):
        yield _StoredArchive(base)
        return
    gates = gate_folder(out)
    async with PoliteClient(spec.request_policy, spec.http, gate_folder=gates, is_blocked=block.url) as client:
        yield _ServedArchive(base, client)


class FetchIndexed(beam.DoFn):
    """Fetch the wanted records of a part of an index, given with the hash of its file; yields the part's name.

    They go into parts of the crawl, a thousand each, so that a killed run continues where it was.

    Args:
        spec: The corpus.
        crawl: Name of the crawl.
        out: Folder of the corpus.
    """

    def __init__(self, spec: CorpusSpec, crawl: str, out: str) -> None:
        self._spec, self._crawl, self._out = spec, crawl, out

    def process(self, item: tuple[Part, str]) -> Iterator[str]:
        keep_tracebacks(traceback_folder(self._out))
        part, content = item
        folder, name = index_folder(self._out, self._crawl), indexed_name(part, content, self._spec, self._crawl)
        yield folder.once(name, "", lambda: self._fetch(folder, name, part)).part

    def _fetch(self, folder: PartFolder, name: str, part: Part) -> Receipt:
        settings = self._spec.crawls[self._crawl].index
        assert settings is not None
        wanted = _Wanted(read_index(part, settings.where), part.name)
        parts: list[str] = []
        for number in itertools.count():
            rows = list(itertools.islice(wanted, PART_PAGES))
            if not rows:
                break
            parts.append(part_name(0, f"{name}-{number:05d}"))
            _fetch_part(self._spec, self._crawl, self._out, parts[-1], rows)
        return folder.finish(
            name, "", Tally("crawl"), {}, parts=parts, num_read=wanted.num_read, num_wanted=wanted.num_wanted
        )


class RetryIndexed(beam.DoFn):
    """Fetch again what failed in a part of a crawl for a reason that can pass, into a part of a later round.

    Args:
        spec: The corpus.
        crawl: Name of the crawl.
        out: Folder of the corpus.
        round_: The later round.
    """

    def __init__(self, spec: CorpusSpec, crawl: str, out: str, round_: int) -> None:
        self._spec, self._crawl, self._out, self._round = spec, crawl, out, round_

    def process(self, part: str) -> Iterator[str]:
        keep_tracebacks(traceback_folder(self._out))
        rows = read_rows(crawl_folder(self._out, self._crawl).file(part, ".parquet"))
        failed = [LedgerRow.from_columns(row) for row in rows if is_transient(row["outcome"])]
        records = [
            IndexedRecord(row.url, row.archive_file, row.archive_offset or 0, row.archive_length or 0)
            for row in failed
            if row.archive_file is not None
        ]
        if records:
            name = part_name(self._round, part.partition("-")[2])
            _fetch_part(self._spec, self._crawl, self._out, name, records)
            yield name


class _Wanted(Iterator[IndexedRecord]):
    """The wanted rows of an index, which are counted; the end of a damaged file is the last of them."""

    def __init__(self, rows: Iterator[IndexedRecord | None], name: str) -> None:
        self._rows, self._name = rows, name
        self.num_read = self.num_wanted = 0

    def __next__(self) -> IndexedRecord:
        try:
            for row in self._rows:
                self.num_read += 1
                if row is not None:
                    self.num_wanted += 1
                    return row
        except BrokenFileError as error:
            self._rows = iter(())
            return IndexedRecord(self._name, self._name, 0, 0, "truncated_file", str(error))
        raise StopIteration


def parts_to_retry(out: str, crawl: str, round_: int) -> list[str]:
    """Return the parts of a crawl whose failures no part of a round before the given one has fetched again."""
    latest: dict[str, str] = {}
    for part in sorted(ledger_parts(out, crawl), key=round_of):
        if round_of(part) < round_:
            latest[part.partition("-")[2]] = part
    return sorted(latest.values())


# --- one part -------------------------------------------------------------------------------------------------------


def _fetch_part(spec: CorpusSpec, crawl: str, out: str, part: str, records: list[IndexedRecord]) -> Receipt:
    """Fetch records into a part of a crawl, unless it is there."""
    folder = crawl_folder(out, crawl)

    def work() -> Receipt:
        rows = asyncio.run(_fetch_all(spec, crawl, out, part, records))
        files = {
            ".links.parquet": write_table(folder.file(part, ".links.parquet"), [], LINK_SCHEMA),
            ".parquet": write_table(folder.file(part, ".parquet"), [row.to_columns() for row in rows], INDEXED_SCHEMA),
        }
        return folder.finish(part, inputs, Tally("crawl"), files, num=len(rows))

    inputs = digest([tuple(record) for record in records])
    return folder.once(part, inputs, work)


async def _fetch_all(
    spec: CorpusSpec, crawl: str, out: str, part: str, records: list[IndexedRecord]
) -> list[LedgerRow]:
    """Write the records that can be had to the part's WARC file, in order; returns a row of the ledger for each."""
    rows: list[LedgerRow] = []
    name, block = f"{part}.warc.gz", load_block_list(out)
    with storage.write_whole(crawl_folder(out, crawl).file(part, ".warc.gz")) as file:
        file.write(file_record(name))
        async with _open_archive(spec, crawl, out, block) as archive:
            for start in range(0, len(records), _WINDOW):
                window = records[start : start + _WINDOW]
                answers = await asyncio.gather(*(_read(archive, record, block) for record in window))
                for record, answer in zip(window, answers, strict=True):
                    row = _row(record, answer)
                    if isinstance(answer, bytes) and row.length is not None:
                        row = replace(row, warc=name, offset=file.tell())
                        file.write(answer)
                    rows.append(row)
    return rows


async def _read(archive: _Archive, record: IndexedRecord, block: BlockList) -> bytes | Refusal:
    if record.reason is not None:
        return Refusal(record.reason, record.detail)
    if block.url(record.url):
        return Refusal("taken_down")
    if record.length > MAX_BODY_BYTES:
        return Refusal("too_large", f"a record of {record.length} bytes")
    return await archive.read(record)


def _row(record: IndexedRecord, answer: bytes | Refusal) -> LedgerRow:
    """Return the row of a record; with a length if its bytes are a page of the URL that the index says."""
    url = urls.resolve(record.url, "") or record.url
    row = LedgerRow(url, 0, "malformed_record")
    if isinstance(answer, Refusal):
        row = replace(row, outcome=answer.reason, detail=answer.detail)
    else:
        try:
            page = parse_record(answer)
            if isinstance(page, UnreadableRecord):
                row = replace(row, outcome=page.reason, detail=page.detail)
            elif _is_of(page, url):
                row = page_row(page)
            else:
                row = replace(row, detail=f"the record is of {urls.without_credentials(page.url)}"[:500])
        except Exception as error:
            refusal = refusal_of(error)
            row = replace(row, outcome=refusal.reason, detail=refusal.detail)
    return replace(row, archive_file=record.file, archive_offset=record.offset, archive_length=record.length)


def _is_of(page: CrawledPage, url: str) -> bool:
    return (urls.resolve(page.url, "") or page.url) == url
