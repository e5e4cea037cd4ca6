"""Workers of a cluster on one machine: a service that forks them from a process that has imported everything once.

Beam's own pool starts an interpreter per worker and job, of whichever `python` comes first, and lets a worker that lost
its cluster go on with requests that another worker is being given. Here a worker starts in milliseconds, and stops with
its connection: it closes its open part first.
"""

import contextlib
import multiprocessing.process
import signal
import sys
import threading
import time

import grpc

from pipelines.errors import UserError
from pipelines.running.beam_internals import serve_worker, worker_pool
from pipelines.running.forkserver import forkserver
from pipelines.running.local_workers import end_with_parent
from pipelines.running.stopping import stop_all

_STOP_SECONDS = 60.0  # in which a worker puts away what it has
_LOOK_SECONDS = 0.5


def run_worker_pool(host: str, port: int) -> None:
    """Start workers for a cluster until this process is stopped.

    Raises:
        UserError: If the address is taken.
    """
    workers: list[multiprocessing.process.BaseProcess] = []

    def start(control_address: str, worker_id: str) -> None:
        worker = forkserver().Process(target=_run_worker, args=(control_address, worker_id), daemon=True)
        worker.start()
        workers.append(worker)

    forkserver()
    try:
        server = worker_pool(f"{host}:{port}", start)
    except RuntimeError as error:
        raise UserError(f"--port {port}: {host} has no such port free; stop what uses it, or choose another") from error
    print(f"{host}:{port}: workers are started when a cluster asks for them", file=sys.stderr)
    try:
        while True:
            time.sleep(_LOOK_SECONDS)
            workers[:] = [worker for worker in workers if worker.is_alive()]  # also collects those that ended
    finally:
        server.stop(0)


def _run_worker(control_address: str, worker_id: str) -> None:
    """Work in this process until the connection to the cluster ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    hook = threading.excepthook
    # Threads that read from the cluster raise this at its end.
    threading.excepthook = lambda args: None if issubclass(args.exc_type, grpc.RpcError) else hook(args)
    with contextlib.suppress(grpc.RpcError):  # the cluster's process was killed
        serve_worker(control_address, worker_id)
    stop_all(_STOP_SECONDS)  # what still runs is of a job that goes on elsewhere
