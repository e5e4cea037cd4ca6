"""Rows of Energon's `index.sqlite`, held against the sidecars: those of a shard in the shard's own task.

Its tables have indexes on the number of the tar, so a shard's rows are found without reading the others'.
"""

import fcntl
import os
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines import storage
from pipelines.parts import digest
from pipelines.shards.sidecar import read_sidecar
from tools.audit.findings import Findings
from tools.audit.plan import Plan, ShardTask

TABLE_FILE = ".nv-meta/index.sqlite"
"""Energon's tables, in the folder of a source."""

# Numbers of tars are whole; any other that SQLite would hold is between two of them, or in no shard.
_SELECT = {
    "samples": (
        "SELECT tar_file_id, sample_index, sample_key, byte_offset, byte_size FROM samples"
        " WHERE tar_file_id >= ?1 AND tar_file_id < ?1 + 1 ORDER BY tar_file_id, sample_index"
    ),
    "sample_parts": (
        "SELECT tar_file_id, sample_index, part_name, content_byte_offset, content_byte_size FROM sample_parts"
        " WHERE tar_file_id >= ?1 AND tar_file_id < ?1 + 1 ORDER BY tar_file_id, sample_index, content_byte_offset"
    ),
}
_OF_NO_SHARD = "SELECT * FROM {table} WHERE tar_file_id IS NULL OR tar_file_id < 0 OR tar_file_id >= ? LIMIT 1"


def compare_shard(plan: Plan, task: ShardTask, folder: str, findings: Findings) -> bool:
    """Compare the rows of a shard with its sidecar; return whether they were compared and are equal.

    Of all the rows of a source that differ, the first of each table is told.

    Args:
        plan: What to check.
        task: The shard.
        folder: Folder of this machine for a copy of the file, if it is on a store.
        findings: Where to add a fault.
    """
    columns = ("key", "byte_offset", "bytes", "parts")
    try:
        sidecar = list(read_sidecar(storage.join(plan.corpus, task.shard.sidecar), columns))
        expected = {"samples": list(_sample_rows(task, sidecar)), "sample_parts": list(_part_rows(task, sidecar))}
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError):
        return False  # it is missing or damaged, which its own check tells
    path, is_right = f"{task.shard.source}/{TABLE_FILE}", True
    try:
        with _opened(storage.join(plan.corpus, path), folder) as database:
            for table, select in _SELECT.items():
                found = database.execute(select, (task.tar_file_id,))
                if words := _first_difference(found, expected[table]):
                    said = f"table {table}: {words} of the sidecar of {task.shard.path}"
                    findings.add("energon_differs", path, said, order=(-1, task.number), once=table)
                    is_right = False
    except FileNotFoundError:
        return False  # which the source's own task tells
    except (sqlite3.Error, UnicodeDecodeError) as error:
        findings.add("energon_damaged", path, storage.error_line(error), order=(-1, task.number), once="damaged")
        return False
    return is_right


def compare_source(corpus: str, source: str, num_shards: int, folder: str, findings: Findings) -> None:
    """Look for rows of no shard.

    Args:
        corpus: Folder of the corpus.
        source: Name of the source.
        num_shards: Number of its shards, by which the tables number them.
        folder: As for `compare_shard`.
        findings: Where to add a fault.
    """
    path = f"{source}/{TABLE_FILE}"
    try:
        with _opened(storage.join(corpus, path), folder) as database:
            for table in _SELECT:
                if row := database.execute(_OF_NO_SHARD.format(table=table), (num_shards,)).fetchone():
                    said = f"table {table}: row {row} is of none of the {num_shards} shards"
                    findings.add("energon_differs", path, said, order=(-1, 1 << 62), once=table)
    except (sqlite3.Error, UnicodeDecodeError) as error:
        findings.add("energon_damaged", path, storage.error_line(error), once="damaged")


@contextmanager
def _opened(path: str, folder: str) -> Iterator[sqlite3.Connection]:
    """Open a database to read; of a store all workers of a folder share one copy, which the first of them makes.

    Raises:
        FileNotFoundError: If it is missing.
    """
    local = path if storage.is_local(path) else _copy(path, folder)
    if not os.path.exists(local):
        raise FileNotFoundError(local)
    address = f"{Path(local).absolute().as_uri()}?mode=ro&immutable=1"
    with closing(sqlite3.connect(address, uri=True)) as database:
        yield database


def _copy(path: str, folder: str) -> str:
    local = storage.join(folder, f"{digest(path)[:16]}.sqlite")
    with open(f"{local}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.exists(local):
            with storage.open_read(path) as source, open(f"{local}.part", "wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
            os.rename(f"{local}.part", local)
    return local


def _first_difference(found: Iterator[tuple[Any, ...]], expected: Sequence[tuple[Any, ...]]) -> str | None:
    for row, right in zip_longest(found, expected):
        if row != right:
            return f"row {row} is not {right}"
    return None


def _sample_rows(task: ShardTask, sidecar: Sequence[dict[str, Any]]) -> Iterator[tuple[Any, ...]]:
    for i, row in enumerate(sidecar):
        yield task.tar_file_id, i, row["key"], row["byte_offset"], row["bytes"]


def _part_rows(task: ShardTask, sidecar: Sequence[dict[str, Any]]) -> Iterator[tuple[Any, ...]]:
    for i, row in enumerate(sidecar):
        for part in sorted(row["parts"], key=lambda part: part["offset"]):
            yield task.tar_file_id, i, part["name"], part["offset"], part["bytes"]
