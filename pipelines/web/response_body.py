"""Where the body of an HTTP response ends, as browsers see it: what a server sends beyond that is ignored.

A wrong Content-Length (a byte order mark or a newline that a script prints) and a body where none may be are among the
most frequent faults of servers. Parsers take what follows for another response; and whether they see it depends on how
TCP has cut the answer.
"""

import re
from typing import Protocol

CHUNK_HEAD = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;[^\r\n]*)?\r?\n")
MAX_CHUNK_HEAD = 4096  # with its extensions

_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: [^\r\n]*chunked", re.IGNORECASE)


class Body(Protocol):
    """A body that arrives in pieces."""

    def take(self, data: bytes) -> tuple[bytes, bytes]:
        """Return what belongs to the body, and what is sent beyond it."""


class SizedBody:
    """A body of as many bytes as the head says, perhaps none."""

    def __init__(self, num_bytes: int) -> None:
        self._left = num_bytes

    def take(self, data: bytes) -> tuple[bytes, bytes]:
        found = data[: self._left]
        self._left -= len(found)
        return found, data[len(found) :]


class ChunkedBody:
    """A body in chunks, which are passed on in the form of RFC 9112 without extensions and trailers."""

    def __init__(self) -> None:
        self._is_over = False
        self._left = 0  # of the current chunk
        self._line = b""  # what has arrived of the next chunk's head
        self._is_damaged = False

    def take(self, data: bytes) -> tuple[bytes, bytes]:
        found: list[bytes] = []
        data, self._line = self._line + data, b""
        at = 0
        while at < len(data) and not self._is_over:
            if self._is_damaged:  # which the parser is to report
                found.append(data[at:])
                return b"".join(found), b""
            if self._left:
                piece = data[at : at + self._left]
                self._left -= len(piece)
                at += len(piece)
                found += [piece] if self._left else [piece, b"\r\n"]
                continue
            end = data.find(b"\n", at, at + MAX_CHUNK_HEAD)
            if end < 0 and len(data) - at < MAX_CHUNK_HEAD:
                self._line = data[at:]
                return b"".join(found), b""
            head = CHUNK_HEAD.fullmatch(data, at, end + 1) if end >= 0 else None
            if head is not None:
                self._left = int(head[1], 16)
                self._is_over = not self._left
                found.append(b"%x\r\n" % self._left if self._left else b"0\r\n\r\n")
                at = end + 1
            elif end < 0 or data[at : end + 1].strip():
                self._is_damaged = True
            else:  # the end of the chunk before
                at = end + 1
        return b"".join(found), data[at:]


def body_after(head: bytes, *, is_expected: bool = True) -> Body | None:
    """Return the body that follows a head in the form of RFC 9112; None if it ends with the connection.

    Args:
        head: With the empty line at its end.
        is_expected: False for the answer to HEAD.
    """
    if not is_expected or head[9:12] in (b"204", b"304"):
        return SizedBody(0)
    if _CHUNKED.search(head):
        return ChunkedBody()
    length = _LENGTH.search(head)
    return SizedBody(int(length[1])) if length else None
