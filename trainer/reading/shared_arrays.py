"""Arrays that all processes of a machine share: an Arrow file, mapped into the memory of each, not read."""

import contextlib
import fcntl
import hashlib
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa

from pipelines import storage
from trainer.reading.byte_store import CacheSettings, cache_folder

Array = np.ndarray[Any, Any]
Arrays = dict[str, Array]

_CHECKSUM = b"crc32"
_LOCK = "shared-arrays.lock"


def shared_arrays(
    path: str,
    made_from: str,
    make: Callable[[], Arrays],
    *,
    is_whole: Callable[[Arrays], bool],
    cache: CacheSettings,
) -> Arrays:
    """Return arrays that are mapped from a file, which is made if it is not there, or is damaged.

    If `path` is on a store, or in a folder that cannot be written to, the file that is mapped is a copy in the cache of
    the machine. One process makes it, the others wait for it. Without a folder that can be written to, the arrays are
    in the memory of each process.

    Args:
        path: Where they are kept.
        made_from: Hash of all that they depend on, which names the copy.
        make: Computes them; one-dimensional.
        is_whole: Whether arrays that were read are complete, and fit together.
        cache: The machine's cache, and its limit.
    """
    copy = str(cache_folder(cache) / f"{hashlib.sha256(f'{made_from} {path}'.encode()).hexdigest()[:40]}.arrow")
    files = (path, copy) if storage.is_local(path) else (copy,)
    if storage.is_local(path) and (found := _mapped(path, is_whole)) is not None:
        return found
    with _one_at_a_time(copy):
        if (found := _first_mapped(files, is_whole)) is not None:  # another process may have made it by now
            return found
        if not storage.is_local(path):
            _fetch(path, copy)
            if (found := _mapped(copy, is_whole)) is not None:
                return found
        arrays = make()
        for file in (path, copy):
            with contextlib.suppress(OSError):
                with storage.write_whole(file) as target:
                    _write(target, arrays)
                if file in files and (found := _mapped(file, is_whole)) is not None:
                    return found
        return arrays


def _first_mapped(files: Sequence[str], is_whole: Callable[[Arrays], bool]) -> Arrays | None:
    return next((found for file in files if (found := _mapped(file, is_whole)) is not None), None)


def _fetch(path: str, copy: str) -> None:
    """Copy a file from a store, if it is there."""
    with contextlib.suppress(OSError), storage.open_read(path) as source, storage.write_whole(copy) as target:
        shutil.copyfileobj(source, target, 1 << 20)


@contextlib.contextmanager
def _one_at_a_time(copy: str) -> Iterator[None]:
    """Wait until no other process of the machine makes arrays; where no file can be locked, do not wait."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            folder = Path(copy).parent
            folder.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context((folder / _LOCK).open("wb"))
            fcntl.flock(file, fcntl.LOCK_EX)  # until it is closed
        yield


def _write(file: IO[bytes], arrays: Mapping[str, Array]) -> None:
    """Write arrays as the only row of a table: they differ in length, so that each is a list."""
    columns = {
        name: pa.LargeListArray.from_arrays(pa.array([0, len(array)], pa.int64()), pa.array(array))
        for name, array in arrays.items()
    }
    table = pa.table(columns).replace_schema_metadata({_CHECKSUM: str(_checksum(arrays))})
    with pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def _mapped(path: str, is_whole: Callable[[Arrays], bool]) -> Arrays | None:
    """Return the arrays of a file, mapped; None if there is none, or it is damaged."""
    try:
        table = pa.ipc.open_file(pa.memory_map(path)).read_all()
        arrays = {name: table.column(name).chunk(0).values.to_numpy() for name in table.column_names}
        said = (table.schema.metadata or {}).get(_CHECKSUM, b"")
        if said != str(_checksum(arrays)).encode() or not is_whole(arrays):
            return None
    except (OSError, ValueError, KeyError, IndexError, AttributeError, pa.ArrowException):
        return None
    return arrays


def _checksum(arrays: Mapping[str, Array]) -> int:
    found = 0
    for name in sorted(arrays):
        found = zlib.crc32(np.ascontiguousarray(arrays[name]).view(np.uint8).data, zlib.crc32(name.encode(), found))
    return found
