"""Files on a local disk or any fsspec URL (`s3://`, `gs://`), read by range, and written whole or not at all.

A local file appears under its name only when its bytes are on disk (temporary name, fsync, rename); an object
store makes an upload visible when it is complete. Readers skip names that begin with `.~`.
"""

import contextlib
import errno
import functools
import hashlib
import io
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, BinaryIO

import fsspec
from fsspec.dircache import DirCache

from pipelines.errors import UserError

TEMPORARY = ".~"
_STORES = {
    *("botocore", "aiobotocore", "google", "gcsfs", "azure", "adlfs", "aiohttp"),
    *("huggingface_hub", "httpx", "httpx2", "httpcore", "requests", "urllib3"),
}
"""Packages behind fsspec whose own errors, such as `NoCredentialsError`, fsspec lets through."""

_LAST_BYTES = 1 << 16  # of a log, in which its last line begins
_BUFFER_BYTES = 1 << 18  # written at once: each write lets another thread go on, and waits for it
_WITHOUT_FOLDERS = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oss", "r2"}


def is_local(path: str) -> bool:
    """Return whether a path is on a mounted file system; a `file://` URL goes through fsspec like any other."""
    return "://" not in path


def join(folder: str, *names: str) -> str:
    """Join names to a folder."""
    return "/".join([folder.rstrip("/") if folder != "/" else "", *names])


def parent(path: str) -> str:
    """Return the folder of a path."""
    return path.rstrip("/").rpartition("/")[0] or "."


@contextlib.contextmanager
def remote(path: str) -> Iterator[tuple[Any, str]]:
    """Return the fsspec file system of a URL and the path in it; its errors inside the block become the user's.

    Raises:
        UserError: If the scheme is unknown, the store refuses access (no credentials, no bucket, no permission), or it
            can only be read.
    """
    try:
        found = fsspec.core.url_to_fs(path)
    except (ImportError, ValueError) as error:  # the scheme is unknown, or its package is missing
        raise UserError(f"{path}: {error}") from error
    except Exception as error:  # some connect at once
        raise UserError(f"{path}: {error_line(error)}; check the address") from error
    _forget_listings(found[0])
    try:
        yield found
    except Exception as error:
        if isinstance(error, NotImplementedError):
            raise UserError(f"{path}: this store can only be read; copy the folder to another") from error
        is_its_own = is_store_error(error) and not isinstance(error, OSError)
        if not is_its_own and not isinstance(error, PermissionError):
            raise
        raise UserError(f"{path}: {error_line(error)}; check the credentials and the address") from error


def _forget_listings(fs: Any) -> None:
    """Turn off a file system's cache of listings: other processes write files that it would never show."""
    listings = getattr(fs, "dircache", None)
    if isinstance(listings, DirCache) and listings.use_listings_cache:
        listings.use_listings_cache = False
        listings.clear()


def _make_folder(fs: Any, folder: str) -> None:
    """Make a folder where a store has any; an object store would make a bucket, also one of a mistyped name."""
    protocol = fs.protocol if isinstance(fs.protocol, str) else fs.protocol[0]
    if protocol not in _WITHOUT_FOLDERS:
        fs.makedirs(folder, exist_ok=True)


def is_store_error(error: BaseException) -> bool:
    """Return whether an error is one of a package behind fsspec."""
    return type(error).__module__.partition(".")[0] in _STORES


def error_line(error: BaseException) -> str:
    """Return the name and words of an error in one line of bounded length."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]


def exists(path: str) -> bool:
    """Return whether a file or folder exists."""
    if is_local(path):
        return os.path.exists(path)
    with remote(path) as (fs, inner):
        return bool(fs.exists(inner))


def size(path: str) -> int:
    """Return the bytes in a file."""
    if is_local(path):
        return os.path.getsize(path)
    with remote(path) as (fs, inner):
        return int(fs.size(inner))


def stamp(path: str) -> list[Any]:
    """Return what tells whether a file has changed without reading it: its size, and its time or its store's tag."""
    if is_local(path):
        found = os.stat(path)
        return [found.st_size, found.st_mtime_ns]
    with remote(path) as (fs, inner):
        return _stamp_of(fs.info(inner))


def list_stamps(folder: str, suffix: str = "") -> dict[str, list[Any]]:
    """Return the `stamp` of each file that `list_files` lists, in its order; of a store, by one listing."""
    if is_local(folder):
        return {path: stamp(path) for path in list_files(folder, suffix)}
    with remote(folder) as (fs, inner):
        found = fs.find(inner, detail=True) if fs.exists(inner) else {}
    stamps = {join(folder, p[len(inner.rstrip("/")) + 1 :]): _stamp_of(info) for p, info in found.items()}
    return {p: stamps[p] for p in sorted(stamps) if _is_finished(p, suffix)}


