"""Rows of parquet, csv, tsv and JSON files by column name, streamed."""

import contextlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import storage
from pipelines.errors import UserError
from pipelines.sources import lines
from pipelines.sources.delimited import PEEKED_ROWS, Table, dialect_of, first_rows, is_url, open_delimited
from pipelines.sources.files import Files, Part, expand
from pipelines.sources.origin import BrokenFileError, RowError
from pipelines.sources.parquet_batches import read_batches
from pipelines.sources.where import MET, UNKNOWN, UNMET, Clause, Condition, clauses_of, partition_columns, wanted_rows

NO_CONDITIONS: Mapping[str, Condition] = MappingProxyType({})
_COMPRESSED = (".gz", ".zst", ".zip", ".bz2", ".xz")
SUFFIXES = (".parquet", ".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".json")
_NOT_TEXT: tuple[tuple[type, str], ...] = ((list, "lists"), (dict, "objects"), (bytes, "bytes that are not UTF-8"))
_MAX_COLUMNS_BYTES = 64 << 20  # of a JSON file by columns, which takes ten times as much as Python objects
_SPLIT_KEYS = frozenset({"columns", "index", "data"})  # of pandas' to_json(orient="split")

JsonForm = Literal["lines", "items", "columns"]
"""A JSON file has an object per line, or is an array or object of rows, or an object of columns."""


def suffix(path: str) -> str:
    """Return the lower-case suffix that gives the format, without that of a compression."""
    name = path.lower()
    for ending in _COMPRESSED:
        name = name.removesuffix(ending)
    return "." + name.rpartition(".")[2]


def table_parts(settings: Files, *, split_items: bool = False) -> list[Part]:
    """Return row groups of parquet files, byte ranges of plain tsv and JSON Lines files, and else whole files.

    Args:
        settings: The files.
        split_items: Whether JSON arrays are split, too; each part parses what is before it again.

    Raises:
        UserError: If a file is missing or not of the format of its name.
    """
    found: list[Part] = []
    for path, name in expand(settings.files, missing=settings.missing):
        kind = suffix(path)
        if kind not in SUFFIXES:
            raise UserError(f"{path}: its name should end in one of {', '.join(SUFFIXES)}")
        is_whole = (
            dialect_of(path, kind).is_quoted  # a cell may go on over several lines
            if kind in (".csv", ".tsv", ".txt")
            else kind == ".json" and json_form(path) != "lines"
        )
        if kind == ".parquet":
            found += row_group_parts(path, name, settings.part_rows)
        elif split_items and kind == ".json" and json_form(path) == "items":
            found += item_parts(path, name, settings.part_rows)
        elif is_whole:
            found.append(Part(path, name))
        else:
            found += lines.line_parts(path, name, settings.part_bytes)
    return [replace(part, index=i) for i, part in enumerate(found)]


def open_table(
    part: Part,
    header: list[str] | None = None,
    where: Mapping[str, Condition] = NO_CONDITIONS,
    *,
    has_header_setting: bool = True,
) -> Table:
    """Open the rows of a part, with the columns that its folders name.

    Args:
        part: One of `table_parts`.
        header: Column names of a csv or tsv file without a header line. If they are not given and the first line
            contains a URL, it is read as data, and two columns are distinguished by their content.
        where: Conditions on columns; a row that does not meet them is an `UnwantedRowError`.
        has_header_setting: Whether the format has a setting `header`, which messages may name.

    Raises:
        UserError: If the file is of another format, or its columns cannot be identified, or `where` names none of them.
    """
    if suffix(part.path) == ".parquet":
        names = _parquet_columns(part.path)
        return Table((*names, *_added(part, names)), read_parquet(part, where=where))
    table = _open_rows(part, header, has_header_setting=has_header_setting)
    added = _added(part, table.columns)
    if not (added or where) or not table.columns:
        return table
    columns = (*table.columns, *added)
    rows = ((at, row if isinstance(row, RowError) else {**row, **added}) for at, row in table.rows)
    return Table(columns, wanted_rows(rows, clauses_of(part.path, columns, where)))


def with_where(
    part: Part, rows: Iterator[tuple[str, dict[str, Any] | RowError]], where: Mapping[str, Condition]
) -> Iterator[tuple[str, dict[str, Any] | RowError]]:
    """Return the rows of JSON Lines with those of `where` judged; the first lines of the file show its columns.

    Raises:
        UserError: If `where` names a column that is not there.
    """
    if not where:
        return rows
    added = partition_columns(part.path)
    columns = dict.fromkeys([*(name for row in head_objects(part) for name in row), *added])
    # Of a file that shows no column every row is judged all the same
    clauses = clauses_of(part.path, columns or where, where)
    completed = ((at, row if isinstance(row, RowError) else added | row) for at, row in rows)
    return wanted_rows(completed, clauses)


def head_objects(part: Part) -> list[dict[str, Any]]:
    """Return those of the first lines of a part's file, JSON Lines, that are objects."""
    head, _ = first_rows(lines.read_json_lines(replace(part, start=0, stop=None)))
    return [row for row in head if isinstance(row, dict)]


def _added(part: Part, columns: Iterable[str]) -> dict[str, str | None]:
    """Return the columns of a part's folders that its file does not have itself."""
    own = {name.lower() for name in columns}
    return {name: value for name, value in partition_columns(part.path).items() if name.lower() not in own}


def _open_rows(part: Part, header: list[str] | None, *, has_header_setting: bool) -> Table:
    kind = suffix(part.path)
    if kind in (".csv", ".tsv", ".txt"):
        return open_delimited(part, header, kind, has_header_setting=has_header_setting)
    form: JsonForm = json_form(part.path) if kind == ".json" else "lines"
    if form == "columns":
        return _json_columns(part.path)
    if form == "items":
        shown = first_rows(_item_rows(part))[0]
        objects = [row for row in shown if isinstance(row, dict)]
        if shown and not objects:
            raise UserError(f"{part.path}: a JSON array or object whose items are no objects with the names of columns")
        rows = _item_rows(part)
    else:
        objects, rows = head_objects(part), lines.read_json_lines(part)
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


def with_first_rows(table: Table) -> tuple[list[dict[str, Any] | RowError], Table]:
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


def read_parquet(
    part: Part, columns: list[str] | None = None, where: Mapping[str, Condition] = NO_CONDITIONS
) -> Iterator[tuple[str, dict[str, Any] | RowError]]:
    """Yield the rows of a parquet part, batch by batch; the locator is `<row group>/<row>`.

    Text in columns of the type binary, as some writers give it, is text. The columns of `where` are read first, one
    after the other as long as rows are left; of a row group without such rows nothing else is read.

    Raises:
        BrokenFileError: If a page is damaged.
        UserError: If `where` names a column that is not there.
    """
    with storage.open_read(part.path) as handle:
        file = _parquet(part.path, handle)
        added = _added(part, file.schema_arrow.names)
        clauses = clauses_of(part.path, (*file.schema_arrow.names, *added), where)
        binary = [field.name for field in file.schema_arrow if _has_binary(field.type)]
        for group in range(part.start, file.num_row_groups if part.stop is None else part.stop):
            try:
                fallen = _fallen(file, handle, group, clauses, added)
                num_rows = file.metadata.row_group(group).num_rows
                if fallen and np.all(fallen.first < len(clauses)):
                    yield from ((f"{group}/{row}", fallen.row(row)) for row in range(num_rows))
                    continue
                row = 0
                for batch in read_batches(file, handle, group, columns, 256):
                    kept = fallen.kept(row, len(batch)) if fallen else None
                    values = iter((batch if kept is None else batch.filter(pa.array(kept))).to_pylist())
                    for is_kept in [True] * len(batch) if kept is None else kept:
                        if fallen and not is_kept:
                            yield f"{group}/{row}", fallen.row(row)
                            row += 1
                            continue
                        value = next(values)
                        for name in binary:
                            if name in value:
                                value[name] = _as_text(value[name])
                        yield f"{group}/{row}", value | added if added else value
                        row += 1
            except (pa.ArrowException, OSError) as error:
                raise BrokenFileError(f"row group {group} is damaged: {error}") from error


class _Fallen(NamedTuple):
    """For each row of a row group the first condition by which it falls, or the number of conditions, and whether
    it falls because its value is unknown."""

    clauses: list[Clause]
    first: np.ndarray
    is_unknown: np.ndarray

    def row(self, row: int) -> RowError:
        clause = self.clauses[int(self.first[row])]
        return clause.unknown if self.is_unknown[row] else clause.unmet

    def kept(self, start: int, num: int) -> list[bool]:
        kept: list[bool] = (self.first[start : start + num] == len(self.clauses)).tolist()
        return kept


def _fallen(
    file: Any, handle: Any, group: int, clauses: list[Clause], added: Mapping[str, str | None]
) -> _Fallen | None:
    """Return which rows of a row group fall; None without conditions."""
    if not clauses:
        return None
    num = file.metadata.row_group(group).num_rows
    fallen = _Fallen(clauses, np.full(num, len(clauses)), np.full(num, False))
    for i, clause in enumerate(clauses):
        if clause.column in added:
            fall = clause.fall(added[clause.column])
            verdicts = np.full(num, MET if fall is None else UNKNOWN if fall is clause.unknown else UNMET)
        elif (known := _verdict_of_statistics(file, group, clause)) is not None:
            verdicts = np.full(num, known)
        else:
            read = read_batches(file, handle, group, [clause.column], max(num, 1))
            of_batches = [clause.falls(pa.chunked_array([batch.column(0)])) for batch in read]
            verdicts = np.concatenate(of_batches) if of_batches else np.full(num, MET)
        falls = (fallen.first == len(clauses)) & (verdicts != MET)
        fallen.first[falls] = i
        fallen.is_unknown[falls] = verdicts[falls] == UNKNOWN
        if np.all(fallen.first < len(clauses)):
            break
    return fallen


def _verdict_of_statistics(file: Any, group: int, clause: Clause) -> int | None:
    """Return the verdict on all rows of a row group if its smallest and largest value decide it.

    That can be told of whole numbers and texts without nulls; among other numbers some may be NaN, of which statistics
    say nothing.
    """
    if clause.keys or clause.column not in file.schema_arrow.names:
        return None
    type_ = file.schema_arrow.field(clause.column).type
    wanted = clause.condition.texts if pa.types.is_string(type_) or pa.types.is_large_string(type_) else None
    if wanted is None and not (clause.condition.is_range and pa.types.is_integer(type_)):
        return None
    row_group = file.metadata.row_group(group)
    chunks = (row_group.column(i) for i in range(row_group.num_columns))
    found = next((chunk.statistics for chunk in chunks if chunk.path_in_schema == clause.column), None)
    if found is None or not found.has_min_max or not found.has_null_count or found.null_count:
        return None
    if wanted is not None:
        return None if any(found.min <= text <= found.max for text in wanted) else UNMET
    verdicts = clause.condition.verdict(found.min), clause.condition.verdict(found.max)
    if verdicts == (MET, MET):
        return MET
    low, high = clause.condition.min, clause.condition.max
    is_below = low is not None and found.max < float(low)
    is_above = high is not None and found.min > float(high)
    return UNMET if is_below or is_above else None


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
        values = [value for _, value in itertools.islice(lines.read_json_items(path), 2)]
    except BrokenFileError:
        return "lines"
    if all(isinstance(value, list) for value in values):
        return "columns"
    if all(isinstance(value, dict) for value in values):
        is_numbered = all(key.isdigit() for value in values for key in value)
        return "columns" if is_numbered or _are_columns(first_rows(lines.read_json_items(path))[0]) else "items"
    if not first.rstrip().endswith(b"}"):
        raise UserError(f"{path}: is one JSON object of neither rows nor columns; JSON Lines have an object per line")
    return "lines"


def _are_columns(values: Iterable[Any]) -> bool:
    """Return whether objects in an object are columns, as pandas writes them, rather than rows.

    `{"url": {"a": ...}}` and `{"a": {"url": ...}}` differ in where URLs stand: together in one object, or under one key
    of all objects. A few other values, as every list has, change nothing.
    """
    by_object: list[list[bool]] = []
    by_key: dict[str, list[bool]] = {}
    for value in values:
        by_object.append([])
        for key, cell in itertools.islice(value.items() if isinstance(value, dict) else (), PEEKED_ROWS):
            has_url = isinstance(cell, str) and is_url(cell)
            by_object[-1].append(has_url)
            by_key.setdefault(key, []).append(has_url)
    return _num_alike(by_object) > _num_alike(by_key.values())


def _num_alike(groups: Iterable[list[bool]]) -> int:
    return sum(max(group.count(True), group.count(False)) for group in groups)


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


def row_group_parts(path: str, name: str, part_rows: int) -> list[Part]:
    """Return parts of whole row groups of a parquet file, with at most `part_rows` rows if a group has no more."""
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


def item_parts(path: str, name: str, part_rows: int, under: str | None = None) -> list[Part]:
    """Return parts of at most `part_rows` items of a JSON array, or of that under a key; the last has what follows."""
    num = 0
    with contextlib.suppress(BrokenFileError):  # told when the last part is read
        for _ in lines.read_json_items(path, under=under):
            num += 1
    starts = range(0, max(num, 1), part_rows)
    return [Part(path, name, start, start + part_rows if start != starts[-1] else None) for start in starts]


def _parquet(path: str, handle: Any) -> Any:
    try:
        return pq.ParquetFile(handle, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a complete parquet file: {str(error).splitlines()[0]}") from error


def _parquet_columns(path: str) -> tuple[str, ...]:
    with storage.open_read(path) as handle:
        return tuple(_parquet(path, handle).schema_arrow.names)


def _item_rows(part: Part) -> Iterator[tuple[str, dict[str, Any] | RowError]]:
    for locator, value in itertools.islice(lines.read_json_items(part.path), part.start, part.stop):
        yield (
            locator,
            value if isinstance(value, dict) else RowError("malformed_row", "no JSON object", text=str(value)[:2_000]),
        )
