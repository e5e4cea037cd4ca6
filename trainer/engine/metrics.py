"""Records of a run: `metrics.jsonl`, TensorBoard and, if configured, Weights & Biases."""

import contextlib
import json
import math
import sys
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipelines import storage
from pipelines.errors import UserError
from trainer.config import LogSettings
from trainer.engine.distributed import World
from trainer.plan.order import I64
from trainer.plan.steps import Step
from trainer.reading.consumed import ConsumedRow


@dataclass(frozen=True)
class Totals:
    """Samples, tokens and images trained on so far, in total and by source; equal on every rank."""

    samples: int = 0
    tokens: int = 0
    images: int = 0
    pairs: float = 0.0
    by_source: tuple[tuple[int, int, int], ...] = ()

    @classmethod
    def of(cls, step: Step, num_sources: int) -> "Totals":
        """Return the totals of one step, known from the plan."""
        buffer = step.buffer
        packs = buffer.steps[step.number - buffer.start.buffer_step]
        at = np.concatenate([np.array(buffer.packs[pack], np.int64) for pack in packs])
        return cls._of(buffer.sources[at], buffer.windows[at], buffer.tokens[at], buffer.images[at], num_sources)

    @classmethod
    def of_rows(cls, rows: Sequence[ConsumedRow], names: Sequence[str]) -> "Totals":
        """Return the totals of the rows that one rank was trained on."""
        numbers = [(names.index(row.source), row.window, row.num_tokens, row.num_images) for row in rows]
        sources, windows, tokens, images = np.array(numbers, np.int64).reshape(-1, 4).T
        return cls._of(sources, windows, tokens, images, len(names))

    @classmethod
    def _of(cls, sources: I64, windows: I64, tokens: I64, images: I64, num_sources: int) -> "Totals":
        """Return totals; a sample counts with its first window."""
        columns = (
            np.bincount(sources[windows == 0], minlength=num_sources),
            np.bincount(sources, tokens, num_sources).astype(np.int64),
            np.bincount(sources, images, num_sources).astype(np.int64),
        )
        samples, num_tokens, num_images = (int(column.sum()) for column in columns)
        rows = tuple((int(a), int(b), int(c)) for a, b, c in zip(*columns, strict=True))
        return cls(samples, num_tokens, num_images, float((tokens.astype(np.float64) ** 2).sum() / 2), rows)

    def __add__(self, other: "Totals") -> "Totals":
        rows = self.by_source or ((0, 0, 0),) * len(other.by_source)
        return Totals(
            self.samples + other.samples,
            self.tokens + other.tokens,
            self.images + other.images,
            self.pairs + other.pairs,
            tuple((a + d, b + e, c + f) for (a, b, c), (d, e, f) in zip(rows, other.by_source, strict=True)),
        )

    def over(self, world: World) -> "Totals":
        """Return the sum over all processes; all must call."""
        alone = [self.samples, self.tokens, self.images, self.pairs]
        summed = world.sum([*alone, *(value for row in self.by_source for value in row)])
        samples, tokens, images, pairs, *flat = summed
        rows = tuple(zip(*[map(int, flat)] * 3, strict=True))
        return Totals(int(samples), int(tokens), int(images), pairs, rows)

    def to_record(self, names: Sequence[str]) -> dict[str, Any]:
        """Return the totals as a record for a checkpoint, with the names of the sources."""
        return asdict(self) | {"names": list(names)}

    @classmethod
    def from_record(cls, record: dict[str, Any], names: Sequence[str]) -> "Totals":
        """Read the totals from the record of a checkpoint, for sources that may have another order now."""
        rows = dict(zip(record.get("names", names), record["by_source"], strict=True))
        by_source = tuple(tuple(rows.get(name, (0, 0, 0))) for name in names)
        return cls(record["samples"], record["tokens"], record["images"], record["pairs"], by_source)

    def columns(self, names: Sequence[str], sizes: Sequence[int | None]) -> dict[str, float]:
        """Return samples, tokens and images so far; for each source tokens, images and, from its size, epochs."""
        row: dict[str, float] = {"samples": self.samples, "tokens": self.tokens, "images": self.images}
        for name, size, (samples, tokens, images) in zip(names, sizes, self.by_source, strict=True):
            if samples:
                row |= {f"tokens/{name}": tokens, f"images/{name}": images}
                row |= {f"epoch/{name}": round(samples / size, 4)} if size else {}
        return row


class MetricsLog:
    """Log with one row per logged step.

    Args:
        run: The run's folder.
        settings: Other places to which rows are written.
        step: Step at which the run resumes; rows from there on are removed.
        file_name: Name of the file of rows.
    """

    def __init__(self, run: str, settings: LogSettings, step: int = 0, file_name: str = "metrics.jsonl") -> None:
        self.path = storage.join(run, file_name)
        _cut(self.path, step)
        self._board = _tensorboard(storage.join(run, "tensorboard"), step) if settings.tensorboard else None
        self._wandb = _wandb(settings.wandb_project, run) if settings.wandb_project else None

    def write(self, row: dict[str, Any]) -> None:
        """Add a row. Non-finite numbers are written as null: JSON has none."""
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(clean, allow_nan=False) + "\n")
        numbers = {k: v for k, v in clean.items() if isinstance(v, int | float) and k != "step"}
        if self._board is not None:
            for name, value in numbers.items():
                self._board.add_scalar(name, value, row["step"])
        self._mirror(lambda run: run.log(numbers | {"step": row["step"]}))

    def close(self) -> None:
        """Flush what is buffered."""
        if self._board is not None:
            self._board.close()
        self._mirror(lambda run: run.finish())

    def _mirror(self, send: Callable[[Any], None]) -> None:
        """Send to W&B; give it up if its own process has ended, for example by a signal meant for ours."""
        if self._wandb is None:
            return
        try:
            send(self._wandb)
        except OSError as error:
            self._wandb = None
            print(f"Weights & Biases has ended ({error}): further rows go to {self.path}", file=sys.stderr, flush=True)


def read_metrics(path: str) -> list[dict[str, Any]]:
    """Read the rows of a `metrics.jsonl`, without a last line that a killed run left unfinished."""
    rows = []
    if storage.exists(path):
        for line in storage.read_bytes(path).splitlines():
            with contextlib.suppress(ValueError):
                rows.append(json.loads(line))
    return rows


def _cut(path: str, step: int) -> None:
    if storage.exists(path):
        kept = [row for row in read_metrics(path) if row["step"] < step]
        storage.write_bytes(path, "".join(json.dumps(row) + "\n" for row in kept).encode())


def _tensorboard(folder: str, step: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(folder, purge_step=step)


def _wandb(project: str, run: str) -> Any:
    """Return the W&B run that belongs to a run's folder, also for a process that resumes it."""
    try:
        import wandb
    except ImportError as error:
        raise UserError("log.wandb_project: the wandb package is not installed; `pip install wandb`") from error
    path = storage.join(run, "wandb", "run_id")
    if not storage.exists(path):
        storage.write_bytes(path, uuid.uuid4().hex.encode())
    try:
        found = wandb.init(project=project, dir=run, id=storage.read_bytes(path).decode(), resume="allow")
    except wandb.Error as error:  # no key, no network
        raise UserError(f"log.wandb_project: {error}") from error
    # W&B's own step counter drops rows that a resumed run repeats.
    found.define_metric("*", step_metric="step")
    return found
