"""Export of interleaved samples as MINT-1T has them, for NeMo Curator's readers and what else reads those.

All layouts have the texts and images of a sample in its order. Of each image its size, hash, address and licence go
along; what a text is (a heading, a caption) and scores do not.
"""

import io
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import IO, Any, ClassVar, Literal, Self, get_args

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipelines import storage
from pipelines.document import Document, Kind, canonical_json
from pipelines.errors import UserError
from pipelines.images.pixels import decode_upright
from pipelines.shards.foreign_samples import read_document
from pipelines.shards.manifest import FILE_NAME, Manifest, ShardInfo, load_manifest
from pipelines.shards.tar_samples import member_header, padded, read_samples, tar_end
from tools.output import say, track

Layout = Literal["mint-html", "mint-pdf", "curator-tar", "curator-parquet"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
KINDS: tuple[Kind, ...] = ("interleaved", "video")
_ROW_GROUP_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Exported:
    """Numbers of what was written, and of what a layout has no place for: images without an address, and samples that
    have no others."""

    samples: int = 0
    images: int = 0
    images_left_out: int = 0
    samples_left_out: int = 0

    def __add__(self, other: "Exported") -> "Exported":
        ours, theirs = asdict(self), asdict(other)
        return Exported(**{name: ours[name] + theirs[name] for name in ours})


def export(corpus: str, out: str, layout: Layout, sources: Sequence[str] = ()) -> Exported:
    """Write `<out>/<source>/<split>/<shard>`, one file for each of a corpus's shards, and say what was written.

    Args:
        corpus: Folder of a finished corpus.
        out: Folder to write into.
        layout: Form of the files.
        sources: Names of sources; none: all whose kind can be exported.

    Raises:
        UserError: If the folder is a corpus, or a source does not exist or is of another kind.
    """
    manifest = load_manifest(corpus)
    if storage.exists(storage.join(out, FILE_NAME)):
        raise UserError(f"{out}: a corpus is there; choose another folder")
    shards = [shard for name in _chosen(manifest, sources) for shard in manifest.shards_of(name)]
    found = Exported()
    for shard in track(shards, sum(s.bytes for s in shards), "export", size=lambda s: s.bytes):
        found += _export_shard(corpus, out, layout, shard)
    left_out = f"; left out: {found.images_left_out:,} images without an address, {found.samples_left_out:,} samples"
    say(
        f"{out}: {found.samples:,} samples with {found.images:,} images as {layout} in {len(shards):,} files"
        + (f"{left_out} without others" if found.images_left_out else "")
    )
    return found


def _chosen(manifest: Manifest, sources: Sequence[str]) -> list[str]:
    kinds = {source.name: source.kind for source in manifest.sources}
    for name in sources:
        if name not in kinds:
            raise UserError(f"no source {name!r}; there are: {', '.join(kinds)}")
        if kinds[name] not in KINDS:
            raise UserError(f"source {name} is of kind {kinds[name]}; only {' and '.join(KINDS)} ones can be exported")
    chosen = [name for name in kinds if name in sources or (not sources and kinds[name] in KINDS)]
    if not chosen:
        raise UserError(f"no source of kind {' or '.join(KINDS)}, which alone can be exported")
    return chosen


def _export_shard(corpus: str, out: str, layout: Layout, shard: ShardInfo) -> Exported:
    writer = _WRITERS[layout]
    stem = shard.path.rpartition("/")[2].removesuffix(".tar")
    path = storage.join(out, f"{shard.source}/{shard.split}/{stem}.{writer.SUFFIX}")
    found = Exported()
    with writer(path) as file:
        for sample in read_samples(storage.join(corpus, shard.path)):
            document = read_document(sample, shard.source)
            shown = [s.media for s in document.segments if s.media is not None]
            images = [sample.parts[document.media[i].part or ""] for i in range(len(document.media))]
            num = file.add(document, images)
            left_out = len(shown) - num
            found += Exported(int(num > 0), num, left_out, int(num == 0))
    return found


# --- what all layouts have ------------------------------------------------------------------------------------------


def parallel_lists(
    document: Document, name_of: Callable[[int], str | None]
) -> tuple[list[str | None], list[str | None]]:
    """Return the texts and the images of a document, each list with null where the other has something.

    Args:
        document: Any.
        name_of: Returns the name of an image by its index, or None of one that is left out.
    """
    texts: list[str | None] = []
    images: list[str | None] = []
    for segment in document.segments:
        name = None if segment.media is None else name_of(segment.media)
        if segment.text is not None or name is not None:
            texts.append(segment.text)
            images.append(name)
    return texts, images


def _described(document: Document, places: Sequence[int]) -> list[dict[str, Any]]:
    """Return what is known of the images at these indices."""
    return [
        {
            "width": media.width,
            "height": media.height,
            "sha256": media.stored_sha256,
            "url": media.url,
            "license": media.license,
            "license_evidence": media.license_evidence,
            "credit": media.credit,
        }
        for media in (document.media[i] for i in places)
    ]


def _origin(document: Document) -> str:
    """Return where a document is from, as JSON text."""
    source = document.source
    return canonical_json(
        {
            "url": source.page_url,
            "warc_filename": source.warc_file,
            "dataset": source.dataset,
            "license": source.license,
        }
    )


class _Writer(ABC):
    """Writer of one file, as a context manager: the file is whole or not there."""

    SUFFIX: ClassVar[str]

    def __init__(self, path: str) -> None:
        self._path = path
        self._stack = ExitStack()

    @abstractmethod
    def add(self, document: Document, images: Sequence[bytes]) -> int:
        """Write a sample; returns the number of its images that are written, 0 if it is left out."""

    @abstractmethod
    def _begin(self, file: IO[bytes]) -> None: ...

    @abstractmethod
    def _end(self) -> None: ...

    def __enter__(self) -> Self:
        self._begin(self._stack.enter_context(storage.write_whole(self._path)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._stack.__exit__(kind, error, trace)
            return
        with self._stack:
            self._end()


# --- parquet --------------------------------------------------------------------------------------------------------


class _ParquetWriter(_Writer):
    """Base of the writers of tables, which holds some rows in memory."""

    SUFFIX = "parquet"
    SCHEMA: ClassVar[pa.Schema]

    def _begin(self, file: IO[bytes]) -> None:
        self._writer = pq.ParquetWriter(file, self.SCHEMA, compression="zstd")
        self._rows: list[dict[str, Any]] = []
        self._num_bytes = 0

    def _end(self) -> None:
        self._flush()
        self._writer.close()

    def _write(self, rows: list[dict[str, Any]], num_bytes: int) -> None:
        self._rows += rows
        self._num_bytes += num_bytes
        if self._num_bytes >= _ROW_GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self.SCHEMA))
        self._rows, self._num_bytes = [], 0


class _MintHtml(_ParquetWriter):
    """Writer of MINT-1T's webpages, whose images are addresses."""

    SCHEMA = pa.schema(
        [
            ("texts", pa.list_(pa.string())),
            ("images", pa.list_(pa.string())),
            ("url", pa.string()),
            ("metadata", pa.string()),
            ("image_metadata", pa.string()),
            ("sample_id", pa.string()),
            ("lang", pa.string()),
        ]
    )

    def add(self, document: Document, images: Sequence[bytes]) -> int:
        """Write a row, or none of a document without an address of an image."""
        urls = [
            url if (url := media.url or "").startswith(("http://", "https://")) else None for media in document.media
        ]
        texts, names = parallel_lists(document, lambda i: urls[i])
        places = [s.media for s in document.segments if s.media is not None and urls[s.media] is not None]
        if places:
            row = {"texts": texts, "images": names, "url": document.source.page_url, "metadata": _origin(document)}
            more = {"image_metadata": json.dumps(_described(document, places)), "sample_id": document.key}
            self._write([row | more | {"lang": document.lang}], 1000 + 4 * document.num_text_chars)
        return len(places)


class _CuratorParquet(_ParquetWriter):
    """Writer of NeMo Curator's interleaved tables: a row for each text and image, and one for the sample."""

    SCHEMA = pa.schema(
        [
            pa.field("sample_id", pa.string(), nullable=False),
            pa.field("position", pa.int32(), nullable=False),
            pa.field("modality", pa.string(), nullable=False),
            ("content_type", pa.string()),
            ("text_content", pa.string()),
            ("binary_content", pa.large_binary()),
            ("source_ref", pa.string()),
            ("materialize_error", pa.string()),
            ("url", pa.string()),
            ("metadata", pa.string()),
            ("lang", pa.string()),
            ("image_metadata", pa.string()),
        ]
    )

    def add(self, document: Document, images: Sequence[bytes]) -> int:
        """Write the rows of a sample."""
        about = {"url": document.source.page_url, "metadata": _origin(document), "lang": document.lang}
        content = {"modality": "metadata", "content_type": "application/json"}
        rows = [{"sample_id": document.key, "position": -1} | content | about]
        places: list[int] = []
        for position, segment in enumerate(document.segments):
            row: dict[str, Any] = {"sample_id": document.key, "position": position}
            if segment.media is None:
                rows.append(row | {"modality": "text", "content_type": "text/plain", "text_content": segment.text})
                continue
            places.append(segment.media)
            image = {"modality": "image", "content_type": document.media[segment.media].mime}
            (described,) = _described(document, [segment.media])
            more = {"binary_content": images[segment.media], "image_metadata": json.dumps(described)}
            rows.append(row | image | more)
        self._write(rows, 4 * document.num_text_chars + sum(len(images[i]) for i in places))
        return len(places)


# --- tars -----------------------------------------------------------------------------------------------------------


class _TarWriter(_Writer):
    """Base of the writers of tars."""

    SUFFIX = "tar"

    def _begin(self, file: IO[bytes]) -> None:
        self._file, self._size = file, 0

    def _end(self) -> None:
        self._write(tar_end(self._size))

    def _add_member(self, name: str, data: bytes) -> None:
        self._write(member_header(name, len(data)))
        self._write(data + bytes(padded(len(data)) - len(data)))

    def _add_json(self, document: Document, names: Callable[[int], str]) -> list[int]:
        """Write the JSON of a sample; returns the indices of its images in the order in which they are listed."""
        texts, images = parallel_lists(document, names)
        places = [s.media for s in document.segments if s.media is not None]
        page = document.source.page_url
        record: dict[str, Any] = {"sample_id": document.key, "texts": texts, "images": images}
        record |= {"url": page, "page_url": page}
        record |= {"lang": document.lang, "metadata": _origin(document)}
        record["image_metadata"] = _described(document, places)
        self._add_member(f"{document.key}.json", canonical_json(record).encode())
        return places

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._size += len(data)


class _CuratorTar(_TarWriter):
    """Writer of tars with each image as a member, as NeMo Curator's writer makes them."""

    def add(self, document: Document, images: Sequence[bytes]) -> int:
        """Write the members of a sample, images with the bytes that they have."""
        names = [f"{document.key}.{media.part}" for media in document.media]
        places = self._add_json(document, lambda i: names[i])
        for name, data in zip(names, images, strict=True):
            self._add_member(name, data)
        return len(places)


class _MintPdf(_TarWriter):
    """Writer of tars as MINT-1T's PDF documents have them: all images of a sample are pages of one TIFF."""

    def add(self, document: Document, images: Sequence[bytes]) -> int:
        """Write the two members of a sample, images without loss and without their metadata."""
        places = self._add_json(document, lambda i: f"image_{i}")
        pages = [Image.fromarray(decode_upright(images[i])[:, :, ::-1]) for i in places]
        buffer = io.BytesIO()
        pages[0].save(buffer, "TIFF", save_all=True, append_images=pages[1:], compression="tiff_adobe_deflate")
        self._add_member(f"{document.key}.tiff", buffer.getvalue())
        return len(places)


_WRITERS: dict[Layout, type[_Writer]] = {
    "mint-html": _MintHtml,
    "mint-pdf": _MintPdf,
    "curator-tar": _CuratorTar,
    "curator-parquet": _CuratorParquet,
}
