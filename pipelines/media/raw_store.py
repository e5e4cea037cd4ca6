"""The raw store: media bytes, normalised on arrival and then fixed, and the facts about each.

A part is `<name>.blobs` (bytes end to end) and `<name>.parquet`, an index with one row per request: its outcome, and
the position of its `StoredMedia` JSON in the blobs. The index is written last, so blobs without one belong to nobody.
Parts are only added: a retried request gets a row in a later generation, and the latest generation counts.
"""

import json
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import IO, Any, Literal, Self, TypeVar

import pyarrow as pa

from pipelines import storage
from pipelines.document import Face, Signal, canonical_json, plain
from pipelines.drop_reasons import Outcome, Reason
from pipelines.parts import PartFolder, Tally, read_rows, stable_hash, write_table
from pipelines.web.permission import stored_signals

READ_BYTES = 16 << 20  # of documents or media that are read at once
PART_ITEMS = 1000
PART_BYTES = 256 << 20
PART_SECONDS = 30.0

T = TypeVar("T")

INDEX_SCHEMA = pa.schema(
    [
        ("key", pa.string()),  # MediaRequest.key
        ("rendition", pa.string()),  # hash of the media settings that made the bytes
        ("outcome", pa.string()),  # `fetched`, or the reason why not
        ("detail", pa.string()),
        ("blobs", pa.string()),
        ("offset", pa.int64()),
        ("length", pa.int64()),
    ]
)


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes in the raw store: file name below `raw/`, offset and length."""

    file: str
    offset: int
    length: int

    def read(self, folder: str) -> bytes:
        """Read the bytes from a raw folder."""
        return storage.read_range(storage.join(folder, self.file), self.offset, self.length)


def read_blobs(folder: str, blobs: Sequence[Blob]) -> list[bytes]:
    """Read several from a raw folder; each file is opened once, and a store is asked for all of them at once."""
    return storage.read_ranges([(storage.join(folder, blob.file), blob.offset, blob.length) for blob in blobs])


def in_batches(items: Iterable[T], num_bytes: Callable[[T], int]) -> Iterator[list[T]]:
    """Yield lists of items that follow one another, each of about `READ_BYTES` or of one item."""
    batch: list[T] = []
    size = 0
    for item in items:
        size += num_bytes(item)
        batch.append(item)
        if size >= READ_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


@dataclass(frozen=True, slots=True)
class StoredFeatures:
    """Features of an image (`images.normalise.ImageFeatures`), and the version of the code that measured them."""

    version: int
    phash: int
    blur: float
    mean: float
    std: float


@dataclass(frozen=True, slots=True)
class StoredFaces:
    """Faces of a stored image, and what found them (`images.faces.FoundFaces`)."""

    detector: str
    faces: tuple[Face, ...]


@dataclass(frozen=True, slots=True)
class StoredItem:
    """An image, or a frame at `t` seconds. Sizes in pixels; `stored_sha256` is of the bytes at `blob`.

    `features` are those of the image; None of one that was stored before they were. `faces` is None if none were
    searched.
    """

    blob: Blob
    mime: str
    width: int
    height: int
    source_width: int
    source_height: int
    source_sha256: str
    stored_sha256: str
    t: float | None = None
    features: StoredFeatures | None = None
    faces: StoredFaces | None = None


@dataclass(frozen=True, slots=True)
class StoredCue:
    """A line of timed text; times in seconds."""

    t0: float
    t1: float
    text: str


@dataclass(frozen=True, slots=True)
class StoredLoss:
    """A track of a video, or a cue of its track, that could not be read; `text` is the cue's, unmasked."""

    unit: Literal["track", "cue"]
    reason: Reason
    detail: str | None
    url: str | None
    text: str | None


@dataclass(frozen=True, slots=True)
class StoredSiteFile:
    """The answer to the request for a policy file of a site; `status` is None if there was none."""

    url: str
    status: int | None
    blob: Blob
    observed_at: str | None = None


@dataclass(frozen=True, slots=True)
class StoredMedia:
    """Result of one request. `outcome` is `fetched` or a drop reason; `box_map` is how boxes moved (images).

    `cues` of a video may be several of its track joined; `num_cues` counts those of the track.
    """

    key: str
    outcome: Outcome
    detail: str | None = None
    url: str | None = None
    fetched_at: str | None = None
    signals: tuple[Signal, ...] = ()
    license: str | None = None
    license_evidence: str = "none-found"
    credit: str | None = None
    items: tuple[StoredItem, ...] = ()
    box_map: dict[str, Any] | None = None
    cues: tuple[StoredCue, ...] = ()
    cues_lang: str | None = None
    cues_automatic: bool = False
    num_cues: int = 0
    lost_texts: tuple[StoredLoss, ...] = ()
    site_files: tuple[StoredSiteFile, ...] = ()  # robots.txt first

    def to_json(self) -> str:
        record = plain(self)
        if not self.site_files:
            del record["site_files"]  # of media, which are the same as before there were any
        for item in record["items"]:
            if item["faces"] is None:  # likewise
                del item["faces"]
        return canonical_json(record)

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """Parse the result of `to_json`."""
        record = json.loads(text)
        record["signals"] = stored_signals(record["signals"])
        record["items"] = tuple(map(_item, record["items"]))
        record["cues"] = tuple(StoredCue(**c) for c in record["cues"])
        record["lost_texts"] = tuple(StoredLoss(**loss) for loss in record.get("lost_texts", ()))
        files = record.get("site_files", [])
        record["site_files"] = tuple(StoredSiteFile(**{**f, "blob": Blob(**f["blob"])}) for f in files)
        return cls(**{"num_cues": len(record["cues"])} | record)


