"""Rows of parquet, csv, tsv and JSON files by column name, streamed."""

import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import storage
from pipelines.errors import UserError
from pipelines.sources import lines
from pipelines.sources.delimited import PEEKED_ROWS, dialect_of, open_delimited, peek
from pipelines.sources.files import Files, Part, expand
from pipelines.sources.origin import BrokenFileError, RowError

_COMPRESSED = (".gz", ".zst", ".zip", ".bz2", ".xz")
_SUFFIXES = (".parquet", ".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".json")
_NOT_TEXT: tuple[tuple[type, str], ...] = ((list, "lists"), (dict, "objects"), (bytes, "bytes that are not UTF-8"))
_MAX_COLUMNS_BYTES = 64 << 20  # of a JSON file by columns, which takes ten times as much as Python objects
_SPLIT_KEYS = frozenset({"columns", "index", "data"})  # of pandas' to_json(orient="split")

JsonForm = Literal["lines", "items", "columns"]
"""A JSON file has an object per line, or is an array or object of rows, or an object of columns."""


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
        is_whole = (
            dialect_of(path, kind).is_quoted  # a cell may go on over several lines
            if kind in (".csv", ".tsv", ".txt")
            else kind == ".json" and json_form(path) != "lines"
        )
        if kind == ".parquet":
            found += _row_group_parts(path, name, settings.part_rows)
        elif is_whole:
            found.append(Part(path, name))
        else:
            found += lines.line_parts(path, name, settings.part_bytes)
    return [replace(part, index=i) for i, part in enumerate(found)]


def open_table(part: Part, header: list[str] | None = None, *, has_header_setting: bool = True) -> Table:
    """Open the rows of a part.

    Args:
        part: One of `table_parts`.
        header: Column names of a csv or tsv file without a header line. If they are not given and the first line
            contains a URL, it is read as data, and two columns are distinguished by their content.
        has_header_setting: Whether the format has a setting `header`, which messages may name.

    Raises:
        UserError: If the file is of another format, or its columns cannot be identified.
    """
    kind = suffix(part.path)
    if kind == ".parquet":
        return Table(_parquet_columns(part.path), read_parquet(part))
    if kind in (".csv", ".tsv", ".txt"):
        return Table(*open_delimited(part, header, kind, has_header_setting=has_header_setting))
    form: JsonForm = json_form(part.path) if kind == ".json" else "lines"
    if form == "columns":
        return _json_columns(part.path)
    rows = _item_rows(part) if form == "items" else lines.read_json_lines(part)
    head = _item_rows(part) if form == "items" else lines.read_json_lines(replace(part, start=0, stop=None))
    shown = peek(head)[0]
    objects = [row for row in shown if isinstance(row, dict)]
    if shown and not objects and form == "items":
        raise UserError(f"{part.path}: a JSON array or object whose items are no objects with the names of columns")
    columns = dict.fromkeys(name for row in objects for name in row)  # a row may lack what others have
    return Table(tuple(columns), rows)


def require_text(path: str, rows: Iterable[dict[str, Any] | RowError], columns: Iterable[str]) -> None:
    """Check by the first rows of a table that columns hold text.

    Raises:
        UserError: If one holds only other values, such as lists.
    """
    shown = [row for row in rows if not isinstance(row, RowError)]
    for column in columns:
        values = [row[column] for row in shown if row.get(column) is not None]
        if values and not any(isinstance(value, str) for value in values):
            found = next((what for type_, what in _NOT_TEXT if isinstance(values[0], type_)), "numbers")
            raise UserError(f"{path}: the column {column!r} holds {found}, not texts: take another, or convert it")


def peeked(table: Table) -> tuple[list[dict[str, Any] | RowError], Table]:
    """Return the first rows of a table, and the table with all of its rows."""
    found: list[tuple[str, dict[str, Any] | RowError]] = []
    broken: list[BrokenFileError] = []
    try:
        found.extend(itertools.islice(table.rows, PEEKED_ROWS))
    except BrokenFileError as error:
        broken.append(error)

    def rows() -> Iterator[tuple[str, dict[str, Any] | RowError]]:
        yield from found
        for error in broken:
            raise error
        yield from table.rows

    return [row for _, row in found], Table(table.columns, rows())


def read_parquet(part: Part, columns: list[str] | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the rows of a parquet part, batch by batch; the locator is `<row group>/<row>`.

    Text in columns of the type binary, as some writers give it, is text.

    Raises:
        BrokenFileError: If a page is damaged.
    """
    with storage.open_read(part.path) as handle:
        file = _parquet(part.path, handle)
        binary = [field.name for field in file.schema_arrow if _has_binary(field.type)]
        for group in range(part.start, file.num_row_groups if part.stop is None else part.stop):
            row = 0
            try:
                for batch in file.iter_batches(256, row_groups=[group], columns=columns):
                    for value in batch.to_pylist():
                        for name in binary:
                            if name in value:
                                value[name] = _as_text(value[name])
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


def json_form(path: str) -> JsonForm:
    """Return how a .json file holds its rows.

    Raises:
        UserError: If it is one object of neither rows nor columns.
    """
    try:
        with lines.open_text(path) as file:
            head = file.read(1 << 16).removeprefix(b"\xef\xbb\xbf").lstrip()
        if head[:1] == b"[":
            return "items"
        first, _, rest = head.partition(b"\n")
        is_object = head[:1] == b"{" and not (first.rstrip().endswith(b"}") and rest.lstrip()[:1] == b"{")
        if not is_object:
            return "lines"
        items = [value for _, value in zip(range(2), lines.read_json_items(path), strict=False)]
    except BrokenFileError:
        return "lines"
    values = [value for _, value in items]
    if all(isinstance(value, list) for value in values):
        return "columns"
    if all(isinstance(value, dict) for value in values):
        # By rows, `{"0": {"url": ...}}`, or by columns as pandas writes them, `{"url": {"0": ...}}`.
        return "columns" if all(key.isdigit() for value in values for key in value) else "items"
    if not first.rstrip().endswith(b"}"):
        raise UserError(f"{path}: is one JSON object of neither rows nor columns; JSON Lines have an object per line")
    return "lines"


def _json_columns(path: str) -> Table:
    """Return the rows of an object of columns, which must fit into memory."""
    with lines.open_text(path) as file:
        data = file.read(_MAX_COLUMNS_BYTES + 1)
    if len(data) > _MAX_COLUMNS_BYTES:
        raise UserError(
            f"{path}: JSON by columns of over {_MAX_COLUMNS_BYTES >> 20} MiB; convert it to JSON Lines or parquet"
        )
    tree = json.loads(data)
    if tree.keys() == _SPLIT_KEYS:
        names, keys, table = tree["columns"], tree["index"], tree["data"]
        if all(isinstance(row, list) and len(row) == len(names) for row in table) and len(keys) == len(table):
            cells = (dict(zip(map(str, names), row, strict=True)) for row in table)
            return Table(tuple(map(str, names)), zip(map(str, range(len(table))), cells, strict=True))
    if not (all(isinstance(value, dict) for value in tree.values()) or all(isinstance(v, list) for v in tree.values())):
        raise UserError(f"{path}: JSON by columns, but some are lists and some are not")
    keys = list(next(iter(tree.values()), ()))  # of objects, whose values belong together by key, not by position
    columns: dict[str, list[Any]] = {}
    for name, value in tree.items():
        if isinstance(value, dict) and value.keys() != set(keys):
            raise UserError(f"{path}: JSON by columns, but {name!r} has other rows than {next(iter(tree))!r}")
        columns[name] = [value[key] for key in keys] if isinstance(value, dict) else value
    sizes = {len(value) for value in columns.values()}
    if len(sizes) != 1:
        raise UserError(f"{path}: JSON by columns, but they have different lengths")
    (size,) = sizes
    rows = ((str(i), {name: column[i] for name, column in columns.items()}) for i in range(size))
    return Table(tuple(columns), rows)


def _has_binary(type_: pa.DataType) -> bool:
    if pa.types.is_dictionary(type_):
        return _has_binary(type_.value_type)
    kinds = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)
    return any(is_kind(type_) for is_kind in kinds) or any(
        _has_binary(type_.field(i).type) for i in range(type_.num_fields)
    )


def _as_text(value: Any) -> Any:
    """Return a value with its bytes as text where they are UTF-8."""
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return value
    if isinstance(value, list):
        return [_as_text(item) for item in value]
    if isinstance(value, dict):
        return {name: _as_text(item) for name, item in value.items()}
    return value


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


def _item_rows(part: Part) -> Iterator[tuple[str, dict[str, Any] | RowError]]:
    for locator, value in lines.read_json_items(part.path):
        yield (
            locator,
            value if isinstance(value, dict) else RowError("malformed_row", "no JSON object", text=str(value)[:2_000]),
        )
