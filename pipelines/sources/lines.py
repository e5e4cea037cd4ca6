"""Streams of the lines of plain and compressed files, and of the items of one large JSON value.

Compression is detected from the first bytes, not the name; consecutive gzip members and zstd frames are all read. A
plain file is split into byte ranges: a line belongs to the range in which it begins. Files in UTF-16, UTF-32 or an old
encoding, as spreadsheets save them, are converted whole.
"""

import bz2
import codecs
import functools
import io
import json
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, cast

import zstandard

from pipelines import storage
from pipelines.errors import UserError
from pipelines.sources.files import Part
from pipelines.sources.origin import BrokenFileError, RowError
from pipelines.text.encoding_standard import decode
from pipelines.text.encodings import text_encoding

MAX_RECORD_BYTES = 256 << 20  # of one line: MMC4 with inline images reaches tens of MB
_CHUNK = 64 << 10
_STEP = {"gzip": 16 << 10, "xz": 4 << 10, "zstd": 1 << 10, "bz2": 1 << 10}  # of which a bomb makes tens of megabytes
_SHOWN_BYTES = 1 << 20  # of the beginning, by which the encoding is told
_WIDE = ("utf-16", "utf-16-le", "utf-16-be", "utf-32")
_SHOWN = 2_000  # bytes or characters of a line that cannot be read, for its drop


class _Chunks(io.RawIOBase):
    """A raw stream over an iterator of bytes."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._rest = chunks, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._rest:
            self._rest = memoryview(next(self._chunks, b""))
        num = min(len(buffer), len(self._rest))
        buffer[:num] = self._rest[:num]
        self._rest = self._rest[num:]
        return num


def compression(path: str) -> str | None:
    """Return `gzip`, `zstd`, `bz2`, `xz`, `zip`, or None for a plain file, by its first bytes."""
    with storage.open_read(path) as file:
        head = file.read(6)
    if head[:3] == b"PAR":
        raise UserError(f"{path}: is a parquet file; its name should end in .parquet")
    if head[:4] == b"\x28\xb5\x2f\xfd" or (head[1:4] == b"\x2a\x4d\x18" and head[:1] >= b"\x50"):
        return "zstd"
    kinds = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\xfd7zXZ\0": "xz", b"PK\x03\x04": "zip"}
    return next((kind for magic, kind in kinds.items() if head.startswith(magic)), None)


def open_stream(path: str) -> BinaryIO:
    """Open the uncompressed bytes of a file; the stream raises `BrokenFileError` if the data ends early."""
    kind = compression(path)
    file = storage.open_read(path)
    if kind is None:
        return file
    chunks = _unzipped(path, file) if kind == "zip" else _decompressed(file, _decoder(kind), _STEP[kind])
    return cast(BinaryIO, io.BufferedReader(_Chunks(chunks), 1 << 20))


def open_text(path: str) -> BinaryIO:
    """Open a file of text as UTF-8; one in another encoding, as its first megabyte shows, is converted."""
    encoding = other_encoding(path)
    stream = open_stream(path)
    if encoding is None:
        return stream
    if encoding in _WIDE:
        converted = (chunk.encode() for chunk in codecs.iterdecode(_rest(stream), encoding, "replace"))
    else:
        converted = (decode(line, encoding).encode() for line in _physical_lines(stream))
    return cast(BinaryIO, io.BufferedReader(_Chunks(filter(None, converted)), 1 << 20))


def other_encoding(path: str) -> str | None:
    """Return the encoding of a file of text that is not in UTF-8, as its first megabyte shows."""
    return _other_encoding(path, storage.size(path))


@functools.lru_cache(maxsize=64)
def _other_encoding(path: str, size: int) -> str | None:
    head = b""
    try:
        with open_stream(path) as stream:
            while len(head) < _SHOWN_BYTES and (chunk := stream.read(_SHOWN_BYTES)):
                head += chunk
    except BrokenFileError:
        pass  # told when the file is read
    if (marked := _marked_encoding(head)) is not None:
        return marked
    found = text_encoding(head.removeprefix(codecs.BOM_UTF8), is_beginning=len(head) >= _SHOWN_BYTES)
    return None if found == "utf-8" else {"utf-16le": "utf-16-le", "utf-16be": "utf-16-be"}.get(found, found)


def line_parts(path: str, name: str, part_bytes: int) -> list[Part]:
    """Return byte ranges of a plain file, or the whole of a compressed one."""
    size = storage.size(path)
    if size <= part_bytes or compression(path) is not None or other_encoding(path) is not None:
        return [Part(path, name)]
    return [Part(path, name, start, min(start + part_bytes, size)) for start in range(0, size, part_bytes)]


def read_lines(part: Part, max_bytes: int = MAX_RECORD_BYTES) -> Iterator[tuple[int, bytes | RowError]]:
    """Yield the lines that begin in a part, without line ends, each with its offset in the uncompressed file.

    Empty lines are skipped; a line longer than `max_bytes` becomes a `RowError`.

    Raises:
        BrokenFileError: If the data ends early, after all readable lines.
    """
    with open_text(part.path) if part.start == 0 else open_stream(part.path) as file:
        offset = part.start
        if offset:
            file.seek(offset - 1)
            offset += _skip_line(file) - 1
        while part.stop is None or offset < part.stop:
            line = file.readline(max_bytes + 1)
            if not line:
                return
            here, offset = offset, offset + len(line)
            if len(line) > max_bytes and not line.endswith(b"\n"):
                offset += _skip_line(file)
                yield here, RowError("record_too_long", f"over {max_bytes} bytes")
            elif line := line.removeprefix(codecs.BOM_UTF8 if here == 0 else b"").rstrip(b"\r\n"):
                yield here, line


def read_text_lines(part: Part, max_bytes: int = MAX_RECORD_BYTES) -> Iterator[tuple[str, str | RowError]]:
    """Yield lines as `read_lines` does, decoded as UTF-8; the locator is the offset."""
    for offset, line in read_lines(part, max_bytes):
        if isinstance(line, RowError):
            yield str(offset), line
            continue
        try:
            yield str(offset), line.decode("utf-8")
        except UnicodeDecodeError as error:
            shown = line[:_SHOWN].decode("utf-8", "replace")
            yield str(offset), RowError("not_utf8", str(error.reason), text=shown)


def read_json_lines(part: Part, max_bytes: int = MAX_RECORD_BYTES) -> Iterator[tuple[str, dict[str, Any] | RowError]]:
    """Yield the objects of a JSON Lines part, by the offset of their line.

    Raises:
        UserError: If the file is not JSON Lines at all.
    """
    for locator, line in read_text_lines(part, max_bytes):
        if isinstance(line, RowError):
            yield locator, line
            continue
        if locator == "0" and not line.lstrip().startswith("{"):
            raise UserError(f"{part.path}: not a JSON Lines file: its first line is not a JSON object")
        yield locator, json_object(line)


def json_object(text: str) -> dict[str, Any] | RowError:
    """Return the object that a line of JSON holds, or why it holds none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        return RowError("malformed_row", str(error), text=text[:_SHOWN])
    return value if isinstance(value, dict) else RowError("malformed_row", "no JSON object", text=text[:_SHOWN])


