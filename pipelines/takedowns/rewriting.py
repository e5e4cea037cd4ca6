"""A shard without some of its samples: the bytes of the others are copied, and what belongs to it is made to fit."""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import IO, Any

from pipelines import storage
from pipelines.block_list import text_hash
from pipelines.errors import UserError
from pipelines.shards.foreign_samples import read_document
from pipelines.shards.manifest import ShardInfo
from pipelines.shards.sidecar import read_sidecar, write_sidecar
from pipelines.shards.tar_samples import read_index, read_sample, tar_end, write_index

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Rewritten:
    """Result of rewriting a shard.

    Attributes:
        info: The shard that is left; None if nothing is.
        samples: Number of samples taken out.
        images: Number of their images.
        num_bytes: Bytes that they took.
        texts: Hashes by which their texts are known again.
    """

    info: ShardInfo | None
    samples: int
    images: int
    num_bytes: int
    texts: frozenset[str]


def rewrite_shard(corpus: str, shard: ShardInfo, gone: Collection[str], folder: str) -> Rewritten:
    """Write a shard without some samples into another folder, with its index and sidecar.

    Args:
        corpus: Folder of the corpus.
        shard: The shard.
        gone: Keys of the samples.
        folder: Where to write, by the same relative paths.

    Raises:
        UserError: If the shard, its index and its sidecar do not fit each other.
    """
    path, target = storage.join(corpus, shard.path), storage.join(folder, shard.path)
    offsets: list[int] = read_index(path).tolist()
    rows = list(read_sidecar(storage.join(corpus, shard.sidecar)))
    if len(rows) != len(offsets) - 1 or any(row["byte_offset"] != at for row, at in zip(rows, offsets, strict=False)):
        raise UserError(f"{path}: its index and its sidecar are of different builds. Build or index it again")
    taken = [row for row in rows if row["key"] in gone]
    texts = {found for row, at in zip(rows, pairwise(offsets), strict=True) if row["key"] in gone
             if (found := _text_of(shard, path, *at)) is not None}  # fmt: skip
    lost = Rewritten(
        None, len(taken), sum(row["num_media"] or 0 for row in taken), sum(row["bytes"] for row in taken),
        frozenset(texts),
    )  # fmt: skip
    kept = [row for row in rows if row["key"] not in gone]
    if not kept:
        return lost
    moved: list[dict[str, Any]] = []
    with storage.open_read(path) as read, storage.write_whole(target) as file:
        writer = _HashingWriter(file)
        writer.copy(read, 0, offsets[0])  # what another program wrote before the first sample
        for row, (begin, end) in zip(rows, pairwise(offsets), strict=True):
            if row["key"] not in gone:
                moved.append(_moved(row, writer.size - begin))
                writer.copy(read, begin, end)
        last = writer.size
        writer.write(tar_end(last))
    write_index(target, [*(row["byte_offset"] for row in moved), last])
    write_sidecar(storage.join(folder, shard.sidecar), moved)
    info = replace(shard, sha256=writer.sha256, bytes=writer.size, samples=len(moved))
    return replace(lost, info=info)


class _HashingWriter:
    """Writer of a file whose size and hash are known at the end."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._digest = file, hashlib.sha256()
        self.size = 0

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self.size += len(data)

    def copy(self, read: IO[bytes], begin: int, end: int) -> None:
        read.seek(begin)
        while begin < end:
            data = read.read(min(_CHUNK, end - begin))
            if not data:
                raise UserError(f"a tar ends at byte {begin}, before the end of its last sample at {end}")
            self.write(data)
            begin += len(data)


def _moved(row: dict[str, Any], by: int) -> dict[str, Any]:
    parts = [part | {"offset": part["offset"] + by} for part in row["parts"]]
    return row | {"byte_offset": row["byte_offset"] + by, "parts": parts}


def _text_of(shard: ShardInfo, path: str, begin: int, end: int) -> str | None:
    try:
        return text_hash(read_document(read_sample(path, begin, end), shard.source))
    except ValueError:  # of another's tar; nothing was ever read of it
        return None
