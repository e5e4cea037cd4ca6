"""A crawl's ledger: one row per URL requested, with the outcome. The links found are stored next to it."""

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
        ("canonical_url", pa.string()),  # as the page declares it
        ("truncated", pa.bool_()),
        ("signals", pa.string()),  # JSON list of Signal: seen before and with the response
        ("fetched_at", pa.string()),
        ("warc", pa.string()),  # next to the ledger, or a path if another crawler wrote it
        ("offset", pa.int64()),
        ("length", pa.int64()),
    ]
)
LINK_SCHEMA = pa.schema([("url", pa.string()), ("depth", pa.int32())])


def ledger_row(url: str, depth: int) -> dict[str, Any]:
    """Return a row in which everything is still unknown."""
    empty: dict[str, Any] = dict.fromkeys(LEDGER_SCHEMA.names)
    return empty | {"url": url, "depth": depth, "signals": "[]", "truncated": False}


def ledger_parts(out: str, crawl: str) -> list[str]:
    """Names of a crawl's finished parts."""
    return sorted(r.part for r in crawl_folder(out, crawl).receipts() if r.part.startswith("r"))


def part_name(round_: int, unique: str) -> str:
    return f"r{round_:03d}-{unique}"


def round_of(part: str) -> int:
    """Return the round of a part, by its name or the path of one of its files."""
    return int(part.rpartition("/")[2].partition("-")[0].removeprefix("r"))


def warc_record(row: dict[str, Any]) -> str | None:
    """Where a page stands, by its row: its WARC file without the folder, and its offset; None where it has no place."""
    return f"{row['warc'].rpartition('/')[2]} {row['offset']}" if row["offset"] is not None else None
