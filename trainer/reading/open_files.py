"""Descriptors of local files: the ones used last stay open, up to a number for the whole process."""

import errno
import functools
import os
import resource
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

from pipelines.errors import RunError

_MOST = 512
_SHARE = 4  # of the descriptors that the process may have: others are for processes, sockets, logs and libraries
_EXHAUSTED = (errno.EMFILE, errno.ENFILE)

Item = TypeVar("Item")


@functools.cache
def open_files() -> "OpenFiles":
    """Return the descriptors of this process, which all readers share."""
    return OpenFiles(most_open_files())


def most_open_files() -> int:
    """Return how many files may stay open: a part of the limit that `ulimit -n` shows."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST if limit == resource.RLIM_INFINITY else max(1, min(_MOST, limit // _SHARE))


class OpenFile:
    """A file that is closed when nothing reads from it any more."""

    def __init__(self, path: str) -> None:
        self.handle = -1
        self.handle = os.open(path.removeprefix("file://"), os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:  # modules are gone when a process ends
        if self.handle >= 0:
            close(self.handle)


class OpenFiles:
    """Files by their paths; the one used longest ago is closed for a new one. Safe to use from many threads.

    Args:
        most: Most files that stay open.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._files: OrderedDict[str, OpenFile] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._files)

    def get(self, path: str) -> OpenFile:
        """Return a file, opened if it is not; it stays open while the caller holds it.

        Raises:
            OSError: If it cannot be opened.
            RunError: If the process has no descriptor for it, although all files here were closed.
        """
        with self._lock:
            if (file := self._files.get(path)) is not None:
                self._files.move_to_end(path)
                return file
        opened = self.with_room(lambda: OpenFile(path))  # without the lock: on a network drive it may take long
        with self._lock:
            file = self._files.setdefault(path, opened)  # another thread may have been first
            self._files.move_to_end(path)
            while len(self._files) > self._most:
                self._files.popitem(last=False)
            return file

    def with_room(self, work: Callable[[], Item]) -> Item:
        """Do work that opens files of its own; if no descriptor is left, close files here until one is.

        Raises:
            RunError: If none is left even then.
        """
        while True:
            try:
                return work()
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    raise
                with self._lock:
                    if self._files:
                        self._files.popitem(last=False)
                        continue
                limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
                raise RunError(
                    f"{os.strerror(error.errno or 0).lower()}: this process may have {limit}; allow more with "
                    "`ulimit -n`, and rerun"
                ) from error
