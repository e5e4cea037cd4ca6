"""Image containers: format, size, the metadata next to the pixels, and the same file without it.

Everything is read from the bytes, never from a file name or an HTTP header, and without decoding pixels, so that a
hostile file costs nothing. JPEG, PNG and WebP are parsed; other formats are only recognised, and their XMP packet is
found by its markers.
"""

import io
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from PIL import Image

Format = Literal["jpeg", "png", "webp", "gif", "bmp", "avif"]

MIME: dict[Format, str] = {f: f"image/{f}" for f in ("jpeg", "png", "webp", "gif", "bmp", "avif")}

PILLOW_ERRORS = (
    OSError,
    SyntaxError,
    EOFError,
    TypeError,
    LookupError,
    ValueError,
    OverflowError,
    RuntimeError,  # of AVIF
    struct.error,
    MemoryError,
)
"""What Pillow raises for files that are damaged; none that is too large, which is `DecompressionBombError`."""

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_PNG_PIXELS = (b"IHDR", b"PLTE", b"IDAT")
_MAX_METADATA = 16 << 20  # bytes of one kind of metadata that are examined
_MAX_EXIF_ENTRIES = 1000
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # inside entropy-coded data: no stuffing, no restart, no fill
_ANY_MARKER = re.compile(rb"\xff[^\x00\xff]")  # the last fill byte is enough; `\xff+` takes quadratic time
_XMP_START, _XMP_END = b"<x:xmpmeta", b"</x:xmpmeta>"
_EXIF_ORIENTATION, EXIF_COPYRIGHT = 0x0112, 0x8298


@dataclass(frozen=True, slots=True)
class Metadata:
    """Metadata of an image: EXIF from its TIFF header on, the XMP packets, the C2PA manifest store.

    The ICC profile is given for JPEG only: Pillow gives those of other formats.
    """

    exif: bytes = b""
    xmp: bytes = b""
    c2pa: bytes = b""
    icc: bytes = b""

    @property
    def orientation(self) -> int:
        """EXIF orientation of the pixels, 1 to 8; 1 if there is no valid value."""
        value = exif_value(self.exif, _EXIF_ORIENTATION)
        return value if isinstance(value, int) and 1 <= value <= 8 else 1


def sniff_format(data: bytes) -> Format | None:
    """Return the format by the first bytes, or None."""
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if data.startswith(_PNG):
        return "png"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return "gif"
    if data[4:8] == b"ftyp" and (b"avif" in data[8:64] or b"avis" in data[8:64]):
        return "avif"
    if data[:2] == b"BM" and len(data) > 26 and struct.unpack_from("<I", data, 14)[0] in (12, 40, 52, 56, 64, 108, 124):
        return "bmp"
    return None


def read_size(data: bytes, format: Format) -> tuple[int, int]:
    """Return width and height as the header states them, before any rotation.

    Raises:
        ValueError: If the header is broken.
        PIL.Image.DecompressionBombError: If a GIF, BMP or AVIF is far beyond Pillow's limit.
    """
    try:
        if format == "jpeg":
            for marker, start, _ in _jpeg_segments(data):
                if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
                    height, width = struct.unpack_from(">HH", data, start + 1)
                    return int(width), int(height)
            raise ValueError("no frame header")
        if format == "png":
            width, height = struct.unpack_from(">II", data, 16)
            return int(width), int(height)
        if format == "webp":
            return _webp_size(data)
        with Image.open(io.BytesIO(data), formats=[format.upper()]) as image:
            return image.size
    except PILLOW_ERRORS as error:
        raise ValueError(f"broken {format} header: {error}") from error


def read_metadata(data: bytes, format: Format) -> Metadata:
    """Return the metadata of an image, without damaged parts."""
    try:
        if format == "jpeg":
            return _jpeg_metadata(data)
        if format == "png":
            return _png_metadata(data)
        if format == "webp":
            return _webp_metadata(data)
    except (struct.error, IndexError, ValueError):
        return Metadata()
    start = data.find(_XMP_START)
    end = data.find(_XMP_END, start) if start >= 0 else -1
    return Metadata(xmp=data[start : end + len(_XMP_END)][:_MAX_METADATA] if end >= 0 else b"")


