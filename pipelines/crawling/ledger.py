"""A crawl's ledger: one row a URL that was asked for, and what came of it. Links that were found lie beside it."""

from typing import Any

import pyarrow as pa

from pipelines.layout import crawl_folder

LEDGER_SCHEMA = pa.schema(
    [
        ("url", pa.string()),
        ("depth", pa.int32()),
        ("outcome", pa.string()),  # `fetched`, or the reason why not
        ("detail", pa.string()),
        ("status", pa.int32()),
        ("mime", pa.string()),
        ("canonical_url", pa.string()),  # what the page calls itself
        ("truncated", pa.bool_()),
        ("signals", pa.string()),  # JSON list of Signal: what was read before and with the response
        ("fetched_at", pa.string()),
        ("warc", pa.string()),  # beside the ledger, or a path where another crawler wrote it
        ("offset", pa.int64()),
        ("length", pa.int64()),
    ]
)
LINK_SCHEMA = pa.schema([("url", pa.string()), ("depth", pa.int32())])


def ledger_row(url: str, depth: int) -> dict[str, Any]:
    """A row with everything still unknown."""
    empty: dict[str, Any] = dict.fromkeys(LEDGER_SCHEMA.names)
    return empty | {"url": url, "depth": depth, "signals": "[]", "truncated": False}


def ledger_parts(out: str, crawl: str) -> list[str]:
    """Names of a crawl's finished parts."""
    return sorted(r.part for r in crawl_folder(out, crawl).receipts() if r.part.startswith("r"))


def part_name(round_: int, unique: str) -> str:
    """Name of a part of a round."""
    return f"r{round_:03d}-{unique}"


def round_of(part: str) -> int:
    """The round of a part, by its name or the path of one of its files."""
    return int(part.rpartition("/")[2].partition("-")[0].removeprefix("r"))


def warc_record(row: dict[str, Any]) -> str | None:
    """Where a page stands, by its row: its WARC file without the folder, and its offset; None where it has no place."""
    return f"{row['warc'].rpartition('/')[2]} {row['offset']}" if row["offset"] is not None else None
