"""One shard for training: where the parts of its samples are, and their text as ids, one row group at a time.

Rows are read from the corpus's sidecar and the token sidecar; a tar is opened only for images, and a read goes directly
to the requested bytes. What is read is checked against the header before it, which costs 512 bytes.
"""

import errno
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from model.segment import ImageSegment, Phrase, Segment, Text
from pipelines import storage
from pipelines.errors import RunError, UserError
from pipelines.shards.manifest import ShardInfo
from pipelines.shards.tar_samples import BLOCK, size_in_header
from pipelines.shards.token_sidecar import TYPES
from trainer.reading.byte_store import ByteStore

GROUP_CACHE_BYTES = 256 << 20
"""Bytes of cached row groups: the blocks that a few sources are being read from."""

_PARTS = (
    "key",
    "byte_offset",
    "bytes",
    *(f"parts.list.element.{name}" for name in ("name", "offset", "bytes")),
    "media.list.element.part",
)
_FRAME = TYPES.index("frame")
_TEXT = TYPES.index("text")

Item = TypeVar("Item")


class DamagedSample(Exception):  # noqa: N818 - a fact about data, which has a substitute
    """A sample that cannot be read or decoded."""


class GroupCache(Generic[Item]):
    """The row groups that were read last, up to a number of bytes; one cache for all shards and threads."""

    def __init__(self, max_bytes: int = GROUP_CACHE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._items: OrderedDict[Any, tuple[Item, int]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: Any, make: Callable[[], tuple[Item, int]]) -> Item:
        """Return the item of a key; `make` returns it with its size if it is not cached."""
        with self._lock:
            if key in self._items:
                self._items.move_to_end(key)
                return self._items[key][0]
        item, size = make()
        with self._lock:
            if key not in self._items:
                self._items[key] = (item, size)
                self._bytes += size
                while self._bytes > self._max_bytes and len(self._items) > 1:
                    self._bytes -= self._items.popitem(last=False)[1][1]
        return item


class ShardReader:
    """Reads samples of a shard by their row.

    Args:
        corpus: The corpus's folder.
        shard: The shard, as in the manifest.
        tokens: Path of its token sidecar.
        store: Reads tar and sidecars.
        cache: Cache of row groups.
    """

    def __init__(self, corpus: str, shard: ShardInfo, tokens: str, store: ByteStore, cache: "GroupCache[Any]") -> None:
        self.shard = shard
        self.path = storage.join(corpus, shard.path)
        self._store, self._cache = store, cache
        self._parts = _GroupedFile(storage.join(corpus, shard.sidecar), _PARTS, store, cache)
        self._tokens = _GroupedFile(tokens, None, store, cache)

    def key(self, row: int) -> str:
        """Return a sample's key."""
        group, at = self._part_group(row)
        return str(group.keys[at])

    def segments(self, row: int) -> list[Segment]:
        """Return the segments of a sample."""
        tokens = self._tokens
        number, at = tokens.locate(row)
        group: _TokenGroup = self._cache.get((tokens.path, number), lambda: _TokenGroup.read(tokens, number))
        return group.segments(at)

    def image(self, row: int, media: int) -> bytes:
        """Return the bytes of one of a sample's images.

        Raises:
            DamagedSample: If they are not at the place given in the sidecar.
            RunError: If the tar cannot be read at all.
        """
        group, at = self._part_group(row)
        offset, size = group.media(at, media)
        data = self._read(offset - BLOCK, size + BLOCK)
        if size_in_header(data[:BLOCK]) != size:
            raise DamagedSample(f"{self.shard.path}: no header of {size} bytes before byte {offset}: a stale sidecar")
        return data[BLOCK:]

    def raw(self, row: int) -> tuple[str, dict[str, bytes]]:
        """Return a sample's key and all its parts, with one read.

        Raises:
            DamagedSample: If the tar ends earlier.
            RunError: If it cannot be read at all.
        """
        group, at = self._part_group(row)
        begin, size = group.offsets[at], group.sizes[at]
        data = self._read(begin, size)
        names, offsets, lengths = group.part_names, group.part_offsets, group.part_sizes
        return group.keys[at], {
            names[p]: data[offsets[p] - begin : offsets[p] - begin + lengths[p]]
            for p in range(group.part_first[at], group.part_first[at + 1])
        }

    def _read(self, offset: int, length: int) -> bytes:
        """Read bytes of the tar.

        Raises:
            DamagedSample: If the tar ends earlier, or its disk cannot read them.
            RunError: If anything else is wrong, for which no sample is to blame, such as network or permission.
        """
        try:
            return self._store.read(self.path, offset, length)
        except EOFError as error:
            raise DamagedSample(str(error)) from error
        except OSError as error:
            if error.errno == errno.EIO and storage.is_local(self.path):  # a bad sector
                raise DamagedSample(str(error)) from error
            raise RunError(f"{self.path}: cannot be read: {error.strerror or error}") from error

    def _part_group(self, row: int) -> tuple["_PartGroup", int]:
        number, at = self._parts.locate(row)
        group: _PartGroup = self._cache.get((self._parts.path, number), lambda: _PartGroup.read(self._parts, number))
        return group, at


class _GroupedFile:
    """A parquet file by its row groups. It keeps no descriptor, and its metadata only as long as the cache has room.

    Args:
        path: The file.
        columns: Columns that are read; None: all.
        store: Reads the file.
        cache: Cache of its metadata.
    """

    def __init__(self, path: str, columns: tuple[str, ...] | None, store: ByteStore, cache: "GroupCache[Any]") -> None:
        self.path = path
        self._columns, self._store, self._cache = columns, store, cache
        self._rows = 0  # of each row group except the last; 0 before the first read
        self._lock = threading.Lock()

    def locate(self, row: int) -> tuple[int, int]:
        """Return the row group of a row, and its position there."""
        if not self._rows:
            self._rows = self._file().metadata.row_group(0).num_rows
        number = row // self._rows
        return number, row - number * self._rows

    def read(self, number: int) -> pa.Table:
        """Read a row group; one thread at a time, since the file has one position."""
        file = self._file()
        try:
            with self._lock:
                return file.read_row_group(number, columns=list(self._columns) if self._columns else None)
        except (OSError, EOFError, pa.ArrowInvalid) as error:
            raise UserError(f"{self.path}: row group {number} cannot be read: {error}") from error

    def _file(self) -> pq.ParquetFile:
        file: pq.ParquetFile = self._cache.get((self.path, "file"), self._open)
        return file

    def _open(self) -> tuple[pq.ParquetFile, int]:
        """Read the metadata; return the file with the approximate bytes that it takes in memory."""
        try:
            file = pq.ParquetFile(self._store.file(self.path))
        except (OSError, EOFError, pa.ArrowInvalid) as error:
            raise UserError(f"{self.path}: cannot be read: {error}") from error
        return file, 4 * file.metadata.serialized_size


class _PartGroup:
    """Positions of the parts of a row group's samples, as plain lists, since they are read one number at a time."""

    @classmethod
    def read(cls, file: _GroupedFile, number: int) -> tuple["_PartGroup", int]:
        """Read a row group; return it with its approximate bytes in memory."""
        table = file.read(number)
        return cls(table), 3 * table.nbytes

    def __init__(self, table: pa.Table) -> None:
        self.keys: list[str] = table.column("key").to_pylist()
        self.offsets: list[int] = table.column("byte_offset").to_pylist()
        self.sizes: list[int] = table.column("bytes").to_pylist()
        parts = table.column("parts").combine_chunks()
        self.part_first: list[int] = parts.offsets.to_pylist()
        values = parts.values
        self.part_names: list[str] = values.field("name").to_pylist()
        self.part_offsets: list[int] = values.field("offset").to_pylist()
        self.part_sizes: list[int] = values.field("bytes").to_pylist()
        media = table.column("media").combine_chunks()
        self._media_first: list[int] = media.offsets.to_pylist()
        self._media_parts: list[str] = media.values.field("part").to_pylist()

    def media(self, row: int, number: int) -> tuple[int, int]:
        """Return offset and size of an image's bytes."""
        name = self._media_parts[self._media_first[row] + number]
        first, end = self.part_first[row], self.part_first[row + 1]
        guess = first + 1 + number  # in our own tars: the JSON, then the images
        part = guess if guess < end and self.part_names[guess] == name else self.part_names.index(name, first, end)
        return self.part_offsets[part], self.part_sizes[part]


class _TokenGroup:
    """A row group of a token sidecar, as flat arrays."""

    @classmethod
    def read(cls, file: "_GroupedFile", number: int) -> tuple["_TokenGroup", int]:
        """Read a row group; return it with its approximate bytes in memory."""
        table = file.read(number)
        return cls(table), 2 * table.nbytes

    def __init__(self, table: pa.Table) -> None:
        def flat(name: str) -> tuple[list[int], Any]:
            column = table.column(name).combine_chunks()
            return column.offsets.to_pylist(), column.values

        self._first, types = flat("types")
        self._types: list[int] = types.to_pylist()
        self._roles: list[str] = flat("roles")[1].to_pylist()
        self._counts: list[int] = flat("counts")[1].to_pylist()
        self._media: list[int] = flat("media")[1].to_pylist()
        self._times: list[float | None] = flat("times")[1].to_pylist()
        self._ids_first, ids = flat("ids")
        self._ids = ids.to_numpy(zero_copy_only=False).astype(np.int32, copy=False)
        self._regions_first, self._regions = flat("regions")

    def segments(self, row: int) -> list[Segment]:
        """Return the segments of a row."""
        phrases = self._phrases(row)
        at = self._ids_first[row]
        out: list[Segment] = []
        for number, place in enumerate(range(self._first[row], self._first[row + 1])):
            kind = self._types[place]
            if kind == _TEXT:
                count = self._counts[place]
                ids = self._ids[at : at + count]
                at += count
                out.append(Text(ids, self._roles[place], phrases.get(number, ())))
            else:
                out.append(
                    ImageSegment(self._media[place], kind == _FRAME, self._times[place], role=self._roles[place])
                )
        return out

    def _phrases(self, row: int) -> dict[int, tuple[Phrase, ...]]:
        """Return the phrases of each text segment; regions of the same tokens are one phrase with several boxes."""
        first, end = self._regions_first[row], self._regions_first[row + 1]
        if first == end:
            return {}
        boxes: dict[tuple[int, int, int], list[Any]] = {}
        for region in self._regions.slice(first, end - first).to_pylist():
            boxes.setdefault((region["segment"], region["start"], region["end"]), []).append(tuple(region["box"]))
        out: dict[int, tuple[Phrase, ...]] = {}
        for (segment, start, stop), found in boxes.items():
            out[segment] = (*out.get(segment, ()), Phrase(start, stop, tuple(found)))
        return out
