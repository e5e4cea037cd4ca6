"""One pass over a tar: every byte is hashed, every header held against the form that ours have."""

import hashlib
from collections.abc import Callable, Iterator
from io import BufferedReader
from typing import BinaryIO, cast

from pipelines.shards.tar_samples import (
    BLOCK,
    RECORD,
    JoinedTarsError,
    Member,
    Read,
    TarSample,
    member_header,
    split_name,
    tar_end,
    walk_samples,
)

_CHUNK = 256 << 10  # hashing gets no faster beyond, and this stays in a core's cache
MAX_MEMBER_BYTES = 1 << 30
"""Size from which a member is not read: it would be held in memory."""

_FIELDS = (
    ("mode", 100, 108),
    ("uid", 108, 116),
    ("gid", 116, 124),
    ("mtime", 136, 148),
    ("type", 156, 157),
    ("link", 157, 257),
    ("magic", 257, 265),
    ("owner", 265, 297),
    ("group", 297, 329),
    ("prefix", 345, 500),
)


class HashingReader:
    """Reader of ranges at increasing offsets of a file, of which each byte is read and hashed once.

    Args:
        file: The file, at its beginning.
        hashes: Whether to hash.
    """

    def __init__(self, file: BinaryIO, *, hashes: bool) -> None:
        self._file, self._hashes = cast(BufferedReader, file), hashes
        self._digest = hashlib.sha256()
        self._chunk = memoryview(bytearray(_CHUNK))  # one piece of memory: new ones would cost as much as hashing
        self._start = self._length = 0  # offset of the chunk, and the bytes in it

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes at an offset not before the end of the last read; fewer at the end of the file."""
        begin = offset - self._start
        assert begin >= 0, "the tar is read in one pass"
        if begin + length <= self._length:
            return bytes(self._chunk[begin : begin + length])
        pieces: list[bytes] = []
        while length:
            if begin < self._length:
                pieces.append(bytes(self._chunk[begin : min(begin + length, self._length)]))
                length -= len(pieces[-1])
                begin += len(pieces[-1])
            else:
                begin -= self._length
                if not self._next_chunk():
                    break
        return b"".join(pieces)

    def finish(self) -> tuple[str, int]:
        """Return sha256 (of nothing, if it does not hash) and size of the whole file, which is read to its end."""
        while self._next_chunk():
            pass
        return self._digest.hexdigest(), self._start

    def _next_chunk(self) -> bool:
        self._start += self._length
        self._length = self._file.readinto(self._chunk)
        if self._hashes:
            self._digest.update(self._chunk[: self._length])
        return self._length > 0


class FormReader:
    """Samples of a tar, with the faults of its form.

    Args:
        read: Returns bytes at increasing offsets.
        where: The tar's path, for messages.
        add: Called with kind, detail and key of each fault of a member.
        is_ours: Whether to check that the tar has the form that `ShardWriter` gives: plain USTAR, nothing that varies.
    """

    def __init__(self, read: Read, where: str, add: Callable[[str, str, str | None], None], *, is_ours: bool) -> None:
        self._read, self._where, self._add, self._is_ours = read, where, add, is_ours
        self._seen: set[int] = set()
        self.end = 0
        """Offset at which the last sample ends."""
        self.error: str | None = None
        """What ends the tar too early."""

    def samples(self, start: int, end: int, *, is_whole: bool) -> Iterator[TarSample]:
        """Yield the samples between two offsets; of a damaged tar those before the damage."""
        on_member = self._check_member if self._is_ours else _check_size
        walk = walk_samples(self._read, self._where, start, end, is_whole=is_whole, on_member=on_member)
        try:
            for sample in walk:
                self.end = sample.end
                if sample.fault is not None:
                    self._add("member_repeated", sample.fault, sample.key)
                if hash(sample.key) in self._seen:
                    self._add("not_adjacent", "members of the sample are in several places of the tar", sample.key)
                self._seen.add(hash(sample.key))
                yield sample
        except (ValueError, OverflowError, JoinedTarsError) as error:
            self.error = str(error).removeprefix(f"{self._where}: ")
        if self.error is None and is_whole and self._is_ours:
            self._check_end(end)

    def _check_member(self, member: Member) -> None:
        _check_size(member)
        names = split_name(member.name) if member.is_file else None
        if names is None:
            self._add("stray_member", f"member {member.name!r} at byte {member.offset} belongs to no sample", None)
        try:
            expected = member_header(member.name, member.size)
        except ValueError as error:
            self._add("member_header", f"member at byte {member.offset}: {error}", names and names[0])
            return
        if member.head != expected or member.content - member.offset != BLOCK:
            said = _difference(member, expected)
            self._add("member_header", f"member {member.name} at byte {member.offset}: {said}", names and names[0])

    def _check_end(self, size: int) -> None:
        right = self.end + len(tar_end(self.end))
        if size != right:
            self._add("tar_padding", f"{size} bytes; with padding to {RECORD} they should be {right}", None)


def _check_size(member: Member) -> None:
    if member.size > MAX_MEMBER_BYTES:
        raise ValueError(f"the member at byte {member.offset} has {member.size} bytes, too many to read")


def _difference(member: Member, expected: bytes) -> str:
    if member.content - member.offset != BLOCK:
        return "it has a header before its own, of PAX or GNU; plain USTAR has one block"
    found = [
        f"{name} {member.head[a:b].rstrip(bytes(1))!r}, not {expected[a:b].rstrip(bytes(1))!r}"
        for name, a, b in _FIELDS
        if member.head[a:b] != expected[a:b]
    ]
    return ", ".join(found) or "its header is padded in another way"
