"""Progress of a pipeline while it runs: a bar on a terminal, reports for programs, and the warnings of workers."""

import contextlib
import sys
import threading
import time
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from pipelines.running import reports as reporting
from pipelines.running.reports import Progress, Reports, split_label
from pipelines.running.watch import Watch, Work

_BAR_SECONDS = 1.0
_MAX_POLL_SHARE = 0.05  # of the time; the folder of a large build takes seconds to list


class _Step:
    """A step that runs: polls its watch, and tells the bar and the reports.

    Args:
        label: Of its pipeline.
        watch: What is polled.
        reports: What is told, but nothing of a step that waits.
        console: For warnings.
        waits: Whether it begins after another step of the pipeline, which is seen by its first unit.
    """

    def __init__(self, label: str, watch: Watch, reports: Reports, console: Console, *, waits: bool = False) -> None:
        self._label = f"{label}: {watch.step}" if watch.step else label
        self._stage, self._name = split_label(self._label)
        self._watch, self._reports, self._console, self._waits = watch, reports, console, waits
        self._bar: tuple[Bar, TaskID] | None = None
        self._began = self._reported = time.monotonic()
        self._at_start = 0
        self._pause = _BAR_SECONDS

    def begin(self) -> None:
        """Take note of what earlier runs have done."""
        self._watch.begin()
        if self._is_shown:
            self._at_start = self._watch.poll().done

    def show(self, bar: Bar) -> None:
        """Show the step in a bar."""
        self._bar = bar, bar.add_task(self._label, total=None, eta="")

    def run(self, stop: threading.Event) -> None:
        """Poll until stopped."""
        while not stop.wait(self._pause):
            with contextlib.suppress(OSError, ValueError):  # a file that was listed may be gone
                self.update(is_end=False)

    def update(self, *, is_end: bool) -> None:
        """Poll once, and tell what was found."""
        before = time.monotonic()
        for text in self._watch.new_alarms():
            self._console.print(f"warning: {text}", soft_wrap=True, markup=False)
            self._reports.alarm(self._stage, text)
        if not self._is_shown:
            return
        work = self._watch.poll()
        self._pause = max(_BAR_SECONDS, (time.monotonic() - before) / _MAX_POLL_SHARE)
        if self._waits and not is_end and work.done <= self._at_start:
            self._began = before
            return
        self._waits = False
        state = self._state(work)
        if self._bar is not None:
            bar, task = self._bar
            bar.update(task, completed=state.work.done, total=state.work.total, eta=_time_left(state.eta_seconds))
        if is_end or before - self._reported >= reporting.INTERVAL_SECONDS:
            self._reported = before
            self._reports.progress(state, is_end=is_end)

    @property
    def _is_shown(self) -> bool:
        return self._bar is not None or self._reports.is_asked

    def _state(self, work: Work) -> Progress:
        seconds = time.monotonic() - self._began
        rate = max(work.done - self._at_start, 0) / seconds if seconds > 0 else 0.0
        eta = None if work.total is None or rate == 0 else max(work.total - work.done, 0) / rate
        return Progress(self._stage, self._name, self._watch.unit, work, seconds, rate, eta)


def _time_left(seconds: float | None) -> str:
    """Return an estimate as people read it: `3 min left`."""
    if seconds is None:
        return ""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.0f} {unit} left"
    return f"{seconds:.0f} s left"


@contextlib.contextmanager
def watching(label: str, watches: Sequence[Watch], reports: Reports) -> Iterator[None]:
    """Tell the progress of steps while the block runs: on stderr, if that is a terminal, and to the reports.

    Args:
        label: Of the pipeline.
        watches: Of its steps, in their order.
        reports: Where to tell it.
    """
    console = Console(stderr=True, highlight=False)
    steps = [_Step(label, watch, reports, console, waits=number > 0) for number, watch in enumerate(watches)]
    with contextlib.ExitStack() as stack:
        if steps and sys.stderr.isatty():
            columns = (
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[eta]}"),
            )
            bar = stack.enter_context(Bar(*columns, console=console, transient=True))
            for step in steps:
                step.show(bar)
        for step in steps:
            step.begin()
        stop = threading.Event()
        threads = [threading.Thread(target=step.run, args=(stop,), daemon=True) for step in steps]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join()
            for step in steps:
                with contextlib.suppress(OSError, ValueError):
                    step.update(is_end=True)