def read_json_items(
    path: str, max_bytes: int = MAX_RECORD_BYTES, *, under: str | None = None
) -> Iterator[tuple[str, Any]]:
    """Yield the items of a file that is one JSON array or object, by index or key, without loading the whole.

    Args:
        path: The file.
        max_bytes: Of an item.
        under: Key of the object whose own items are yielded instead, if it is an array or object; nothing if it is
            missing.

    Raises:
        BrokenFileError: If the JSON ends early or becomes invalid.
        UserError: If the file is neither.
    """
    decoder = json.JSONDecoder()
    with open_text(path) as stream:
        buffer = _Buffer(stream, max_bytes)
        for key in _keys(path, buffer, decoder):
            if under is None:
                yield key, buffer.value(decoder)
            elif key != under:
                buffer.value(decoder)
            else:
                for inner in _keys(f"{path}: {under}", buffer, decoder):
                    yield inner, buffer.value(decoder)
                return


def _keys(name: str, buffer: "_Buffer", decoder: json.JSONDecoder) -> Iterator[str]:
    """Yield the keys of an array or object, each before its value, which the caller consumes."""
    opening = buffer.next_symbol()
    if opening not in ("[", "{"):
        raise UserError(f"{name}: not a JSON array or object")
    closing = "]" if opening == "[" else "}"
    for index in range(1 << 62):
        symbol = buffer.next_symbol()
        if symbol == closing:
            return
        if index > 0:
            if symbol != ",":
                raise BrokenFileError(f"no comma before item {index}")
        else:
            buffer.back()
        key = str(index)
        if closing == "}":
            key = buffer.value(decoder)
            if not isinstance(key, str) or buffer.next_symbol() != ":":
                raise BrokenFileError(f"no key at item {index}")
        yield key


