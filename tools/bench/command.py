"""Commands that benchmarks run: what one took, and servers that run beside one."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_STAGE = re.compile(r"^(\w+) +([0-9.]+) s$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Ran:
    """What a command took: wall-clock and CPU seconds, and wall-clock seconds of each stage that it printed.

    Attributes:
        seconds: Wall-clock seconds.
        processor_seconds: CPU seconds, with those of the processes that it waited for.
        stages: Wall-clock seconds by the names of stages; none of a command that is not ours.
        exit_code: Its exit code.
        log: The file of what it printed.
    """

    seconds: float
    processor_seconds: float
    stages: dict[str, float]
    exit_code: int
    log: Path


def run_anew(
    command: list[str],
    out: Path,
    *,
    environment: Mapping[str, str] | None = None,
    beside: Callable[[int, Path], contextlib.AbstractContextManager[object]] | None = None,
) -> Ran:
    """Run a command that writes into a folder, which is removed first.

    Args:
        command: The command and its arguments.
        out: The folder; what is printed goes into a file beside it.
        environment: Variables beside those of this process.
        beside: Returns what is done while it runs, by its process id and the file of what it prints.
    """
    shutil.rmtree(out, ignore_errors=True)
    log = out.with_suffix(".log")
    began = time.perf_counter()
    with open(log, "wb") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env=os.environ | dict(environment or {})
        )
        with beside(process.pid, log) if beside is not None else contextlib.nullcontext():
            _, status, usage = os.wait4(process.pid, 0)  # includes the processes it waited for
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    return Ran(seconds, usage.ru_utime + usage.ru_stime, stages_in(log), process.returncode, log)


def build_anew(
    spec: Path,
    out: Path,
    num_workers: int,
    *,
    environment: Mapping[str, str] | None = None,
    beside: Callable[[int, Path], contextlib.AbstractContextManager[object]] | None = None,
) -> Ran:
    """Build a corpus anew by `python -m pipelines corpus`. Other arguments as in `run_anew`.

    Raises:
        RuntimeError: If the build failed.
    """
    arguments = ["corpus", "--spec", str(spec), "--out", str(out), "--workers", str(num_workers)]
    ran = run_anew([sys.executable, "-m", "pipelines", *arguments], out, environment=environment, beside=beside)
    if ran.exit_code != 0:
        raise RuntimeError(f"the build failed: see {ran.log}")
    return ran


def stages_in(log: Path) -> dict[str, float]:
    """Return the seconds of each stage that a build has printed so far."""
    return {name: float(took) for name, took in _STAGE.findall(log.read_text(errors="replace"))}


@contextlib.contextmanager
def serving(module: str, *arguments: str) -> Iterator[None]:
    """Run a module that serves, and prints `ready`, in a process of its own.

    Raises:
        RuntimeError: If it does not start.
    """
    command = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        if server.stdout.readline() != b"ready\n":
            raise RuntimeError(f"{module} does not start")
        try:
            yield
        finally:
            server.terminate()
