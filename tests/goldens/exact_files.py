"""Media files with the same bytes and pixels on every machine, since they are made without encoders."""

import base64
import hashlib
import io
import struct
import tarfile
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

JPEG = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDACAWGBwYFCAcGhwkIiAmMFA0MCwsMGJGSjpQdGZ6eHJmcG6AkLicgIiuim5woNqirr7EztDOfJri8uDI"
    "8LjKzsb/2wBDASIkJDAqMF40NF7GhHCExsbGxsbGxsbGxsbGxsbGxsbGxsbGxsbGxsbGxsbGxsbGxsbGxsbGxsbGxsbGxsbGxsb/wAARCAAYACAD"
    "ASIAAhEBAxEB/8QAFwABAQEBAAAAAAAAAAAAAAAAAwACBf/EABgQAAMBAQAAAAAAAAAAAAAAAAACAwER/8QAFwEBAQEBAAAAAAAAAAAAAAAAAwQC"
    "Bf/EABkRAAIDAQAAAAAAAAAAAAAAAAABAgMSEf/aAAwDAQACEQMRAD8A4qzFWYyzFzOZwHXTdD2+ALMRZirnWzBlmHN5LFLL4ZWYizIgG2cSuTEW"
    "YizIg22W1yZ//9k="
)
"""A JPEG of 32x24 pixels, which the fetch stage stores unchanged."""


def blocks(name: str, size: tuple[int, int] = (64, 48), side: int = 8) -> Pixels:
    """Return pixels of an image of squares whose colours depend on its name.

    Args:
        name: Name whose hash gives the colours.
        size: Width and height, multiples of `side`.
        side: Side of a square. Halving such an image, by areas or any other method, is exact.
    """
    width, height = size[0] // side, size[1] // side
    colours = np.frombuffer(hashlib.shake_256(name.encode()).digest(width * height * 3), np.uint8)
    return colours.reshape(height, width, 3).repeat(side, axis=0).repeat(side, axis=1)


def png(pixels: Pixels, exif: bytes | None = None) -> bytes:
    """Return a PNG that is not compressed.

    Args:
        pixels: (height, width, 3 or 4), red first, alpha last.
        exif: Contents of an `eXIf` chunk.
    """
    height, width, channels = pixels.shape
    raw = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 8, {3: 2, 4: 6}[channels], 0, 0, 0)
    chunks = [(b"IHDR", header), *([(b"eXIf", exif)] if exif else []), (b"IDAT", _stored(raw)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def _stored(raw: bytes) -> bytes:
    """Return a zlib stream of stored blocks, since the output of compressors differs between builds."""
    parts = [raw[i : i + 65_535] for i in range(0, len(raw), 65_535)]
    headers = (struct.pack("<BHH", i == len(parts) - 1, len(p), len(p) ^ 0xFFFF) for i, p in enumerate(parts))
    return b"\x78\x01" + b"".join(h + p for h, p in zip(headers, parts, strict=True)) + zlib.adler32(raw).to_bytes(4)


def turned(orientation: int) -> bytes:
    """Return EXIF data with an orientation."""
    return struct.pack(">2sHIHHHIHHI", b"MM", 42, 8, 1, 0x0112, 3, 1, orientation, 0, 0)


def avi(frames: Sequence[Pixels], frames_per_second: int) -> bytes:
    """Return a video of raw frames, of which only the order of the colours needs decoding.

    Args:
        frames: (height, width, 3), red first; the width a multiple of 4.
        frames_per_second: Frame rate.
    """
    height, width, _ = frames[0].shape
    size = height * width * 3
    data = [_chunk(b"00db", np.ascontiguousarray(frame[::-1, :, ::-1]).tobytes()) for frame in frames]
    main = struct.pack(
        "<14I", 1_000_000 // frames_per_second, 0, 0, 0x10, len(frames), 0, 1, size, width, height, 0, 0, 0, 0
    )
    stream = struct.pack(
        "<4s4sIHHIIIIIIII4H",
        *(b"vids", b"DIB ", 0, 0, 0, 0, 1, frames_per_second, 0, len(frames), size, 0, 0, 0, 0, width, height),
    )
    form = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, size, 0, 0, 0, 0)
    streams = _list(b"strl", _chunk(b"strh", stream) + _chunk(b"strf", form))
    index = b"".join(struct.pack("<4sIII", b"00db", 0x10, 4 + i * (8 + size), size) for i in range(len(frames)))
    movie = _list(b"movi", b"".join(data)) + _chunk(b"idx1", index)
    return _chunk(b"RIFF", b"AVI " + _list(b"hdrl", _chunk(b"avih", main) + streams) + movie)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return kind + struct.pack("<I", len(data)) + data


def _list(kind: bytes, data: bytes) -> bytes:
    return _chunk(b"LIST", kind + data)


def tar(members: Sequence[tuple[str, bytes]]) -> bytes:
    """Return a tar of files with equal times."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()
