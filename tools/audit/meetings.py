"""Rows by which samples meet, in files of workers, and the samples that share what they must not.

Memory does not grow with the corpus: rows are written as they come, grouped and sorted by DuckDB, read band by band.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, groupby
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.decisions.duplicates import DuplicateSettings
from tools.audit.duplicates import KEY, Meeting, Shared, shared
from tools.queries.tables import Tables

_SCHEMA = pa.schema(
    [
        ("band", pa.binary()),
        ("split", pa.string()),
        ("key", pa.string()),
        ("number", pa.int32()),
        ("place", pa.int64()),
        ("sketch", pa.binary()),
        ("is_key", pa.bool_()),
    ]
)
_ROWS = 20_000
# Nearly all bands of a corpus have one sample, or samples of one split; only the others are sorted, as by `order_in`.
_MET = """
SELECT band, split, key, number, place, sketch FROM meetings WHERE band IN (
    SELECT band FROM meetings GROUP BY band
    HAVING count(*) > 1 AND (bool_or(is_key) OR min(split) <> max(split))
) ORDER BY band, CASE WHEN NOT is_key THEN split <> 'train' END, CASE WHEN NOT is_key THEN split END, number, place
"""
_SHARED = {
    "kind": "VARCHAR",
    "number": "INT",
    "place": "BIGINT",
    "key": "VARCHAR",
    "other_number": "INT",
    "other_key": "VARCHAR",
}
# Similar texts meet in several bands.
_ONCE = """
SELECT kind, number, place, key, other.number AS other_number, other.key AS other_key FROM (
    SELECT kind, number, place, key, min({number: other_number, key: other_key}) AS other
    FROM shared GROUP BY kind, number, place, key
) ORDER BY kind, number, place
"""


class MeetingWriter:
    """Writer of a file of rows; none is made without rows."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._rows: list[Meeting] = []
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._write()
        if self._writer is not None:
            self._writer.close()

    def add(self, row: Meeting) -> None:
        """Append a row."""
        self._rows.append(row)
        if len(self._rows) == _ROWS:
            self._write()

    def _write(self) -> None:
        if not self._rows:
            return
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path, _SCHEMA, compression="zstd", compression_level=1)
        columns: list[Sequence[Any]] = [*zip(*self._rows, strict=True), [r.band.startswith(KEY) for r in self._rows]]
        arrays = [pa.array(values, field.type) for values, field in zip(columns, _SCHEMA, strict=True)]
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=_SCHEMA))
        self._rows.clear()


def find_shared(files: Sequence[str], scopes: Mapping[str, DuplicateSettings]) -> Iterator[Shared]:
    """Yield each sample that shares what it must not, once for each kind of fault, in the order of the corpus.

    Args:
        files: Written by `MeetingWriter`.
        scopes: What makes samples similar, by `scope_of`.
    """
    with Tables() as tables:
        tables.add_files("meetings", files, _SCHEMA.names)
        tables.run(f"CREATE TABLE shared ({', '.join(f'{name} {kind}' for name, kind in _SHARED.items())})")
        rows = (Meeting(*row) for row in tables.rows(_MET))
        batch: list[Shared] = []
        for band, met in groupby(rows, key=lambda row: row.band):
            first = next(met)
            for found in shared(band, first, chain([first], met), scopes):
                batch.append(found)
                if len(batch) == _ROWS:
                    _insert(tables, batch)
        _insert(tables, batch)
        for row in tables.rows(_ONCE):
            yield Shared(*row)


def _insert(tables: Tables, batch: list[Shared]) -> None:
    if batch:
        columns = zip(*batch, strict=True)
        tables.insert("shared", pa.table([pa.array(c) for c in columns], names=list(_SHARED)))
        batch.clear()
