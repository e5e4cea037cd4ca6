"""Faults of our own code that a page, file or record from elsewhere brings to light: counted drops, no end of a run.

A crawl of a million hosts must not end with the one whose answer nobody thought of. Boundaries stand around each page,
sitemap, site file and record; what they catch is dropped as `internal_error`. The hash in the detail tells equal faults
from others, and names the file with the traceback.
"""

import functools
import hashlib
import traceback
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import ParamSpec, TypeVar

from pipelines import storage
from pipelines.drop_reasons import Refusal
from pipelines.errors import RunError, UserError

P = ParamSpec("P")
T = TypeVar("T")

_HASH_CHARS = 12
_folder: str | None = None


def keep_tracebacks(folder: str | None) -> None:
    """Write the traceback of each further fault of this process into a folder, once per hash; None: nowhere."""
    global _folder
    _folder = folder


def fault(error: Exception) -> Refusal:
    """Return the refusal by which a fault is counted.

    Raises:
        Exception: The error itself, if no foreign input is to blame: a user's mistake, memory, disk or descriptors, or
            the end of the run.
    """
    is_of_the_system = isinstance(error, OSError) and error.errno is not None
    if is_of_the_system or isinstance(error, MemoryError | CancelledError | UserError | RunError):
        raise error
    called = [
        f"{frame.f_globals.get('__name__', '?')}:{line} {frame.f_code.co_qualname}"
        for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    frames = list(dict.fromkeys(called))  # each once: a recursion is the same fault at any depth
    name = type(error).__qualname__
    digest = hashlib.sha256("\n".join([name, *frames]).encode()).hexdigest()[:_HASH_CHARS]
    if _folder is not None and not storage.exists(path := storage.join(_folder, f"{digest}.txt")):
        text = "".join(traceback.format_exception(error))
        storage.write_bytes(path, text.encode("utf-8", "backslashreplace"))
    ours = [frame for frame in frames if frame.startswith("pipelines.")]
    return Refusal("internal_error", f"{name} in {(ours or frames or ['?'])[-1]}, traceback {digest}")


def unless_fault(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
    """Return a result that only illustrates what is counted anyway, or None where our code fails on it."""
    try:
        return work(*args, **kwargs)
    except Exception as error:
        fault(error)
        return None


def for_thread(work: Callable[P, T]) -> Callable[P, T]:
    """Return a function that may run in a thread for a coroutine, which a `StopIteration` would leave waiting forever.

    asyncio cannot hand that one over (Python 3.12 turns it into the same `RuntimeError`).
    """

    @functools.wraps(work)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return work(*args, **kwargs)
        except StopIteration as error:
            raise RuntimeError("StopIteration in a thread") from error

    return run
