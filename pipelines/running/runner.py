"""Running a stage: the runner behind `--runner`, the number of workers, and progress while it works.

`local` is Beam's FnApiRunner with one worker process a core; any other name is handed to Beam with what
follows `--` on the command line (PortableRunner, FlinkRunner, SparkRunner, DataflowRunner ...).
"""

import contextlib
import io
import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType

import apache_beam as beam
import grpc
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner
from apache_beam.runners.runner import PipelineRunner, create_runner
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from pipelines.command_line import RERUN, end_stopped
from pipelines.errors import RunError, UserError, full_disk
from pipelines.running.local_workers import LOST_WORKER, forking_runner

_STOP_SECONDS = 5.0  # that a stopped pipeline has to end by itself


@dataclass(frozen=True, slots=True)
class Runner:
    """How pipelines run: `name` is `local` or one of Beam's runners, `arguments` go to Beam as they are."""

    name: str = "local"
    num_workers: int = 1
    arguments: tuple[str, ...] = ()

    @property
    def num_buckets(self) -> int:
        """Groups of hosts that are fetched at the same time: one a worker."""
        return self.num_workers if self.name == "local" or self.num_workers > 1 else 64

    def options(self) -> PipelineOptions:
        """Beam's options for this runner.

        Raises:
            UserError: If Beam does not take one. Other runners than the local one may know more than Beam itself does.
        """
        given = f"-- {' '.join(self.arguments)}"
        first = f"--runner={self.name}" if self.name != "local" else f"--direct_num_workers={self.num_workers}"
        options = PipelineOptions([first, *self.arguments])
        try:
            with contextlib.redirect_stderr(io.StringIO()) as said:
                known = options.get_all_options()
                unknown = options.get_all_options(retain_unknown_options=True).keys() - known.keys()
        except SystemExit as error:
            raise UserError(f"{given}: {said.getvalue().strip().rpartition('error: ')[2]}") from error
        if unknown and self.name == "local":
            raise UserError(f"{given}: Beam has no option --{min(unknown)}")
        return options

    def instance(self) -> PipelineRunner:
        """The runner itself.

        Raises:
            UserError: If Beam has none of that name.
        """
        if self.name == "local":
            return forking_runner() if self.num_workers > 1 else FnApiRunner()
        try:
            return create_runner(self.name)
        except (ValueError, ImportError, AttributeError) as error:
            raise UserError(f"--runner {self.name}: {error}") from error


def run_pipeline(label: str, runner: Runner, build: Callable[[beam.Pipeline], None], done: Callable[[], int]) -> None:
    """Build a pipeline and run it to its end, showing how much `done()` counts.

    Raises:
        UserError, RunError: What a worker raised, as one line; any other error is a bug and keeps its traceback.
    """
    # With one worker the work is done here, partly in asyncio, which has a way of its own with signals.
    has_workers = runner.num_workers > 1 and threading.current_thread() is threading.main_thread()
    in_time = _stopped_in_time() if has_workers else contextlib.nullcontext()
    with _quiet_beam(), _progress(label, done), in_time:
        options = runner.options()
        instance = runner.instance()
        try:
            with beam.Pipeline(runner=instance, options=options) as pipeline:
                build(pipeline)
        except Exception as error:
            raise _known(error) from error


def _known(error: BaseException) -> BaseException:
    """Our own error where a worker raised one: it crosses process borders as text only, and Beam adds where it was."""
    text = _said(error)
    for kind in (UserError, RunError):
        marker = f"{kind.__module__}.{kind.__qualname__}: "
        if marker in text:
            line = text.rpartition(marker)[2].partition("\n")[0]
            return kind(line.partition(" [while running")[0])
    if (known := full_disk(text)) is not None:
        return known
    if str(error).startswith("KeyboardInterrupt [while running"):  # Ctrl-C in this process, as Beam words it
        return KeyboardInterrupt()
    if "Channel closed prematurely" in text:
        return RunError(LOST_WORKER)
    return error


def _said(error: BaseException) -> str:
    """The kind and words of an error, or of each in a group."""
    if isinstance(error, BaseExceptionGroup):
        return "\n".join(map(_said, error.exceptions))
    return f"{type(error).__module__}.{type(error).__qualname__}: {error}"


@contextlib.contextmanager
def _quiet_beam() -> Iterator[None]:
    """Beam logs its own running at WARNING and prints worker tracebacks twice; errors reach the user as exceptions."""
    names = ("apache_beam", "root")
    before = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    hook = threading.excepthook
    # Threads that read from a worker end so when it is gone.
    threading.excepthook = lambda args: None if issubclass(args.exc_type, grpc.RpcError) else hook(args)
    try:
        yield
    finally:
        threading.excepthook = hook
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


@contextlib.contextmanager
def _stopped_in_time() -> Iterator[None]:
    """After Ctrl-C end soon in any case: an exception that it raises in one of gRPC's callbacks gets lost."""
    timer = threading.Timer(_STOP_SECONDS, end_stopped, [RERUN])
    timer.daemon = True

    def interrupt(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(RuntimeError):  # started by the first one
            timer.start()
        if callable(before):
            before(number, frame)

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        timer.cancel()


@contextlib.contextmanager
def _progress(label: str, done: Callable[[], int]) -> Iterator[None]:
    """A line on stderr that counts finished work; nothing where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    stop = threading.Event()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(label, total=None)

        def poll() -> None:
            while not stop.wait(1.0):
                with contextlib.suppress(OSError, ValueError):
                    progress.update(task, completed=done())

        thread = threading.Thread(target=poll, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
