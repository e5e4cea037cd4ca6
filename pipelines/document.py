"""Records that cross every seam: `Document`, in the `seq/1` schema, and `Drop`, for what is dropped.

A document is a sequence of text, image and frame segments; its media are members of the same tar. The JSON
of a sample is `Document.to_json()`: sorted keys, compact, UTF-8, floats at 6 significant digits, so that
equal documents are equal bytes.
"""

import hashlib
import json
import re
import unicodedata
from collections.abc import Callable, Collection, Container, Iterable, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cache
from itertools import groupby
from operator import attrgetter
from typing import Any, Literal, Self, get_args

from pipelines.drop_reasons import Reason, Stage, Unit

SCHEMA = "seq/1"

_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
_LEAVES = frozenset((str, int, bool, type(None)))

Kind = Literal["interleaved", "pair", "grounded", "video", "text", "conversation"]
SegmentType = Literal["text", "image", "frame"]
Speaker = Literal["system", "user", "assistant"]
Role = Literal["body", "heading", "caption", "alt", "subtitle", "transcript", "title", "content", "frame", Speaker]
Origin = Literal["source", "synthetic", "derived"]
Split = Literal["train", "val", "test"]

KINDS: tuple[Kind, ...] = get_args(Kind)
SPEAKERS: tuple[Speaker, ...] = get_args(Speaker)
"""Roles of the segments of a conversation, whose turns they make up."""
SPLITS: tuple[Split, ...] = get_args(Split)
CAPTIONED: frozenset[Kind] = frozenset({"pair", "grounded"})  # one image, one caption, and img2dataset's extra keys
NEEDS_ALL_MEDIA: frozenset[Kind] = CAPTIONED | {"conversation"}  # what is said is about each image

_INVISIBLE = re.compile("[\0\u00ad\u200b\u2060\ufeff]")  # not the joiners: scripts and emoji need them

KEY_PREFIX: dict[Kind, str] = {
    "interleaved": "i",
    "pair": "p",
    "grounded": "g",
    "video": "v",
    "text": "t",
    "conversation": "c",
}


@dataclass(frozen=True, slots=True)
class Region:
    """A phrase and its box: half-open code-point offsets, and [x0, y0, x1, y1] in 0..1 from the top left."""

    start: int
    end: int
    media: int
    box: tuple[float, float, float, float]
    score: float | None = None
    label: str | None = None


@dataclass(frozen=True, slots=True)
class Segment:
    """One step of the sequence. A text segment has `text`, others have `media`, an index into the document's media.

    `t0`, `t1` are seconds into the video; `generator` names the model that wrote the text, if one did. In a candidate
    for a conversation, a frame without media stands where the frames of its video will.
    """

    type: SegmentType
    text: str | None = None
    media: int | None = None
    t0: float | None = None
    t1: float | None = None
    role: Role = "body"
    origin: Origin = "source"
    generator: str | None = None
    regions: tuple[Region, ...] = ()


@dataclass(frozen=True, slots=True)
class Face:
    """A face in an image: [x0, y0, x1, y1] in 0..1 from the top left, and the detector's score."""

    box: tuple[float, float, float, float]
    score: float

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Self:
        """Return the face of a parsed JSON record.

        Raises:
            TypeError: If it has other keys.
        """
        return cls(**{**record, "box": tuple(record["box"])})


@dataclass(frozen=True, slots=True)
class Media:
    """One image of the document. Sizes, hashes, `part`, `mime` and `fetched_at` are None until the bytes are fetched.

    `stored_sha256` is of the bytes in the tar, `source_sha256` of the bytes as fetched; `part` is the member's name
    after the key; `t` is the time of a frame in seconds. `faces` is None, and not in the JSON, if none were searched.
    """

    url: str | None
    part: str | None = None
    mime: str | None = None
    width: int | None = None
    height: int | None = None
    source_width: int | None = None
    source_height: int | None = None
    bytes: int | None = None
    stored_sha256: str | None = None
    source_sha256: str | None = None
    alt: str | None = None
    t: float | None = None
    fetched_at: str | None = None
    license: str | None = None
    license_evidence: str = "none-found"
    credit: str | None = None
    faces: tuple[Face, ...] | None = None

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Self:
        """Return the media of a parsed JSON record.

        Raises:
            TypeError: If it has other keys.
        """
        if (faces := record.get("faces")) is not None:
            record = record | {"faces": tuple(map(Face.from_record, faces))}
        return cls(**record)


@dataclass(frozen=True, slots=True)
class Provenance:
    """Origin of the record (the `source` of seq/1). No local path, no credential."""

    dataset: str
    record: str
    release: str | None = None
    file: str | None = None
    page_url: str | None = None
    canonical_url: str | None = None
    crawl: str | None = None
    warc_file: str | None = None
    warc_offset: int | None = None
    warc_length: int | None = None
    license: str | None = None


