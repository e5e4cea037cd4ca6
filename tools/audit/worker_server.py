"""The process from which workers are forked: it imports what they need while the command still prepares."""

import multiprocessing
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext

_PRELOAD = ["tools.audit.processes"]


def start_server() -> ForkServerContext:
    """Start it, if it is not running, and return the way to start workers. Importing takes it a second or two."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    forkserver.ensure_running()
    return context
