"""Worker processes of the local runner: forked from a server that has imported everything once.

Beam's own `multi_processing` mode starts an interpreter a worker and a pipeline, three seconds of imports each; a
corpus takes a dozen pipelines. Here `multiprocessing`'s forkserver imports the stages while the first pipeline is
being built, and a worker is there in milliseconds.
"""

import atexit
import contextlib
import multiprocessing
import multiprocessing.connection
import multiprocessing.forkserver
import os
import signal
import threading
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import Any

from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner
from apache_beam.runners.portability.fn_api_runner.worker_handlers import GrpcWorkerHandler, WorkerHandler
from apache_beam.transforms import environments

from pipelines.errors import RunError

_URN = "dromaius:env:forked:v1"
_PRELOAD = ["pipelines.forkserver_preload"]
_STOP_SECONDS = 10
LOST_WORKER = "a worker process was killed, as for want of memory; rerun to go on where it was"

_context: ForkServerContext | None = None


@environments.Environment.register_urn(_URN, bytes)
class ForkedEnvironment(environments.Environment):
    """Beam's name for our worker processes."""

    def to_runner_api_parameter(self, context: Any) -> tuple[str, bytes]:
        return _URN, b""

    @staticmethod
    def from_runner_api_parameter(
        payload: bytes, capabilities: Any, artifacts: Any, resource_hints: Any, context: Any
    ) -> "ForkedEnvironment":
        return ForkedEnvironment(capabilities, artifacts, resource_hints)


@WorkerHandler.register_environment(_URN, bytes)
class _ForkedWorkerHandler(GrpcWorkerHandler):
    """Starts and ends one worker process."""

    def __init__(self, payload: bytes, state: Any, provision_info: Any, grpc_server: Any) -> None:
        super().__init__(state, provision_info, grpc_server)
        self._process: ForkServerProcess | None = None
        self._stopping = threading.Event()

    def start_worker(self) -> None:
        self._process = _forkserver().Process(
            target=_run_worker, args=(self.control_address, self.worker_id), daemon=True
        )
        self._process.start()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        """Fail the run when the worker ends before its time: Beam would wait for its answer for ever."""
        assert self._process is not None
        multiprocessing.connection.wait([self._process.sentinel])
        while not self._stopping.wait(0.2):  # what is asked of it from now on fails as well
            with contextlib.suppress(RuntimeError):  # the dictionary of what it was asked changes meanwhile
                self.control_conn.abort(RunError(LOST_WORKER))

    def stop_worker(self) -> None:
        assert self._process is not None
        self._stopping.set()
        self._process.join(_STOP_SECONDS)  # ends by itself when the control channel closes
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def forking_runner() -> FnApiRunner:
    """Beam's in-process runner with forked worker processes."""
    _forkserver()
    return FnApiRunner(default_environment=ForkedEnvironment(environments.python_sdk_capabilities()))


def _forkserver() -> ForkServerContext:
    global _context
    if _context is None:
        _context = multiprocessing.get_context("forkserver")
        _context.set_forkserver_preload(_PRELOAD)
        multiprocessing.forkserver.ensure_running()
        atexit.register(_stop_forkserver)
    return _context


def _stop_forkserver() -> None:
    stop = getattr(multiprocessing.forkserver._forkserver, "_stop", None)
    if stop is not None:
        stop()


def _run_worker(control_address: str, worker_id: str) -> None:
    """The life of a worker process: Beam's harness, until the driver ends it or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all of a terminal's processes: the driver ends us
    from apache_beam.runners.worker.sdk_worker import SdkHarness

    threading.Thread(target=_end_with_driver, daemon=True).start()
    SdkHarness(control_address, worker_id=worker_id, state_cache_size=0, data_buffer_time_limit_ms=0).run()


def _end_with_driver() -> None:
    """End when the driver is gone, so that a killed run writes nothing more."""
    driver = multiprocessing.parent_process()  # the one that asked for us, not the forkserver
    assert driver is not None
    driver.join()  # a pipe that closes with the driver: its id may still be taken, by itself as a zombie or by another
    os._exit(1)
