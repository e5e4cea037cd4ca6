"""Grouping of rows by key through files, for the local runner: Beam's holds all rows of a shuffle in memory.

A worker writes its rows into a run file, cut into partitions by a hash of the key. Then each partition is read by one
worker, at once or in several passes over ranges of the hash, so that a worker holds no more than `memory_bytes` of rows
whatever their number. Cluster runners spill by themselves, and group by Beam's own transforms.
"""

import contextlib
import os
import pickle
import tempfile
import uuid
import zlib
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.windowed_value import WindowedValue

from pipelines import storage
from pipelines.layout import work_folder
from pipelines.running.runner import Runner

NUM_PARTITIONS = 256
OBJECT_BYTES = 6
"""Bytes that rows take in memory for each byte in a run file; measured 3 (long texts) to 6 (small tuples)."""

MAX_MEMORY_BYTES = 256 << 20
"""Bytes of grouped rows in each worker where the machine has plenty: more would make nothing faster."""

_ROWS_PER_FLUSH = 1 << 15


@dataclass(frozen=True, slots=True)
class ShuffleFiles:
    """A folder for run files, and the memory that a worker may take for the rows of a partition."""

    folder: str
    memory_bytes: int = MAX_MEMORY_BYTES


@contextlib.contextmanager
def shuffling(runner: Runner, out: str) -> Iterator[ShuffleFiles | None]:
    """Provide a folder for the rows that a pipeline groups, for its time; None if the runner groups by itself."""
    if not runner.is_local:
        yield None
        return
    above = work_folder(out) if storage.is_local(out) else None
    if above is not None:
        os.makedirs(above, exist_ok=True)
        for left in Path(above).glob("shuffle-*"):  # by a killed run
            storage.remove(str(left))
    with tempfile.TemporaryDirectory(prefix="shuffle-", dir=above, ignore_cleanup_errors=True) as folder:
        yield ShuffleFiles(folder, default_memory_bytes(runner.num_workers or 1))