def _stamp_of(info: dict[str, Any]) -> list[Any]:
    times = (info.get(name) for name in ("LastModified", "last_modified", "mtime", "updated", "created"))
    return [info.get("size"), tag(info), next((str(time) for time in times if time is not None), None)]


def _is_finished(path: str, suffix: str) -> bool:
    return path.endswith(suffix) and not path.rpartition("/")[2].startswith(TEMPORARY)


def tag(info: dict[str, Any]) -> str | None:
    """Return the tag or checksum by which a store names the content of a file, from fsspec's `info`; None if none."""
    found = (info.get(name) for name in ("ETag", "etag", "md5", "md5Hash", "content_md5", "crc32c", "sha256", "oid"))
    return next((str(value).strip('"') for value in found if value), None)


def open_read(path: str) -> BinaryIO:
    """Open a file to read bytes from; a local one is not buffered by fsspec."""
    if is_local(path):
        return open(path, "rb")
    with remote(path) as (fs, inner):
        return io.BufferedReader(fs.open(inner, "rb"), 1 << 20)  # fsspec's own files lack readline(limit)


def read_bytes(path: str) -> bytes:
    with open_read(path) as file:
        return file.read()


def read_range(path: str, offset: int, length: int) -> bytes:
    """Return `length` bytes from `offset`.

    Raises:
        EOFError: If the file ends earlier.
    """
    if is_local(path):
        with open(path, "rb") as file:
            data = os.pread(file.fileno(), length, offset)
    else:
        with remote(path) as (fs, inner):
            data = fs.cat_file(inner, start=offset, end=offset + length)
    if len(data) != length:
        raise EOFError(f"{path}: expected {length} bytes at offset {offset}, found {len(data)}")
    return data


def read_ranges(ranges: Sequence[tuple[str, int, int]]) -> list[bytes]:
    """Return the bytes of several (path, offset, length); a store is asked for all of them at once.

    Raises:
        EOFError: If a file ends earlier.
    """
    by_path: dict[str, list[int]] = {}
    for number, (path, _, _) in enumerate(ranges):
        by_path.setdefault(path, []).append(number)
    found: dict[int, bytes] = {}
    for path, numbers in by_path.items():
        if is_local(path):
            with open(path, "rb") as file:
                found |= {n: os.pread(file.fileno(), ranges[n][2], ranges[n][1]) for n in numbers}
    found |= _read_far_ranges(ranges, {p: numbers for p, numbers in by_path.items() if not is_local(p)})
    for number, (path, offset, length) in enumerate(ranges):
        if len(found[number]) != length:
            raise EOFError(f"{path}: expected {length} bytes at offset {offset}, found {len(found[number])}")
    return [found[number] for number in range(len(ranges))]


def _read_far_ranges(ranges: Sequence[tuple[str, int, int]], by_path: dict[str, list[int]]) -> dict[int, bytes]:
    """Return the bytes of ranges of a store's files by their number; all files are of one store."""
    places: list[tuple[int, str]] = []
    for path, numbers in by_path.items():
        with remote(path) as (_, inner):
            places += [(number, inner) for number in numbers]
    if not places:
        return {}
    with remote(next(iter(by_path))) as (fs, _):
        starts = [ranges[number][1] for number, _ in places]
        ends = [ranges[number][1] + ranges[number][2] for number, _ in places]
        data = fs.cat_ranges([inner for _, inner in places], starts, ends, on_error="raise")
    return {number: found for (number, _), found in zip(places, data, strict=True)}


def sha256(path: str) -> str:
    """Return the hash of a file in hex, read again only if its stamp has changed.

    Raises:
        UserError: If there is no such file.
    """
    try:
        return _sha256(path, repr(stamp(path)))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error


@functools.lru_cache(maxsize=256)
def _sha256(path: str, _: str) -> str:
    digest = hashlib.sha256()
    with open_read(path) as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def list_files(folder: str, suffix: str = "") -> list[str]:
    """Return the sorted paths of finished files below a folder with this suffix; none if the folder is missing."""
    if is_local(folder):
        found = [
            join(base.replace(os.sep, "/"), name)
            for base, _, names in os.walk(folder)
            for name in names
            if name.endswith(suffix) and not name.startswith(TEMPORARY)
        ]
        return sorted(found)
    with remote(folder) as (fs, inner):
        found = fs.find(inner) if fs.exists(inner) else []
    paths = (join(folder, p[len(inner.rstrip("/")) + 1 :]) for p in found)
    return sorted(p for p in paths if _is_finished(p, suffix))


