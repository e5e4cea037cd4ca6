"""Finding the steps that consumed a sample, in a record of 10^8 rows: the copy sorted by key against a plain scan.

The record is that of a run of 100,000 steps with a checkpoint every 100: ten epochs of ten million samples. The peer is
DuckDB on the same files, with the same columns. Both answers are equal.
"""

import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipelines import storage
from pipelines.parts import write_arrow
from tools.bench.report import figure, interleave, ratio
from tools.bench.synthetic_corpus import synthetic_keys
from tools.queries.sorted_copy import SortedCopy
from tools.queries.tables import Tables
from tools.trace import BY_KEY
from trainer.reading.consumed import SCHEMA

NUM_SAMPLES, NUM_EPOCHS = 10_000_000, 10
ROWS_PER_STEP, STEPS_PER_FILE = 1000, 100
SAMPLES_PER_SHARD = 10_000
ROUNDS = 3
NUM_KEYS = 1000
"""Keys that are looked up together, as those of a domain."""


def bench_trace(folder: Path) -> None:
    """Print seconds to sort, to find a sample, a thousand samples, and a step."""
    run = folder / "run"
    if not (run / "made").exists():
        _make(run)
    num_rows = NUM_SAMPLES * NUM_EPOCHS
    stamps = storage.list_stamps(str(run / "consumed"), ".parquet")
    figure("trace", f"rows in {len(stamps):,} files of {sum(s[0] for s in stamps.values()) / 1e9:.1f} GB", num_rows, "")

    shutil.rmtree(run / "lookup", ignore_errors=True)
    began = time.perf_counter()
    _found(run, _keys(np.arange(1)))
    seconds = time.perf_counter() - began
    size = sum(path.stat().st_size for path in (run / "lookup").iterdir())
    figure("trace", f"sorting them, once, into {size / 1e9:.1f} GB", seconds, "s")
    figure("trace", "sorting them", num_rows / seconds, "rows/s")
    keys = _keys(np.random.default_rng(1).integers(0, NUM_SAMPLES, NUM_KEYS))

    for what, wanted in (("a sample", keys[:1]), (f"{NUM_KEYS:,} samples", keys)):
        assert _found(run, wanted) == _scanned(list(stamps), wanted)
        ours, scan = interleave(ROUNDS, _timed(_found, run, wanted), _timed(_scanned, list(stamps), wanted))
        figure("trace", f"finding the steps of {what}", statistics.median(ours), "s")
        figure("trace", f"finding the steps of {what} by a plain scan", statistics.median(scan), "s")
        ratio("trace", f"finding the steps of {what}", [1 / t for t in ours], [1 / t for t in scan])
    (last,) = list(stamps)[-1:]
    figure("trace", "reading one step", _timed(_step, last, num_rows // ROWS_PER_STEP - 1)(), "s")


def _copy(run: Path) -> SortedCopy:
    stamps = storage.list_stamps(str(run / "consumed"), ".parquet")
    return SortedCopy(str(run / "lookup"), BY_KEY, stamps, str(run))


def _found(run: Path, keys: Sequence[str]) -> int:
    """Return the sum of the positions at which samples were consumed, as `trace` finds them: files are listed anew."""
    return sum(pa.compute.sum(rows.column("position")).as_py() for rows in _copy(run).find(keys))


def _scanned(paths: Sequence[str], keys: Sequence[str]) -> int:
    with Tables() as tables:
        tables.add_files("consumed", paths, BY_KEY.columns)
        tables.add_rows("wanted", ("key",), [(key,) for key in keys])
        chosen = f"key = '{keys[0]}'" if len(keys) == 1 else "key IN (SELECT key FROM wanted)"
        return int(tables.value(f'SELECT sum("position") FROM (SELECT * FROM consumed WHERE {chosen})'))


def _step(path: str, step: int) -> int:
    with Tables() as tables:
        tables.add_files("consumed", [path], BY_KEY.columns)
        return int(tables.value("SELECT count(*) FROM consumed WHERE step = ?", step))


def _timed(work: Callable[..., int], *arguments: object) -> Callable[[], float]:
    def measure() -> float:
        began = time.perf_counter()
        work(*arguments)
        return time.perf_counter() - began

    return measure


# --- the record -----------------------------------------------------------------------------------------------------


def _make(run: Path) -> None:
    """Write the record of the run, as a trainer does."""
    shutil.rmtree(run, ignore_errors=True)
    keys = synthetic_keys(np.arange(NUM_SAMPLES))
    shards = pa.array([f"pairs/train/pairs-{n:06d}.tar" for n in range(NUM_SAMPLES // SAMPLES_PER_SHARD)])
    rows = ROWS_PER_STEP * STEPS_PER_FILE
    rng = np.random.default_rng(0)
    for epoch in range(NUM_EPOCHS):
        order = rng.permutation(NUM_SAMPLES)
        for begin in range(0, NUM_SAMPLES, rows):
            positions = np.arange(rows, dtype=np.int64) + epoch * NUM_SAMPLES + begin
            numbers = order[begin : begin + rows]
            columns = {
                "step": positions // ROWS_PER_STEP,
                "position": positions,
                "source": pa.repeat("pairs", rows),
                "split": pa.repeat("train", rows),
                "shard": shards.take(pa.array(numbers // SAMPLES_PER_SHARD)),
                "key": keys.take(pa.array(numbers)),
                "window": np.zeros(rows, np.int32),
                "epoch": np.full(rows, epoch, np.int32),
                "num_tokens": rng.integers(20, 200, rows, np.int32),
                "num_images": np.ones(rows, np.int32),
                "replaces": pa.nulls(rows, pa.string()),
            }
            first = int(positions[0]) // ROWS_PER_STEP
            name = f"{first:010d}-{first + STEPS_PER_FILE - 1:010d}.parquet"
            write_arrow(str(run / "consumed" / name), pa.table(columns, schema=SCHEMA))
    (run / "made").touch()


def _keys(numbers: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> list[str]:
    found: list[str] = synthetic_keys(numbers).to_pylist()
    return found
