"""The forkserver of `multiprocessing`, from which workers are forked: it imports the stages, once for all of them.

Needs no Beam, so that a command starts it first and imports Beam itself meanwhile.
"""

import atexit
import contextlib
import multiprocessing
import multiprocessing.forkserver
import os
import signal
from multiprocessing.context import ForkServerContext

_PRELOAD = ["pipelines.forkserver_preload"]

_context: ForkServerContext | None = None


def forkserver() -> ForkServerContext:
    """Return the context of processes that are forked from a server that has imported the stages."""
    global _context
    if _context is None:
        _context = multiprocessing.get_context("forkserver")
        _context.set_forkserver_preload(_PRELOAD)
        multiprocessing.forkserver.ensure_running()
        atexit.register(_stop_forkserver)
    return _context


def _stop_forkserver() -> None:
    # `multiprocessing` has no public way to stop its server, which would otherwise end only after this process.
    server = multiprocessing.forkserver._forkserver
    pid, stop = getattr(server, "_forkserver_pid", None), getattr(server, "_stop", None)
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):  # while it imports it does not notice anything else
            os.kill(pid, signal.SIGKILL)
    if stop is not None:
        stop()
