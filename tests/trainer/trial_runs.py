"""Runs for tests: whole runs, runs that are killed, and training on a single batch."""

import os
import signal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from tests.trainer.ranks import in_ranks
from trainer.config import TrainConfig
from trainer.engine.distributed import World
from trainer.engine.metrics import read_metrics
from trainer.loop import Training, train
from trainer.tasks.table import TASKS


def run(world: World, command: str, config: TrainConfig, corpus: str, out: Path) -> str:
    """Run a whole command, as a function for `in_ranks`."""
    return train(command, config, corpus, str(out), world)


def killed(size: int, command: str, config: TrainConfig, corpus: str, out: Path, after: int) -> None:
    """Run a command in several processes, all of which die after a step of its last run, as by kill -9."""
    with pytest.raises(EOFError):
        in_ranks(size, _run_killed, command, config, corpus, out, after)


def _run_killed(world: World, command: str, config: TrainConfig, corpus: str, out: Path, after: int) -> str:
    *before, last = (trained for trained in TASKS[command] if trained.settings(config) is not None)
    for trained in before:
        Training(trained, config, corpus, str(out), world).run()
    training = Training(last, config, corpus, str(out), world)
    step_done = training._after

    def die(batch: Any, result: Any, step: int, *rest: Any) -> None:
        step_done(batch, result, step, *rest)
        if step == after:
            os.kill(os.getpid(), signal.SIGKILL)

    training._after = die  # type: ignore[method-assign]
    return training.run()


def consumed(out: Path) -> list[dict[str, Any]]:
    """Return the rows of `consumed` of a run."""
    files = sorted((out / "consumed").glob("*.parquet"))
    return [row for path in files for row in pq.read_table(path).to_pylist()]


def losses(out: Path) -> list[float]:
    """Return the loss of each step of a run."""
    return [row["loss"] for row in read_metrics(str(out / "metrics.jsonl"))]


def overfit(module: torch.nn.Module, batch: Any, totals: list[int] | None, steps: int, *, lr: float) -> list[float]:
    """Train on a single batch; return the losses."""
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=lr)
    found = []
    for _ in range(steps):
        loss = batch.losses(module, totals).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(float(loss.detach()))
    return found
