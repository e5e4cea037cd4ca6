"""One run at a time on a corpus's folder: a lock of the system on a local disk, a lease in an object store.

A lease is a small file, `work/lease.json`, that says who holds the folder. The holder renews it; one that was not
renewed for `STALE_SECONDS` is of a run that was killed, and the next run takes it over. Where a store can create a file
only if there is none (S3, Google Cloud Storage, Azure), that tells two runs apart that begin together; elsewhere each
reads again who holds it. Clocks of the machines may differ by a minute.
"""

import contextlib
import fcntl
import json
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from pipelines import storage
from pipelines.errors import RunError, UserError
from pipelines.layout import work_folder

RENEW_SECONDS = 30.0
STALE_SECONDS = 300.0
_SETTLE_SECONDS = 2.0  # after which another run that took over the same stale lease has written its own


@dataclass(frozen=True, slots=True)
class _Holder:
    """The run that holds a folder; `renewed_at` is in seconds since 1970."""

    owner: str
    host: str
    process: int
    renewed_at: float

    @property
    def is_gone(self) -> bool:
        """True if the run cannot hold the folder any more: it renews nothing, or its process on this machine ended."""
        return time.time() - self.renewed_at > STALE_SECONDS or (
            self.host == socket.gethostname() and not _is_alive(self.process)
        )


@contextlib.contextmanager
def hold(folder: str) -> Iterator[None]:
    """Keep all other runs from a folder until the block ends, or the process does.

    Raises:
        UserError: If another run holds the folder, or it cannot be written to.
        RunError: If another run took the folder meanwhile, as this one could not renew its lease.
    """
    with _lock(folder) if storage.is_local(folder) else _Lease(folder):
        yield


@contextlib.contextmanager
def _lock(folder: str) -> Iterator[None]:
    path = os.path.join(work_folder(folder), "lock")
    try:
        os.makedirs(work_folder(folder), exist_ok=True)
        lock = open(path, "w")  # noqa: SIM115 - closed below
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise UserError(f"{folder}: folder cannot be written to: {error.strerror}") from error
    with lock as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{folder}: another run is using this folder; wait for it or use another") from error
        yield


class _Lease:
    """A lease of a remote folder, as a context, with a thread that renews it."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._path = storage.join(work_folder(folder), "lease.json")
        self._owner = uuid.uuid4().hex
        self._ended = threading.Event()
        self._lost_to: str | None = None
        self._thread = threading.Thread(target=self._renew_in_time, daemon=True)

    def __enter__(self) -> None:
        if not storage.write_new(self._path, self._content()):
            self._take_over()
        if (holder := self._holder()) is None or holder.owner != self._owner:
            raise self._refusal(holder)
        self._thread.start()

    def __exit__(self, *raised: object) -> None:
        self._ended.set()
        self._thread.join()
        if self._lost_to is not None:
            raise RunError(f"{self._folder}: this run was stopped, since {self._lost_to} uses the folder now")
        with contextlib.suppress(OSError, UserError):  # a store that fails now lets the lease end by its age
            if (holder := self._holder()) is not None and holder.owner == self._owner:
                storage.remove(self._path)

    def _take_over(self) -> None:
        holder = self._holder()
        if holder is not None and not holder.is_gone:
            raise self._refusal(holder)
        storage.write_bytes(self._path, self._content())
        time.sleep(_SETTLE_SECONDS)

    def _refusal(self, holder: _Holder | None) -> UserError:
        who = "another run" if holder is None else f"a run on {holder.host} (process {holder.process})"
        left = STALE_SECONDS - (time.time() - holder.renewed_at) if holder is not None else STALE_SECONDS
        return UserError(
            f"{self._folder}: {who} is using this folder; wait for it or use another. If it was killed, its lease ends "
            f"in {max(left, 0):.0f} s"
        )

    def _content(self) -> bytes:
        holder = _Holder(self._owner, socket.gethostname(), os.getpid(), time.time())
        return json.dumps(asdict(holder)).encode()

    def _holder(self) -> _Holder | None:
        try:
            return _Holder(**json.loads(storage.read_bytes(self._path)))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise UserError(f"{self._path}: is no lease; delete it if no run is using the folder") from error

    def _renew_in_time(self) -> None:
        """Renew the lease until the block ends; stop the run if another one holds it."""
        while not self._ended.wait(RENEW_SECONDS):
            with contextlib.suppress(OSError, UserError):  # the store may answer the next time
                holder = self._holder()
                if holder is not None and holder.owner != self._owner:
                    self._lost_to = f"{holder.host} (process {holder.process})"
                    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)  # wakes it
                    return
                storage.write_bytes(self._path, self._content())


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
