"""Single samples, as segments with their images, for prompts to a model."""

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from model.config import Resampling
from model.segment import ImageSegment, Segment, Text
from model.tokenizer import Tokenizer
from trainer.reading.images import decode
from trainer.reading.micro_batches import as_tensor
from trainer.reading.shard_reader import DamagedSample, ShardReader
from trainer.tasks.data import TrainingData


@dataclass(frozen=True, slots=True)
class Sample:
    """A sample of a corpus.

    Attributes:
        source: Name of its source.
        key: Key of the sample.
        segments: Segments of the sample.
        reader: Reader of its shard.
        row: Row of the sample in the shard.
        resampling: How the model's input images are resized.
    """

    source: str
    key: str
    segments: tuple[Segment, ...]
    reader: ShardReader
    row: int
    resampling: Resampling

    @property
    def is_whole(self) -> bool:
        """True if all its images can be read."""
        try:
            for part in self.segments:
                if isinstance(part, ImageSegment):
                    self.image(part.media, 1)
        except DamagedSample:
            return False
        return True

    def image(self, media: int, size: int) -> Tensor:
        """Read an image as (3, size, size) uint8.

        Raises:
            DamagedSample: If it cannot be read.
        """
        return as_tensor(decode(self.reader.image(self.row, media), size, self.resampling))

    def text(self, tokenizer: Tokenizer) -> str:
        """Return all its texts, one per line."""
        return "\n".join(tokenizer.decode(part.ids) for part in self.segments if isinstance(part, Text))


def samples_of(data: TrainingData, kinds: Sequence[str], per_source: int | None = None) -> Iterator[Sample]:
    """Yield the usable samples of the given kinds, at most `per_source` of each source, in the corpus's order."""
    for source in data.sources:
        if source.kind not in kinds:
            continue
        readers = [data.corpus.reader(shard) for shard in source.shards]
        for number in range(source.num_samples)[:per_source]:
            shard, row = source.locate(number)
            reader = readers[shard]
            segments, resampling = tuple(reader.segments(row)), data.model.encoder.resampling
            yield Sample(source.name, reader.key(row), segments, reader, row, resampling)


class _Readable(Protocol):
    @property
    def is_whole(self) -> bool: ...


Readable = TypeVar("Readable", bound=_Readable)


def drawn(samples: Sequence[Readable], num: int, seed: int) -> list[Readable]:
    """Return at most `num` of the samples, in random order, without damaged ones."""
    order = random.Random(seed).sample(range(len(samples)), len(samples))
    whole = (sample for i in order if (sample := samples[i]).is_whole)
    return list(itertools.islice(whole, num))


def images_of(samples: Sequence[Sample], size: int) -> Tensor:
    """Read the first image of each sample: (B, 3, size, size) uint8."""
    return torch.stack([sample.image(first_image(sample).media, size) for sample in samples])


def first_image(sample: Sample) -> ImageSegment:
    """Return the first image of a sample that has one."""
    return next(part for part in sample.segments if isinstance(part, ImageSegment))
