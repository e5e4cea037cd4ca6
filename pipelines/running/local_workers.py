"""Worker processes of the local runner, forked from a server that has imported everything once.

Beam's own `multi_processing` mode starts an interpreter per worker and pipeline, with three seconds of imports each; a
corpus takes a dozen pipelines. Here a worker starts in milliseconds.
"""

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading

from apache_beam.runners import PipelineRunner

from pipelines.errors import RunError
from pipelines.running.beam_internals import Abort, runner_with_workers, serve_worker
from pipelines.running.forkserver import forkserver

_STOP_SECONDS = 10
LOST_WORKER = "a worker process was killed, possibly for lack of memory; rerun to continue"


class _ForkedWorker:
    """A worker process, and a thread that fails the run if the process ends too early."""

    def __init__(self, control_address: str, worker_id: str, abort: Abort) -> None:
        self._process = forkserver().Process(target=_run_worker, args=(control_address, worker_id), daemon=True)
        self._process.start()
        self._stopping = threading.Event()
        threading.Thread(target=self._watch, args=(abort,), daemon=True).start()

    def _watch(self, abort: Abort) -> None:
        multiprocessing.connection.wait([self._process.sentinel])
        while not self._stopping.wait(0.2):  # else the runner would wait for an answer without end
            abort(RunError(LOST_WORKER))

    def stop(self) -> None:
        self._stopping.set()
        self._process.join(_STOP_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def forking_runner() -> PipelineRunner:
    """Return Beam's in-process runner with forked worker processes."""
    forkserver()
    return runner_with_workers(_ForkedWorker)


def _run_worker(control_address: str, worker_id: str) -> None:
    """Work in this process until the driver stops it or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal: the driver stops us
    end_with_parent()
    serve_worker(control_address, worker_id)


def end_with_parent() -> None:
    """Let this process end when the one that requested it is gone, so that a killed run writes nothing more."""
    parent = multiprocessing.parent_process()  # not the forkserver
    assert parent is not None

    def wait() -> None:
        parent.join()  # waits on a pipe, not on the process id: a zombie or another process may have that
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
