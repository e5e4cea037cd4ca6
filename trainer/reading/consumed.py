"""Record of training samples: `consumed/*.parquet`, with the samples of every step, and `quarantine.jsonl`."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from pipelines import storage
from pipelines.errors import RunError, UserError
from pipelines.parts import read_table, stable_hash, write_arrow
from trainer.plan.mixture import Order
from trainer.plan.steps import PlanState

SCHEMA = pa.schema(
    [
        ("step", pa.int64()),
        ("position", pa.int64()),
        ("source", pa.string()),
        ("split", pa.string()),
        ("shard", pa.string()),
        ("key", pa.string()),
        ("window", pa.int32()),
        ("epoch", pa.int32()),
        ("num_tokens", pa.int32()),
        ("num_images", pa.int32()),
        ("replaces", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class ConsumedRow:
    """A window that was trained on: `num_tokens` positions were planned, `replaces` is the key that it replaces."""

    step: int
    position: int
    source: str
    split: str
    shard: str
    key: str
    window: int
    epoch: int
    num_tokens: int
    num_images: int
    replaces: str | None = None

    def record(self) -> dict[str, Any]:
        """Return the columns of `consumed`."""
        row = asdict(self)
        row["epoch"] = row.pop("epoch")
        return row


@dataclass(frozen=True, slots=True)
class QuarantineRow:
    """A sample that could not be read; `position` is None if that was known before training."""

    source: str
    key: str
    position: int | None
    reason: str


def consumed_of_buffer(run: str, state: PlanState) -> tuple[int, Counter[str]]:
    """Return the position after all that a run has consumed before the step of a state, and what it consumed.

    Args:
        run: Folder of the run.
        state: The state.

    Returns:
        The position; and, of the state's packing buffer, the number of samples that were consumed, by source.

    Raises:
        UserError: If the record of these steps is missing.
    """
    found: Counter[str] = Counter()
    if state.step == state.buffer_step:
        return state.position, found
    last = -1
    for path in storage.list_files(storage.join(run, "consumed"), ".parquet"):
        _, end = (int(n) for n in path.rpartition("/")[2].removesuffix(".parquet").split("-"))
        if end >= state.buffer_step:
            rows = read_table(path, ["step", "position", "source"]).to_pylist()
            mine = {(r["position"], r["source"]) for r in rows if state.buffer_step <= r["step"] < state.step}
            last = max([last, *(position for position, _ in mine)])
            found.update(source for position, source in mine if position >= state.position)
    if last < 0:
        raise UserError(
            f"{run}/consumed: has no rows of the steps {state.buffer_step} to {state.step - 1}, which say where the "
            "mixture continues. Restore them"
        )
    return max(last + 1, state.position), found


class ConsumedLog:
    """Writes `consumed/`: one file per call of `write`, with the steps since the previous one.

    Args:
        run: The run's folder.
        order: Order of the samples; if approximate, a column `order` says so.
    """

    def __init__(self, run: str, order: Order = "exact") -> None:
        self._folder = storage.join(run, "consumed")
        self._order = {} if order == "exact" else {"order": order}
        self._schema = pa.schema([*SCHEMA, *((name, pa.string()) for name in self._order)])
        self._rows: list[ConsumedRow] = []

    def add(self, rows: Iterable[ConsumedRow]) -> None:
        """Record what a step consumed, on all ranks."""
        self._rows += rows

    def write(self) -> str | None:
        """Write what was recorded since the last call, in step order; return the path, or None if there is nothing."""
        if not self._rows:
            return None
        rows = sorted(self._rows, key=lambda r: (r.step, r.position, r.window))
        path = self._path(rows[0].step, rows[-1].step)
        write_arrow(path, pa.Table.from_pylist([row.record() | self._order for row in rows], schema=self._schema))
        self._rows = []
        return path

    def cut(self, step: int) -> None:
        """Remove everything from `step` on, since a resume from there repeats it.

        Raises:
            UserError: If a file of which a part is kept is damaged.
        """
        self._rows = [row for row in self._rows if row.step < step]
        for path in storage.list_files(self._folder, ".parquet"):
            first, last = (int(n) for n in path.rpartition("/")[2].removesuffix(".parquet").split("-"))
            if last < step:
                continue
            if first < step:
                try:
                    table = read_table(path)
                except (pa.ArrowException, OSError) as error:
                    raise UserError(
                        f"{path}: damaged: {error}. Remove it to continue without the record of steps {first} to {last}"
                    ) from error
                kept = table.filter(pa.compute.less(table.column("step"), step))
                write_arrow(self._path(first, step - 1), kept)
            storage.remove(path)

    def _path(self, first: int, last: int) -> str:
        return storage.join(self._folder, f"{first:010d}-{last:010d}.parquet")


_QUARANTINED: dict[str, tuple[int, set[int]]] = {}
"""By path of a `quarantine.jsonl`: its size when this process last saw it, and hashes of its lines."""


def append_quarantine(run: str, rows: Sequence[QuarantineRow]) -> None:
    """Append to `quarantine.jsonl`, each sample once per position.

    What it has is read once by a process, and only new lines are written where the run is on a mounted disk.
    """
    path = storage.join(run, "quarantine.jsonl")
    size, known = _QUARANTINED.get(path, (0, set()))
    if size != (storage.size(path) if storage.exists(path) else 0):  # by another process, or before this one
        known = {stable_hash(line) for line in storage.read_bytes(path).decode().splitlines()}
    lines = {line: stable_hash(line) for line in (json.dumps(asdict(row), ensure_ascii=False) for row in rows)}
    new = [line for line, hashed in lines.items() if hashed not in known]
    if new:
        storage.append_bytes(path, "".join(line + "\n" for line in new).encode())
    _QUARANTINED[path] = storage.size(path) if storage.exists(path) else 0, known | set(lines.values())


class BadSampleLimit:
    """Counts samples and bad ones, and ends the run if too many of a source are bad.

    Args:
        max_fraction: Largest fraction of bad samples of a source.
        min_samples: Number of bad samples from which the fraction applies.
    """

    def __init__(self, max_fraction: float = 0.01, min_samples: int = 20) -> None:
        self._max_fraction, self._min_samples = max_fraction, min_samples
        self._read: Counter[str] = Counter()
        self._bad: Counter[str] = Counter()

    def count(self, source: str, bad: QuarantineRow | None) -> None:
        """Count a window that was read.

        Raises:
            RunError: If too many are bad.
        """
        self._read[source] += 1
        if bad is None:
            return
        self._bad[source] += 1
        num_bad, num = self._bad[source], self._read[source]
        if num_bad >= self._min_samples and num_bad > self._max_fraction * num:
            raise RunError(
                f"{source}: {num_bad} of {num} samples cannot be read, more than {self._max_fraction:.1%}; the last: "
                f"{bad.key}: {bad.reason}. See quarantine.jsonl"
            )
