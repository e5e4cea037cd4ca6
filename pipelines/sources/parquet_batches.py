"""Batches of parquet rows that are bounded by what their cells take in memory.

A value that many rows share stands once in the file, as an entry of a dictionary: 4 MB that 256 rows refer to become
1 GB when they are read.
"""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

MAX_BATCH_BYTES = 64 << 20
"""Bytes of a batch's text and binary cells, unless a single row has more."""


def read_batches(
    file: Any, handle: Any, group: int, columns: list[str] | None, max_rows: int
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a row group in order, in batches of at most `max_rows` rows and `MAX_BATCH_BYTES`.

    Args:
        file: The opened `pyarrow.parquet.ParquetFile`.
        handle: What it was opened from.
        group: Number of the row group.
        columns: Columns to read; None: all.
        max_rows: Rows of a batch where cells are small.
    """
    # Raises for columns that are encrypted: to ask for their metadata ends the process.
    next(file.iter_batches(1, row_groups=[group], columns=columns), None)
    row_bytes = _most_row_bytes(file, handle, group, columns)
    num_rows = max(1, min(max_rows, MAX_BATCH_BYTES // max(row_bytes, 1)))
    yield from file.iter_batches(num_rows, row_groups=[group], columns=columns)


def _most_row_bytes(file: Any, handle: Any, group: int, columns: list[str] | None) -> int:
    """Return at least the bytes of a row that has an average number of values, all the longest of a dictionary.

    Cells outside of dictionaries stand in the file as often as in memory, and are not counted.
    """
    metadata = file.metadata.row_group(group)
    chunks = [metadata.column(i) for i in range(metadata.num_columns)]
    in_dictionaries = [
        chunk
        for chunk in chunks
        if chunk.physical_type == "BYTE_ARRAY"
        and chunk.has_dictionary_page
        and (columns is None or chunk.path_in_schema.partition(".")[0] in columns)
    ]
    if not in_dictionaries or not metadata.num_rows:
        return 0
    paths = [chunk.path_in_schema for chunk in in_dictionaries]
    as_stored = pq.ParquetFile(handle, metadata=file.metadata, read_dictionary=paths)
    row = next(as_stored.iter_batches(1, row_groups=[group], columns=paths))
    longest = max((size for column in row.columns for size in _longest_entries(column)), default=0)
    num_values: int = sum(-(-chunk.num_values // metadata.num_rows) for chunk in in_dictionaries)
    return longest * num_values


def _longest_entries(array: pa.Array) -> Iterator[int]:
    """Yield the bytes of the longest entry of each dictionary in an array, also of nested ones."""
    if pa.types.is_dictionary(array.type):
        yield pc.max(pc.binary_length(array.dictionary)).as_py() or 0
    elif pa.types.is_struct(array.type):
        for i in range(array.type.num_fields):
            yield from _longest_entries(array.field(i))
    elif pa.types.is_map(array.type):
        yield from _longest_entries(array.keys)
        yield from _longest_entries(array.items)
    elif pa.types.is_nested(array.type):
        yield from _longest_entries(array.values)
