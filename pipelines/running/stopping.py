"""Coroutines of a worker that can be stopped from outside, so that it keeps what it has when its run is lost.

A worker whose connection to the cluster has ended would go on with requests that another worker is being given. It is
stopped instead: it begins nothing more and stores what it has begun. A coroutine that takes longer gets
`CancelledError`, closes its open part, and ends.
"""

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

LAST_SECONDS = 6.0
"""For requests that are in flight; less than a cluster waits before it gives the work to another worker (10 s)."""

_changes = threading.Condition()
_running: dict[asyncio.Task[Any], asyncio.AbstractEventLoop] = {}
_is_stopped = False


def run_stoppable(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in an event loop of this thread, as `asyncio.run` does.

    Raises:
        CancelledError: If this process was told to stop by `stop_all`.
    """

    async def registered() -> T:
        task = asyncio.current_task()
        assert task is not None
        with _changes:
            _running[task] = asyncio.get_running_loop()
            if _is_stopped:
                task.cancel()
        try:
            return await coroutine
        finally:
            with _changes:
                del _running[task]
                _changes.notify_all()

    return asyncio.run(registered())


def is_stopped() -> bool:
    """Return whether this process was told to stop by `stop_all`: then nothing more is begun."""
    return _is_stopped


def stop_all(seconds: float) -> None:
    """Stop all that runs by `run_stoppable` in this process, and all that will.

    What does not end by itself in `LAST_SECONDS` is cancelled.

    Args:
        seconds: How long to wait for the end of what was cancelled.
    """
    global _is_stopped
    with _changes:
        _is_stopped = True
        _changes.wait_for(lambda: not _running, LAST_SECONDS)
        for task, loop in _running.items():
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(task.cancel)
        _changes.wait_for(lambda: not _running, seconds)
