"""Sidecar of a shard, read beside its tar: columns, rows in the tar's order, and values that agree with the samples."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import storage
from pipelines.shards.sidecar import SCHEMA
from tools.audit.findings import shown

_BATCH = 512
_PLACE = ("byte_offset", "bytes", "parts")

Add = Callable[[str, str, str | None], None]
"""Function that takes kind, detail and key of a fault."""


class SidecarReader:
    """Rows of a sidecar in order; its own faults are added as they are met.

    Args:
        path: The sidecar; None: it is not read.
        add: Where to add faults.
    """

    def __init__(self, path: str | None, add: Add) -> None:
        self._path, self._add = path, add
        self._stack = ExitStack()
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._rows: Iterator[dict[str, Any]] = iter(())
        self.num_read = 0
        self.is_readable = False

    def __enter__(self) -> Self:
        self._batches = self._open()
        self._rows = (row for batch in self._batches for row in batch.to_pylist())
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def rows_at(self, numbers: Sequence[int]) -> dict[int, dict[str, Any]]:
        """Return the rows of these numbers, of those that can be read; instead of `next`, and without the others."""
        found: dict[int, dict[str, Any]] = {}
        wanted, begin = np.array(sorted(numbers)), 0
        try:
            for batch in self._batches:
                mine = wanted[(wanted >= begin) & (wanted < begin + len(batch))]
                rows = batch.take(pa.array(mine - begin)).to_pylist() if len(mine) else []
                found |= dict(zip(mine.tolist(), rows, strict=True))
                begin += len(batch)
                if begin > wanted[-1]:
                    break
        except (pa.ArrowException, OSError, ValueError) as error:
            self._damaged(error)
        return found

    def __next__(self) -> dict[str, Any] | None:
        """Return the next row; None after the last, and if no more can be read."""
        try:
            row = next(self._rows, None)
        except (pa.ArrowException, OSError, ValueError) as error:
            self._damaged(error)
            return None
        self.num_read += row is not None
        return row

    def _damaged(self, error: BaseException) -> None:
        self.is_readable, self._rows = False, iter(())
        self._add("sidecar_damaged", f"not a whole Parquet file: {storage.error_line(error)}", None)

    def _open(self) -> Iterator[pa.RecordBatch]:
        if self._path is None:
            return iter(())
        try:
            file = self._stack.enter_context(storage.open_read(self._path))
            parquet = pq.ParquetFile(file)
            names = self._columns(parquet.schema_arrow)
        except FileNotFoundError:
            self._add("sidecar_missing", "missing", None)
            return iter(())
        except (pa.ArrowException, OSError, ValueError) as error:
            self._damaged(error)
            return iter(())
        self.is_readable = "key" in names
        return parquet.iter_batches(_BATCH, columns=names, use_threads=False) if names else iter(())

    def _columns(self, schema: pa.Schema) -> list[str]:
        """Return the columns that can be compared; the others are faults."""
        usable = []
        for field in SCHEMA:
            if field.name not in schema.names:
                self._add("sidecar_column_missing", f"no column {field.name!r}", None)
            elif not _same_type(schema.field(field.name).type, field.type):
                said = schema.field(field.name).type
                self._add("sidecar_column_type", f"column {field.name!r} is {said}, not {field.type}", None)
            else:
                usable.append(field.name)
        for name in schema.names:
            if name not in SCHEMA.names:
                self._add("sidecar_column_unknown", f"column {name!r} is none of a sidecar's", None)
        return usable


def compare_row(row: dict[str, Any], expected: dict[str, Any], add: Add) -> bool:
    """Add a fault if a row differs from what its sample says; return whether there is none.

    Args:
        row: As stored, perhaps without some columns.
        expected: By `sidecar_row` from the sample; it may lack the columns that cannot be told.
        add: Where to add it.
    """
    if all(expected.get(name, value) == value for name, value in row.items()):
        return True
    key = expected["key"]
    if row.get("key", key) != key:
        add("sidecar_key", f"its row in the sidecar is that of {str(row['key'])[:80]!r}", key)
        return False
    name = next(name for name, value in row.items() if expected.get(name, value) != value)
    kind = "sidecar_place" if name in _PLACE else "sidecar_value"
    add(kind, f"column {name!r} is {shown(row[name])}, the sample's is {shown(expected[name])}", key)
    return False


def _same_type(found: pa.DataType, expected: pa.DataType) -> bool:
    """Return whether types are equal but for the name that Parquet gives the items of a list."""
    if pa.types.is_list(expected):
        return pa.types.is_list(found) and _same_type(found.value_type, expected.value_type)
    return bool(found.equals(expected))
