"""Byte ranges of files: local ones by `pread`, remote ones in chunks cached on a local disk up to a limit."""

import hashlib
import os
import threading
from collections import OrderedDict
from pathlib import Path
from tempfile import gettempdir

from pydantic import Field

from pipelines import storage
from pipelines.settings import Settings

_OPEN_FILES = 512  # below the usual limit of 1,024 per process


class CacheSettings(Settings):
    """Cache for chunks of remote tars."""

    folder: str | None = Field(
        None, description="folder of the cache; null: one for the user below the system's temporary folder"
    )
    max_bytes: int = Field(50 << 30, ge=1, description="most bytes on disk, over all ranks of a machine")
    chunk_bytes: int = Field(8 << 20, ge=1, description="bytes per request; object stores are slow below some MB")


class ByteStore:
    """Reads ranges of local and remote files; safe to use from many threads.

    Args:
        settings: Cache for chunks of remote files.
    """

    def __init__(self, settings: CacheSettings | None = None) -> None:
        self._files: OrderedDict[str, _OpenFile] = OrderedDict()
        self._lock = threading.Lock()
        self._cache = _ChunkCache(settings or CacheSettings())

    def read(self, path: str, offset: int, num_bytes: int) -> bytes:
        """Read `num_bytes` bytes from `offset`.

        Raises:
            EOFError: If the file ends earlier.
            OSError: If it cannot be read.
        """
        if not storage.is_local(path):
            return self._cache.read(path, offset, num_bytes)
        file = self._files.get(path) or self._open(path)
        data = os.pread(file.handle, num_bytes, offset)
        if len(data) != num_bytes:
            raise EOFError(f"{path}: expected {num_bytes} bytes at {offset}, found {len(data)}")
        return data

    def _open(self, path: str) -> "_OpenFile":
        with self._lock:
            if path not in self._files:
                self._files[path] = _OpenFile(path)
                if len(self._files) > _OPEN_FILES:
                    self._files.popitem(last=False)
            return self._files[path]


class _OpenFile:
    """A file that is closed when nothing reads from it any more."""

    def __init__(self, path: str) -> None:
        self.handle = -1
        self.handle = os.open(path.removeprefix("file://"), os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if self.handle >= 0:
            os.close(self.handle)


class _ChunkCache:
    """Chunks of remote files in a folder shared by all ranks of a machine; the oldest are removed when it is full.

    A chunk appears under its name only when complete (by a rename), so that ranks need no lock. Two that fetch
    the same chunk at once write the same bytes.
    """

    def __init__(self, settings: CacheSettings) -> None:
        self._settings = settings
        user = f"{os.getuid()}" if hasattr(os, "getuid") else "user"
        self.folder = Path(settings.folder or os.path.join(gettempdir(), f"dromaius-cache-{user}"))
        self._sizes: dict[str, int] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()
        self._since_sweep = settings.max_bytes  # sweep at once: another run may have left it full

    def read(self, path: str, offset: int, num_bytes: int) -> bytes:
        if path not in self._sizes:
            self._sizes[path] = storage.size(path)
        size, chunk = self._sizes[path], self._settings.chunk_bytes
        if offset + num_bytes > size:
            raise EOFError(f"{path}: expected {num_bytes} bytes at {offset}, found {max(0, size - offset)}")
        parts = []
        for number in range(offset // chunk, -(-(offset + num_bytes) // chunk)):
            begin = number * chunk
            data = self._chunk(path, begin, min(chunk, size - begin))
            parts.append(data[max(0, offset - begin) : offset + num_bytes - begin])
        return b"".join(parts)

    def _chunk(self, path: str, begin: int, num_bytes: int) -> bytes:
        name = hashlib.sha256(f"{path} {self._sizes[path]} {begin} {num_bytes}".encode()).hexdigest()[:40]
        file = self.folder / name
        with self._lock:
            lock = self._locks.setdefault(name, threading.Lock())
        with lock:  # one request per chunk, for any number of threads
            try:
                data = file.read_bytes()
                if len(data) == num_bytes:
                    os.utime(file)
                    return data
            except FileNotFoundError:
                pass
            data = storage.read_range(path, begin, num_bytes)
            self._make_room(num_bytes)
            storage.write_bytes(str(file), data)
        with self._lock:
            self._locks.pop(name, None)
        return data

    def _make_room(self, num_bytes: int) -> None:
        """Remove the oldest chunks until all fit; checks the folder each time a sixteenth of it was written."""
        limit = self._settings.max_bytes
        with self._lock:
            self._since_sweep += num_bytes
            if self._since_sweep < limit // 16:
                return
            self._since_sweep = 0
        found = []
        for file in self.folder.glob("*") if self.folder.is_dir() else ():
            try:
                stat = file.stat()
            except FileNotFoundError:
                continue
            found.append((stat.st_mtime_ns, stat.st_size, file))
        total = sum(size for _, size, _ in found) + num_bytes
        for _, size, file in sorted(found):
            if total <= limit - limit // 16:
                break
            file.unlink(missing_ok=True)
            total -= size
