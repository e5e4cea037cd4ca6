"""Copy of a run's folder in an object store or elsewhere, from which it continues on machines that have nothing of it.

Checkpoints are written to a disk, as DeepSpeed needs one, and copied by a thread while training goes on. The file that
tells that a checkpoint is complete, `run_state.json`, is copied last. With each checkpoint go the run's other files.
"""

import shutil
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipelines import storage
from pipelines.errors import UserError

LAST = "run_state.json"
_FOLDER = "checkpoints"
_WRITERS = 8  # files that are copied at the same time


class RunCopy:
    """A run's folder and its copy; of all processes, only the first has one.

    Args:
        run: The run's folder.
        remote: The copy's folder, a path or an fsspec URL.
        keep: Number of newest checkpoints to keep there.
    """

    def __init__(self, run: Path, remote: str, keep: int) -> None:
        self._run, self._remote, self._keep = run, remote.rstrip("/"), keep
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self._copied: dict[Path, tuple[int, int]] = {}  # size and time of the run's other files

    def begin(self, checkpoint: Path) -> None:
        """Copy a finished checkpoint in the background, once the one before is copied.

        Raises:
            UserError: If that one could not be.
        """
        self.wait()
        self._thread = threading.Thread(target=self._try, args=(lambda: self._copy(checkpoint),), daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait until what was begun is copied.

        Raises:
            UserError: If it could not be.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise UserError(f"{self._remote}: the run cannot be copied there: {storage.error_line(error)}") from error

    def finish(self) -> None:
        """Copy what the run has written since its last checkpoint, as the model, before it ends.

        Raises:
            UserError: If it cannot be, or an earlier copy could not.
        """
        self.wait()
        self._try(self._copy_others)
        self.wait()

    def restore(self) -> str | None:
        """Fetch the newest complete checkpoint and the run's other files; return its name, or None if there is none.

        Raises:
            UserError: If the store refuses access.
        """
        finished = self._finished()
        if not finished:
            return None
        newest = finished[-1]
        kept = [path for path in storage.list_files(self._remote) if not self._name(path).startswith(f"{_FOLDER}/")]
        self._in_parallel(lambda path: _copy_file(path, str(self._run / self._name(path))), kept)
        temporary = self._run / _FOLDER / f"{storage.TEMPORARY}{newest}"
        shutil.rmtree(temporary, ignore_errors=True)
        folder = storage.join(self._remote, _FOLDER, newest)
        paths = storage.list_files(folder)
        self._in_parallel(lambda path: _copy_file(path, str(temporary / path[len(folder) + 1 :])), paths)
        temporary.rename(temporary.with_name(newest))
        return newest

    def _copy(self, checkpoint: Path) -> None:
        self._copy_others()
        paths = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != LAST)
        self._in_parallel(self._to_remote, paths)
        self._to_remote(checkpoint / LAST)
        for name in self._finished()[: -self._keep]:
            folder = storage.join(self._remote, _FOLDER, name)
            storage.remove(storage.join(folder, LAST))  # first: what is left of it is no checkpoint
            storage.remove(folder)

    def _copy_others(self) -> None:
        """Copy the run's files outside its checkpoints that are new or have changed."""
        paths = sorted(path for path in self._run.rglob("*") if path.is_file())
        names = {path: path.relative_to(self._run).parts for path in paths}
        stamps = {
            path: (path.stat().st_size, path.stat().st_mtime_ns)
            for path in paths
            if _FOLDER not in names[path] and not any(name.startswith(storage.TEMPORARY) for name in names[path])
        }
        self._in_parallel(self._to_remote, [path for path in stamps if self._copied.get(path) != stamps[path]])
        self._copied = stamps

    def _finished(self) -> list[str]:
        """Return the names of the complete checkpoints of the copy, from the oldest on."""
        paths = storage.list_files(storage.join(self._remote, _FOLDER), f"/{LAST}")
        return sorted(path.split("/")[-2] for path in paths)

    def _name(self, path: str) -> str:
        return path[len(self._remote) + 1 :]

    def _to_remote(self, path: Path) -> None:
        _copy_file(str(path), storage.join(self._remote, path.relative_to(self._run).as_posix()))

    def _in_parallel(self, work: Callable[..., None], items: Iterable[str] | Iterable[Path]) -> None:
        with ThreadPoolExecutor(_WRITERS) as pool:
            for _ in pool.map(work, items):
                pass

    def _try(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:
            self._error = error


def _copy_file(source: str, target: str) -> None:
    with storage.open_read(source) as read, storage.write_whole(target) as file:
        shutil.copyfileobj(read, file, 8 << 20)
