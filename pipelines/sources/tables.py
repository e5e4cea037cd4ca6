"""Rows of parquet, csv, tsv and JSON files by column name, streamed."""

import codecs
import csv
import io
import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import storage
from pipelines.errors import UserError
from pipelines.sources import lines
from pipelines.sources.files import Files, Part, expand
from pipelines.sources.origin import BrokenFileError, RowError

_COMPRESSED = (".gz", ".zst", ".zip", ".bz2", ".xz")
_SUFFIXES = (".parquet", ".csv", ".tsv", ".txt", ".jsonl", ".json")
_PEEKED_LINES = 100  # of a file without a header, to find the column of URLs

_Row = TypeVar("_Row")


@dataclass(frozen=True, slots=True)
class Table:
    """Columns as the file names them, and (locator, row), where an unreadable row is a `RowError`."""

    columns: tuple[str, ...]
    rows: Iterator[tuple[str, dict[str, Any] | RowError]]


def suffix(path: str) -> str:
    """Return the lower-case suffix that gives the format, without that of a compression."""
    name = path.lower()
    for ending in _COMPRESSED:
        name = name.removesuffix(ending)
    return "." + name.rpartition(".")[2]


def table_parts(settings: Files) -> list[Part]:
    """Return row groups of parquet files, byte ranges of plain tsv and JSON Lines files, and else whole files.

    Raises:
        UserError: If a file is missing or not of the format of its name.
    """
    found: list[Part] = []
    for path, name in expand(settings.files):
        kind = suffix(path)
        if kind not in _SUFFIXES:
            raise UserError(f"{path}: its name should end in one of {', '.join(_SUFFIXES)}")
        if kind == ".parquet":
            found += _row_group_parts(path, name, settings.part_rows)
        elif kind == ".csv" or (kind == ".json" and is_json_value(path)):
            found.append(Part(path, name))
        else:
            found += lines.line_parts(path, name, settings.part_bytes)
    return [replace(part, index=i) for i, part in enumerate(found)]


def open_table(part: Part, header: list[str] | None = None) -> Table:
    """Open the rows of a part.

    Args:
        part: One of `table_parts`.
        header: Column names of a csv or tsv file without a header line. If they are not given and the first line
            contains a URL, it is read as data, and two columns are distinguished by their content.

    Raises:
        UserError: If the file is of another format, or its columns cannot be identified.
    """
    kind = suffix(part.path)
    if kind == ".parquet":
        return Table(_parquet_columns(part.path), read_parquet(part))
    if kind in (".csv", ".tsv", ".txt"):
        return _delimited(part, header, kind)
    is_value = kind == ".json" and is_json_value(part.path)
    rows = _array_rows(part) if is_value else lines.read_json_lines(part)
    head = _array_rows(part) if is_value else lines.read_json_lines(replace(part, start=0, stop=None))
    first = next((row for row in _peek(head)[0] if isinstance(row, dict)), {})
    return Table(tuple(first), rows)


