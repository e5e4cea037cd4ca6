"""Contents of files in a form that does not depend on the clock, the machine or the libraries that wrote them."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from pipelines.document import canonical_json

Contents = dict[str, Any]
"""JSON values by the name of a file or of anything else."""


class Golden(NamedTuple):
    """The input of a stage and its results."""

    inputs: Contents
    outputs: Contents


def digest(value: Any) -> str:
    """Return 64 bits of a JSON value's sha256, in hex."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]


def plain(value: Any, scrub: Callable[[str], str] = str) -> Any:
    """Return a value as JSON: bytes as their sha256, floats with 4 digits, text that is JSON as its contents.

    Args:
        value: A value from a parquet file or JSON.
        scrub: Removes from a text what differs between runs.
    """
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, str):
        if value[:1] in ("{", "["):
            try:
                return plain(json.loads(value), scrub)
            except ValueError:
                pass
        return scrub(value)
    if isinstance(value, dict):
        return {scrub(key): plain(item, scrub) for key, item in value.items()}
    return [plain(item, scrub) for item in value] if isinstance(value, list | tuple) else value


def without_offsets(text: str) -> str:
    """A WARC record's file without the offset: records have random ids, so their compressed length varies."""
    return re.sub(r"\.warc\.gz \d+$", ".warc.gz <offset>", text)


def rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a parquet file unchanged."""
    return pq.read_table(path).to_pylist()


def merged(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """Return the rows of many parquet files."""
    return [row for path in sorted(paths) for row in rows(path)]


def ordered(values: Iterable[Any]) -> list[Any]:
    """Sort JSON values by their contents."""
    return sorted(values, key=canonical_json)


def counts(paths: Iterable[Path]) -> list[Any]:
    """Return the counts in receipts."""
    return ordered(count for path in paths for count in json.loads(path.read_text())["counts"])


def parts(folder: Path, suffix: str = "", scrub: Callable[[str], str] = str) -> Contents:
    """Return the contents of a stage's parts: each table by its name, and the counts of each part's receipt."""
    found: Contents = {path.name: plain(rows(path), scrub) for path in sorted(folder.glob(f"*{suffix}.parquet"))}
    receipts = sorted(path for path in folder.glob("*.json") if path.name != "stage.json")
    return found | {path.name: counts([path]) for path in receipts}