def _item(record: dict[str, Any]) -> StoredItem:
    found, faces = record.get("features"), record.get("faces")
    made = {
        "blob": Blob(**record["blob"]),
        "features": None if found is None else StoredFeatures(**found),
        "faces": None
        if faces is None
        else StoredFaces(faces["detector"], tuple(map(Face.from_record, faces["faces"]))),
    }
    return StoredItem(**{**record, **made})


@dataclass(frozen=True, slots=True)
class IndexRow:
    """The result of one request in the store: its `MediaRequest.key`, and the place of its `StoredMedia`."""

    key: str
    rendition: str  # hash of the media settings that made the bytes
    generation: int
    outcome: Outcome
    detail: str | None
    blob: Blob


class RawPartWriter:
    """Collector of one worker's results. It closes a part when large or old enough, so that a kill costs little.

    Part names are random: which requests share a part depends on timing, and nothing downstream depends on it.

    Args:
        folder: The store's folder.
        generation: Which retry this is.
        run: What the names of this run's parts begin with (`parts.new_run`), by which `stored_keys` finds what it has
            stored if a worker begins again.
    """

    def __init__(self, folder: str, generation: int, run: str = "") -> None:
        self.folder = PartFolder(folder)
        self._generation, self._run = generation, run
        self._opened = 0.0
        self._rows: list[dict[str, Any]] = []
        self._blobs: IO[bytes] | None = None
        self._name = ""
        self._size = 0
        self._stack = ExitStack()

    def add_bytes(self, data: bytes) -> Blob:
        """Append bytes to the open part; they are kept if `add` follows before `close`."""
        if self._blobs is None:
            self._name = part_name(self._generation, self._run + uuid.uuid4().hex[:16])
            self._opened = time.monotonic()
            self._blobs = self._stack.enter_context(storage.write_whole(self.folder.file(self._name, ".blobs")))
        blob = Blob(f"{self._name}.blobs", self._size, len(data))
        self._blobs.write(data)
        self._size += len(data)
        return blob

    def add(self, media: StoredMedia, rendition: str) -> None:
        """Record the result of a request."""
        blob = self.add_bytes(media.to_json().encode())
        row = {"key": media.key, "rendition": rendition, "outcome": media.outcome, "detail": media.detail}
        self._rows.append(row | {"blobs": blob.file, "offset": blob.offset, "length": blob.length})

    @property
    def is_full(self) -> bool:
        """True if the open part is large or old enough to be closed."""
        is_old = self._blobs is not None and time.monotonic() - self._opened > PART_SECONDS
        return is_old or len(self._rows) >= PART_ITEMS or self._size >= PART_BYTES

    def close(self) -> int:
        """Finish the open part, if any; returns the number of its requests."""
        num = len(self._rows)
        if self._blobs is not None:
            self._stack.close()  # the blobs appear under their name
            digest = write_table(self.folder.file(self._name, ".parquet"), self._rows, INDEX_SCHEMA)
            outcomes = dict(sorted(Counter(row["outcome"] for row in self._rows).items()))
            self.folder.finish(self._name, "", Tally("fetch"), {".parquet": digest}, num=num, outcomes=outcomes)
        self._rows, self._blobs, self._size = [], None, 0
        return num

    def abandon(self) -> None:
        """Discard the open part."""
        self._stack.__exit__(RuntimeError, RuntimeError("abandoned"), None)
        self._rows, self._blobs, self._size = [], None, 0


def index_parts(folder: str) -> list[str]:
    """Return the paths of the finished parts' indexes."""
    return [path.removesuffix(".json") + ".parquet" for path in storage.list_files(folder, ".json")]


def part_name(generation: int, unique: str) -> str:
    return f"g{generation:03d}-{unique}"


def generation_of(path: str) -> int:
    """Return which retry a part of the store is from, by its name `g<generation>-...`; 0 is the first attempt."""
    return int(path.rpartition("/")[2].partition("-")[0].removeprefix("g"))


def stored_keys(folder: str, attempt: str) -> set[int]:
    """Return hashes of (rendition, key) of the results that an attempt has stored: those of a worker that was lost."""
    return {
        stable_hash(f"{row.rendition} {row.key}")
        for path in index_parts(folder)
        if path.rpartition("/")[2].partition("-")[2].startswith(attempt)
        for row in read_index(path)
    }


def read_index(path: str) -> Iterator[IndexRow]:
    """Yield the rows of a part's index."""
    generation = generation_of(path)
    for row in read_rows(path):
        blob = Blob(row["blobs"], row["offset"], row["length"])
        yield IndexRow(row["key"], row["rendition"], generation, row["outcome"], row["detail"], blob)


def load_media(folder: str, blob: Blob) -> StoredMedia:
    """Return the result of a request by its place, as the index states it."""
    return StoredMedia.from_json(blob.read(folder))
