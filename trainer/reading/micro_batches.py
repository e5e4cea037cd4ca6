"""From what was read to what the model is given: packs collated into micro-batches, a step ahead of the training."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, Self, TypeVar

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from model.batch import Tensors
from trainer.reading.images import Pixels
from trainer.reading.reader import RankStep, ReadChunk
from trainer.reading.streaming import StreamStep


class Losses(NamedTuple):
    """What a forward pass gives.

    Attributes:
        loss: Scalar, to descend; a share of the global batch's, so that shares add up.
        values: Of each objective, every target's own loss, detached.
    """

    loss: Tensor
    values: tuple[Tensor, ...]


class MicroBatch(Protocol):
    """What a forward pass is given, and how.

    Attributes:
        sources: Of each objective, the number of the source that every target is from.
    """

    @property
    def sources(self) -> tuple[Tensor, ...]: ...

    def to(self, device: torch.device) -> Self:
        """The same on another device."""

    def pin_memory(self) -> Self:
        """The same in page-locked memory."""

    def losses(self, module: Any, totals: Sequence[int] | None) -> Losses:
        """Run a module on it.

        Args:
            module: As the engine holds it.
            totals: Targets of each objective in the global batch; null for this one alone.
        """


@dataclass(frozen=True, slots=True)
class ImageBatch(Tensors):
    """Images one by one.

    Attributes:
        images: (B, 3, S, S) uint8.
        source: (B,) which source each is from.
    """

    images: Tensor
    source: Tensor

    @property
    def sources(self) -> tuple[Tensor, ...]:
        """Of the images."""
        return (self.source,)


def images_of(chunks: Sequence[ReadChunk]) -> tuple[Tensor, Tensor]:
    """Images and sources of a `ImageBatch`, from chunks of one image each."""
    images = torch.stack([as_tensor(chunk.images[0]) for chunk in chunks])
    return images, torch.tensor([chunk.source for chunk in chunks])


def as_tensor(image: Pixels) -> Tensor:
    """(S, S, 3) array to (3, S, S) tensor, without a copy."""
    return torch.from_numpy(image).permute(2, 0, 1)


def resized(images: Tensor, side: int) -> Tensor:
    """uint8 images (B, 3, S, S) at another size."""
    if images.shape[-1] == side:
        return images
    smooth = F.interpolate(images.float(), (side, side), mode="bicubic", antialias=True)
    return smooth.round().clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True, slots=True)
class RankBatch:
    """What a rank trains on in a step."""

    read: RankStep | StreamStep
    micros: list[MicroBatch]

    @property
    def num_targets(self) -> list[int]:
        """Targets of each objective."""
        return [sum(map(len, parts)) for parts in zip(*(micro.sources for micro in self.micros), strict=True)]


Item = TypeVar("Item")
Collate = Callable[[Sequence[Sequence[ReadChunk]]], MicroBatch]


class Batches:
    """Collates the steps of a loader in a thread, one ahead.

    Args:
        steps: What a loader gives.
        micro_batch_size: Packs of a micro-batch.
        collate: Makes a micro-batch of packs.
        pin: Whether to lock pages, for copies to a GPU.
    """

    def __init__(
        self, steps: Iterable[RankStep | StreamStep], *, micro_batch_size: int, collate: Collate, pin: bool = False
    ) -> None:
        self._steps = iter(steps)
        self._micro_batch_size, self._collate, self._pin = micro_batch_size, collate, pin
        self._pool = ThreadPoolExecutor(1, "batches")

    def __iter__(self) -> Iterator[RankBatch]:
        """The steps, without end."""
        coming = self._pool.submit(self._next)
        while True:
            batch = coming.result()
            coming = self._pool.submit(self._next)
            yield batch

    def between(self, work: Callable[[], Item]) -> Item:
        """Have something done in the thread between two steps of the loader: on all ranks between the same two."""
        return self._pool.submit(work).result()

    def close(self) -> None:
        """End the thread."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _next(self) -> RankBatch:
        read = next(self._steps)
        size = self._micro_batch_size
        micros = [self._collate(read.packs[i : i + size]) for i in range(0, len(read.packs), size)]
        return RankBatch(read, [micro.pin_memory() for micro in micros] if self._pin else micros)
