"""Usage statements in an image's own file: PLUS data mining, C2PA/CAWG training and mining, its source type.

They must be read from the bytes as fetched, since resizing removes them. Their absence proves nothing. Signatures are
not checked: a reservation in an unsigned or invalid manifest is respected too.
"""

import html
import re
import struct
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import cbor2

from pipelines.document import Signal
from pipelines.drop_reasons import Reason
from pipelines.images.metadata import EXIF_COPYRIGHT, exif_value, read_metadata, sniff_format

_PLUS_FREE = ("DMI-UNSPECIFIED", "DMI-ALLOWED")  # other values reserve something (IPTC Photo Metadata 2023.1)
_PLUS = re.compile(r"ns\.useplus\.org/ldf/vocab/(DMI-[A-Z-]{1,80})")
_SOURCE_TYPE = re.compile(r"cv\.iptc\.org/newscodes/digitalsourcetype/(\w{1,80})", re.ASCII)
_PROPERTY = (
    r"""[:<]{name}\s*+(?:=\s*+["']|>\s*+|(?:(?<=\s)[^>]{{0,200}}?)?rdf:resource\s*+=\s*+["'])([^"'<>]{{1,2000}})"""
)
_STATEMENTS = {
    "xmp-web-statement": re.compile(_PROPERTY.format(name="WebStatement")),
    "xmp-license": re.compile(_PROPERTY.format(name="license")),
}
_MINING = re.compile(r"(?:c2pa|cawg)\.training-mining(?:__\d+)?$")
_TRAINING_USES = ("data_mining", "ai_training", "ai_generative_training")  # a corpus is not used for inference
_MAX_DEPTH = 24  # of boxes, and of values in CBOR
_MAX_ASSERTION = 1 << 20  # bytes; the worst content takes 0.4 s and 80 MB, a real assertion has a few KB


@dataclass(frozen=True, slots=True)
class EmbeddedRights:
    """Signals in a fixed order, and the reasons for which the image must be dropped."""

    signals: tuple[Signal, ...] = ()
    reasons: tuple[Reason, ...] = ()


def embedded_rights(
    data: bytes, *, target: str = "media:0", url: str | None = None, observed_at: str | None = None
) -> EmbeddedRights:
    """Return the usage statements in the file of an image.

    Args:
        data: The bytes as fetched.
        target, url, observed_at: As in the returned `Signal`s.
    """
    format = sniff_format(data)
    if format is None:
        return EmbeddedRights()
    metadata = read_metadata(data, format)
    xmp = metadata.xmp.decode("utf-8", "replace")
    found: list[tuple[str, str]] = []

    found += [("plus-data-mining", value) for value in sorted(set(_PLUS.findall(xmp)))]
    source_types = set(_SOURCE_TYPE.findall(xmp))
    if metadata.c2pa:
        manifests = _read_manifests(metadata.c2pa)
        found.append(("c2pa", "present" if manifests.is_readable else "unreadable"))
        found += [("c2pa-training-mining", f"{name}={use}") for name, use in manifests.mining]
        source_types |= manifests.source_types
    found += [("digital-source-type", value) for value in sorted(source_types)]

    for kind, pattern in _STATEMENTS.items():
        found += [(kind, html.unescape(value).strip()) for value in dict.fromkeys(pattern.findall(xmp))]
    copyright_notice = exif_value(metadata.exif, EXIF_COPYRIGHT)
    if isinstance(copyright_notice, str):
        found.append(("exif-copyright", copyright_notice))
    return EmbeddedRights(
        tuple(Signal(kind, target, value, observed_at, url) for kind, value in found if value), refusals(found)
    )


def refusals(statements: Iterable[tuple[str, str]]) -> tuple[Reason, ...]:
    """Return the reasons for which statements in an image's file refuse training on it.

    Args:
        statements: Kinds and values of signals, of `embedded_rights` or any others.
    """
    reasons: list[Reason] = []
    for kind, value in statements:
        if kind == "plus-data-mining" and value not in _PLUS_FREE:
            reasons.append("plus_prohibited")
        elif kind == "c2pa-training-mining":
            name, _, use = value.partition("=")
            if name.partition(".")[2] in _TRAINING_USES and use != "allowed":
                reasons.append("c2pa_not_allowed")
    return tuple(dict.fromkeys(sorted(reasons, reverse=True)))


class _Manifests(NamedTuple):
    """Content of a manifest store: (entry, use) on mining, digital source types, and whether all could be read."""

    mining: list[tuple[str, str]]
    source_types: set[str]
    is_readable: bool


def _read_manifests(store: bytes) -> _Manifests:
    """Read all manifests of a store.

    The manifest of an ingredient counts like the active one: an image made from a reserved one is reserved. An
    assertion that cannot be read does not hide the others.
    """
    mining: set[tuple[str, str]] = set()
    source_types: set[str] = set()
    is_readable = True
    try:
        for label, content in _assertions(store, 0, len(store), 0):
            try:
                value = _read_cbor(content)
            except ValueError:
                is_readable = False
                continue
            if _MINING.match(label):
                entries = value.get("entries") if isinstance(value, dict) else None
                for name, entry in entries.items() if isinstance(entries, dict) else ():
                    use = entry.get("use") if isinstance(entry, dict) else entry
                    mining.add((str(name), use if isinstance(use, str) and use else "unstated"))
            else:
                source_types |= {m for text in _texts(value) for m in _SOURCE_TYPE.findall(text)}
    except (ValueError, struct.error, IndexError):
        is_readable = False
    return _Manifests(sorted(mining), source_types, is_readable)


def _assertions(store: bytes, at: int, end: int, depth: int) -> Iterator[tuple[str, bytes]]:
    """Yield (label, CBOR) of the assertions on mining and on actions, from nested JUMBF boxes (ISO 19566-5)."""
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


def _read_cbor(content: bytes) -> Any:
    """Return the value of an assertion, whose maps have text keys.

    Tags are ignored: an invalid date must not hide a reservation, and with shared references a few bytes could stand
    for endless values. Keys of other types than text and bytes are refused, since they could be chosen to collide.

    Raises:
        ValueError: If it is not CBOR, too deep or too long.
    """
    if len(content) > _MAX_ASSERTION:
        raise ValueError(f"an assertion of {len(content)} bytes")
    untagged: defaultdict[int, Any] = defaultdict(lambda: lambda value, is_immutable: value)
    try:
        return cbor2.loads(
            content,
            semantic_decoders=untagged,
            str_errors="replace",
            max_depth=_MAX_DEPTH,
            strict_hashable_types=True,
        )
    except cbor2.CBORDecodeError as error:
        raise ValueError(f"not CBOR: {error}") from error


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
