"""Byte ranges of files: local ones by `pread`, remote ones in chunks cached on a local disk up to a limit."""

import contextlib
import hashlib
import io
import os
import threading
import zlib
from functools import partial
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from pydantic import Field, field_validator

from pipelines import storage
from pipelines.settings import Settings
from trainer.reading.open_files import open_files

_CHECKSUM_BYTES = 4


class CacheSettings(Settings):
    """Cache for chunks of remote files."""

    folder: str | None = Field(
        None, description="folder of the cache; null: one for the user below the system's temporary folder"
    )
    max_bytes: int = Field(50 << 30, ge=1, description="most bytes on disk, over all ranks of a machine")
    chunk_bytes: int = Field(8 << 20, ge=1, description="bytes per request; object stores are slow below some MB")

    @field_validator("folder")
    @classmethod
    def _is_local(cls, folder: str | None) -> str | None:
        if folder is not None and not storage.is_local(folder):
            raise ValueError(f"{folder} is not on a disk of this machine")
        return folder


def cache_folder(settings: CacheSettings) -> Path:
    """Return the folder of the cache, which need not be there."""
    user = f"{os.getuid()}" if hasattr(os, "getuid") else "user"
    return Path(settings.folder or os.path.join(gettempdir(), f"dromaius-cache-{user}"))


class ByteStore:
    """Reads ranges of local and remote files; safe to use from many threads.

    Args:
        settings: Cache for chunks of remote files.
    """

    def __init__(self, settings: CacheSettings | None = None) -> None:
        self._cache = _ChunkCache(settings or CacheSettings())

    def read(self, path: str, offset: int, num_bytes: int) -> bytes:
        """Read `num_bytes` bytes from `offset`.

        Raises:
            EOFError: If the file ends earlier.
            OSError: If it cannot be read.
            RunError: If the process cannot open another file.
        """
        if not storage.is_local(path):
            return open_files().with_room(partial(self._cache.read, path, offset, num_bytes))
        file = open_files().get(path)  # held until it is read: other threads may make room for theirs
        data = os.pread(file.handle, num_bytes, offset)
        if len(data) != num_bytes:
            raise EOFError(f"{path}: expected {num_bytes} bytes at {offset}, found {len(data)}")
        return data

    def size(self, path: str) -> int:
        """Return the bytes in a file."""
        return storage.size(path) if storage.is_local(path) else self._cache.size(path)

    def file(self, path: str) -> io.RawIOBase:
        """Return a file to read from for libraries that need one; it keeps no descriptor."""
        return _RangeFile(self, path)


class _RangeFile(io.RawIOBase):
    """A file with a position whose bytes are ranges of a store."""

    def __init__(self, store: ByteStore, path: str) -> None:
        self._store, self._path = store, path
        self._size, self._at = store.size(path), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self._size - self._at)
        size = left if size is None or size < 0 else min(size, left)
        data = self._store.read(self._path, self._at, size) if size else b""
        self._at += size
        return data


class _ChunkCache:
    """Chunks of remote files in a folder shared by all ranks of a machine; the oldest are removed when it is full.

    A chunk appears under its name only when complete (by a rename), so that ranks need no lock. Two that fetch
    the same chunk at once write the same bytes. Its checksum follows it: a process checks a chunk when it first reads
    from it, fetches one that was damaged again, and reads no more than it needs from then on.
    """

    def __init__(self, settings: CacheSettings) -> None:
        self._settings = settings
        self.folder = cache_folder(settings)
        self._stamps: dict[str, list[Any]] = {}
        self._checked: set[str] = set()  # names of chunks
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()
        self._since_sweep = settings.max_bytes  # sweep at once: another run may have left it full

    def size(self, path: str) -> int:
        """Return the bytes in a file."""
        return int(self._stamp(path)[0])

    def _stamp(self, path: str) -> list[Any]:
        """Return the size and the tag of a file: one that replaced another has chunks of its own."""
        if path not in self._stamps:
            self._stamps[path] = storage.stamp(path)
        return self._stamps[path]

    def read(self, path: str, offset: int, num_bytes: int) -> bytes:
        size, chunk = self.size(path), self._settings.chunk_bytes
        if offset + num_bytes > size:
            raise EOFError(f"{path}: expected {num_bytes} bytes at {offset}, found {max(0, size - offset)}")
        parts = []
        for number in range(offset // chunk, -(-(offset + num_bytes) // chunk)):
            begin = number * chunk
            wanted = slice(max(0, offset - begin), min(chunk, offset + num_bytes - begin))
            parts.append(self._of_chunk(path, begin, min(chunk, size - begin), wanted))
        return b"".join(parts)

    def _of_chunk(self, path: str, begin: int, num_bytes: int, wanted: slice) -> bytes:
        """Return some of the bytes of a chunk, which is fetched if it is not there, or is damaged."""
        name = hashlib.sha256(f"{path} {self._stamp(path)} {begin} {num_bytes}".encode()).hexdigest()[:40]
        file = self.folder / name
        with self._lock:
            lock = self._locks.setdefault(name, threading.Lock())
        try:
            with lock:  # one request per chunk, for any number of threads
                if (found := self._kept(file, num_bytes, wanted)) is not None:
                    return found
                data = storage.read_range(path, begin, num_bytes)
                self._make_room(num_bytes)
                storage.write_bytes(str(file), data + _checksum(data))
                self._checked.add(name)
                return data[wanted]
        finally:
            with self._lock:
                self._locks.pop(name, None)

    def _kept(self, file: Path, num_bytes: int, wanted: slice) -> bytes | None:
        """Return some of the bytes of a chunk in the cache; None if it is not there, or is damaged."""
        with contextlib.suppress(FileNotFoundError), file.open("rb") as opened:
            if os.fstat(opened.fileno()).st_size != num_bytes + _CHECKSUM_BYTES:
                return None
            if file.name not in self._checked:
                data = opened.read(num_bytes)
                if opened.read() != _checksum(data):
                    return None
                self._checked.add(file.name)
            os.utime(file)
            return os.pread(opened.fileno(), wanted.stop - wanted.start, wanted.start)
        return None

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


def _checksum(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(_CHECKSUM_BYTES, "big")
