"""Samples in a tar: adjacent members that share a key, found by an index of byte offsets.

Written tars are USTAR with nothing that varies: mode 0644, times and owners 0, padded to 10,240 bytes. The headers are
packed by hand, which is 25 times as fast as `tarfile` and does not change with Python's version. Any tar can be read:
v7, old GNU, USTAR and PAX headers, long names, prefixes, and folders or other files between samples. What would give
wrong bytes is refused: sparse files, parts of archives on several volumes, and a tar that another one follows.

`X.tar.idx` contains unsigned 64-bit little-endian numbers: the offset of each sample's first header, then the end of
the last sample. It is Energon's format, byte for byte.
"""

import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import BinaryIO, NamedTuple

import numpy as np

from pipelines import storage
from pipelines.errors import UserError

BLOCK = 512
RECORD = 10_240
MAX_MEMBER_BYTES = (8 << 30) - 1  # eleven octal digits
MAX_NAME_BYTES = 99  # wids and some others read only the 100-byte field, and need its NUL

_ZEROS = bytes(BLOCK)
_REPACK = "repack it with `tar --format=ustar`"
_OWNER = b"0000644\x00" + b"0000000\x00" * 2
_TIME = b"00000000000\x00"
_REST = b"0" + bytes(100) + b"ustar\x0000" + bytes(247)
_FIXED_SUM = sum(_OWNER) + sum(_TIME) + sum(b" " * 8) + sum(_REST)

# webdataset's and Energon's own rules: the key ends at the first dot after the last slash; `__x__/...` is not a sample.
# Hidden files never are, in no folder: macOS puts one before each file (AppleDouble, `._k.jpg`).
_META = re.compile(r"__[^/]*__($|/)")

_OCTAL = re.compile(rb"[0-7]+")
_FILES = (b"0", b"\x00", b"7")
_WITHOUT_BYTES = (b"1", b"2", b"3", b"4", b"5", b"6")  # links, devices, folders
_REFUSED = {b"S": "a sparse file", b"M": "the rest of a file on another volume", b"N": "a record of old long names"}
_CHUNK = 1 << 20
_MOST_AT_ONCE = 64 << 20  # a damaged size must not ask for more memory than there are bytes

Read = Callable[[int, int], bytes]
"""Function from an offset and a length to bytes; fewer at the end of the file."""

NO_END = 1 << 62
"""End of a tar whose size is not known, as of a stream."""


class JoinedTarsError(ValueError):
    """Another tar follows the end of a tar, all of whose samples have been read."""


class Member(NamedTuple):
    """A member of a tar. `offset` is of its first header, including long-name headers; `content` of its bytes.

    `head` is its own header, the block before its bytes.
    """

    name: str
    offset: int
    content: int
    size: int
    is_file: bool
    head: bytes

    @property
    def end(self) -> int:
        """Offset of the next header."""
        return self.content + padded(self.size)


@dataclass(slots=True)
class TarSample:
    """A sample's key, its byte range `offset..end`, its parts by name in their order, and the offset of each part.

    Names of parts are in lower case, as in webdataset. `fault` says why the sample cannot be used, if it cannot.
    """

    key: str
    offset: int
    end: int
    parts: dict[str, bytes] = field(default_factory=dict)
    places: dict[str, int] = field(default_factory=dict)
    fault: str | None = None


