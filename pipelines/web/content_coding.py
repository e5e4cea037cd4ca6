"""Content and transfer codings of HTTP bodies, removed: of a response just received, and of one in an archive.

A body can end before its coding does (the connection broke, the archive cut it), and must then not be taken for whole.
So every decoder tells where the coded data ended. As browsers do, several gzip members and zstd frames are all read,
bytes after the end of the coded data are ignored, and a coding of no known name is none.
"""

import io
import re
import zlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import brotli
import zstandard
from fastwarc.stream_io import BrotliReader

from pipelines.web.response_body import CHUNK_HEAD, MAX_CHUNK_HEAD

_MAX_CODINGS = 5  # of one body, as in curl (MAX_ENCODE_STACK)
_SLICE = 8 << 10  # input of one step: a decoder that reaches its end copies what is left of it
_ZSTD_SLICE = 1 << 10  # its decoder has no limit for the output of one step: 4 bytes can give 128 KiB
_ZSTD_WINDOW = 1 << 27
_GZIP_MAGIC, _ZSTD_MAGIC = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_ZEROS = re.compile(rb"\0*")
_SKIPPABLE_FRAME = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18")  # RFC 8878, 3.1.2
_BINARY = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")  # WHATWG MIME Sniffing, 3: bytes that no text has
_SNIFFED_BYTES = 1445  # its resource header


class DamagedBodyError(ValueError):
    """A body that cannot be decoded by its coding."""


class Decoded(NamedTuple):
    """A body without its codings, up to the limit; `early_end` names the coding whose data end before they should."""

    body: bytes
    is_over_limit: bool = False
    early_end: str | None = None


def decode_body(body: bytes, headers: Iterable[tuple[str, str]], max_bytes: int, *, is_archived: bool) -> Decoded:
    """Remove the codings that the headers name.

    Args:
        body: As received or stored.
        headers: Names and values; `Transfer-Encoding` counts only in an archive, since a client has removed it.
        max_bytes: Decoded bytes to return.
        is_archived: Whether the crawler may have removed a coding and kept its header: a body that plainly lacks the
            coding is then returned as it is.

    Raises:
        DamagedBodyError: If a coding's data are invalid, or codings are many.
    """
    named = [(name.lower(), value.lower()) for name, value in headers]
    early_end = None
    if is_archived and any(name == "transfer-encoding" and "chunked" in value for name, value in named):
        body, is_whole = _joined_chunks(body)
        early_end = None if is_whole else "chunked"
    elif is_archived and _is_shorter_than_stated(body, named):
        early_end = "Content-Length"
    is_over_limit = len(body) > max_bytes
    codings = [c.strip() for name, value in named if name == "content-encoding" for c in value.split(",")]
    known = [c for c in codings if c in _DECODERS]
    if len(known) > _MAX_CODINGS:
        raise DamagedBodyError(f"{len(known)} content codings; at most {_MAX_CODINGS}")
    for coding in reversed(known):
        if not body:
            break
        magic, decode = _DECODERS[coding]
        if is_archived and magic is not None and not body.startswith(magic):
            continue
        try:
            body, is_whole = decode(body, max_bytes + 1)
        except DamagedBodyError:
            if is_archived and magic is None and not _BINARY.search(body, 0, _SNIFFED_BYTES):
                continue
            raise
        is_over_limit = len(body) > max_bytes
        if not is_whole and not is_over_limit:
            early_end = early_end or coding
    return Decoded(body[:max_bytes], is_over_limit, early_end)


def is_coded(headers: Iterable[tuple[str, str]]) -> bool:
    """Return whether the headers name a content coding that `decode_body` removes."""
    values = (value.lower() for name, value in headers if name.lower() == "content-encoding")
    return any(coding.strip() in _DECODERS for value in values for coding in value.split(","))


def gunzip(data: bytes, max_bytes: int) -> tuple[bytes, bool]:
    """Return up to `max_bytes` of all members of gzip data, and whether the data are complete.

    Raises:
        DamagedBodyError: If they are invalid.
    """
    return _decompress(data, max_bytes, lambda: zlib.decompressobj(31), lambda rest: rest.startswith(_GZIP_MAGIC))


def _decompress(
    data: bytes, max_bytes: int, new: Callable[[], Any], is_next: Callable[[bytes], object]
) -> tuple[bytes, bool]:
    """Decode one stream, and those behind it as long as `is_next` recognises their beginning."""
    found, size, at = [], 0, 0
    decoder = new()
    while at < len(data) and size < max_bytes:
        part = data[at : at + _SLICE]
        try:
            piece = decoder.decompress(part, max_bytes - size)
        except zlib.error as error:
            raise DamagedBodyError(f"damaged content encoding: {error}") from error
        found.append(piece)
        size += len(piece)
        at += len(part) - len(decoder.unconsumed_tail)
        if decoder.eof:
            at = _skip_zeros(data, at - len(decoder.unused_data))
            if not is_next(data[at : at + 4]):
                return b"".join(found), True
            decoder = new()
    return b"".join(found), bool(decoder.eof)


