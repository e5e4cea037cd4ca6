"""Samples as single images, with or without their captions: for encoders and image decoders."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Self

import numpy as np

from model.config import Resampling
from model.segment import Text
from model.sequence import Sequence as TokenSequence
from pipelines import storage
from pipelines.document import Split
from pipelines.parts import read_table
from pipelines.shards.manifest import ShardInfo
from trainer.config import ModelSettings, RunSettings
from trainer.plan.order import key_of
from trainer.plan.steps import Chunk
from trainer.plan.windows import SourceWindows, ones_of
from trainer.reading.corpus import TrainingCorpus
from trainer.reading.images import decode_views
from trainer.reading.reader import ChunkData, SampleReader
from trainer.reading.shard_reader import ShardReader
from trainer.reading.shared_arrays import Arrays, shared_arrays
from trainer.reading.window_tables import NOT_ALLOWED, table_of, windows_folder
from trainer.tasks.data import CorpusData, open_corpus

# Raise it when this module would make other chunks of an equal corpus, so that no run resumes with another order than
# it began with.
VERSION = 1
CAPTIONED = ("pair", "grounded")
"""Kinds of sources with samples of an image and its caption."""


@dataclass(frozen=True)
class ImageData(CorpusData):
    """A corpus as single images: every image is one chunk with a length of one position.

    Attributes:
        image_size: Side in pixels of images as read.
        encoder_size: Side in pixels of each image as the encoder reads it, which is read beside it; None: it is not.
        captioned: Whether to read only images with captions, and the captions with them.
        max_scale: Images are scaled at random to between `image_size` and this multiple of it before a square is
            cropped; 1 keeps them whole, squashed to a square.
    """

    image_size: int
    encoder_size: int | None
    captioned: bool
    max_scale: float

    @classmethod
    def open(
        cls,
        folder: str,
        wanted: ModelSettings,
        run: RunSettings,
        split: Split = "train",
        *,
        for_decoder: bool = False,
        and_encoder: bool = False,
        captioned: bool,
        max_scale: float = 1.0,
    ) -> Self:
        """Open the data of a run, with images of the encoder's size, of the decoder's, or of both.

        Raises:
            UserError: If the corpus, its tokens or the model do not fit each other.
        """
        corpus, tokenizer, model = open_corpus(folder, wanted, run, split)
        fingerprint = _fingerprint(corpus.manifest.fingerprint, split, captioned)
        sources = sources_by_media(corpus, fingerprint, partial(num_images, captioned=captioned))
        size, encoder_size = model.encoder.image_size, None
        if for_decoder:
            encoder_size = size if and_encoder and size != model.image_decoder.image_size else None
            size = model.image_decoder.image_size
        return cls(run, tokenizer, model, corpus, sources, fingerprint, size, encoder_size, captioned, max_scale)

    def fingerprint_of(self, corpus: str) -> str:
        """Return the fingerprint as it was with another version of the corpus."""
        return _fingerprint(corpus, self.corpus.split, self.captioned)

    def reader(self) -> "ImageReader":
        """Return a reader of images."""
        return ImageReader(
            self.corpus,
            self.sources,
            image_size=self.image_size,
            encoder_size=self.encoder_size,
            captioned=self.captioned,
            max_scale=self.max_scale,
            resampling=self.model.encoder.resampling,
            seed=self.run.data.plan.seed,
        )


def _fingerprint(corpus: str, split: Split, captioned: bool) -> str:
    return hashlib.sha256(json.dumps([VERSION, corpus, split, captioned]).encode()).hexdigest()


def num_images(kind: str, num_media: np.ndarray, *, captioned: bool) -> np.ndarray | None:
    """Return how many images of each sample are read; None for a kind of which none are."""
    if not captioned:
        return num_media
    return np.minimum(num_media, 1) if kind in CAPTIONED else None


def sources_by_media(
    corpus: TrainingCorpus,
    fingerprint: str,
    num_windows: Callable[[str, np.ndarray], np.ndarray | None],
    *,
    images: int = 1,
    too_few: str | None = None,
) -> tuple[SourceWindows, ...]:
    """Return the windows of sources whose samples are read by their media, each a length of one position.

    Args:
        corpus: The corpus.
        fingerprint: Hash of all that they depend on.
        num_windows: Function from a source's kind, and the number of images or frames of each of its samples, to those
            of their windows; None for a kind that is not read.
        images: Images of each window.
        too_few: Why samples without a window are left out; None: for no reason of theirs.
    """
    folder = windows_folder(corpus.folder, corpus.tokens, fingerprint)
    found = []
    for source in corpus.manifest.sources:
        shards = corpus.manifest.shards_of(source.name, corpus.split)
        arrays = shared_arrays(
            storage.join(folder, f"{source.name}.arrow"),
            fingerprint,
            partial(_count, corpus.folder, shards, partial(num_windows, source.kind), too_few),
            is_whole=lambda arrays: {"numbers", "first", "refused"} <= set(arrays),
            cache=corpus.cache,
        )
        ones = ones_of(int(arrays["first"][-1]))
        tables = arrays | {"tokens": ones, "images": ones * np.int32(images) if images != 1 else ones}
        found.append(table_of(source.name, source.kind, shards, tables))
    return tuple(found)


def _count(
    corpus: str,
    shards: Sequence[ShardInfo],
    num_windows: Callable[[np.ndarray], np.ndarray | None],
    too_few: str | None,
) -> Arrays:
    """Count the windows of each sample of a source, from columns of its sidecars."""
    counts = [np.zeros(0, np.int64)]
    refused: list[tuple[str, str]] = []
    for shard in shards:
        table = read_table(storage.join(corpus, shard.sidecar), ["key", "num_media", "allowed"])
        allowed = table.column("allowed").fill_null(False).to_numpy()
        windows = num_windows(table.column("num_media").to_numpy())
        counts.append(np.zeros(len(allowed), np.int64) if windows is None else np.where(allowed, windows, 0))
        refused += [(key, NOT_ALLOWED) for key in table.column("key").filter(~allowed).to_pylist()]
        if too_few is not None and windows is not None:
            refused += [(key, too_few) for key in table.column("key").filter(allowed & (windows == 0)).to_pylist()]
    total = np.concatenate(counts).astype(np.int64)
    numbers = np.flatnonzero(total)
    return {
        "numbers": numbers,
        "first": np.concatenate([[0], total[numbers].cumsum()]).astype(np.int64),
        "refused": np.frombuffer(json.dumps(refused).encode(), np.uint8),
    }


class ImageReader(SampleReader):
    """Reads single images; a chunk's window is the index of the image in its sample.

    Args:
        corpus: The corpus.
        sources: Sources of the plan.
        image_size: Side in pixels.
        encoder_size: As in `ImageData`.
        captioned: Whether captions are read too.
        max_scale: As in `ImageData`.
        resampling: How images are resized.
        seed: Seed of crops and substitutes.
    """

    def __init__(
        self,
        corpus: TrainingCorpus,
        sources: tuple[SourceWindows, ...],
        *,
        image_size: int,
        encoder_size: int | None = None,
        captioned: bool,
        max_scale: float,
        resampling: Resampling,
        seed: int = 0,
    ) -> None:
        super().__init__(corpus, sources, seed=seed)
        self._captioned, self._max_scale = captioned, max_scale
        self._sizes = (image_size,) if encoder_size is None else (image_size, encoder_size)
        self._resampling = resampling

    def _read(self, chunk: Chunk, step: int, reader: ShardReader, row: int) -> ChunkData:
        return self._image(chunk, reader, row, chunk.window)

    def _stand_in(self, chunk: Chunk, step: int, reader: ShardReader, row: int) -> ChunkData:
        return self._image(chunk, reader, row, 0)

    def _image(self, chunk: Chunk, reader: ShardReader, row: int, media: int) -> ChunkData:
        ids = [s.ids for s in reader.segments(row) if isinstance(s, Text)] if self._captioned else []
        caption = np.concatenate([np.zeros(0, np.int32), *ids])
        nothing = np.zeros(len(caption), np.uint8)
        sequence = TokenSequence(caption, nothing, nothing.astype(bool), (media,), (False,), (0,))
        data = reader.image(row, media)
        key = key_of("crop", self._seed, chunk.source, chunk.epoch, chunk.sample, media)
        images, crop = decode_views(data, self._sizes, key, self._max_scale, self._resampling)
        return ChunkData(sequence, images, crop)
