"""In which steps a sample was trained on, and the loss there: from a run's `consumed/` and `metrics.jsonl`."""

import json
import threading
from dataclasses import dataclass
from typing import Any

from pipelines import storage
from pipelines.shards.manifest import Manifest
from tools.browse.making import PATIENCE_SECONDS, Making
from tools.queries.sorted_copy import SortedCopy, copy_folder
from tools.trace import BY_KEY, check_corpus, consumed_files, skipped_steps

MAX_STEPS = 200
"""Steps of a sample that are given; the number of all of them is given too."""

_BLOCK = 1 << 16


@dataclass(frozen=True, slots=True)
class Use:
    """A window of a sample that a step was trained on.

    Args:
        loss: Figures of the sample's source at the step that was logged nearest to it, such as `ce`.
        logged: That step; None if none is logged.
        is_skipped: Whether the step did not change the weights.
    """

    step: int
    position: int
    window: int
    epoch: int
    num_tokens: int
    num_images: int
    loss: dict[str, float]
    logged: int | None
    is_skipped: bool


@dataclass(frozen=True, slots=True)
class Uses:
    """The first uses of a sample, and the number of all."""

    first: list[Use]
    num_uses: int
    num_steps: int


class RunRecord:
    """The record of a run, which may be going on.

    Args:
        run: Folder of the run.
        corpus: Folder of the corpus that it is to be of.
        manifest: The corpus's manifest.

    Raises:
        UserError: If it has no record, or is a run of another corpus.
    """

    def __init__(self, run: str, corpus: str, manifest: Manifest) -> None:
        self.run = run
        check_corpus(corpus, manifest, run, consumed_files(run))
        self._lock = threading.Lock()
        self.sorted = Making("the run's record is being sorted", self._sort)

    def uses(self, key: str, source: str) -> Uses:
        """Return where a sample was trained on, in the order of steps.

        Raises:
            NotReadyError: If the record is still being sorted, as `trace` does: some minutes for 100 million rows.
            UserError: If a file of the record is damaged.
        """
        self.sorted.get(PATIENCE_SECONDS)
        rows = [row for row in self._rows(key) if row["source"] == source]
        rows.sort(key=lambda row: (row["step"], row["position"], row["window"]))
        skipped = skipped_steps(self.run)
        losses = LoggedSteps(storage.join(self.run, "metrics.jsonl"))
        first = []
        for row in rows[:MAX_STEPS]:
            logged = losses.nearest(row["step"])
            loss = {} if logged is None else _of_source(logged, source)
            at = None if logged is None else int(logged["step"])
            names = ("step", "position", "window", "epoch", "num_tokens", "num_images")
            numbers = {name: row[name] for name in names}
            first.append(Use(**numbers, loss=loss, logged=at, is_skipped=row["step"] in skipped))
        return Uses(first, len(rows), len({row["step"] for row in rows}))

    def _rows(self, key: str) -> list[dict[str, Any]]:
        with self._lock:
            copy = SortedCopy(copy_folder(self.run, "lookup"), BY_KEY, consumed_files(self.run), self.run)
            return [row for table in copy.find([key]) for row in table.to_pylist()]

    def _sort(self) -> None:
        self._rows("")


def _of_source(row: dict[str, Any], source: str) -> dict[str, float]:
    """Return the figures of training of a source in a row of metrics, without its name."""
    names = ("ce", "regression", "diffusion", "contrastive")
    found = {name: row.get(f"{name}/{source}") for name in names}
    return {name: value for name, value in found.items() if isinstance(value, int | float)}


class LoggedSteps:
    """Rows of a `metrics.jsonl`, found by their step without reading all: its steps never decrease.

    Args:
        path: The file; it may be missing.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._size = storage.size(path) if storage.exists(path) else 0
        self._blocks: dict[int, bytes] = {}

    def nearest(self, step: int) -> dict[str, Any] | None:
        """Return the row of the step that is nearest to one, the later of two; None if there is none."""
        low, high = 0, self._size  # the first row at or after `step` begins in low..high
        while low < high:
            middle = (low + high) // 2
            row, _, end = self._row_after(middle)
            if row is None or row["step"] >= step:
                high = middle
            else:
                low = end
        after, begin, _ = self._row_after(low)
        before = self._row_before(begin)
        if after is None or (before is not None and step - before["step"] < after["step"] - step):
            return before if before is not None else after
        return after

    def _row_after(self, offset: int) -> tuple[dict[str, Any] | None, int, int]:
        """Return the first row that begins at or after an offset, where it begins, and where it ends."""
        begin = offset if offset == 0 else self._line_end(offset - 1)
        while begin < self._size:
            end = self._line_end(begin)
            if (row := self._parsed(begin, end)) is not None:
                return row, begin, end
            begin = end
        return None, self._size, self._size

    def _row_before(self, end: int) -> dict[str, Any] | None:
        """Return the last row that ends at or before an offset."""
        while end > 0:
            begin = self._line_begin(end - 1)
            if (row := self._parsed(begin, end)) is not None:
                return row
            end = begin
        return None

    def _parsed(self, begin: int, end: int) -> dict[str, Any] | None:
        try:
            row = json.loads(self._read(begin, end))
        except ValueError:  # a killed run left it unfinished
            return None
        return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None

    def _line_end(self, offset: int) -> int:
        """Return the offset after the first newline at or after one."""
        while offset < self._size:
            number, inside = divmod(offset, _BLOCK)
            place = self._block(number).find(b"\n", inside)
            if place >= 0:
                return number * _BLOCK + place + 1
            offset = (number + 1) * _BLOCK
        return self._size

    def _line_begin(self, offset: int) -> int:
        """Return where the line begins that ends at an offset, or has it inside."""
        while offset > 0:
            number, inside = divmod(offset - 1, _BLOCK)
            place = self._block(number).rfind(b"\n", 0, inside + 1)
            if place >= 0:
                return number * _BLOCK + place + 1
            offset = number * _BLOCK
        return 0

    def _read(self, begin: int, end: int) -> bytes:
        numbers = range(begin // _BLOCK, -(-end // _BLOCK))
        data = b"".join(self._block(number) for number in numbers)
        skipped = begin - numbers.start * _BLOCK
        return data[skipped : skipped + end - begin]

    def _block(self, number: int) -> bytes:
        if number not in self._blocks:
            begin = number * _BLOCK
            self._blocks[number] = storage.read_range(self._path, begin, min(_BLOCK, self._size - begin))
        return self._blocks[number]
