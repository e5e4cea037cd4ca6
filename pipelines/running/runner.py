"""Execution of pipelines: the runner that `--runner` names, the number of workers, and errors.

`local` is Beam's in-process runner with several worker processes. Any other name is passed to Beam, with the options
after `--` on the command line (PortableRunner, FlinkRunner, SparkRunner, DataflowRunner ...).
"""

import contextlib
import functools
import io
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import apache_beam as beam
import grpc
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners import PipelineRunner, create_runner

from pipelines.command_line import RERUN, end_stopped
from pipelines.errors import RunError, UserError, full_disk
from pipelines.running.beam_internals import is_interrupt, is_lost_worker, without_step
from pipelines.running.local_workers import LOST_WORKER, forking_runner
from pipelines.running.progress import watching
from pipelines.running.reports import Reports
from pipelines.running.watch import Watch

T = TypeVar("T", bound=PipelineOptions)

_STOP_SECONDS = 5.0  # after which a stopped pipeline that has not ended is ended


class _Options(PipelineOptions):
    """Beam's options, of which each view is made once: Beam makes one for each transform, by an argument parser."""

    def view_as(self, cls: type[T]) -> T:
        views: dict[type[T], T] = _VIEWS.setdefault(self, {})
        if cls not in views:
            views[cls] = super().view_as(cls)
        return views[cls]


_VIEWS: WeakKeyDictionary[_Options, dict[Any, Any]] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class Runner:
    """A choice of runner: `name` is `local` or one of Beam's runners; `arguments` are passed to Beam unchanged.

    `reports` are told of the progress of each pipeline.
    """

    name: str = "local"
    num_workers: int = 1
    arguments: tuple[str, ...] = ()
    reports: Reports = field(default_factory=Reports, compare=False)

    @property
    def num_buckets(self) -> int:
        """Number of groups of hosts that are fetched at the same time: one per worker."""
        return self.num_workers if self.name == "local" or self.num_workers > 1 else 64

    def options(self) -> PipelineOptions:
        """Return Beam's options for this runner.

        Raises:
            UserError: If Beam refuses one. An option that Beam does not know is refused for the local runner only:
                others may have options of their own.
        """
        first = f"--runner={self.name}" if self.name != "local" else f"--direct_num_workers={self.num_workers}"
        _check_options((first, *self.arguments), is_local=self.name == "local")
        return _Options([first, *self.arguments])

    def instance(self) -> PipelineRunner:
        """Return the runner itself.

        Raises:
            UserError: If Beam has none of that name.
        """
        if self.name == "local" and self.num_workers > 1:
            return forking_runner()
        try:
            return create_runner("FnApiRunner" if self.name == "local" else self.name)
        except (ValueError, ImportError, AttributeError) as error:
            raise UserError(f"--runner {self.name}: {error}") from error


@functools.cache
def _check_options(arguments: tuple[str, ...], *, is_local: bool) -> None:
    """Check what is passed to Beam, once for all pipelines: each time its parsers of all options are made anew.

    Raises:
        UserError: If Beam refuses one, or, for the local runner, does not know it.
    """
    given = f"-- {' '.join(arguments[1:])}"
    options = _Options(list(arguments))
    try:
        with contextlib.redirect_stderr(io.StringIO()) as said:
            known = options.get_all_options()
            unknown = options.get_all_options(retain_unknown_options=True).keys() - known.keys()
    except SystemExit as error:
        raise UserError(f"{given}: {said.getvalue().strip().rpartition('error: ')[2]}") from error
    if unknown and is_local:
        raise UserError(f"{given}: Beam has no option --{min(unknown)}")


def run_pipeline(
    label: str, runner: Runner, build: Callable[[beam.Pipeline], None], watch: Watch | None = None
) -> None:
    """Build a pipeline and run it to its end, telling what `watch` sees.

    Raises:
        UserError, RunError: If a worker raised one; any other error is a bug and keeps its traceback.
    """
    # With one worker the work is done in this process, partly by asyncio, which handles signals in its own way.
    has_workers = runner.num_workers > 1 and threading.current_thread() is threading.main_thread()
    in_time = _stopped_in_time() if has_workers else contextlib.nullcontext()
    with _quiet_beam(), watching(label, watch, runner.reports), in_time:
        options = runner.options()
        instance = runner.instance()
        try:
            with beam.Pipeline(runner=instance, options=options) as pipeline:
                build(pipeline)
        except Exception as error:
            raise _known(error) from error


def _known(error: BaseException) -> BaseException:
    """Return our own error if a worker raised one: only its text crosses processes, and Beam appends the step."""
    text = _said(error)
    for kind in (UserError, RunError):
        marker = f"{kind.__module__}.{kind.__qualname__}: "
        if marker in text:
            return kind(without_step(text.rpartition(marker)[2]))
    if (known := full_disk(text)) is not None:
        return known
    if is_interrupt(error):
        return KeyboardInterrupt()
    if is_lost_worker(text):
        return RunError(LOST_WORKER)
    return error


def _said(error: BaseException) -> str:
    """Return the type and message of an error, or of each error in a group."""
    if isinstance(error, BaseExceptionGroup):
        return "\n".join(map(_said, error.exceptions))
    return f"{type(error).__module__}.{type(error).__qualname__}: {error}"


@contextlib.contextmanager
def _quiet_beam() -> Iterator[None]:
    """Silence Beam, which logs at WARNING and prints worker tracebacks twice; errors are raised as exceptions."""
    names = ("apache_beam", "root")
    before = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    hook = threading.excepthook
    # Threads that read from a worker raise this when the worker is gone.
    threading.excepthook = lambda args: None if issubclass(args.exc_type, grpc.RpcError) else hook(args)
    try:
        yield
    finally:
        threading.excepthook = hook
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


@contextlib.contextmanager
def _stopped_in_time() -> Iterator[None]:
    """End soon after Ctrl-C in any case: its exception is lost if it is raised in one of gRPC's callbacks."""
    timer = threading.Timer(_STOP_SECONDS, end_stopped, [RERUN])
    timer.daemon = True

    def interrupt(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(RuntimeError):  # the first Ctrl-C has started it
            timer.start()
        if callable(before):
            before(number, frame)

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        timer.cancel()