def strip_metadata(data: bytes, format: Format) -> bytes:
    """Return the same image, without decoding it, with only what a decoder needs: no EXIF, XMP, ICC, comments, trailer.

    A damaged container is mended on the way as viewers do: bytes between JPEG segments and PNG chunks after the pixels
    are left out, a missing end marker is added.

    Raises:
        ValueError: If the file is broken or the format is not JPEG, PNG or a still, opaque WebP.
    """
    try:
        if format == "jpeg":
            return _strip_jpeg(data)
        if format == "png":
            return _PNG + b"".join(data[s - 8 : e + 4] for n, s, e in _png_chunks(data) if n in _PNG_PIXELS) + _PNG_END
        if format == "webp":
            pixels = [(n, data[s:e]) for n, s, e in _webp_chunks(data) if n in (b"VP8 ", b"VP8L")]
            if len(pixels) != 1:
                raise ValueError("not one still image")
            name, payload = pixels[0]
            chunk = name + struct.pack("<I", len(payload)) + payload + b"\0" * (len(payload) % 2)
            return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk
    except (struct.error, IndexError) as error:
        raise ValueError(f"broken {format}: {error}") from error
    raise ValueError(f"{format} cannot be stored unchanged")


def mended_png(data: bytes) -> bytes:
    """Return a PNG without ancillary chunks of a wrong checksum, which viewers pass over, and with its end.

    Raises:
        ValueError: If it has no whole chunk.
    """
    kept = [
        data[start - 8 : end + 4]
        for name, start, end in _png_chunks(data)
        if name != b"IEND" and (name[0] < 0x60 or zlib.crc32(data[start - 4 : end]) == _uint32(data, end))
    ]
    if not kept:
        raise ValueError("no whole PNG chunk")
    return _PNG + b"".join(kept) + _PNG_END


def _uint32(data: bytes, at: int) -> int:
    return int(struct.unpack_from(">I", data, at)[0])


def exif_value(exif: bytes, tag: int) -> int | str | None:
    """Return a number or a text of the first EXIF directory, or None."""
    try:
        order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
        if order is None:
            return None
        (offset,) = struct.unpack_from(order + "I", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, offset)
        for i in range(min(count, _MAX_EXIF_ENTRIES)):
            entry = offset + 2 + 12 * i
            found, kind, length = struct.unpack_from(order + "HHI", exif, entry)
            if found != tag:
                continue
            if kind == 3:
                return int(struct.unpack_from(order + "H", exif, entry + 8)[0])
            if kind == 2:
                at = entry + 8 if length <= 4 else struct.unpack_from(order + "I", exif, entry + 8)[0]
                return exif[at : at + min(length, 4096)].split(b"\0")[0].decode("utf-8", "replace").strip() or None
    except struct.error:
        pass
    return None


def _jpeg_segments(data: bytes, *, before_scans: bool = False) -> Iterator[tuple[int, int, int]]:
    """Yield marker, start and end of each payload up to and including the end-of-image marker, without scans.

    With `before_scans` it stops at the first scan, whose end takes as long to find as all else.

    As decoders do, it passes over stray bytes between segments and takes the end of the file for a missing end marker.
    """
    at = 2
    while True:
        found = _ANY_MARKER.search(data, at)
        if found is None:
            raise ValueError("JPEG marker missing")
        marker, at = data[found.end() - 1], found.end()
        if marker == 0xD9:
            yield marker, at, at
            return
        if marker in (0x01, 0xD8) or 0xD0 <= marker <= 0xD7:  # without a length, also where no scan is
            continue
        (length,) = struct.unpack_from(">H", data, at)
        end = at + length
        if length < 2 or end > len(data):
            raise ValueError("a JPEG segment ends beyond the file")
        if marker == 0xDA:
            if before_scans:
                return
            found = _NEXT_MARKER.search(data, end)
            end = found.start() if found is not None else len(data) - data.endswith(b"\xff")
            if found is None:
                yield marker, at + 2, end
                yield 0xD9, end, end
                return
        yield marker, at + 2, end
        at = end


