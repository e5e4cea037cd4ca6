"""A crawl's ledger: one row per URL requested, with the outcome. The links found are stored next to it."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

import pyarrow as pa

from pipelines.document import Signal, canonical_json
from pipelines.drop_reasons import Outcome
from pipelines.layout import crawl_folder
from pipelines.parts import read_rows
from pipelines.web.permission import stored_signals

LEDGER_SCHEMA = pa.schema(
    [
        ("url", pa.string()),
        ("depth", pa.int32()),
        ("outcome", pa.string()),  # `fetched`, or the reason why not
        ("detail", pa.string()),
        ("status", pa.int32()),
        ("mime", pa.string()),
        ("canonical_url", pa.string()),  # as the page declares it
        ("truncated", pa.bool_()),
        ("signals", pa.string()),  # JSON list of Signal: seen before and with the response
        ("fetched_at", pa.string()),
        ("warc", pa.string()),  # next to the ledger, or a path if another crawler wrote it
        ("offset", pa.int64()),
        ("length", pa.int64()),
        ("unit", pa.string()),  # `page`, or `site_file`: requested for what it says of the site, and failed
    ]
)
INDEXED_SCHEMA = pa.schema(
    [
        *LEDGER_SCHEMA,
        ("archive_file", pa.string()),  # of another crawler, from which an index told us to fetch the record
        ("archive_offset", pa.int64()),
        ("archive_length", pa.int64()),
    ]
)
LINK_SCHEMA = pa.schema([("url", pa.string()), ("depth", pa.int32())])

RequestedUnit = Literal["page", "site_file"]


@dataclass(frozen=True, slots=True)
class CrawlTask:
    """A part of a crawl, by the name of its ledger; `name` is that of the part of candidates."""

    name: str
    crawl: str
    ledger: str


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """A URL that was requested, or a record of another crawler's WARC file; `INDEXED_SCHEMA` describes the fields."""

    url: str
    depth: int
    outcome: Outcome
    detail: str | None = None
    status: int | None = None
    mime: str | None = None
    canonical_url: str | None = None
    truncated: bool = False
    signals: tuple[Signal, ...] = ()
    fetched_at: str | None = None
    warc: str | None = None
    offset: int | None = None
    length: int | None = None
    unit: RequestedUnit = "page"
    archive_file: str | None = None
    archive_offset: int | None = None
    archive_length: int | None = None

    @property
    def record(self) -> str | None:
        """The page's WARC record, as in `Drop.record`; None if it has none."""
        return warc_record(
            self.archive_file or self.warc, self.offset if self.archive_file is None else self.archive_offset
        )

    def to_columns(self) -> dict[str, Any]:
        """Return the row as written to the parquet file."""
        return asdict(self) | {"signals": canonical_json([asdict(signal) for signal in self.signals])}

    @classmethod
    def from_columns(cls, columns: dict[str, Any]) -> Self:
        """Return the row that `to_columns` wrote."""
        return cls(**columns | {"signals": stored_signals(json.loads(columns["signals"]))})


def read_ledger(path: str, columns: list[str]) -> Iterator[dict[str, Any]]:
    """Yield these columns, and the unit, of the rows of a ledger part; in those of an earlier version all are pages."""
    for row in read_rows(path, [*columns, "unit"]):
        yield {"unit": "page"} | row


def ledger_parts(out: str, crawl: str) -> list[str]:
    """Return the names of a crawl's finished parts."""
    return [name for name in crawl_folder(out, crawl).names() if name.startswith("r")]


def part_name(round_: int, unique: str) -> str:
    return f"r{round_:03d}-{unique}"


def round_of(part: str) -> int:
    """Return the round of a part, by its name or the path of one of its files."""
    return int(part.rpartition("/")[2].partition("-")[0].removeprefix("r"))


def warc_record(warc: str | None, offset: int | None) -> str | None:
    """Return the name of a WARC record: its file without the folder, and its offset; None if the offset is unknown."""
    return f"{warc.rpartition('/')[2]} {offset}" if warc is not None and offset is not None else None
