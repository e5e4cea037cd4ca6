"""Videos as films of equally many frames: for the video decoder."""

import hashlib
import json
import random
from dataclasses import dataclass
from functools import partial
from typing import Self

import numpy as np

from model.config import Resampling
from model.segment import ImageSegment
from model.sequence import Sequence as TokenSequence
from pipelines.document import Split
from pipelines.errors import UserError
from trainer.config import ModelSettings, VideoDecoderRunSettings
from trainer.plan.order import key_of
from trainer.plan.steps import Chunk
from trainer.plan.windows import SourceWindows
from trainer.reading.corpus import TrainingCorpus
from trainer.reading.images import Crop, decode_views
from trainer.reading.reader import ChunkData, SampleReader
from trainer.reading.shard_reader import DamagedSample, ShardReader
from trainer.tasks.data import CorpusData, open_corpus
from trainer.tasks.single_images import sources_by_media

# As in single_images.py.
VERSION = 1
TOO_FEW_FRAMES = "too_few_frames"
"""Why a video is left out."""


@dataclass(frozen=True)
class FilmData(CorpusData):
    """A corpus's videos, cut into films; every film is one chunk with a length of one position.

    Attributes:
        image_size: Side in pixels of frames as read.
        encoder_size: Side in pixels of each frame as the encoder reads it, which is read beside it; None: it is not.
        max_scale: As in `ImageData`; all frames of a film have the same crop.
        num_frames: Frames of a film.
    """

    image_size: int
    encoder_size: int | None
    max_scale: float
    num_frames: int

    @classmethod
    def open(cls, folder: str, wanted: ModelSettings, run: VideoDecoderRunSettings, split: Split = "train") -> Self:
        """Open the data of a run.

        Raises:
            UserError: If the corpus, its tokens or the model do not fit each other; or if no video of the split is long
                enough to be trained on.
        """
        corpus, tokenizer, model = open_corpus(folder, wanted, run, split)
        num_frames = model.video_decoder.frames
        fingerprint = _fingerprint(corpus.manifest.fingerprint, split, num_frames)
        sources = sources_by_media(
            corpus,
            fingerprint,
            partial(_num_films, num_frames=num_frames),
            images=num_frames,
            too_few=TOO_FEW_FRAMES,
        )
        size, seen = model.frame_decoder.image_size, model.encoder.image_size
        encoder_size = seen if seen != size else None
        data = cls(run, tokenizer, model, corpus, sources, fingerprint, size, encoder_size, run.max_scale, num_frames)
        if split == "train" and not any(source.num_samples for source in sources):
            raise UserError(data._without_films())
        return data

    def fingerprint_of(self, corpus: str) -> str:
        """Return the fingerprint as it was with another version of the corpus."""
        return _fingerprint(corpus, self.corpus.split, self.num_frames)

    def reader(self) -> "FilmReader":
        """Return a reader of films."""
        sizes = (self.image_size,) if self.encoder_size is None else (self.image_size, self.encoder_size)
        return FilmReader(
            self.corpus,
            self.sources,
            num_frames=self.num_frames,
            sizes=sizes,
            max_scale=self.max_scale,
            resampling=self.model.encoder.resampling,
            seed=self.run.data.plan.seed,
        )

    def _without_films(self) -> str:
        if not any(reason == TOO_FEW_FRAMES for source in self.sources for _, reason in source.refused):
            return f"{self.corpus.folder}: has no videos to train a video decoder on: it needs a source of kind video"
        return (
            f"{self.corpus.folder}: no video has {self.num_frames} frames or more: set "
            "model.changes.video_decoder.frames to fewer, or build a corpus with more frames per video"
        )


def _fingerprint(corpus: str, split: Split, num_frames: int) -> str:
    return hashlib.sha256(json.dumps([VERSION, corpus, split, num_frames, "films"]).encode()).hexdigest()


def _num_films(kind: str, num_media: np.ndarray, *, num_frames: int) -> np.ndarray | None:
    """Return how many films without common frames each sample has; None for a kind that has none."""
    return num_media // num_frames if kind == "video" else None


class FilmReader(SampleReader):
    """Reads films: consecutive frames of a video; a chunk's window is the number of the film in its video.

    The frames that are left over are before or after all films, at random in each epoch.

    Args:
        corpus: The corpus.
        sources: Sources of the plan.
        num_frames: Frames of a film.
        sizes: Sides in pixels: all frames are read in the first, then in the second if there is one.
        max_scale: As in `ImageData`.
        resampling: How frames are resized.
        seed: Seed of crops, of what is left over, and of substitutes.
    """

    def __init__(
        self,
        corpus: TrainingCorpus,
        sources: tuple[SourceWindows, ...],
        *,
        num_frames: int,
        sizes: tuple[int, ...],
        max_scale: float,
        resampling: Resampling,
        seed: int = 0,
    ) -> None:
        super().__init__(corpus, sources, seed=seed)
        self._num_frames, self._sizes = num_frames, sizes
        self._max_scale, self._resampling = max_scale, resampling

    def _read(self, chunk: Chunk, step: int, reader: ShardReader, row: int) -> ChunkData:
        return self._film(chunk, reader, row, chunk.window)

    def _stand_in(self, chunk: Chunk, step: int, reader: ShardReader, row: int) -> ChunkData:
        return self._film(chunk, reader, row, 0)

    def _film(self, chunk: Chunk, reader: ShardReader, row: int, number: int) -> ChunkData:
        frames = [part.media for part in reader.segments(row) if isinstance(part, ImageSegment)]
        num = self._num_frames
        if len(frames) < num * (number + 1):
            raise DamagedSample(f"has {len(frames)} frames, fewer than its sidecar says")
        rng = random.Random(key_of("film", self._seed, chunk.source, chunk.epoch, chunk.sample))
        first = rng.randint(0, len(frames) % num) + num * number
        chosen = tuple(frames[first : first + num])
        views, crop = zip(*(self._frame(chunk, reader.image(row, media)) for media in chosen), strict=True)
        nothing = np.zeros(0, np.uint8)
        sequence = TokenSequence(
            nothing.astype(np.int32), nothing, nothing.astype(bool), chosen, (True,) * num, (0,) * num
        )
        return ChunkData(sequence, tuple(image for view in zip(*views, strict=True) for image in view), crop[0])

    def _frame(self, chunk: Chunk, data: bytes) -> tuple[tuple[np.ndarray, ...], Crop | None]:
        """Decode a frame in all sizes; the crop is the same for all frames of a film."""
        key = key_of("crop", self._seed, chunk.source, chunk.epoch, chunk.sample, chunk.window)
        return decode_views(data, self._sizes, key, self._max_scale, self._resampling)
