"""One worker's part of a crawl: a WARC file of what was requested, with a ledger and the links found."""

import time
import uuid
from collections import Counter
from contextlib import ExitStack
from typing import IO, NamedTuple

from pipelines import storage
from pipelines.crawling.ledger import LEDGER_SCHEMA, LINK_SCHEMA, LedgerRow, part_name
from pipelines.crawling.warc_records import ExchangeRecords, file_record
from pipelines.parts import PartFolder, Tally, write_table

PART_SECONDS = 30.0
PART_PAGES = 1000
PART_LINKS = 200_000  # of one host's sitemaps there may be 50 million


class WarcPlace(NamedTuple):
    """A record in a WARC file: the file's name, the record's offset and compressed length."""

    warc: str
    offset: int
    length: int


class CrawlPartWriter:
    """Open part of one worker: a WARC file, ledger rows and links, closed together.

    `closed` are the names of its finished parts.

    Args:
        folder: The crawl's folder.
        round_: The round.
        run: What the names of this run's parts begin with (`parts.new_run`).
    """

    def __init__(self, folder: PartFolder, round_: int, run: str = "") -> None:
        self._folder, self._round, self._run = folder, round_, run
        self._stack = ExitStack()
        self.closed: list[str] = []
        self._reset()

    def _reset(self) -> None:
        self._name = ""
        self._warc: IO[bytes] | None = None
        self._ledger: list[LedgerRow] = []
        self._links: dict[str, int] = {}
        self._opened = 0.0

    def _open(self) -> None:
        if not self._name:
            self._name = part_name(self._round, self._run + uuid.uuid4().hex[:16])
            self._opened = time.monotonic()

    @property
    def is_due(self) -> bool:
        """True if the part is large or old enough to be closed."""
        old = bool(self._name) and time.monotonic() - self._opened > PART_SECONDS
        return old or len(self._ledger) >= PART_PAGES or len(self._links) >= PART_LINKS

    def close_if_due(self) -> None:
        """Finish the part if it is due; the next row, page or link opens another."""
        if self.is_due:
            self.close()

    def store(self, records: ExchangeRecords) -> WarcPlace:
        """Write request, response and note; returns where the response is."""
        if self._warc is None:
            self._open()
            name = f"{self._name}.warc.gz"
            self._warc = self._stack.enter_context(storage.write_whole(self._folder.file(self._name, ".warc.gz")))
            self._warc.write(file_record(name))
        self._warc.write(records.request)
        offset = self._warc.tell()
        self._warc.write(records.response + records.note)
        return WarcPlace(f"{self._name}.warc.gz", offset, len(records.response))

    def add(self, row: LedgerRow) -> None:
        self._open()
        self._ledger.append(row)

    def link(self, url: str, depth: int) -> None:
        """Add a URL that was found."""
        self._open()
        self._links[url] = min(depth, self._links.get(url, depth))

    def close(self) -> str | None:
        """Finish the part; returns its name, or None if it is empty."""
        name = self._name
        if not name:
            return None
        self._stack.close()
        links = [{"url": url, "depth": depth} for url, depth in sorted(self._links.items())]
        ledger = [row.to_columns() for row in self._ledger]
        files = {
            ".links.parquet": write_table(self._folder.file(name, ".links.parquet"), links, LINK_SCHEMA),
            ".parquet": write_table(self._folder.file(name, ".parquet"), ledger, LEDGER_SCHEMA),
        }
        outcomes = dict(sorted(Counter(row.outcome for row in self._ledger).items()))
        self._folder.finish(name, "", Tally("crawl"), files, num=len(self._ledger), outcomes=outcomes)
        self._reset()
        self.closed.append(name)
        return name

    def abandon(self, error: BaseException) -> None:
        """Discard the open part."""
        self._stack.__exit__(type(error), error, error.__traceback__)
