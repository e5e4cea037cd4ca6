"""What an image's own file says about its use: PLUS data mining, C2PA/CAWG training and mining, where it came from.

Must be read from the bytes as fetched: resizing strips them. That nothing is said proves nothing. Signatures are
not checked: a reservation in an unsigned or invalid manifest is honoured all the same.
"""

import html
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipelines.document import Signal
from pipelines.drop_reasons import Reason
from pipelines.images.metadata import EXIF_COPYRIGHT, exif_value, read_metadata, sniff_format

_PLUS_FREE = ("DMI-UNSPECIFIED", "DMI-ALLOWED")  # all else reserves something (IPTC Photo Metadata 2023.1)
_PLUS = re.compile(r"ns\.useplus\.org/ldf/vocab/(DMI-[A-Z-]{1,80})")
_SOURCE_TYPE = re.compile(r"cv\.iptc\.org/newscodes/digitalsourcetype/(\w{1,80})", re.ASCII)
_PROPERTY = r"""[:<]{name}\s*(?:=\s*["']|>\s*|(?:\s[^>]{{0,200}})?rdf:resource\s*=\s*["'])([^"'<>]{{1,2000}})"""
_STATEMENTS = {
    "xmp-web-statement": re.compile(_PROPERTY.format(name="WebStatement")),
    "xmp-license": re.compile(_PROPERTY.format(name="license")),
}
_MINING = re.compile(r"(?:c2pa|cawg)\.training-mining(?:__\d+)?$")
_TRAINING_USES = ("data_mining", "ai_training", "ai_generative_training")  # inference is not what a corpus is for
_MAX_VALUES, _MAX_DEPTH = 20_000, 24


@dataclass(frozen=True, slots=True)
class EmbeddedRights:
    """The signals found, in a fixed order, and the reasons for which the image must be left out."""

    signals: tuple[Signal, ...] = ()
    reasons: tuple[Reason, ...] = ()


def embedded_rights(
    data: bytes, *, target: str = "media:0", url: str | None = None, observed_at: str | None = None
) -> EmbeddedRights:
    """What the file of an image, as fetched, says about its use.

    Args:
        data: The bytes as fetched.
        target, url, observed_at: As in the `Signal`s to be returned.
    """
    format = sniff_format(data)
    if format is None:
        return EmbeddedRights()
    metadata = read_metadata(data, format)
    xmp = metadata.xmp.decode("utf-8", "replace")
    found: list[tuple[str, str]] = []
    reasons: list[Reason] = []

    plus = sorted(set(_PLUS.findall(xmp)))
    found += [("plus-data-mining", value) for value in plus]
    if any(value not in _PLUS_FREE for value in plus):
        reasons.append("plus_prohibited")

    source_types = set(_SOURCE_TYPE.findall(xmp))
    if metadata.c2pa:
        mining, from_manifest, is_readable = _read_manifests(metadata.c2pa)
        found.append(("c2pa", "present" if is_readable else "unreadable"))
        found += [("c2pa-training-mining", f"{name}={use}") for name, use in mining]
        source_types |= from_manifest
        if any(name.partition(".")[2] in _TRAINING_USES and use != "allowed" for name, use in mining):
            reasons.append("c2pa_not_allowed")
    found += [("digital-source-type", value) for value in sorted(source_types)]

    for kind, pattern in _STATEMENTS.items():
        found += [(kind, html.unescape(value).strip()) for value in dict.fromkeys(pattern.findall(xmp))]
    copyright_notice = exif_value(metadata.exif, EXIF_COPYRIGHT)
    if isinstance(copyright_notice, str):
        found.append(("exif-copyright", copyright_notice))
    return EmbeddedRights(
        tuple(Signal(kind, target, value, observed_at, url) for kind, value in found if value), tuple(reasons)
    )