def read_parquet(part: Part, columns: list[str] | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the rows of a parquet part, batch by batch; the locator is `<row group>/<row>`.

    Raises:
        BrokenFileError: If a page is damaged.
    """
    with storage.open_read(part.path) as handle:
        file = _parquet(part.path, handle)
        for group in range(part.start, file.num_row_groups if part.stop is None else part.stop):
            row = 0
            try:
                for batch in file.iter_batches(256, row_groups=[group], columns=columns):
                    for value in batch.to_pylist():
                        yield f"{group}/{row}", value
                        row += 1
            except (pa.ArrowException, OSError) as error:
                raise BrokenFileError(f"row group {group} is damaged: {error}") from error


def require_columns(part: Part, needed: Iterable[str]) -> None:
    """Check that a parquet file has these columns.

    Raises:
        UserError: If any is missing; names those.
    """
    columns = _parquet_columns(part.path)
    missing = [name for name in needed if name not in columns]
    if missing:
        raise UserError(f"{part.path}: lacks the columns {', '.join(missing)}; it has {', '.join(columns)}")


def is_json_value(path: str) -> bool:
    """Return whether a .json file is one array or object over many lines, not JSON Lines."""
    with lines.open_stream(path) as file:
        try:
            head = file.read(1 << 16).removeprefix(codecs.BOM_UTF8).lstrip()
        except BrokenFileError:
            return False
    if head[:1] == b"[":
        return True
    first, _, rest = head.partition(b"\n")
    return head[:1] == b"{" and not (first.rstrip().endswith(b"}") and rest.lstrip()[:1] in (b"{", b""))


def _peek(rows: Iterator[tuple[str, _Row | RowError]]) -> tuple[list[_Row | RowError], bool]:
    """Return the first rows, and whether the file broke among them."""
    found: list[_Row | RowError] = []
    try:
        found.extend(row for _, row in itertools.islice(rows, _PEEKED_LINES))
    except BrokenFileError:
        return found, True
    return found, False


def _is_url(cell: str) -> bool:
    return re.match(r"\s*https?://\S+\s*$", cell, re.IGNORECASE) is not None


def _row_group_parts(path: str, name: str, part_rows: int) -> list[Part]:
    with storage.open_read(path) as handle:
        metadata = _parquet(path, handle).metadata
        sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    parts, start, rows = [], 0, 0
    for group, size in enumerate(sizes):
        if rows and rows + size > part_rows:
            parts.append(Part(path, name, start, group))
            start, rows = group, 0
        rows += size
    return [*parts, Part(path, name, start, len(sizes))]


def _parquet(path: str, handle: Any) -> Any:
    try:
        return pq.ParquetFile(handle, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a complete parquet file: {str(error).splitlines()[0]}") from error


def _parquet_columns(path: str) -> tuple[str, ...]:
    with storage.open_read(path) as handle:
        return tuple(_parquet(path, handle).schema_arrow.names)


def _array_rows(part: Part) -> Iterator[tuple[str, dict[str, Any] | RowError]]:
    for locator, value in lines.read_json_items(part.path):
        yield locator, value if isinstance(value, dict) else RowError("malformed_row", "no JSON object")


def _delimited(part: Part, header: list[str] | None, kind: str) -> Table:
    whole = replace(part, start=0, stop=None)
    head, is_broken = _peek(_cells(whole, kind))
    peeked = [row for row in head if not isinstance(row, RowError)]
    if not peeked:
        if is_broken:
            return Table((), ((locator, RowError("malformed_row")) for locator, _ in _cells(part, kind)))
        raise UserError(f"{part.path}: empty, or not text")
    has_header = header is None and not any(_is_url(cell) for cell in peeked[0])
    columns = tuple(peeked[0]) if has_header else tuple(header) if header else _guessed(part.path, peeked)

    def rows() -> Iterator[tuple[str, dict[str, Any] | RowError]]:
        for number, (locator, row) in enumerate(_cells(part, kind)):
            if has_header and number == 0 and part.start == 0:
                continue
            if isinstance(row, RowError):
                yield locator, row
            elif len(row) != len(columns):
                yield locator, RowError("malformed_row", f"{len(row)} fields where {len(columns)} are expected")
            else:
                yield locator, dict(zip(columns, row, strict=True))

    return Table(columns, rows())


def _guessed(path: str, peeked: list[list[str]]) -> tuple[str, ...]:
    """Return `url` and `caption` for one or two columns without a header: in the order of CC3M, or of CC12M."""
    shares = [sum(_is_url(row[i]) for row in peeked if i < len(row)) / len(peeked) for i in range(len(peeked[0]))]
    if len(shares) > 2 or sum(share > 0.5 for share in shares) != 1:
        raise UserError(f"{path}: no header line, and its columns cannot be identified: name them in 'header'")
    return tuple("url" if share > 0.5 else "caption" for share in shares)


def _cells(part: Part, kind: str) -> Iterator[tuple[str, list[str] | RowError]]:
    """Yield rows as lists of cells: csv by its rules, others split at tabs, since they have no quoting."""
    if kind != ".csv":
        for locator, line in lines.read_text_lines(part):
            yield locator, line if isinstance(line, RowError) else line.split("\t")
        return
    with lines.open_stream(part.path) as stream:
        text = io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="")
        reader = csv.reader(text)
        number = 0
        while True:
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield str(number), RowError("malformed_row", str(error))
            else:
                if not row:
                    continue
                is_text = not any("\ud800" <= c <= "\udfff" for cell in row for c in cell)
                yield str(number), row if is_text else RowError("not_utf8")
            number += 1
