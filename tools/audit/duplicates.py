"""What samples share that must not be: their key, or across train, val and test a group, an image, a content.

Each sample gives a few small rows, which meet where their `band` is equal. Texts and images that are only similar meet
by the same bands, and are verified by the same sketches, as when the corpus was built (`pipelines/decisions`).
"""

import hashlib
import heapq
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from pipelines.decisions.duplicates import EXACT, IMAGE, DuplicateSettings, Member, band_rows, link_band, read_band_key
from pipelines.decisions.features import MeasuredImage
from pipelines.decisions.fingerprints import fingerprint
from pipelines.document import CAPTIONED, Document
from pipelines.images.normalise import perceptual_hash
from pipelines.parts import digest
from pipelines.shards.manifest import ShardInfo
from pipelines.shards.tar_samples import TarSample
from tools.audit.findings import Findings

KEY, GROUP, STORED, SIMILAR = b"K", b"G", b"H", b"S"
MAX_COMPARED = 20_000
"""Samples of one band that are compared by their sketches; a band of more is one of texts without content."""


_WORDS = {
    "key_repeated": "the key is also that of",
    "group_in_splits": "in one duplicate group with",
    "image_in_splits": "an image of it is also in",
    "content_in_splits": "its content is also that of",
    "similar_image_in_splits": "what its image shows is also shown by",
    "similar_text_in_splits": "its text is nearly that of",
}


class Meeting(NamedTuple):
    """A row of a sample: samples of equal `band` meet. The rest says which sample it is."""

    band: bytes
    split: str
    key: str
    number: int  # of the shard
    place: int  # in the shard
    sketch: bytes


class Shared(NamedTuple):
    """A fault: a sample that shares something with another one."""

    kind: str
    number: int
    place: int
    key: str
    other_number: int
    other_key: str

    def add_to(self, findings: Findings, shards: Mapping[int, ShardInfo]) -> None:
        """Add it to the findings of an audit.

        Args:
            findings: Of the whole corpus.
            shards: By their numbers.
        """
        shard, other = shards[self.number], shards[self.other_number]
        detail = f"{_WORDS[self.kind]} {self.other_key} of {other.path}"
        findings.add(self.kind, shard.path, detail, key=self.key, order=(self.number, self.place))


class Where(NamedTuple):
    """Which sample rows are of."""

    source: str
    split: str
    number: int
    place: int


def key_meeting(key: str, where: Where, *, is_foreign: bool) -> Meeting:
    """Return the row by which equal keys meet; keys of foreign tars are unique in their source only."""
    band = KEY + _short(f"{where.source}/{key}" if is_foreign else key)
    return Meeting(band, where.split, key, where.number, where.place, b"")


def content_meetings(
    sample: TarSample, document: Document, hashes: Sequence[str], settings: DuplicateSettings, where: Where
) -> Iterator[Meeting]:
    """Yield the rows by which groups, images, contents and similar contents meet.

    Args:
        sample: With the bytes of its images, which can be decoded.
        document: Its JSON.
        hashes: sha256 of each image.
        settings: What makes two samples of its source similar; sources of equal settings are compared.
        where: Which sample it is.

    Raises:
        ValueError: If an image cannot be decoded.
    """

    def row(band: bytes, sketch: bytes = b"") -> Meeting:
        return Meeting(band, where.split, document.key, where.number, where.place, sketch)

    if document.build.dedup_group:
        yield row(GROUP + _short(document.build.dedup_group))
    for name in dict.fromkeys(hashes):
        yield row(STORED + _short(name))
    images = [MeasuredImage(name, 0, 0.0, 0.0, 0.0) for name in hashes]
    if document.kind in CAPTIONED and images and settings.max_phash_distance is not None:
        with _libjpeg_silenced():
            shown = perceptual_hash(sample.parts[str(document.media[0].part).lower()])
        images[0] = MeasuredImage(hashes[0], shown, 0.0, 0.0, 0.0)
    same = fingerprint(scope_of(settings), settings, document, images)
    for band, member in band_rows(same, settings):
        yield row(SIMILAR + band, member.sketch)


@contextmanager
def _libjpeg_silenced() -> Iterator[None]:
    """Send the process's stderr nowhere: the libjpeg of OpenCV writes there of stray bytes, and names no file.

    What is wrong with an image is told by the check `media`, with its path and key.
    """
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)


def scope_of(settings: DuplicateSettings) -> str:
    """Return the name of all sources with these settings."""
    return digest(settings.model_dump(mode="json"))[:12]


def shared(
    band: bytes, first: Meeting, rows: Iterable[Meeting], scopes: Mapping[str, DuplicateSettings]
) -> Iterator[Shared]:
    """Yield the samples that share what they must not with another one, by the rows of one band.

    Of equal keys all but the first are reported; else each held-out sample, with one of another split. Memory does not
    grow with the number of rows.

    Args:
        band: What they have in common.
        first: The first row by `order_in(band, row)`.
        rows: All rows, in any order.
        scopes: Settings by `scope_of`.
    """
    if band.startswith(KEY):
        yield from (_shared("key_repeated", row, first) for row in rows if row != first)
    elif band.startswith((GROUP, STORED)):
        yield from _across("group_in_splits" if band.startswith(GROUP) else "image_in_splits", first, rows)
    else:
        rule, scope = read_band_key(band[1:])
        if rule == EXACT:
            yield from _across("content_in_splits", first, rows)
            return
        kind = "similar_image_in_splits" if rule == IMAGE else "similar_text_in_splits"
        compared = heapq.nsmallest(MAX_COMPARED, rows, key=_split_order)
        named = {f"{number:08d}": row for number, row in enumerate(compared)}
        clusters: dict[str, list[str]] = {}
        for first_name, other in link_band(
            band[1:], (Member(n, row.sketch) for n, row in named.items()), scopes[scope]
        ):
            clusters.setdefault(first_name, [first_name]).append(other)
        for members in clusters.values():
            similar = [named[name] for name in sorted(members)]
            yield from _across(kind, similar[0], similar)


def order_in(band: bytes, row: Meeting) -> tuple[bool, str, int, int]:
    """Return the order of the rows of a band: that of the corpus for equal keys, else training data first."""
    return (False, "", row.number, row.place) if band.startswith(KEY) else _split_order(row)


def _split_order(row: Meeting) -> tuple[bool, str, int, int]:
    return row.split != "train", row.split, row.number, row.place


def _across(kind: str, first: Meeting, rows: Iterable[Meeting]) -> Iterator[Shared]:
    """Yield the samples of another split than the first's."""
    yield from (_shared(kind, row, first) for row in rows if row.split != first.split)


def _shared(kind: str, row: Meeting, other: Meeting) -> Shared:
    return Shared(kind, row.number, row.place, row.key, other.number, other.key)


def _short(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).digest()