def _read_manifests(store: bytes) -> tuple[list[tuple[str, str]], set[str], bool]:
    """Mining entries and digital source types of all manifests of a store, and whether all of it could be read.

    An ingredient's manifest counts as the active one does: an image made from a reserved one stays reserved.
    """
    mining: set[tuple[str, str]] = set()
    source_types: set[str] = set()
    try:
        for label, content in _assertions(store, 0, len(store), 0):
            value = _Cbor(content).value(0)
            if _MINING.match(label):
                entries = value.get("entries", {}) if isinstance(value, dict) else {}
                for name, entry in entries.items():
                    use = entry.get("use") if isinstance(entry, dict) else entry
                    mining.add((str(name), str(use or "unstated")))
            else:
                source_types |= {m for text in _texts(value) for m in _SOURCE_TYPE.findall(text)}
    except (ValueError, struct.error, IndexError, AttributeError):
        return sorted(mining), source_types, False
    return sorted(mining), source_types, True


def _assertions(store: bytes, at: int, end: int, depth: int) -> Iterator[tuple[str, bytes]]:
    """Label and CBOR of the assertions on mining and on actions, from nested JUMBF boxes (ISO 19566-5)."""
    if depth > _MAX_DEPTH:
        raise ValueError("boxes nested too deep")
    label = ""
    while at + 8 <= end:
        length, kind = struct.unpack_from(">I4s", store, at)
        start = at + 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", store, start)
            start += 8
        stop = end if length == 0 else at + length
        if stop > end or stop < start:
            raise ValueError("a box ends beyond its parent")
        if kind == b"jumb":
            yield from _assertions(store, start, stop, depth + 1)
        elif kind == b"jumd" and store[start + 16] & 2:
            label = store[start + 17 : stop].split(b"\0")[0].decode("utf-8", "replace")
        elif kind == b"cbor" and (_MINING.match(label) or label.startswith("c2pa.actions")):
            yield label, store[start:stop]
        at = stop


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


class _Cbor:
    """CBOR (RFC 8949) as far as manifests use it; keys become text, bounded in depth and in number of values."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at, self.num_values = data, 0, 0

    def value(self, depth: int) -> Any:
        """The next value, at a depth of nesting."""
        self.num_values += 1
        if depth > _MAX_DEPTH or self.num_values > _MAX_VALUES:
            raise ValueError("CBOR too deep or too long")
        first = self.data[self.at]
        self.at += 1
        major, short = first >> 5, first & 31
        if major == 7:
            return self._simple(short)
        length = None if short == 31 else self._length(short)
        if major in (2, 3):
            raw = self._string(length, depth)
            return raw if major == 2 else raw.decode("utf-8", "replace")
        if major == 4:
            return list(self._items(length, depth))
        if major == 5:
            items = self._items(None if length is None else 2 * length, depth)
            return {str(key): next(items, None) for key in items}
        if length is None:
            raise ValueError("a CBOR number without a value")
        if major == 6:
            return self.value(depth + 1)  # a tag: what it tags
        return length if major == 0 else -1 - length

    def _length(self, short: int) -> int:
        if short < 24:
            return short
        size = {24: 1, 25: 2, 26: 4, 27: 8}[short] if short <= 27 else 0
        if not size:
            raise ValueError("reserved CBOR length")
        return int.from_bytes(self._take(size), "big")

    def _take(self, size: int) -> bytes:
        if self.at + size > len(self.data):
            raise ValueError("CBOR ends too early")
        self.at += size
        return self.data[self.at - size : self.at]

    def _string(self, length: int | None, depth: int) -> bytes:
        if length is not None:
            return self._take(length)
        return b"".join(p if isinstance(p, bytes) else str(p).encode() for p in self._items(None, depth))

    def _items(self, length: int | None, depth: int) -> Iterator[Any]:
        while length is None or length > 0:
            if length is None and self.data[self.at] == 0xFF:
                self.at += 1
                return
            yield self.value(depth + 1)
            length = None if length is None else length - 1

    def _simple(self, short: int) -> Any:
        if short in (20, 21):
            return short == 21
        if short in (24, 25, 26, 27):
            self._take({24: 1, 25: 2, 26: 4, 27: 8}[short])
        elif short == 31:
            raise ValueError("a CBOR break outside a container")
        return None
