"""The data of each step, on which all processes agree: they wait for it together, and act on signals meanwhile."""

import time
from collections.abc import Callable
from functools import partial

from pipelines.errors import RunError, UserError
from trainer.engine.distributed import World
from trainer.engine.progress import Interval
from trainer.engine.signals import Signals
from trainer.plan.mixture import MixtureSettings, listed
from trainer.reading.micro_batches import Batches, RankBatch
from trainer.reading.reader import Loader
from trainer.reading.reading_process import ReadingProcess
from trainer.reading.streaming import SourceEnded, StreamLoader
from trainer.tasks.task import Task

_PATIENCE = 2.0  # seconds that a process waits for data before it meets the others without


class StepData:
    """The data of a run's steps; every method is called by all processes.

    Args:
        task: The task, with its data.
        loader: The loader of this rank's steps.
        batches: What collates them.
        world: The run's processes.
        signals: Signals to this process.
        save: Saves a checkpoint after a number of steps, unless the last one is of that step; returns whether this
            start has trained any step.
        wanted_mixture: Returns the mixture that the config has now; or None, and the reason, if it cannot be read.
    """

    def __init__(
        self,
        task: Task,
        loader: Loader | ReadingProcess | StreamLoader,
        batches: Batches,
        world: World,
        signals: Signals,
        save: Callable[[int], bool],
        wanted_mixture: Callable[[], tuple[MixtureSettings | None, str]],
    ) -> None:
        self._task, self._loader, self._batches = task, loader, batches
        self._world, self._signals = world, signals
        self._save, self._wanted_mixture = save, wanted_mixture

    def next(self, step: int, interval: Interval) -> tuple[RankBatch, list[int]] | None:
        """Return this rank's data of a step and the targets of all ranks; None if the run has saved and stops.

        All processes call this. As long as data is missing on one of them they meet again and again, so that each of
        them acts on a signal to any other, and none waits for one whose data cannot be read.
        """
        batch: RankBatch | None = None
        while True:
            problem: Exception | None = None
            waiting = time.perf_counter()
            try:
                batch = batch or self._batches.take(_PATIENCE)
            except Exception as error:
                problem = error
            interval.waited += time.perf_counter() - waiting
            own = batch.num_targets if batch is not None else [0] * len(self._task.objectives)
            is_late = batch is None and problem is None
            signals = self._signals
            flags = [signals.stop, signals.interrupted, signals.reread, problem is not None, is_late]
            *targets, stop, interrupted, reread, failed, late = map(int, self._world.sum([*own, *flags]))
            if stop or interrupted:
                self._save(step)
                if interrupted:
                    raise KeyboardInterrupt
                return None
            if failed:
                self._continue_or_end(problem, step)
            elif reread and (not late or self._task.data.order != "exact"):
                # A process that is late has not begun to read the next step, unlike the others: between the same two
                # steps of all their loaders is only where none is. Streams refuse a change at any time.
                self._change_mixture()
            if batch is not None and not failed and not late:
                return batch, targets

    def _continue_or_end(self, problem: Exception | None, step: int) -> None:
        """Leave out the streams that have ended if the config says so; otherwise save and end, on all processes.

        Args:
            problem: Why this process has no data; None if it has some.
            step: Number of finished steps.
        """
        mine = None
        if problem is not None:
            mine = type(problem).__name__, str(problem), getattr(problem, "source", None)
        found = self._world.broadcast([p for p in self._world.gather(mine) if p is not None])
        names = {source for _, _, source in found}
        if self._task.run.mixture.when_source_ends == "continue" and None not in names:
            assert isinstance(self._loader, StreamLoader)
            if self._loader.leave_out(names, step):
                for message in dict.fromkeys(message for _, message, _ in found):
                    self._world.say(f"{message}; continuing without {listed(sorted(names))} from about step {step}")
                return
        saved = f"; saved at step {step}" if self._save(step) else ""
        kind, message, _ = found[0]
        if problem is not None and not isinstance(problem, UserError | RunError):
            raise problem
        if kind in (UserError.__name__, RunError.__name__, SourceEnded.__name__):
            raise (UserError if kind == UserError.__name__ else RunError)(message + saved) from problem
        raise RunError("another process of the run has ended; see its own error")

    def _change_mixture(self) -> None:
        """Change to the mixture that the config has now; if it does not fit, say so and change nothing."""
        self._signals.reread = False
        wanted, why = self._world.broadcast(self._wanted_mixture() if self._world.is_first else None)
        if wanted is not None:
            try:
                change = partial(self._task.data.change, self._loader, wanted)
                # Streams refuse, and may keep the thread waiting for bytes.
                step = self._batches.between(change) if self._task.data.order == "exact" else change()
                self._world.say(f"mixture: read again, used from step {step} on")
                return
            except UserError as error:
                why = str(error)
        self._world.say(f"mixture: unchanged: {why}")
