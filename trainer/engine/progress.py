"""Speed and progress of a run: a bar on a terminal, otherwise one line per logged step."""

import sys
import time
from collections.abc import Callable
from typing import Any

from rich import progress
from rich.console import Console

from trainer.engine.metrics import Totals


class Interval:
    """Counts and time since the last logged step."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Reset counts and clock."""
        self._start = time.perf_counter()
        self.waited = self.flops = 0.0
        self.steps = self.tokens = self.images = 0

    def add(self, counts: Totals, flops: float) -> None:
        """Count a step."""
        self.steps += 1
        self.tokens += counts.tokens
        self.images += counts.images
        self.flops += flops

    def outside(self, work: Callable[[], Any]) -> Any:
        """Do work that is not training, and exclude its time."""
        begun = time.perf_counter()
        result = work()
        self._start += time.perf_counter() - begun
        return result

    @property
    def seconds(self) -> float:
        """Seconds of training."""
        return max(1e-9, time.perf_counter() - self._start)


class Progress:
    """Shows logged steps on stderr.

    Args:
        num_steps: Number of steps of the run.
        step: Step at which the run resumes.
        shown: Whether to show progress; off in all processes but one.
    """

    def __init__(self, num_steps: int, step: int, *, shown: bool) -> None:
        self._shown, self._num_steps = shown, num_steps
        self._bar: progress.Progress | None = None
        if shown and sys.stderr.isatty():
            columns = (progress.TextColumn("{task.description}"), progress.BarColumn(), progress.MofNCompleteColumn())
            self._bar = progress.Progress(*columns, progress.TimeRemainingColumn(), console=Console(stderr=True))
            self._task = self._bar.add_task("", total=num_steps, completed=step)
            self._bar.start()

    def show(self, row: dict[str, Any]) -> None:
        """Show a row of the metrics."""
        loss = "skipped" if row["loss"] is None else f"loss {row['loss']:.4f}"
        speed = f"{row['tokens_per_second']:,.0f} tokens/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=row["step"] + 1, description=f"{row['stage']}: {loss}  {speed}")
        elif self._shown:
            rest = f"lr {row['lr']:.2e}  {speed}  wait {row['data_wait_fraction']:.1%}  mfu {row['mfu']:.1%}"
            print(
                f"step {row['step'] + 1}/{self._num_steps} {row['stage']}: {loss}  {rest}", file=sys.stderr, flush=True
            )

    def close(self) -> None:
        """Restore the terminal."""
        if self._bar is not None:
            self._bar.stop()
