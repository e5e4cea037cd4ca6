"""Damaged, hostile, or rights-reserving files: images, a decompression bomb, a video."""

import gzip
import io
import random
import struct
import zlib
from functools import lru_cache

import numpy as np
from PIL import Image

from tools.demo_web.scene import Picture
from tools.demo_web.site import encode

PLUS_PROHIBITED = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:plus="http://ns.useplus.org/ldf/xmp/1.0/" '
    'plus:DataMining="http://ns.useplus.org/ldf/vocab/DMI-PROHIBITED-AIMLTRAINING"/></rdf:RDF></x:xmpmeta>'
)
_EXIF_ORIENTATION, _EXIF_ARTIST, _EXIF_GPS = 0x0112, 0x013B, 0x8825


def _saved(picture: Picture, file_format: str, **options: object) -> bytes:
    out = io.BytesIO()
    Image.fromarray(picture).save(out, file_format, **options)
    return out.getvalue()


def corrupt_jpeg(picture: Picture) -> bytes:
    """A JPEG whose headers are fine and whose quantisation tables and data are noise."""
    data = bytearray(encode(picture, "jpg"))
    noise = random.Random(0)
    for place in range(20, len(data) - 2):
        data[place] = noise.randrange(256)
    return bytes(data)


def truncated_png(picture: Picture) -> bytes:
    """The first third of a PNG."""
    data = encode(picture, "png")
    return data[: len(data) // 3]


def huge_png(width: int = 60_000, height: int = 60_000) -> bytes:
    """A PNG of a few bytes whose header claims 3.6 billion pixels."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\x00" * 1000)) + chunk(b"IEND", b"")


def rotated_jpeg(picture: Picture) -> bytes:
    """A JPEG stored rotated (EXIF orientation 6), with an artist and the place where it was taken."""
    exif = Image.Exif()
    exif[_EXIF_ORIENTATION] = 6
    exif[_EXIF_ARTIST] = "Ada Example"
    exif.get_ifd(_EXIF_GPS).update({1: "N", 2: (52.0, 31.0, 12.0), 3: "E", 4: (13.0, 24.0, 18.0)})
    return _saved(np.ascontiguousarray(np.rot90(picture)), "JPEG", quality=90, exif=exif)


def plus_jpeg(picture: Picture) -> bytes:
    """A JPEG whose XMP prohibits training, in the PLUS vocabulary."""
    return _saved(picture, "JPEG", quality=90, xmp=PLUS_PROHIBITED.encode())


def c2pa_jpeg(picture: Picture) -> bytes:
    """A JPEG with a C2PA manifest (JUMBF in APP11) whose `cawg.training-mining` assertion allows no training."""
    entries = {"cawg.ai_training": "notAllowed", "cawg.ai_generative_training": "notAllowed"}
    assertion = _superbox(b"cbor", "cawg.training-mining", _box(b"cbor", _cbor_entries(entries)))
    manifest = _superbox(b"c2ma", "urn:demo-web", _superbox(b"c2as", "c2pa.assertions", assertion))
    store = _superbox(b"c2pa", "c2pa", manifest)
    segment = b"JP" + struct.pack(">HI", 1, 1) + store
    data = encode(picture, "jpg")
    return data[:2] + b"\xff\xeb" + struct.pack(">H", len(segment) + 2) + segment + data[2:]


def _box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body) + 8) + kind + body


def _superbox(kind: bytes, label: str, content: bytes) -> bytes:
    uuid = kind + bytes.fromhex("00110010800000aa00389b71")
    return _box(b"jumb", _box(b"jumd", uuid + b"\x03" + label.encode() + b"\x00") + content)


def _cbor_entries(uses: dict[str, str]) -> bytes:
    """CBOR of `{"entries": {<name>: {"use": <use>}}}`."""

    def text(words: str) -> bytes:
        head = bytes([0x60 + len(words)]) if len(words) < 24 else bytes([0x78, len(words)])
        return head + words.encode()

    def mapping(pairs: list[tuple[str, bytes]]) -> bytes:
        return bytes([0xA0 + len(pairs)]) + b"".join(text(key) + value for key, value in pairs)

    return mapping([("entries", mapping([(name, mapping([("use", text(use))])) for name, use in uses.items()]))])


def animated_gif(pictures: list[Picture]) -> bytes:
    """A GIF that shows the images in turn."""
    first, *others = (Image.fromarray(picture).quantize(64) for picture in pictures)
    out = io.BytesIO()
    first.save(out, "GIF", save_all=True, append_images=others, duration=200, loop=0)
    return out.getvalue()


@lru_cache(maxsize=1)
def gzip_bomb(num_bytes: int = 64_000_000) -> bytes:
    """Zeros, compressed to a thousandth of their size."""
    out = io.BytesIO()
    zeros = bytes(1_000_000)
    with gzip.GzipFile(fileobj=out, mode="wb", compresslevel=6, mtime=0) as archive:
        for _ in range(num_bytes // len(zeros)):
            archive.write(zeros)
    return out.getvalue()


def gzipped(data: bytes) -> bytes:
    """The data, gzipped, with no timestamp in it."""
    return gzip.compress(data, mtime=0)