@contextlib.contextmanager
def write_whole(path: str) -> Iterator[IO[bytes]]:
    """Open a file to write bytes to, which appears under its name when the block succeeds, or never.

    The temporary name is unique, so two writers of one path cannot interfere: the last to finish wins.

    Raises:
        UserError: If it is to be in a bucket that there is not.
    """
    if not is_local(path):
        with tempfile.NamedTemporaryFile() as file:  # uploaded in one piece: not every store can undo half an upload
            yield file
            file.flush()
            with remote(path) as (fs, inner):
                _make_folder(fs, parent(inner))
                try:
                    fs.put_file(file.name, inner)
                except FileNotFoundError as error:
                    raise UserError(f"{path}: cannot be written: {error_line(error)}; check the address") from error
        return
    folder, name = os.path.split(path)
    os.makedirs(folder or ".", exist_ok=True)
    temporary = os.path.join(folder, f"{TEMPORARY}{name}.{uuid.uuid4().hex[:12]}")
    try:
        with open(temporary, "wb", _BUFFER_BYTES) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(folder or ".")
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def write_bytes(path: str, data: bytes) -> None:
    """Write a small file in one call."""
    with write_whole(path) as file:
        file.write(data)


def append_bytes(path: str, data: bytes) -> None:
    """Add lines to the end of a small log; a line that a killed process left unfinished is removed first.

    A store cannot append: the file is written there anew.
    """
    if not is_local(path):
        write_bytes(path, (read_bytes(path) if exists(path) else b"") + data)
        return
    os.makedirs(parent(path), exist_ok=True)
    with open(path, "a+b") as file:
        file.seek(max(0, file.tell() - _LAST_BYTES))
        end = file.read()
        if end and not end.endswith(b"\n"):
            file.truncate(os.fstat(file.fileno()).st_size - len(end) + end.rfind(b"\n") + 1)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_new(path: str, data: bytes) -> bool:
    """Write a small file of a store unless there is one; returns whether it was written.

    Where a store offers it, the store decides: of two writers at the same time one is refused.

    Raises:
        UserError: If it is to be in a bucket that there is not.
    """
    if exists(path):
        return False
    with remote(path) as (fs, inner):
        _make_folder(fs, parent(inner))
        try:
            fs.pipe_file(inner, data, mode="create")
        except FileNotFoundError as error:
            raise UserError(f"{path}: cannot be written: {error_line(error)}; check the address") from error
        except OSError as error:
            if isinstance(error, FileExistsError) or _is_conflict(error):
                return False
            raise
    return True


def _is_conflict(error: OSError) -> bool:
    """Return whether a store refused to create a file because there is one: HTTP 412, or 409 while it is written."""
    cause = getattr(error.__cause__, "response", None) or {}
    status = getattr(error, "code", None) or (cause.get("ResponseMetadata") or {}).get("HTTPStatusCode")
    return str(status) in ("409", "412")


def move(source: str, target: str) -> None:
    """Give a finished file another name in the same store, in place of the file that has it.

    Raises:
        UserError: If the store can only be read.
    """
    if is_local(source):
        os.makedirs(parent(target), exist_ok=True)
        try:
            os.replace(source, target)
        except OSError as error:
            if error.errno != errno.EXDEV:  # as where a folder is a link to another disk
                raise
            with open(source, "rb") as read, write_whole(target) as file:
                shutil.copyfileobj(read, file, 1 << 20)
            os.unlink(source)
        _sync_folder(parent(target))
        return
    with remote(source) as (fs, inner), remote(target) as (_, to):
        _make_folder(fs, parent(to))
        fs.cp_file(inner, to)
        fs.rm_file(inner)


def remove(path: str) -> None:
    """Remove a file or a folder with everything below it; does nothing if there is none."""
    if is_local(path):
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        return
    with remote(path) as (fs, inner):
        if fs.exists(inner):
            fs.rm(inner, recursive=True)


def remove_leftovers(folder: str) -> int:
    """Remove temporary files that a killed run left below a local folder; returns their number."""
    leftovers = [p for p in Path(folder).rglob(f"{TEMPORARY}*") if p.is_file()] if is_local(folder) else []
    for path in leftovers:
        path.unlink(missing_ok=True)
    return len(leftovers)


def _sync_folder(folder: str) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