def _jpeg_metadata(data: bytes) -> Metadata:
    exif, xmp, extended = b"", [], []
    icc: dict[int, bytes] = {}
    jumbf: dict[int, list[tuple[int, bytes]]] = {}
    for marker, start, end in _jpeg_segments(data, before_scans=True):
        payload = data[start:end]
        if marker == 0xE1 and payload.startswith(b"Exif\0\0"):
            exif = exif or payload[6:]
        elif marker == 0xE1 and payload.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
            xmp.append(payload[29:])
        elif marker == 0xE1 and payload.startswith(b"http://ns.adobe.com/xmp/extension/\0"):
            extended.append((payload[35:67], struct.unpack_from(">I", payload, 71)[0], payload[75:]))
        elif marker == 0xE2 and payload.startswith(b"ICC_PROFILE\0") and len(payload) > 14:
            icc[payload[12]] = payload[14:]
        elif marker == 0xEB and payload.startswith(b"JP"):
            box, sequence = struct.unpack_from(">HI", payload, 2)
            jumbf.setdefault(box, []).append((sequence, payload[8:]))
    xmp += [part for _, _, part in sorted(extended)]
    stores = []
    for _, pieces in sorted(jumbf.items()):
        pieces.sort()
        header = 16 if pieces[0][1][:4] == b"\0\0\0\1" else 8  # every later chunk repeats the box's header
        stores.append(pieces[0][1] + b"".join(piece[header:] for _, piece in pieces[1:]))
    profile = b"".join(icc[number] for number in sorted(icc))
    return Metadata(exif, b"".join(xmp)[:_MAX_METADATA], b"".join(stores)[:_MAX_METADATA], profile)


def _strip_jpeg(data: bytes) -> bytes:
    kept = [b"\xff\xd8"]
    for marker, start, end in _jpeg_segments(data):
        payload = data[start:end]
        if marker == 0xE0 and payload.startswith(b"JFIF\0") and len(payload) >= 14:
            kept.append(b"\xff\xe0\x00\x10" + payload[:12] + b"\0\0")  # without its thumbnail
        elif marker == 0xD9:
            kept.append(b"\xff\xd9")
        elif not (0xE0 <= marker <= 0xEF or marker == 0xFE) or (marker == 0xEE and payload.startswith(b"Adobe")):
            kept.append(b"\xff" + bytes([marker]) + data[start - 2 : end])
    return b"".join(kept)


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, start and end of the content of each whole chunk."""
    at = 8
    while at + 12 <= len(data):
        name, start, end = data[at + 4 : at + 8], at + 8, at + 8 + _uint32(data, at)
        if end + 4 > len(data):
            return
        yield name, start, end
        if name == b"IEND":
            return
        at = end + 4


def _png_metadata(data: bytes) -> Metadata:
    exif = xmp = c2pa = b""
    is_compressed = False
    for name, start, end in _png_chunks(data):
        if name == b"eXIf":
            exif = data[start:end]
        elif name == b"iTXt" and data.startswith(b"XML:com.adobe.xmp\0", start):
            is_compressed, xmp = data[start + 18] != 0, data[start + 20 : end].split(b"\0", 2)[2]
        elif name == b"caBX":
            c2pa = data[start:end]
    xmp = _inflate(xmp) if is_compressed else xmp  # once: a file may hold thousands of such chunks
    return Metadata(exif, xmp[:_MAX_METADATA], c2pa[:_MAX_METADATA])


def _inflate(data: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(data, 4 << 20)
    except zlib.error:
        return b""


def _webp_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    at, whole = 12, min(len(data), 8 + struct.unpack_from("<I", data, 4)[0])
    while at + 8 <= whole:
        (length,) = struct.unpack_from("<I", data, at + 4)
        start, end = at + 8, at + 8 + length
        if end > len(data):
            raise ValueError("a WebP chunk ends beyond the file")
        yield data[at : at + 4], start, end
        at = end + length % 2


def _webp_size(data: bytes) -> tuple[int, int]:
    for name, start, _ in _webp_chunks(data):
        if name == b"VP8X":
            width, height = (int.from_bytes(data[start + i : start + i + 3], "little") + 1 for i in (4, 7))
            return width, height
        if name == b"VP8L":
            bits = int.from_bytes(data[start + 1 : start + 5], "little")
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        if name == b"VP8 ":
            width, height = struct.unpack_from("<HH", data, start + 6)
            return int(width) & 0x3FFF, int(height) & 0x3FFF
    raise ValueError("no image in the WebP container")


def _webp_metadata(data: bytes) -> Metadata:
    chunks = {name: data[start:end] for name, start, end in _webp_chunks(data)}
    return Metadata(
        chunks.get(b"EXIF", b"").removeprefix(b"Exif\0\0"),
        chunks.get(b"XMP ", b"")[:_MAX_METADATA],
        chunks.get(b"C2PA", b"")[:_MAX_METADATA],
    )
