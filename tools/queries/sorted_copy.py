"""Rows of many Parquet files once more, sorted by the hash of one column, so that values are found by reading little.

A copy is a folder of segments, each of which holds the rows of some consecutive files: an Arrow file, uncompressed. It
is mapped into memory, so that a look-up touches only the hashes that it compares and the rows that it gives. A segment
is named by a hash of those files' names, sizes and times, so what has its name is up to date: a file that is added
makes the last segment anew, and one that is cut away those from there on. A segment is written whole or not at all, and
one that was cut is made again.
"""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines import storage
from pipelines.parts import digest
from tools.output import progress
from tools.queries.tables import Tables

SEGMENT_BYTES = 64 << 20
"""Bytes of files in a segment: some 4 million rows of `consumed`."""

_VERSION = 2
_HASH_OF = "hash"  # DuckDB's; another version of it may hash otherwise, and then makes the copy anew
_HASH = "hash_of_first"
_ROWS_AT_ONCE = 65_536


@dataclass(frozen=True, slots=True)
class CopySettings:
    """What a copy holds.

    Args:
        columns: Columns of the files that the query reads.
        query: Selects from `files`; its first column, text, is the one by which rows are found.
        schema: Columns that the query gives. Text that repeats takes little room as a dictionary.
    """

    columns: tuple[str, ...]
    query: str
    schema: pa.Schema


@dataclass(frozen=True, slots=True)
class _Segment:
    path: str
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Rows:
    table: pa.Table
    places: np.ndarray  # int64, of the rows in the table


class SortedCopy:
    """A copy, which is brought up to date when something is looked up.

    Args:
        folder: Folder of the copy alone.
        settings: What it holds.
        files: Its files and their stamps (`storage.list_stamps`), in an order in which new ones come last.
        base: Folder of all files: it may be moved, and the copy stays right.
        segment_bytes: Bytes of files in a segment.
    """

    def __init__(
        self,
        folder: str,
        settings: CopySettings,
        files: Mapping[str, Sequence[Any]],
        base: str,
        segment_bytes: int = SEGMENT_BYTES,
    ) -> None:
        self._settings = settings
        self._segments = [
            _Segment(storage.join(folder, f"{number:05d}-{name}.arrow"), paths)
            for number, (name, paths) in enumerate(_groups(settings, files, base, segment_bytes))
        ]
        self._folder, self._files, self._is_fresh = folder, files, False

    def find(self, values: Collection[str]) -> Iterator[pa.Table]:
        """Yield all rows whose first column has one of the values, in tables of bounded size.

        The copy is first brought up to date.
        """
        if not values:
            return
        self._refresh()
        wanted = pa.array(list(set(values)), self._settings.schema.field(0).type)
        with Tables() as tables:
            tables.add_rows("wanted", ("value",), [(value,) for value in wanted.to_pylist()])
            hashes = np.unique([number for (number,) in tables.rows(f"SELECT {_HASH_OF}(value)::UBIGINT FROM wanted")])
        for segment in self._segments:
            try:
                rows = self._matched(segment, hashes)
            except (pa.ArrowException, OSError):  # damaged, or removed by one who saw other files
                storage.remove(segment.path)
                self._write(segment)
                rows = self._matched(segment, hashes)
            for begin in range(0, len(rows.places), _ROWS_AT_ONCE):
                table = rows.table.take(rows.places[begin : begin + _ROWS_AT_ONCE])
                yield table.filter(pc.is_in(table.column(0), wanted))  # two values may have one hash

    def _refresh(self) -> None:
        """Write the segments that are missing, and remove those of files that have changed."""
        if self._is_fresh:
            return
        there = set(storage.list_files(self._folder))
        if missing := [segment for segment in self._segments if segment.path not in there]:
            with progress("sorting for look-ups", len(missing)) as done:
                for segment in missing:
                    self._write(segment)
                    done(1)
        for path in there - {segment.path for segment in self._segments}:
            storage.remove(path)
        self._is_fresh = True

    def _matched(self, segment: _Segment, hashes: np.ndarray) -> _Rows:
        """Return the rows of a segment with one of the hashes, which are in order; nothing of them is read yet."""
        with pa.memory_map(segment.path) as file:
            table = pa.ipc.open_file(file).read_all()  # of one batch, so that the hashes are one array
        held = table.column(_HASH).chunk(0).to_numpy()
        first = np.searchsorted(held, hashes)
        counts = np.searchsorted(held, hashes, "right") - first
        places = np.repeat(first - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
        return _Rows(table.drop_columns(_HASH), places)

    def _write(self, segment: _Segment) -> None:
        first = self._settings.schema.names[0]
        query = f'SELECT {_HASH_OF}("{first}")::UBIGINT AS {_HASH}, * FROM ({self._settings.query}) ORDER BY 1'
        schema = self._settings.schema.insert(0, pa.field(_HASH, pa.uint64()))
        with Tables() as tables:
            tables.add_files("files", segment.files, self._settings.columns)
            batches = [batch.cast(schema) for batch in tables.batches(query, size=_ROWS_AT_ONCE)]
        batch = pa.Table.from_batches(batches, schema).unify_dictionaries().combine_chunks().to_batches()
        with storage.write_whole(segment.path) as file, pa.ipc.new_file(file, schema) as writer:
            writer.write_batch(*batch or [pa.RecordBatch.from_pylist([], schema)])


def copy_folder(owner: str, *inside: str) -> str:
    """Return the folder of a copy: inside the folder that it is of, or in the user's cache if that is not writable."""
    if storage.is_local(owner) and os.access(owner, os.W_OK):
        return storage.join(owner, *inside)
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    where = owner if not storage.is_local(owner) else os.path.realpath(owner)
    return storage.join(cache, "dromaius", digest(where.rstrip("/"))[:16], *inside)


def _groups(
    settings: CopySettings, files: Mapping[str, Sequence[Any]], base: str, segment_bytes: int
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the files of each segment, and the hash of what it is made from."""
    group: list[str] = []
    size = 0
    for place, (path, stamp) in enumerate(files.items(), 1):
        group.append(path)
        size += stamp[0] or 0
        if size >= segment_bytes or place == len(files):
            stamps = [[path.removeprefix(base), list(files[path])] for path in group]
            made_from = digest(_VERSION, duckdb.__version__, settings.query, settings.schema.to_string(), stamps)
            yield made_from[:16], tuple(group)
            group, size = [], 0
