"""SQL over the Parquet files of a corpus or a run, by DuckDB, in memory that does not grow with them.

Joins, sorts and groups that need more go to a temporary folder. Files may lie on any fsspec store.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Self

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import storage
from pipelines.errors import RunError, UserError, full_disk
from pipelines.shards.manifest import ShardInfo
from pipelines.shards.sidecar import SCHEMA
from tools.queries.scratch import ScratchFolder

MEMORY = "1GiB"
PLACE = "file_row_number"
"""A column that every Parquet file has for DuckDB: a row's number in its file, from 0."""

_BATCH = 10_000
_OURS = (duckdb.ParserException, duckdb.CatalogException, duckdb.InternalException)  # SQL that is wrong


class Tables:
    """Tables of Parquet files under names that SQL can use; they last until it is closed.

    Args:
        memory: Most that DuckDB keeps in memory, in its own notation.
        threads: Number of threads; None for one per core.
    """

    def __init__(self, memory: str = MEMORY, threads: int | None = None) -> None:
        self._spill = ScratchFolder()
        self._files: dict[str, tuple[Sequence[str], Sequence[str]]] = {}
        settings: dict[str, Any] = {
            "memory_limit": memory,
            "temp_directory": self._spill.path,
            "preserve_insertion_order": False,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }
        settings |= {} if threads is None else {"threads": threads}
        self._connection = duckdb.connect(config=settings)
        self._cursors: set[duckdb.DuckDBPyConnection] = set()
        self._is_interrupted = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the files; what was written aside is removed."""
        self._connection.close()
        self._spill.close()

    def add_files(self, name: str, paths: Sequence[str], columns: Sequence[str], *, replace: bool = False) -> None:
        """Give Parquet files a name as one table: these columns, and `filename`.

        Raises:
            UserError: If a file is missing or damaged, or lacks a column.
        """
        assert paths, "DuckDB takes the columns from the first file"
        self._files[name] = (paths, [column for column in columns if column != PLACE])
        located = [self._located(path) for path in paths]
        with self._mistakes():
            found = self._connection.read_parquet(
                [_literal(path) for path in located], filename=True, hive_partitioning=False
            )
            found.project(", ".join(map(_name, [*columns, "filename"]))).create_view(name, replace=replace)

    def add_sidecars(self, name: str, corpus: str, shards: Sequence[ShardInfo], columns: Sequence[str]) -> None:
        """Give the samples of shards a name as one table: columns of their sidecars, and four of their shard.

        These are `shard` (its path in the manifest), `shard_sha256`, `source` and `split`.
        """
        files = [storage.join(corpus, shard.sidecar) for shard in shards]
        self.add_shard_files(name, files, shards, columns)

    def add_shard_files(
        self, name: str, files: Sequence[str], shards: Sequence[ShardInfo], columns: Sequence[str]
    ) -> None:
        """Give Parquet files, one for each of these shards, a name as one table, as `add_sidecars` does."""
        rows = [(self._located(f), s.path, s.sha256, s.source, s.split) for f, s in zip(files, shards, strict=True)]
        self.add_rows(f"{name}_shards", ("filename", "shard", "shard_sha256", "source", "split"), rows)
        if shards:
            self.add_files(f"{name}_files", files, columns)
        else:
            empty = SCHEMA.empty_table().select(list(columns)).append_column("filename", pa.array([], pa.string()))
            self._connection.register("no_rows", empty)
            self.run(f"CREATE TABLE {name}_files AS SELECT * FROM no_rows")
        self.run(
            f"CREATE VIEW {name} AS SELECT * EXCLUDE filename FROM {name}_files JOIN {name}_shards USING (filename)"
        )

    def attach(self, path: str, name: str, *, read_only: bool = False) -> None:
        """Open a local database file of DuckDB under a name, which is made if it is missing: `name.table` in SQL."""
        located = path.replace("'", "''")
        self.run(f"ATTACH '{located}' AS {name}{' (READ_ONLY)' if read_only else ''}")

    def add_rows(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[str | None]]) -> None:
        """Give rows of text a name as a table."""
        arrays = [pa.array([row[place] for row in rows], pa.string()) for place in range(len(columns))]
        self.run(f"CREATE TABLE {name} ({', '.join(f'{_name(column)} VARCHAR' for column in columns)})")
        self.insert(name, pa.table(arrays, names=list(columns)))

    def insert(self, name: str, rows: pa.RecordBatch | pa.Table) -> None:
        """Append rows to a table that `run` has created, with its columns in its order."""
        self._connection.register("rows_to_insert", rows)
        self.run(f"INSERT INTO {name} SELECT * FROM rows_to_insert")
        self._connection.unregister("rows_to_insert")

    def run(self, sql: str, *values: Any) -> None:
        """Run a statement; each `?` in it stands for a value."""
        with self._mistakes():
            self._connection.execute(sql, values)

    def interrupt(self) -> None:
        """End the statement or query that another thread is at with an error, as all that follow."""
        self._is_interrupted = True
        with suppress(duckdb.Error):  # that was closed meanwhile
            for connection in (self._connection, *tuple(self._cursors)):
                connection.interrupt()

    def batches(self, sql: str, *values: Any, size: int = _BATCH) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a query as Arrow batches of at most `size`, one of them in memory."""
        with self._connection.cursor() as cursor:  # so that others may be asked meanwhile
            self._cursors.add(cursor)
            try:
                with self._mistakes():
                    # Not `execute`, which keeps the whole result in memory.
                    reader = cursor.sql(sql, params=list(values)).to_arrow_reader(size)
                while True:
                    with self._mistakes():
                        try:
                            batch = reader.read_next_batch()
                        except StopIteration:
                            return
                    yield batch
            finally:
                self._cursors.discard(cursor)

    def records(self, sql: str, *values: Any) -> Iterator[dict[str, Any]]:
        """Yield the rows of a query as dictionaries."""
        for batch in self.batches(sql, *values):
            yield from batch.to_pylist()

    def rows(self, sql: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query as tuples."""
        for batch in self.batches(sql, *values):
            yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)

    def value(self, sql: str, *values: Any) -> Any:
        """Return the one value of a query."""
        ((value,),) = self.rows(sql, *values)
        return value

    def _located(self, path: str) -> str:
        """Return a path as DuckDB calls it; it then can read from that store."""
        if storage.is_local(path):
            return path
        with storage.remote(path) as (fs, inner):
            if not self._connection.filesystem_is_registered(
                fs.protocol if isinstance(fs.protocol, str) else fs.protocol[0]
            ):
                self._connection.register_filesystem(fs)
            return str(fs.unstrip_protocol(inner))

    @contextmanager
    def _mistakes(self) -> Iterator[None]:
        """Turn an error of DuckDB into the user's mistake that caused it, if one did.

        Files are opened to find what is wrong only if the error can come of one: there may be very many, far away.
        """
        if self._is_interrupted:
            raise UserError("stopped")
        try:
            yield
        except (duckdb.Error, OSError) as error:
            words = " ".join(str(error).split())
            if isinstance(error, _OURS):
                raise
            if isinstance(error, duckdb.InterruptException):
                raise UserError("stopped") from error
            if (known := full_disk(words)) is not None:
                raise known from error
            if isinstance(error, duckdb.OutOfMemoryException):
                raise RunError(f"out of memory: {words[:300]}") from error
            files = [(path, columns) for paths, columns in self._files.values() for path in paths]
            for path, columns in [found for found in files if found[0] in words] or files:
                check_parquet(path, columns)
            raise UserError(f"the files cannot be read: {words[:300]}") from error
        except RuntimeError as error:
            if str(error) != "Query interrupted":
                raise
            if self._is_interrupted:
                raise UserError("stopped") from error
            raise KeyboardInterrupt from error  # which is what DuckDB makes of Ctrl-C


def check_parquet(path: str, columns: Sequence[str]) -> None:
    """Check that a file is a whole Parquet file with these columns; its pages are not read.

    Raises:
        UserError: If it is not.
    """
    try:
        with storage.open_read(path) as file:
            schema = pq.ParquetFile(file).schema_arrow
    except FileNotFoundError as error:
        raise UserError(f"{path}: missing, though others name it: the folder was changed or copied in part") from error
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a whole Parquet file: {storage.error_line(error)}") from error
    if lacking := [column for column in columns if column not in schema.names]:
        raise UserError(f"{path}: no column {lacking[0]!r}; it has {', '.join(map(repr, schema.names[:30]))}")


def _name(column: str) -> str:
    """Return a column's name as SQL has it, also where it is a word of SQL's own."""
    return '"' + column.replace('"', '""') + '"'


def _literal(path: str) -> str:
    """Return a path in which DuckDB finds no pattern of names."""
    return re.sub(r"[*?\[]", lambda found: f"[{found[0]}]", path)