def padded(size: int, unit: int = BLOCK) -> int:
    """Round a size up to whole blocks."""
    return -(-size // unit) * unit


def tar_bytes(sizes: Iterable[int]) -> int:
    """Return the bytes that members of these sizes take in a tar, with headers but without the end of the tar."""
    return sum(BLOCK + padded(size) for size in sizes)


def member_header(name: str, size: int) -> bytes:
    """Return the USTAR header of a regular file.

    Raises:
        ValueError: If the name is not ASCII or longer than 99 bytes, or the size reaches 8 GiB.
    """
    if not name.isascii() or not 0 < len(name) <= MAX_NAME_BYTES:
        raise ValueError(f"{name!r}: a member's name must be 1 to {MAX_NAME_BYTES} ASCII characters")
    if not 0 <= size <= MAX_MEMBER_BYTES:
        raise ValueError(f"{name}: {size} bytes: a member must be smaller than 8 GiB")
    name_bytes, octal = name.encode(), b"%011o\x00" % size
    total = _FIXED_SUM + sum(name_bytes) + sum(octal)
    return name_bytes.ljust(100, b"\x00") + _OWNER + octal + _TIME + b"%06o\x00 " % total + _REST


def tar_end(size: int) -> bytes:
    """Return the end of a tar of `size` bytes: two empty blocks, then zeros up to a whole record."""
    return bytes(padded(size + 2 * BLOCK, RECORD) - size)


def split_name(name: str) -> tuple[str, str] | None:
    """Return key and part of a member's name, or None if the member belongs to no sample."""
    folder, slash, file = name.rpartition("/")
    if _META.match(name) or file.startswith(".") or "__MACOSX" in folder.split("/"):
        return None
    stem, dot, part = file.partition(".")
    return (folder + slash + stem, part) if dot else None


# --- reading --------------------------------------------------------------------------------------------------------


def walk_members(read: Read, where: str, start: int, end: int, *, is_whole: bool = False) -> Iterator[Member]:
    """Yield the members between two offsets of a tar; stops early at an empty block.

    Args:
        read: Returns bytes; called only with increasing offsets.
        where: Start of error messages: the tar's path.
        start: Offset of a header.
        end: End of the file, or of the range; `NO_END` if it is not known.
        is_whole: Whether the end of a tar must follow, and nothing more: without it the file was truncated.

    Raises:
        ValueError: If a header is damaged, a member reaches beyond the end, is of a kind whose bytes are not a file's,
            the end of the tar is missing, or another tar follows.
    """
    at = first = start
    long_name: str | None = None
    long_size: int | None = None
    while at < end:
        head = read(at, BLOCK)
        if head == _ZEROS:
            if is_whole:
                _refuse_another(read, where, at + BLOCK, end)
            return
        if len(head) < BLOCK and is_whole:
            raise ValueError(f"{where}: broken tar: truncated at byte {at + len(head)}")
        if len(head) < BLOCK or not _sum_is_right(head):
            raise ValueError(f"{where}: broken tar: no header at byte {at}")
        kind, content = head[156:157], at + BLOCK
        size = _number(head[124:136], where, at)
        is_file = kind in _FILES
        if is_file and long_size is not None:
            size = long_size
        elif kind in _WITHOUT_BYTES:
            size = 0
        if content + size > end:
            raise ValueError(
                f"{where}: broken tar: the member at byte {at} has {size} bytes, but only {end - content} follow"
            )
        at = content + padded(size)
        if kind in _REFUSED:
            raise ValueError(f"{where}: the member at byte {first} is {_REFUSED[kind]}; {_REPACK}")
        if kind == b"L":
            long_name = _text(_whole(read, where, content, size).rstrip(b"\x00"))
        elif kind in (b"x", b"X"):
            records = _pax_records(_whole(read, where, content, size), where, first)
            if any(name.startswith("GNU.sparse.") for name in records):
                raise ValueError(f"{where}: the member at byte {first} is {_REFUSED[b'S']}; {_REPACK}")
            long_name = records.get("path", long_name)
            long_size = _decimal(records["size"], where, first) if "size" in records else None
        elif kind == b"g":
            first = at
        elif kind != b"K":
            name = long_name if long_name is not None else _short_name(head)
            yield Member(name, first, content, size, is_file and not name.endswith("/"), head)
            first, long_name, long_size = at, None, None
    if is_whole:
        raise ValueError(f"{where}: broken tar: truncated at byte {end}")


def walk_samples(
    read: Read,
    where: str,
    start: int,
    end: int,
    *,
    is_whole: bool = False,
    on_member: Callable[[Member], None] | None = None,
) -> Iterator[TarSample]:
    """Yield the samples between two offsets of a tar, in one pass; as in webdataset, adjacent members of one key.

    A sample's range extends to the next sample, and so includes members in between that belong to none. The sample
    before a cut is not yielded, since more of its members may have followed; the one before a joined tar is.

    Args:
        read, where, start, end, is_whole: As in `walk_members`.
        on_member: Called with each member, also those of no sample, before its bytes are read.

    Raises:
        ValueError: As `walk_members`, or if the tar ends in a member.
    """
    sample: TarSample | None = None
    joined: JoinedTarsError | None = None
    last = start
    try:
        for member in walk_members(read, where, start, end, is_whole=is_whole):
            last = member.end
            if on_member is not None:
                on_member(member)
            names = split_name(member.name) if member.is_file else None
            if names is None:
                continue
            key, part = names[0], names[1].lower()
            if sample is None or sample.key != key:
                if sample is not None:
                    sample.end = member.offset
                    yield sample
                sample = TarSample(key, member.offset, member.end)
            if part in sample.parts:
                sample.fault = f"part {part!r} appears twice"
            sample.parts[part] = _whole(read, where, member.content, member.size)
            sample.places[part] = member.content
    except JoinedTarsError as error:
        joined = error
    if sample is not None:
        sample.end = last
        yield sample
    if joined is not None:
        raise joined


class ForwardReader:
    """Reader of ranges at increasing offsets of a file that may have no positions, such as a stream.

    Args:
        file: The file; a read returns fewer bytes only at its end.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._at = 0

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes at an offset not before the end of the last read."""
        assert offset >= self._at, "the tar is read in one pass"
        while self._at < offset and self._take(min(offset - self._at, _CHUNK)):
            pass
        if self._at < offset:
            return b""
        data = self._take(min(length, _MOST_AT_ONCE))
        while len(data) < length and (more := self._take(min(length - len(data), _MOST_AT_ONCE))):
            data += more
        return data

    def drain(self) -> None:
        """Read to the end of the file."""
        while self._take(_CHUNK):
            pass

    def _take(self, length: int) -> bytes:
        data = self._file.read(length)
        self._at += len(data)
        return data


def parse_sample(data: bytes, where: str, offset: int = 0) -> TarSample:
    """Parse the one sample in a byte range that an index names.

    Args:
        data: All bytes of the range.
        where: Start of error messages: the tar's path.
        offset: Offset of the range in the tar.

    Raises:
        ValueError: If there is not exactly one sample, without a fault: the tar is damaged or its index is stale.
    """

    def read(at: int, length: int) -> bytes:
        return data[at - offset : at - offset + length]

    found = list(walk_samples(read, where, offset, offset + len(data)))
    if len(found) != 1 or found[0].offset != offset:
        raise ValueError(
            f"{where}: {len(found)} samples between bytes {offset} and {offset + len(data)}: a stale index"
        )
    if found[0].fault is not None:
        raise ValueError(f"{where}, sample {found[0].key}: {found[0].fault}")
    found[0].end = offset + len(data)
    return found[0]


def read_sample(path: str, offset: int, end: int) -> TarSample:
    """Read the sample at a byte range of a tar, by one read.

    Raises:
        ValueError: If the tar is damaged there or ends earlier.
    """
    try:
        return parse_sample(storage.read_range(path, offset, end - offset), path, offset)
    except EOFError as error:
        raise ValueError(str(error)) from error


def read_samples(path: str) -> Iterator[TarSample]:
    """Yield all samples of a tar, by its index.

    Raises:
        UserError: If the index is missing or damaged.
        ValueError: If the tar does not fit its index.
    """
    offsets = read_index(path).tolist()
    for offset, end in pairwise(offsets):
        yield read_sample(path, offset, end)


# --- the index ------------------------------------------------------------------------------------------------------


def index_path(path: str) -> str:
    """Return the path of a tar's index."""
    return path + ".idx"


def write_index(path: str, offsets: Iterable[int]) -> None:
    """Write the index of a tar: the samples' offsets, and the end of the last one."""
    storage.write_bytes(index_path(path), np.array(list(offsets), "<u8").tobytes())


def read_index(path: str) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return the offsets of a tar's samples and the end of the last, int64: sample i is `index[i]:index[i + 1]`.

    Raises:
        UserError: If there is no index, or it is damaged.
    """
    name = index_path(path)
    try:
        data = storage.read_bytes(name)
    except FileNotFoundError as error:
        raise UserError(f"{name}: missing. `python -m pipelines index` makes the index of foreign tars") from error
    offsets = np.frombuffer(data[: len(data) // 8 * 8], "<u8").astype(np.int64)
    is_rising = len(offsets) >= 2 and offsets[0] >= 0 and bool((np.diff(offsets) > 0).all())
    if len(data) % 8 or not is_rising or (offsets % BLOCK).any():
        raise UserError(f"{name}: not a list of increasing block offsets ({len(data)} bytes). Delete and rebuild it")
    return offsets


# --- parts of headers -----------------------------------------------------------------------------------------------


def size_in_header(head: bytes) -> int | None:
    """Return the size that a header of any kind of tar says; None if these bytes are no header."""
    try:
        return _number(head[124:136], "", 0) if len(head) == BLOCK and _sum_is_right(head) else None
    except ValueError:
        return None


def _sum_is_right(head: bytes) -> bool:
    """Return whether the checksum of a header is right.

    The lower half of Adler-32 is 1 + the sum of the bytes modulo 65,521: 20 times as fast as `sum`.
    """
    try:
        said = int(head[148:156].strip(b" \x00") or b"0", 8)
    except ValueError:
        return False
    checked = head[:148] + b" " * 8 + head[156:]
    low = zlib.adler32(checked) & 0xFFFF
    if (low - 1 - said) % 65_521 == 0:
        return True
    # Some old programs added the bytes up as signed numbers, which differs for names that are not ASCII.
    return sum(checked) - 256 * sum(byte > 127 for byte in checked) == said


def _whole(read: Read, where: str, at: int, size: int) -> bytes:
    """Read bytes that must all be there."""
    if size > MAX_MEMBER_BYTES:  # of a compressed tar, zeros of any number may follow
        raise ValueError(f"{where}: the member whose bytes begin at {at} has {size} of them: 8 GiB or more")
    data = read(at, size)
    if len(data) < size:
        raise ValueError(f"{where}: broken tar: truncated at byte {at + len(data)}")
    return data


def _refuse_another(read: Read, where: str, at: int, end: int) -> None:
    """Read what follows the end of a tar: its padding, or anything that is no tar, whose samples would be lost."""
    while at < end and (data := read(at, min(_CHUNK, end - at))):
        for begin in range(0, len(data), BLOCK):
            block = data[begin : begin + BLOCK]
            if not block.strip(b"\x00"):
                continue
            if len(block) == BLOCK and _sum_is_right(block):
                raise JoinedTarsError(
                    f"{where}: another tar begins at byte {at + begin}, as `cat` joins them; split or repack them"
                )
            return
        at += len(data)


def _number(digits: bytes, where: str, at: int) -> int:
    """Return a size: octal digits, or GNU's base 256 if the first bit is set."""
    if digits[0] & 0x80:
        return int.from_bytes(digits[1:], "big")
    octal = digits.strip(b" \x00") or b"0"
    if not _OCTAL.fullmatch(octal):  # `int` takes a minus too, which would lead back to an earlier header
        raise ValueError(f"{where}: broken tar: no size in the header at byte {at}")
    return int(octal, 8)


def _decimal(digits: str, where: str, at: int) -> int:
    """Return the size in a PAX record."""
    if not re.fullmatch("[0-9]{1,19}", digits):
        raise ValueError(f"{where}: broken tar: no size in the PAX header at byte {at}")
    return int(digits)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _short_name(head: bytes) -> str:
    name = _text(head[:100].split(b"\x00", 1)[0])
    if head[345] and head[257:263] == b"ustar\x00":  # in other formats these bytes are not a prefix
        return _text(head[345:500].split(b"\x00", 1)[0]) + "/" + name
    return name


def _pax_records(data: bytes, where: str, at: int) -> dict[str, str]:
    """Return the records `<length> <key>=<value>\\n` of a PAX header."""
    records, place = {}, 0
    while place < len(data) and data[place] != 0:
        digits, space, _ = data[place : place + 20].partition(b" ")
        if not space or not digits.isdigit() or int(digits) <= len(digits):
            raise ValueError(f"{where}: broken tar: no PAX record in the header at byte {at}")
        key, _, value = data[place + len(digits) + 1 : place + int(digits) - 1].partition(b"=")
        records[_text(key)] = _text(value)
        place += int(digits)
    return records
