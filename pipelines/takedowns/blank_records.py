"""WARC files of which some records are overwritten by empty ones of the same length, so that others stay in place."""

import gzip
import io
import struct
import uuid
import zlib
from collections.abc import Callable, Iterator
from typing import IO

from pipelines import storage

_CHUNK = 1 << 16
_HEAD = b"\x1f\x8b\x08\x10\0\0\0\0\0\xff"  # gzip, with a comment, no time
_HEAD_BYTES = 4096  # of a record, which hold its address


def blank_records(path: str, is_blank: Callable[[str], bool]) -> int:
    """Overwrite the records of some addresses in a WARC file of ours, compressed record by record; return their number.

    What takes their place is an empty record in a gzip member whose comment fills the length.

    Args:
        path: The file.
        is_blank: Returns whether the records of an address are overwritten.
    """
    num = 0
    with storage.open_read(path) as read, storage.write_whole(path) as file:
        for member, head in _members(read):
            url = _target(head)
            is_gone = url is not None and is_blank(url)
            num += is_gone
            file.write(_blank(len(member)) if is_gone else member)
    return num


def _members(file: IO[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Yield the compressed bytes of each gzip member, and the beginning of what is in it."""
    data = file.read(_CHUNK)
    while data:
        decoder = zlib.decompressobj(31)
        member, head = io.BytesIO(), b""
        while True:
            found = decoder.decompress(data)
            head = head if len(head) >= _HEAD_BYTES else head + found[:_HEAD_BYTES]
            if decoder.eof:
                member.write(data[: len(data) - len(decoder.unused_data)])
                data = decoder.unused_data or file.read(_CHUNK)
                break
            member.write(data)
            data = file.read(_CHUNK)
            if not data:
                break  # cut; left as it is
        yield member.getvalue(), head


def _target(head: bytes) -> str | None:
    for line in head.partition(b"\r\n\r\n")[0].split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"warc-target-uri":
            return value.strip().strip(b"<>").decode("utf-8", "replace")
    return None


def _blank(length: int) -> bytes:
    """Return an empty record as a gzip member of a length, which is at least that of any record of ours."""
    name = uuid.uuid5(uuid.NAMESPACE_OID, str(length))
    text = (
        f"WARC/1.1\r\nWARC-Type: metadata\r\nWARC-Record-ID: <urn:uuid:{name}>\r\n"
        "WARC-Date: 1970-01-01T00:00:00Z\r\nContent-Length: 0\r\n\r\n\r\n\r\n"
    ).encode()
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = deflate.compress(text) + deflate.flush() + struct.pack("<II", zlib.crc32(text), len(text))
    room = length - len(_HEAD) - len(body) - 1
    if room < 0:
        raise AssertionError(f"a record of {length} bytes is shorter than an empty one")
    member = _HEAD + b" " * room + b"\0" + body
    assert gzip.decompress(member) == text
    return member
