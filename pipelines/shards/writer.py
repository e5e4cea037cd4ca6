"""Writer of shards: finished samples become a tar with its index and sidecar, reproducibly to the byte.

Parts of the format: `tar_samples` (headers, the index, reading), `sidecar` (one row per sample), `sample_rules` (rules
for every sample), `manifest` (all shards of a corpus), `reader_indexes` (for Energon and wids), `readme` (for Hugging
Face datasets), `drops` and `stats`.
"""

import hashlib
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from types import TracebackType
from typing import IO, Any, Self

from pipelines import storage
from pipelines.document import CAPTIONED, Document, Kind, Split
from pipelines.shards.manifest import ShardInfo, shard_path, sidecar_path
from pipelines.shards.sample_rules import caption_of, find_faults
from pipelines.shards.sidecar import sidecar_row, write_sidecar
from pipelines.shards.tar_samples import TarSample, member_header, padded, tar_bytes, tar_end, write_index

EXTENSIONS = {"image/jpeg": "jpg", "image/png": "png", "image/webp": "webp"}
"""Part names of images by MIME type."""
_FINISHING_BYTES = 1024  # added to a sample's JSON at most: the pipeline's version, hashes, names of keys


@dataclass(frozen=True, slots=True)
class SampleParts:
    """A sample as packed into a tar: the finished document, and (part, bytes) in the order of the members."""

    document: Document
    parts: tuple[tuple[str, bytes], ...]

    @property
    def key(self) -> str:
        return self.document.key

    @property
    def tar_bytes(self) -> int:
        """Bytes that the sample takes in a tar."""
        return tar_bytes(len(data) for _, data in self.parts)


def finish_document(document: Document, blobs: Sequence[bytes] = ()) -> SampleParts:
    """Name a document's parts, fill in the fields that depend on its bytes, and check it.

    A pair or grounded sample gets img2dataset's keys at the root of its JSON, so that img2dataset's readers accept it;
    a grounded one also gets GRIT's `noun_chunks` and `ref_exps`.

    Args:
        document: With sizes and MIME types of its media.
        blobs: Bytes of its media, in order.

    Raises:
        ValueError: If the document breaks a rule of `sample_rules`, or does not fit its blobs: a bug in the caller.
    """
    if len(blobs) != len(document.media):
        raise ValueError(f"sample {document.key}: {len(document.media)} media, but bytes of {len(blobs)}")
    if faults := find_faults(document):
        raise ValueError(f"sample {document.key}: {'; '.join(faults[:3])}")
    media = []
    for i, (item, blob) in enumerate(zip(document.media, blobs, strict=True)):
        extension = EXTENSIONS.get(item.mime or "")
        digest = hashlib.sha256(blob).hexdigest()
        if extension is None:
            raise ValueError(f"sample {document.key}: media {i} is {item.mime}, not one of {', '.join(EXTENSIONS)}")
        if item.stored_sha256 not in (None, digest):
            raise ValueError(f"sample {document.key}: media {i} does not have the sha256 recorded when it was stored")
        part = extension if document.kind in CAPTIONED else f"{i:03d}.{extension}"
        media.append(replace(item, part=part, bytes=len(blob), stored_sha256=digest))
    document = replace(document, media=tuple(media))
    parts = [(str(m.part), blob) for m, blob in zip(media, blobs, strict=True)]
    if document.kind in CAPTIONED:
        caption = caption_of(document)
        document = replace(document, extras=document.extras | pair_extras(document, caption))
        parts.append(("txt", caption.encode()))
    return SampleParts(document, (("json", document.to_json().encode()), *parts))


def largest_tar_bytes(sample: Document, text: str, lengths: list[int]) -> int:
    """Return the most bytes that a sample can take in a tar.

    `finish_document` adds names and hashes to the JSON. A captioned sample repeats its content at the root of the JSON
    and its caption in the txt, as readers of img2dataset and GRIT expect.
    """
    num = len(text.encode())
    is_captioned = sample.kind in CAPTIONED
    json_bytes = _FINISHING_BYTES + num * (2 if is_captioned else 1)
    return tar_bytes([json_bytes, *lengths, *([len(sample.text.encode())] if is_captioned else [])])


def pair_extras(document: Document, caption: str) -> dict[str, Any]:
    """Return the keys at the root of a captioned sample's JSON: img2dataset's, and GRIT's for a grounded one."""
    (media,) = document.media
    extras: dict[str, Any] = {
        "url": media.url,
        "caption": caption,
        "status": "success",
        "error_message": None,
        "width": media.width,
        "height": media.height,
        "original_width": media.source_width,
        "original_height": media.source_height,
        "exif": "{}",
        "sha256": media.source_sha256,  # of the bytes as fetched, as in img2dataset
    }
    if document.kind == "grounded":
        chunks: dict[bool, list[list[float | None]]] = {False: [], True: []}
        for region in (r for s in document.segments for r in s.regions):
            chunks[region.label == "ref_exp"].append([region.start, region.end, *region.box, region.score])
        extras |= {"noun_chunks": chunks[False], "ref_exps": chunks[True]}
    return extras


class ShardWriter:
    """Writer of one tar, its index and its sidecar; as a context manager, all of them or none.

    Index and sidecar appear first and the tar last, so that an existing tar is always complete. After the block `info`
    describes the shard.
    """

    def __init__(self, corpus: str, source: str, kind: Kind, split: Split, number: int) -> None:
        self.info: ShardInfo | None = None
        self._name = shard_path(source, split, number)
        self._path = storage.join(corpus, self._name)
        self._source, self._kind, self._split = source, kind, split
        self._rows: dict[str, dict[str, Any]] = {}
        self._digest = hashlib.sha256()
        self._size = 0
        self._stack = ExitStack()
        self._file: IO[bytes] | None = None

    @property
    def num_samples(self) -> int:
        return len(self._rows)

    @property
    def num_bytes(self) -> int:
        return self._size

    def __enter__(self) -> Self:
        self._file = self._stack.enter_context(storage.write_whole(self._path))
        return self

    def add(self, sample: SampleParts) -> None:
        """Append a sample.

        Raises:
            ValueError: If its key is already in the shard, or its kind is not the shard's.
        """
        key, kind = sample.key, sample.document.kind
        if key in self._rows:
            raise ValueError(f"{self._name}, sample {key}: the key is already in the shard")
        if kind != self._kind:
            raise ValueError(f"{self._name}, sample {key}: a sample of kind {kind} in a shard of kind {self._kind}")
        place = TarSample(key, self._size, self._size)
        for part, data in sample.parts:
            self._write(member_header(f"{key}.{part}", len(data)))
            place.parts[part], place.places[part] = data, self._size
            self._write(data)
            self._write(bytes(padded(len(data)) - len(data)))
        place.end = self._size
        self._rows[key] = sidecar_row(sample.document, place)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._stack.__exit__(kind, error, trace)
            return
        with self._stack:
            self.info = self._finish()

    def _write(self, data: bytes) -> None:
        assert self._file is not None, "a ShardWriter must be used in a with block"
        self._file.write(data)
        self._digest.update(data)
        self._size += len(data)

    def _finish(self) -> ShardInfo:
        if not self._rows:
            raise ValueError(f"{self._name}: a shard without samples; Energon refuses those")
        end = self._size
        self._write(tar_end(end))
        write_index(self._path, [*(row["byte_offset"] for row in self._rows.values()), end])
        write_sidecar(sidecar_path(self._path), list(self._rows.values()))
        sha256 = self._digest.hexdigest()
        return ShardInfo(self._name, self._source, self._kind, self._split, sha256, self._size, self.num_samples)
