"""Turn exceptions of our own code into counted drops, so that one odd page, file or record does not end a run.

A crawl of a million hosts must not end with the one whose answer nobody thought of. Boundaries stand around each page,
sitemap, site file and record; what they catch is dropped as `internal_error`. The hash in the detail tells equal faults
from others, and names the file with the traceback.
"""

import contextlib
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
_written: set[str] = set()  # hashes of tracebacks that need no further look at the folder


def keep_tracebacks(folder: str | None) -> None:
    """Write the traceback of each further fault of this process into a folder, once per hash; None: nowhere."""
    global _folder
    if folder != _folder:
        _written.clear()
    _folder = folder


def refusal_of(error: Exception) -> Refusal:
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
    if _folder is not None and digest not in _written:
        _written.add(digest)
        _write_traceback(storage.join(_folder, f"{digest}.txt"), error)
    ours = [frame for frame in frames if frame.startswith("pipelines.")]
    return Refusal("internal_error", f"{name} in {(ours or frames or ['?'])[-1]}, traceback {digest}")


def _write_traceback(path: str, error: Exception) -> None:
    """Write a traceback unless it is there; a store that fails at it must not end a run that the fault did not end."""
    with contextlib.suppress(Exception):
        if not storage.exists(path):
            text = "".join(traceback.format_exception(error))
            storage.write_bytes(path, text.encode("utf-8", "backslashreplace"))


def unless_fault(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
    """Return a result that only illustrates what is counted anyway, or None where our code fails on it."""
    try:
        return work(*args, **kwargs)
    except Exception as error:
        refusal_of(error)
        return None


def without_stop_iteration(work: Callable[P, T]) -> Callable[P, T]:
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
