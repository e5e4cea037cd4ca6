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
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import apache_beam as beam
import grpc
from apache_beam.options.pipeline_options import FlinkRunnerOptions, GoogleCloudOptions, PipelineOptions
from apache_beam.runners import PipelineRunner, create_runner
from apache_beam.runners.runner import PipelineResult

from pipelines.command_line import RERUN, end_stopped
from pipelines.errors import UserError
from pipelines.running.failures import failed_job, known_error
from pipelines.running.flink_jobs import cancel_jobs
from pipelines.running.local_workers import forking_runner
from pipelines.running.progress import watching
from pipelines.running.reports import Reports
from pipelines.running.watch import Watch

T = TypeVar("T", bound=PipelineOptions)

_STOP_SECONDS = 5.0  # after which a stopped pipeline that has not ended is ended
_CANCEL_SECONDS = 20.0  # the same of a job on a cluster, which is asked to cancel it first
_BUCKETS_PER_WORKER = 16  # of a cluster, which spreads them by a hash: with 16 each, few have half as much again
_NO_FREEZE = "disable_logging_submission_environment"  # else Beam runs `pip freeze` for each pipeline: 1 to 2 s
_MIN_BUCKETS = 64  # where the cluster decides how many workers there are


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

    Args:
        name: Name of the runner.
        num_workers: Workers; None: one for `local`, and as many as it is configured for where it is another.
        arguments: Options of Beam.
        log_folder: Where the whole text of a failed job is kept; None: nowhere.
        reports: What is told of the progress of each pipeline.
    """

    name: str = "local"
    num_workers: int | None = None
    arguments: tuple[str, ...] = ()
    log_folder: str | None = None
    reports: Reports = field(default_factory=Reports, compare=False)

    @property
    def is_local(self) -> bool:
        """True if all work is done by processes of this machine."""
        return self.name == "local"

    @property
    def num_buckets(self) -> int:
        """Number of groups of hosts: one per local worker, and several per worker of a cluster, which joins them."""
        if self.is_local:
            return self.num_workers or 1
        parallelism: int = self.options().view_as(FlinkRunnerOptions).parallelism
        return max(_MIN_BUCKETS, _BUCKETS_PER_WORKER * max(self.num_workers or 0, parallelism))

    def options(self) -> PipelineOptions:
        """Return Beam's options for this runner.

        Raises:
            UserError: If Beam refuses one. An option that Beam does not know is refused for the local runner only:
                others may have options of their own.
        """
        if self.is_local:
            ours = [f"--direct_num_workers={self.num_workers or 1}"]
        else:
            ours = [f"--runner={self.name}", *self._parallelism(), f"--experiments={_NO_FREEZE}"]
        _check_options(tuple(ours), self.arguments, is_local=self.is_local)
        if not self.is_local:
            ours.append(f"--job_name=dromaius-{uuid.uuid4().hex[:12]}")  # by which it is found again
        return _Options([*ours, *self.arguments])

    def _parallelism(self) -> list[str]:
        """Return the option by which a cluster uses this many workers; a later option of the user's counts instead."""
        if self.num_workers is None:
            return []
        return [f"--{'num_workers' if self.name == 'DataflowRunner' else 'parallelism'}={self.num_workers}"]

    def instance(self) -> PipelineRunner:
        """Return the runner itself.

        Raises:
            UserError: If Beam has none of that name.
        """
        if self.is_local and (self.num_workers or 1) > 1:
            return forking_runner()
        try:
            return create_runner("FnApiRunner" if self.is_local else self.name)
        except (ValueError, ImportError, AttributeError) as error:
            raise UserError(f"--runner {self.name}: {error}") from error


@functools.cache
def _check_options(ours: tuple[str, ...], arguments: tuple[str, ...], *, is_local: bool) -> None:
    """Check what is passed to Beam, once for all pipelines: each time its parsers of all options are made anew.

    Raises:
        UserError: If Beam refuses one, or, for the local runner, does not know it.
    """
    given = f"-- {' '.join(arguments)}"
    options = _Options([*ours, *arguments])
    try:
        with contextlib.redirect_stderr(io.StringIO()) as said:
            known = options.get_all_options()
            unknown = options.get_all_options(retain_unknown_options=True).keys() - known.keys()
    except SystemExit as error:
        raise UserError(f"{given}: {said.getvalue().strip().rpartition('error: ')[2]}") from error
    if unknown and is_local:
        raise UserError(f"{given}: Beam has no option --{min(unknown)}")


def run_pipeline(label: str, runner: Runner, build: Callable[[beam.Pipeline], object], *watches: Watch) -> None:
    """Build a pipeline and run it to its end, telling what the watches of its steps see.

    Raises:
        UserError, RunError: If a worker raised one; any other error is a bug and keeps its traceback.
    """
    # With one worker the work is done in this process, partly by asyncio, which handles signals in its own way.
    has_workers = not runner.is_local or (runner.num_workers or 1) > 1
    has_workers = has_workers and threading.current_thread() is threading.main_thread()
    seconds = _STOP_SECONDS if runner.is_local else _CANCEL_SECONDS
    in_time = _stopped_in_time(seconds) if has_workers else contextlib.nullcontext()
    with _quiet_beam(), watching(label, watches, runner.reports), in_time:
        options = runner.options()
        instance = runner.instance()
        try:
            pipeline = beam.Pipeline(runner=instance, options=options)
            build(pipeline)
            _finish(pipeline.run(), options)
        except Exception as error:
            if (known := known_error(error)) is not None:
                raise known from error
            if not runner.is_local:
                raise failed_job(label, error, runner.log_folder) from error
            raise


def _finish(result: PipelineResult, options: PipelineOptions) -> None:
    """Wait for the end of a pipeline; Ctrl-C cancels its job, which a cluster would otherwise go on with."""
    try:
        result.wait_until_finish()
    except KeyboardInterrupt:
        with contextlib.suppress(Exception):  # as where the job server is gone; the local runner has nothing to cancel
            result.cancel()
        job_name = options.view_as(GoogleCloudOptions).job_name
        if job_name is not None:
            cancel_jobs(options.view_as(FlinkRunnerOptions).flink_master, job_name)
        raise


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
def _stopped_in_time(seconds: float) -> Iterator[None]:
    """End soon after Ctrl-C in any case: its exception is lost if it is raised in one of gRPC's callbacks."""
    timer = threading.Timer(seconds, end_stopped, [RERUN])
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
