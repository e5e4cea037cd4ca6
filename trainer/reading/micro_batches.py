"""Micro-batches: packed sequences collated into the model's input, one step ahead of the training."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, Self, TypeVar

import torch
from torch import Tensor

from model.batch import Tensors
from model.resizing import Pixels
from trainer.reading.reader import RankStep, ReadChunk
from trainer.reading.streaming import StreamStep


class Losses(NamedTuple):
    """Losses of a forward pass.

    Attributes:
        loss: Scalar to minimise: this micro-batch's part of the global batch's loss, so that parts add up.
        values: Loss of every target, by objective, detached; empty for an objective that is not computed.
    """

    loss: Tensor
    values: tuple[Tensor, ...]


class MicroBatch(Protocol):
    """Input of a forward pass, and how to run it.

    Attributes:
        sources: Index of every target's source, by objective.
    """

    @property
    def sources(self) -> tuple[Tensor, ...]: ...

    def to(self, device: torch.device) -> Self:
        """Return a copy on another device."""

    def pin_memory(self) -> Self:
        """Return a copy in page-locked memory."""

    def losses(self, module: Any, totals: Sequence[int] | None) -> Losses:
        """Run a module on the micro-batch.

        Args:
            module: The module, as wrapped by the engine.
            totals: Targets of each objective in the global batch; None: only this micro-batch.
        """


@dataclass(frozen=True, slots=True)
class Group:
    """Place of a micro-batch among held-out packed sequences, which are judged in groups as large as a global batch.

    Attributes:
        number: Index of the group.
        first: Index in it of the micro-batch's first sequence; None for one that does not count, with which a rank that
            has fewer fills up.
        sizes: Number of sequences of every group, in order.
    """

    number: int
    first: int | None
    sizes: tuple[int, ...]

    def rows(self) -> tuple[int, int]:
        """Return the index of the micro-batch's first sequence, and the number of sequences of its group."""
        return self.first or 0, self.sizes[self.number]

    def span(self, num: int) -> slice:
        """Return where the micro-batch's `num` sequences stand among those of all groups."""
        begin = sum(self.sizes[: self.number]) + (self.first or 0)
        return slice(begin, begin + num if self.first is not None else begin)


class GroupedBatch(ABC):
    """A micro-batch whose held-out losses depend on its place in a group."""

    __slots__ = ()

    @abstractmethod
    def of_group(self, group: Group) -> MicroBatch:
        """Return the micro-batch with its place among the held-out sequences."""


class JointBatch(GroupedBatch):
    """A micro-batch whose losses depend on all others, also on those of other ranks."""

    __slots__ = ()

    @classmethod
    @abstractmethod
    def joined(
        cls, module: Any, micros: Sequence[Any], totals: Sequence[int] | None, device: torch.device
    ) -> Sequence[MicroBatch]:
        """Return micro-batches that know what they need of the others; all ranks must call, with equally many.

        Args:
            module: The module, as wrapped by the engine or not.
            micros: Micro-batches of a step on this rank; or held-out ones, with their groups.
            totals: Targets of each objective in the global batch; None: held-out micro-batches.
            device: Device of the module.
        """


def joined(
    module: Any, micros: Sequence[MicroBatch], totals: Sequence[int] | None, device: torch.device
) -> Sequence[MicroBatch]:
    """Return micro-batches as `JointBatch.joined` does, or unchanged if they do not depend on each other."""
    first = micros[0] if micros else None
    return first.joined(module, micros, totals, device) if isinstance(first, JointBatch) else micros


@dataclass(frozen=True, slots=True)
class ImageBatch(Tensors):
    """A batch of single images.

    Attributes:
        images: (B, 3, S, S) uint8.
        source: (B,) index of each image's source.
    """

    images: Tensor
    source: Tensor

    @property
    def sources(self) -> tuple[Tensor, ...]:
        """Sources of the images."""
        return (self.source,)


def images_of(chunks: Sequence[ReadChunk]) -> tuple[Tensor, Tensor]:
    """Return images and sources of an `ImageBatch`, from chunks of one image each."""
    images = torch.stack([as_tensor(chunk.images[0]) for chunk in chunks])
    return images, torch.tensor([chunk.source for chunk in chunks])


def as_tensor(image: Pixels) -> Tensor:
    """Convert a (S, S, 3) array to a (3, S, S) tensor, without a copy."""
    return torch.from_numpy(image).permute(2, 0, 1)


@dataclass(frozen=True, slots=True)
class RankBatch:
    """The data of one rank in a step."""

    read: RankStep | StreamStep
    micros: list[MicroBatch]

    @property
    def num_targets(self) -> list[int]:
        """Return the number of targets of each objective."""
        return [sum(map(len, parts)) for parts in zip(*(micro.sources for micro in self.micros), strict=True)]


Item = TypeVar("Item")
Collate = Callable[[Sequence[Sequence[ReadChunk]]], MicroBatch]


class Collated:
    """Steps of a loader with their micro-batches; each call returns the next. After an error it may be called again.

    Args:
        steps: Steps of a loader.
        micro_batch_size: Packed sequences per micro-batch.
        collate: Function from packed sequences to a micro-batch.
    """

    def __init__(self, steps: Iterable[RankStep | StreamStep], *, micro_batch_size: int, collate: Collate) -> None:
        self._steps, self._reading = steps, iter(steps)
        self._micro_batch_size, self._collate = micro_batch_size, collate

    def __call__(self) -> RankBatch:
        """Return the next step; errors of the loader are raised."""
        try:
            read = next(self._reading)
        except Exception:
            self._reading = iter(self._steps)  # the old iterator has ended with the error
            raise
        size = self._micro_batch_size
        return RankBatch(read, [self._collate(read.packs[i : i + size]) for i in range(0, len(read.packs), size)])


class Batches:
    """Fetches the steps in a thread, one ahead.

    Args:
        read: Returns the next step.
        pin: Whether to lock pages, for copies to a GPU.
    """

    def __init__(self, read: Callable[[], RankBatch], *, pin: bool = False) -> None:
        self._read, self._pin = read, pin
        self._pool = ThreadPoolExecutor(1, "batches")
        self._coming: Future[RankBatch] | None = None

    def take(self, seconds: float) -> RankBatch | None:
        """Return the next step, or None if it is not there after some seconds; errors of the loader are raised.

        After an error the loader is asked again, which may do better.
        """
        coming = self._coming = self._coming or self._pool.submit(self._next)
        if not wait([coming], seconds).done:
            return None
        self._coming = None
        batch = coming.result()
        self._coming = self._pool.submit(self._next)
        return batch

    def between(self, work: Callable[[], Item]) -> Item:
        """Run something in the thread between two steps of the loader, which are the same on all ranks."""
        return self._pool.submit(work).result()

    def close(self) -> None:
        """Stop the thread."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _next(self) -> RankBatch:
        batch = self._read()
        return replace(batch, micros=[micro.pin_memory() for micro in batch.micros]) if self._pin else batch