@dataclass(frozen=True, slots=True)
class Signal:
    """A machine-readable usage statement, verbatim: `kind` as in permission.py, `target` is `page` or `media:<i>`."""

    kind: str
    target: str
    value: str
    observed_at: str | None = None
    url: str | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """Verdict on the use of the sample, with the policy that gave it and the reasons for refusal."""

    policy: str = "none"
    allowed: bool = True
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Score:
    """A number about `target` (`document`, `media:<i>`, `segment:<i>`); None is unknown, never zero."""

    name: str
    target: str
    value: float | None
    origin: str


@dataclass(frozen=True, slots=True)
class OtherCaption:
    """A caption that the data set gives beside the one that is used, by the name of its column."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Build:
    """Build that made the sample. `dedup_group` is shared by everything that must stay in one split."""

    pipeline: str = ""
    config_sha256: str = ""
    pii_text: str | None = None
    pii_hits: int = 0
    dedup_group: str = ""


@dataclass(frozen=True, slots=True)
class Document:
    """One sample, or one candidate for it.

    `extras` are additional keys at the JSON's root: those that other readers expect (img2dataset's for pairs), and
    `other_captions`.
    """

    kind: Kind
    key: str
    segments: tuple[Segment, ...]
    media: tuple[Media, ...]
    source: Provenance
    lang: str | None = None
    signals: tuple[Signal, ...] = ()
    decision: Decision = Decision()
    scores: tuple[Score, ...] = ()
    build: Build = Build()
    extras: dict[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        return "\n\n".join(s.text for s in self.segments if s.text is not None)

    @property
    def num_text_chars(self) -> int:
        return sum(len(s.text) for s in self.segments if s.text is not None)

    def to_json(self) -> str:
        """Return the canonical JSON of seq/1."""
        record = {"schema": SCHEMA, **plain(self, digits=6)}
        record |= record.pop("extras")
        for media in record["media"]:
            if media["faces"] is None:  # of media in which none were searched, as before there were any
                del media["faces"]
        return canonical_json(record)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Parse the JSON of seq/1.

        Raises:
            ValueError: If it is not valid JSON, not `seq/1`, or lacks a key.
        """
        record = json.loads(text)
        if not isinstance(record, dict) or record.get("schema") != SCHEMA:
            raise ValueError(f"not a {SCHEMA} record")
        try:
            return cls(
                kind=record["kind"],
                key=record["key"],
                lang=record["lang"],
                segments=tuple(
                    Segment(
                        **{
                            **s,
                            "regions": tuple(Region(**{**r, "box": tuple(r["box"])}) for r in s["regions"]),
                        }
                    )
                    for s in record["segments"]
                ),
                media=tuple(Media.from_record(m) for m in record["media"]),
                source=Provenance(**record["source"]),
                signals=tuple(Signal(**s) for s in record["signals"]),
                decision=Decision(**{**record["decision"], "reasons": tuple(record["decision"]["reasons"])}),
                scores=tuple(Score(**s) for s in record["scores"]),
                build=Build(**record["build"]),
                extras={k: v for k, v in record.items() if k not in _KEYS},
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a {SCHEMA} record: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """A dropped candidate, or a dropped part of one, and the reason.

    `record` is the candidate's origin: the file and row of a list, or the WARC file and offset of a page. `excerpt` is
    the beginning of a text that was judged, masked like a sample's.
    """

    source: str
    stage: Stage
    reason: Reason
    unit: Unit
    key: str | None = None
    url: str | None = None
    page_url: str | None = None
    record: str | None = None
    excerpt: str | None = None
    detail: str | None = None

    def row(self) -> dict[str, str | None]:
        """Return the columns of `drops/*.parquet`."""
        return {name: getattr(self, name) for name in _DROP_COLUMNS}  # `asdict` copies each, at 20 times the cost


_DROP_COLUMNS = tuple(field.name for field in fields(Drop))


def make_key(kind: Kind, *locator: str | int) -> str:
    """Return a sample's key: the kind's letter and 80 bits of the hash of its locator, and of nothing else."""
    digest = hashlib.sha256("\x1f".join(map(str, locator)).encode("utf-8", "surrogatepass")).hexdigest()
    return KEY_PREFIX[kind] + digest[:20]


def without_invisible(text: str) -> str:
    """Return text without NULs, soft hyphens, zero-width spaces, word joiners and byte order marks."""
    return text if text.isascii() and "\0" not in text else _INVISIBLE.sub("", text)


def clean_text(text: str) -> str:
    """Return text as records store it: NFC, no lone surrogates, invisible characters or carriage returns, stripped."""
    text = without_invisible(text.replace("\r\n", "\n").replace("\r", "\n"))
    text = text.encode("utf-8", "replace").decode("utf-8")
    return unicodedata.normalize("NFC", text).strip()


def merge_text(segments: tuple[Segment, ...]) -> tuple[Segment, ...]:
    """Join adjacent text of one role, origin and generator, without times or regions, by a blank line."""
    merged: list[Segment] = []
    for segment in segments:
        last = merged[-1] if merged else None
        if (
            last is not None
            and segment.type == last.type == "text"
            and (segment.role, segment.origin, segment.generator) == (last.role, last.origin, last.generator)
            and segment.t0 is None
            and last.t0 is None
            and not segment.regions
            and not last.regions
        ):
            merged[-1] = replace(last, text=f"{last.text}\n\n{segment.text}")
        else:
            merged.append(segment)
    return tuple(merged)


def turns_of(segments: Iterable[Segment]) -> list[tuple[Segment, ...]]:
    """Return the turns of a conversation: adjacent segments of one role."""
    return [tuple(group) for _, group in groupby(segments, key=lambda segment: segment.role)]


def are_in_turn(roles: Sequence[str]) -> bool:
    """Return whether the roles of turns are those of a conversation: user and assistant by turns, after at most one
    system turn."""
    spoken = roles[1:] if roles[:1] == ["system"] else roles
    return len(spoken) > 0 and len(spoken) % 2 == 0 and list(spoken) == ["user", "assistant"] * (len(spoken) // 2)


def without_images(segments: tuple[Segment, ...], gone: Container[int]) -> tuple[Segment, ...]:
    """Return the segments without those of the media in `gone` and the captions directly after them.

    A caption that several images share is removed with the last of them, which it follows.
    """
    kept: list[Segment] = []
    is_gone = False  # whether the image directly before is gone
    for segment in segments:
        if segment.media is not None:
            is_gone = segment.media in gone
        elif not is_gone or segment.role != "caption" or segment.t0 is not None:
            is_gone = False
        if not is_gone:
            kept.append(segment)
    return tuple(kept)


def with_media(document: Document, segments: Iterable[Segment], places: Sequence[int]) -> Document:
    """Return the document with other segments, whose media are those at `places`, in that order.

    Signals and scores of kept media are renumbered; those of removed media are dropped, and so are those of segments,
    since the segments have changed.

    Args:
        document: The original.
        segments: With the media's old indices, all of which are in `places`.
        places: Indices of the media to keep.
    """
    new = {old: i for i, old in enumerate(places)}
    targets = {f"media:{old}": f"media:{i}" for old, i in new.items()}

    def moved(rows: tuple[Any, ...]) -> tuple[Any, ...]:
        kept = (r for r in rows if r.target in targets or not r.target.startswith(("media:", "segment:")))
        return tuple(replace(r, target=targets.get(r.target, r.target)) for r in kept)

    return replace(
        document,
        segments=tuple(
            s
            if s.media is None and not s.regions
            else replace(
                s,
                media=None if s.media is None else new[s.media],
                regions=tuple(replace(r, media=new[r.media]) for r in s.regions if r.media in new),
            )
            for s in segments
        ),
        media=tuple(document.media[old] for old in places),
        signals=moved(document.signals),
        scores=moved(document.scores),
    )


_KEYS = {"schema", *(f.name for f in fields(Document))} - {"extras"}


def without_media(document: Document, gone: Collection[int]) -> Document:
    """Return the document without some images and their captions; the same object if nothing is gone."""
    if not gone:
        return document
    places = [i for i in range(len(document.media)) if i not in gone]
    return with_media(document, merge_text(without_images(document.segments, gone)), places)


def canonical_json(value: Any) -> str:
    """Return reproducible JSON: sorted keys, no spaces, UTF-8 without lone surrogates, no NaN."""
    return encodable(_ENCODER.encode(value))


def encodable(text: str) -> str:
    """Return text with U+FFFD for lone surrogates: JSON and HTTP can bring them, and no file of ours can hold them."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def plain(value: Any, *, digits: int | None = None) -> Any:
    """Convert dataclasses to dictionaries and tuples to lists, as `dataclasses.asdict` does, in a fifth of its time.

    Args:
        value: A dataclass, or what one may contain.
        digits: Significant digits of floats; None: all.
    """
    return _plain(value, digits)


def _plain(value: Any, digits: int | None) -> Any:
    kind: Any = type(value)
    if kind in _LEAVES:
        return value
    if kind is tuple or kind is list:
        return [v if type(v) in _LEAVES else _plain(v, digits) for v in value]
    if (shape := _shape_of(kind)) is not None:
        names, values_of = shape
        found = zip(names, values_of(value), strict=False)
        return {name: v if type(v) in _LEAVES else _plain(v, digits) for name, v in found}
    if isinstance(value, dict):
        return {name: v if type(v) in _LEAVES else _plain(v, digits) for name, v in value.items()}
    if isinstance(value, float):
        return value if digits is None else float(f"{value:.{digits}g}")
    # A named tuple, say, or an enumeration of texts
    return [_plain(v, digits) for v in value] if isinstance(value, tuple | list) else value


@cache
def _shape_of(kind: Any) -> tuple[tuple[str, ...], Callable[[Any], tuple[Any, ...]]] | None:
    """Return the names of a dataclass's fields, of which it has several, and what returns their values; else None."""
    if not is_dataclass(kind):
        return None
    names = tuple(f.name for f in fields(kind))
    return names, attrgetter(*names)