def _skip_zeros(data: bytes, at: int) -> int:
    """Return where padding between members ends, as tar writes it and gzip(1) skips it."""
    padding = _ZEROS.match(data, at)
    assert padding is not None  # the pattern also matches the empty string
    return padding.end()


def _inflate(data: bytes, max_bytes: int) -> tuple[bytes, bool]:
    """Decode what servers call deflate: zlib's format, as the standard says, or the bare stream."""
    is_zlib = len(data) > 1 and data[0] & 0x0F == 8 and int.from_bytes(data[:2], "big") % 31 == 0  # RFC 1950, 2.2
    return _decompress(data, max_bytes, lambda: zlib.decompressobj(15 if is_zlib else -15), lambda _: False)


def _decode_zstd(data: bytes, max_bytes: int) -> tuple[bytes, bool]:
    found, size, at = [], 0, 0
    context = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
    decoder = context.decompressobj()
    while at < len(data) and size < max_bytes:
        part = data[at : at + _ZSTD_SLICE]
        try:
            piece = decoder.decompress(part)
        except zstandard.ZstdError as error:
            raise DamagedBodyError(f"damaged content encoding: {error}") from error
        found.append(piece)
        size += len(piece)
        at += len(part)
        if decoder.eof:
            at -= len(decoder.unused_data)
            rest = data[at : at + 4]
            if not rest.startswith(_ZSTD_MAGIC) and not _SKIPPABLE_FRAME.match(rest):
                return b"".join(found)[:max_bytes], True
            decoder = context.decompressobj()
    return b"".join(found)[:max_bytes], bool(decoder.eof)


def _decode_brotli(data: bytes, max_bytes: int) -> tuple[bytes, bool]:
    decoder = brotli.Decompressor()
    found, size = [], 0
    try:
        piece = decoder.process(data, output_buffer_limit=max_bytes)
        while True:
            found.append(piece)
            size += len(piece)
            if decoder.is_finished() or size >= max_bytes or (not piece and decoder.can_accept_more_data()):
                break
            piece = decoder.process(b"", output_buffer_limit=max_bytes - size)
        return b"".join(found)[:max_bytes], decoder.is_finished()
    except brotli.error as error:
        try:  # which it also raises for bytes after the end, and cannot tell where that is
            return BrotliReader(io.BytesIO(data)).read(max_bytes), True
        except OSError:
            raise DamagedBodyError(f"damaged content encoding: {error}") from error


# By name: how the data begin, if always the same, and the decoder.
_DECODERS: dict[str, tuple[bytes | None, Callable[[bytes, int], tuple[bytes, bool]]]] = {
    "gzip": (_GZIP_MAGIC, gunzip),
    "x-gzip": (_GZIP_MAGIC, gunzip),
    "deflate": (None, _inflate),
    "br": (None, _decode_brotli),
    "zstd": (_ZSTD_MAGIC, _decode_zstd),
}


def _joined_chunks(body: bytes) -> tuple[bytes, bool]:
    """Return the content of chunks, and whether the last chunk is there; a body without chunks as it is."""
    found: list[bytes] = []
    at = 0
    while head := CHUNK_HEAD.match(body, at, at + MAX_CHUNK_HEAD):
        size = int(head[1], 16)
        if size == 0:
            return b"".join(found), True
        found.append(body[head.end() : head.end() + size])
        at = head.end() + size
        if at > len(body):
            break
        at += 2 if body[at : at + 2] == b"\r\n" else 1 if body[at : at + 1] == b"\n" else 0
    return (b"".join(found), False) if found else (body, True)


def _is_shorter_than_stated(body: bytes, named: list[tuple[str, str]]) -> bool:
    """Return whether a body has fewer bytes than its Content-Length, which counts those of the content coding."""
    stated = [value.strip() for name, value in named if name == "content-length"]
    if len(set(stated)) != 1 or not stated[0].isascii() or not stated[0].isdigit():
        return False
    codings = [c.strip() for name, value in named if name == "content-encoding" for c in value.split(",")]
    is_plain = not any(c in _DECODERS for c in codings)
    # A crawler that removed the coding may have kept both headers, and a short body can be longer with its coding.
    is_as_sent = is_plain or any(body.startswith(magic) for c in codings if (magic := _DECODERS.get(c, (None,))[0]))
    return is_as_sent and len(body) < int(stated[0])