def default_memory_bytes(num_workers: int) -> int:
    """Return the bytes of grouped rows for each worker: an eighth of the machine's available memory for all."""
    return max(1 << 20, min(MAX_MEMORY_BYTES, _available_bytes() // 8 // num_workers))


def _available_bytes() -> int:
    """Return the memory that new work may take, by the system and by the limit of a container."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2]
    with contextlib.suppress(OSError, ValueError):  # not Linux
        lines = Path("/proc/meminfo").read_text().splitlines()
        found = [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")] or found
    with contextlib.suppress(OSError, ValueError):  # no container, or one without a limit ("max")
        found.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(found)


# --- the transforms -------------------------------------------------------------------------------------------------


class GroupByKey(beam.PTransform):
    """Group (key, value) rows of one or several collections: (key, values), as `beam.GroupByKey` does.

    Keys are text, bytes, integers, or plain tuples of these. No order of the values is promised.

    Args:
        files: Where rows are written meanwhile; None: the runner groups by itself.
        least: Values of a key that matter: a key with fewer may be left out.
    """

    def __init__(self, files: ShuffleFiles | None, least: int = 1) -> None:
        super().__init__()
        self._files, self._least = files, least

    def expand(self, rows: Any) -> beam.PCollection:
        sides = rows if isinstance(rows, tuple) else (rows,)
        if self._files is None:
            joined = sides | "Join" >> beam.Flatten() if len(sides) > 1 else sides[0]
            return joined | "Group" >> beam.GroupByKey()
        return _grouped(self._files, [(0, side) for side in sides], None, self._least)


class CoGroupByKey(beam.PTransform):
    """Join collections of (key, value) rows: (key, lists of values by name), as `beam.CoGroupByKey` does.

    Args:
        files: As of `GroupByKey`.
    """

    def __init__(self, files: ShuffleFiles | None) -> None:
        super().__init__()
        self._files = files

    def expand(self, sides: Mapping[str, beam.PCollection]) -> beam.PCollection:
        if self._files is None:
            return sides | "Group" >> beam.CoGroupByKey()
        return _grouped(self._files, list(enumerate(sides.values())), list(sides))


class WriteRows(beam.PTransform):
    """Write (key, value) rows for `count_keys`, which takes them grouped, and `read_written`.

    The collection itself has a few small rows for each worker. So the rows may be read twice, the second time with what
    was made of the first, and are not kept in memory in between.
    """

    def __init__(self, files: ShuffleFiles) -> None:
        super().__init__()
        self._files = files

    def expand(self, rows: beam.PCollection) -> beam.PCollection:
        return rows | "WriteRuns" >> _write_runs(self._files, 0)


def count_keys(partition: tuple[int, Iterable["_Run"]]) -> Iterator[tuple[Any, int]]:
    """Yield (key, number of rows) of what `WriteRows` wrote for a partition."""
    yield from Counter(key for run in partition[1] for _, key, _ in _read_run(run)).items()


def read_written(written: tuple[int, "_Run"]) -> Iterator[tuple[Any, Any]]:
    """Yield the rows that `WriteRows` wrote."""
    yield from ((key, value) for _, key, value in _read_run(written[1]))


def _grouped(
    files: ShuffleFiles, sides: list[tuple[int, beam.PCollection]], names: list[str] | None, least: int = 1
) -> beam.PCollection:
    """Return (key, lists of values by the names of sides), or of one side without a name (key, values).

    Keys with fewer than `least` values are left out.
    """
    runs = tuple(rows | f"WriteRuns{place}" >> _write_runs(files, side) for place, (side, rows) in enumerate(sides))
    listed = runs | "JoinRuns" >> beam.Flatten() if len(runs) > 1 else runs[0]
    partitions = listed | "ByPartition" >> beam.GroupByKey()
    return partitions | "ReadPartitions" >> beam.FlatMap(_read_partition, names, files.memory_bytes, least)


def _write_runs(files: ShuffleFiles, side: int) -> beam.PTransform:
    # Else Beam reads the bytecode of the DoFn for what it yields, each time: a sixth of what building pipelines took
    return beam.ParDo(_WriteRuns(files.folder, side)).with_output_types(tuple[int, Any])


class _Run(NamedTuple):
    """What a run file has of a partition: pairs of offset and length, as bytes of 64-bit integers."""

    side: int
    path: str
    ranges: bytes


class _WriteRuns(beam.DoFn):
    """Write the rows of a bundle into a run file; yields (partition, `_Run`) at its end."""

    def __init__(self, folder: str, side: int) -> None:
        self._folder, self._side = folder, side

    def start_bundle(self) -> None:
        self._rows: dict[int, list[tuple[int, Any, Any]]] = {}
        self._num_rows = 0
        self._path = os.path.join(self._folder, uuid.uuid4().hex)
        self._size = 0
        self._ranges: dict[int, array[int]] = {}

    def process(self, row: tuple[Any, Any]) -> None:
        key, value = row
        hashed = key_hash(key)
        self._rows.setdefault(hashed % NUM_PARTITIONS, []).append((hashed, key, value))
        self._num_rows += 1
        if self._num_rows >= _ROWS_PER_FLUSH:
            self._flush()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        self._flush()
        for partition, ranges in self._ranges.items():
            run = partition, _Run(self._side, self._path, ranges.tobytes())
            yield GlobalWindows.windowed_value(run)

    def _flush(self) -> None:
        if not self._num_rows:
            return
        with open(self._path, "ab") as file:
            for partition, rows in self._rows.items():
                data = pickle.dumps(rows, pickle.HIGHEST_PROTOCOL)
                file.write(data)
                self._ranges.setdefault(partition, array("q")).extend((self._size, len(data)))
                self._size += len(data)
        self._rows, self._num_rows = {}, 0


def key_hash(key: Any) -> int:
    """Return 32 bits of a key, equal in all processes and runs."""
    return zlib.crc32(key if isinstance(key, bytes) else repr(key).encode("utf-8", "surrogatepass"))


def _read_partition(
    partition: tuple[int, Iterable[_Run]], names: list[str] | None, memory_bytes: int, least: int = 1
) -> Iterator[tuple[Any, Any]]:
    """Yield each key that has enough values with them, in as many passes as its rows are times the memory.

    Values are a list, or lists by the names of sides.
    """
    found = sorted(partition[1])
    size = sum(sum(array("q", run.ranges)[1::2]) for run in found)
    num_passes = -(-size * OBJECT_BYTES // memory_bytes)
    for number in range(num_passes):
        groups: dict[Any, tuple[list[Any], ...]] = {}
        for run in found:
            for hashed, key, value in _read_run(run):
                if hashed // NUM_PARTITIONS % num_passes == number:
                    sides = groups.get(key)
                    if sides is None:
                        sides = groups[key] = tuple([] for _ in names or ("",))
                    sides[run.side].append(value)
        while groups:
            key, sides = groups.popitem()
            if least == 1 or sum(map(len, sides)) >= least:
                yield key, sides[0] if names is None else dict(zip(names, sides, strict=True))


def _read_run(run: _Run) -> Iterator[tuple[int, Any, Any]]:
    ranges = array("q", run.ranges)
    with open(run.path, "rb") as file:
        for offset, length in zip(ranges[::2], ranges[1::2], strict=True):
            yield from pickle.loads(os.pread(file.fileno(), length, offset))