class _Buffer:
    """Text around the current position of the parser."""

    def __init__(self, stream: BinaryIO, max_bytes: int) -> None:
        self._stream, self._max = stream, max_bytes
        self._decode = codecs.getincrementaldecoder("utf-8-sig")("replace")
        self._text, self._at, self._is_end = "", 0, False

    def next_symbol(self) -> str:
        """Consume the next character that is not white space."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in " \t\r\n":
                self._at += 1
            if self._at < len(self._text):
                self._at += 1
                return self._text[self._at - 1]
            if not self._more():
                raise BrokenFileError("the JSON ends early")

    def back(self) -> None:
        """Step back before the symbol just read."""
        self._at -= 1

    def value(self, decoder: json.JSONDecoder) -> Any:
        """Consume the JSON value at the current position."""
        self.next_symbol()
        self.back()
        while True:
            try:
                value, end = decoder.raw_decode(self._text, self._at)
            except RecursionError as error:
                raise BrokenFileError("nested too deeply") from error
            except ValueError as error:
                end, problem = len(self._text), error
            else:
                if end < len(self._text) or self._is_end:  # else a number may continue
                    self._at = end
                    return value
                problem = ValueError("ends early")
            if len(self._text) - self._at > self._max or not self._more():
                raise BrokenFileError(f"no JSON value: {problem}")

    def _more(self) -> bool:
        """Read at least as much again as is buffered, so that long values are parsed only a few times."""
        if self._is_end:
            return False
        self._text, self._at = self._text[self._at :], 0
        data = self._stream.read(max(_CHUNK, len(self._text)))
        self._is_end = not data
        self._text += self._decode.decode(data, final=self._is_end)
        return True


def _marked_encoding(head: bytes) -> str | None:
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32"
    return "utf-16" if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else None


def _physical_lines(stream: BinaryIO) -> Iterator[bytes]:
    """Yield lines with their ends, whose last byte is never part of a longer character."""
    with stream:
        while line := stream.readline(MAX_RECORD_BYTES):
            yield line


def _rest(stream: BinaryIO) -> Iterator[bytes]:
    with stream:
        while chunk := stream.read(_CHUNK):
            yield chunk


def _skip_line(file: BinaryIO) -> int:
    """Return the number of bytes up to and including the next line end."""
    num = 0
    while data := file.readline(1 << 20):
        num += len(data)
        if data.endswith(b"\n"):
            break
    return num


def _decoder(kind: str) -> Callable[[], Any]:
    if kind == "zstd":
        return lambda: zstandard.ZstdDecompressor().decompressobj()
    return {"gzip": lambda: zlib.decompressobj(31), "bz2": bz2.BZ2Decompressor, "xz": lzma.LZMADecompressor}[kind]


def _decompressed(file: BinaryIO, new: Callable[[], Any], step: int) -> Iterator[bytes]:
    """Yield the content of all members or frames, one after the other.

    Args:
        file: The compressed file.
        new: Makes a decoder.
        step: Bytes that are decoded at once.
    """
    decoder = None
    with file:
        while chunk := file.read(_CHUNK):
            at = 0
            while at < len(chunk):
                if decoder is None:
                    at = len(chunk) - len(chunk[at:].lstrip(b"\0"))  # padding between or after members
                    if at == len(chunk):
                        break
                    decoder = new()
                part = chunk[at : at + step]
                try:
                    data = decoder.decompress(part)
                except Exception as error:  # each library raises its own error for damaged data
                    raise BrokenFileError(f"damaged: {error}") from error
                if data:
                    yield data
                at += len(part) - (len(decoder.unused_data) if decoder.eof else 0)
                decoder = None if decoder.eof else decoder
    if decoder is not None:
        raise BrokenFileError("the compressed data ends early")


def _unzipped(path: str, file: BinaryIO) -> Iterator[bytes]:
    """Yield the content of the only file in a zip."""
    with file:
        try:
            archive = zipfile.ZipFile(file)
            members = [m for m in archive.infolist() if not m.is_dir()]
        except zipfile.BadZipFile as error:
            raise BrokenFileError(f"damaged: {error}") from error
        if len(members) != 1:
            raise UserError(f"{path}: contains {len(members)} files; expected one")
        try:
            with archive.open(members[0]) as member:
                while data := member.read(1 << 20):
                    yield data
        except (RuntimeError, NotImplementedError) as error:
            raise UserError(f"{path}: cannot be unpacked: {error}") from error
        except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError) as error:
            raise BrokenFileError(f"damaged: {error}") from error
