"""Folders of this machine for what is written aside, which do not stay when their process is killed."""

import fcntl
import functools
import os
import shutil
import tempfile
import time
from contextlib import suppress
from types import TracebackType

PREFIX = "dromaius-scratch-"
_LOCK = "lock"
_MIN_SECONDS = 60.0  # a younger one may be about to be locked


class ScratchFolder:
    """A new folder in TMPDIR, removed with all that is in it when it is closed.

    A file in it is locked as long as its process, or one that was forked from it, is alive. The first folder that a
    process makes removes those that no process holds.
    """

    def __init__(self) -> None:
        _remove_abandoned_once(tempfile.gettempdir())
        self.path = tempfile.mkdtemp(prefix=PREFIX)
        self._lock = open(os.path.join(self.path, _LOCK), "wb")  # noqa: SIM115  held until `close`
        with suppress(OSError):  # a file system without locks: then nobody removes the folder of another process
            fcntl.flock(self._lock, fcntl.LOCK_EX)

    def __enter__(self) -> str:
        return self.path

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


def remove_abandoned(parent: str) -> None:
    """Remove this user's scratch folders that no process holds, but for those made within the last minute."""
    for folder in _own_folders(parent):
        path = os.path.join(folder, _LOCK)
        with suppress(OSError):  # another process has just removed it, or holds it
            if time.time() - os.stat(path, follow_symlinks=False).st_mtime < _MIN_SECONDS:
                continue
            with open(path, "r+b") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)


_remove_abandoned_once = functools.cache(remove_abandoned)


def _own_folders(parent: str) -> list[str]:
    with suppress(OSError), os.scandir(parent) as entries:
        return [
            entry.path
            for entry in entries
            if entry.name.startswith(PREFIX)
            and entry.is_dir(follow_symlinks=False)
            and entry.stat(follow_symlinks=False).st_uid == os.getuid()
        ]
    return []
