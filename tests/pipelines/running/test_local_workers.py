"""Tests of worker processes of the local runner: their errors reach the driver, and they end with it."""

import multiprocessing.forkserver
import os
import signal
import subprocess
import sys
from pathlib import Path

import apache_beam as beam
import pytest

from pipelines.errors import RunError, UserError
from pipelines.running.runner import Runner, run_pipeline

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
HANGING_RUN = """
import os, sys, threading
import apache_beam as beam
from pipelines.running.runner import Runner, run_pipeline

def hang(path):
    pipe = os.open(path, os.O_WRONLY)  # stays open as long as the worker lives
    os.write(pipe, b"begun")
    threading.Event().wait()

run_pipeline("hanging", Runner("local", 2), lambda p: p | beam.Create([sys.argv[1]]) | beam.Map(hang))
"""


def run(build, num_workers: int = 2) -> None:
    run_pipeline("test", Runner("local", num_workers), build)


def test_work_is_done_in_other_processes_than_the_driver(tmp_path: Path):
    def build(pipeline: beam.Pipeline) -> None:
        numbers = pipeline | beam.Create(range(8)) | beam.Reshuffle()
        _ = numbers | beam.Map(lambda n: (tmp_path / str(n)).write_text(str(os.getpid())))

    run(build)
    pids = [(tmp_path / str(n)).read_text() for n in range(8)]
    assert str(os.getpid()) not in pids


@pytest.mark.parametrize("num_workers", [1, 2])
@pytest.mark.parametrize("kind", [UserError, RunError])
def test_an_error_of_ours_arrives_as_it_was_raised(kind: type[Exception], num_workers: int):
    def build(pipeline: beam.Pipeline) -> None:
        def fail(n: int) -> None:
            raise kind(f"list-{n}.csv: no such column. There are: url [x], text")

        _ = pipeline | "One" >> beam.Create([1]) | "Read the list" >> beam.Map(fail)

    with pytest.raises(kind) as raised:
        run(build, num_workers)
    assert str(raised.value) == "list-1.csv: no such column. There are: url [x], text"


def test_a_bug_in_a_worker_keeps_its_traceback():
    def build(pipeline: beam.Pipeline) -> None:
        _ = pipeline | beam.Create([0]) | beam.Map(lambda n: 1 / n)

    with pytest.raises(RuntimeError, match=r"(?s)Traceback.*test_local_workers.*ZeroDivisionError"):
        run(build)


@pytest.mark.nightly
@pytest.mark.timeout(120)
def test_a_worker_ends_when_its_driver_is_killed(tmp_path: Path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen([sys.executable, "-c", HANGING_RUN, str(pipe)], cwd=ROOT) as driver, open(pipe, "rb") as end:
        assert end.read(5) == b"begun"
        driver.kill()  # and not waited for: a zombie has ended too
        assert end.read() == b""  # the worker's end is closed: it is gone


@pytest.mark.nightly
@pytest.mark.timeout(120)
def test_a_stopped_run_ends_though_its_exception_is_lost(tmp_path: Path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    script = "import signal\nsignal.signal(signal.SIGINT, lambda *_: None)\n" + HANGING_RUN
    command = [sys.executable, "-c", script, str(pipe)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE) as driver, open(pipe, "rb") as end:
        assert end.read(5) == b"begun"
        driver.send_signal(signal.SIGINT)
        assert end.read() == b""
        assert driver.communicate()[1].endswith(b"error: stopped; rerun to continue\n")
        assert driver.returncode == 130


def test_the_server_that_forks_workers_can_be_stopped() -> None:
    server = multiprocessing.forkserver._forkserver
    assert callable(server._stop), "it would end after the run, not with it"
    assert hasattr(server, "_forkserver_pid"), "a command that ends at once would wait until all is imported"
