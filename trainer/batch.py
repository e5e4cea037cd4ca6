"""From what was read to what the model is given: packs collated into micro-batches, a step ahead of the training."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
import torch
from torch import Tensor

from model.batch import Batch, collate
from trainer.images import Pixels
from trainer.reader import RankStep, ReadPiece


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """What a forward pass is given.

    Attributes:
        batch: Packed sequences.
        text_sources: Which source each text target is from, in the order of `batch.text_at`.
        visual_sources: The same of regression targets.
    """

    batch: Batch
    text_sources: Tensor
    visual_sources: Tensor

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        return type(self)(
            self.batch.to(device),
            self.text_sources.to(device, non_blocking=True),
            self.visual_sources.to(device, non_blocking=True),
        )

    def pin_memory(self) -> Self:
        """The same in page-locked memory."""
        return type(self)(self.batch.pin_memory(), self.text_sources.pin_memory(), self.visual_sources.pin_memory())


class Pictures(Protocol):
    """Gives a piece's pictures as tensors: pixels, or kept features."""

    def __call__(self, piece: ReadPiece) -> list[Tensor]:
        """One tensor for each picture of the piece."""


def pixels(piece: ReadPiece) -> list[Tensor]:
    """(3, S, S) uint8 of each picture."""
    return [as_tensor(image) for image in piece.images]


def as_tensor(image: Pixels) -> Tensor:
    """(S, S, 3) array to (3, S, S) tensor, without a copy."""
    return torch.from_numpy(image).permute(2, 0, 1)


def micro_batch(
    packs: Sequence[Sequence[ReadPiece]], *, length: int, pad_id: int, pictures: Pictures = pixels
) -> MicroBatch:
    """Packs as one micro-batch.

    Args:
        packs: Pieces of each pack.
        length: Places of a pack.
        pad_id: Id of `[PAD]`.
        pictures: Gives the pieces' pictures.
    """
    images = [tensor for pack in packs for piece in pack for tensor in pictures(piece)]
    batch = collate([[piece.sequence for piece in pack] for pack in packs], images, length=length, pad_id=pad_id)
    of_place = np.zeros(len(packs) * length, np.int64)
    for row, pack in enumerate(packs):
        at = row * length
        for piece in pack:
            size = len(piece.sequence.token_ids)
            of_place[at : at + size] = piece.source
            at += size
    # A target's source is that of the place before it, from which it is predicted.
    sources = torch.from_numpy(of_place)
    return MicroBatch(batch, sources[batch.text_at], sources[batch.visual_at])


@dataclass(frozen=True, slots=True)
class RankBatch:
    """What a rank trains on in a step."""

    read: RankStep
    micros: list[MicroBatch]

    @property
    def num_text(self) -> int:
        """Text targets."""
        return sum(len(m.text_sources) for m in self.micros)

    @property
    def num_visual(self) -> int:
        """Regression targets."""
        return sum(len(m.visual_sources) for m in self.micros)


class Batches:
    """Collates the steps of a loader in a thread, one ahead.

    Args:
        steps: What a loader gives.
        micro_packs: Packs of a micro-batch.
        length: Places of a pack.
        pad_id: Id of `[PAD]`.
        pin: Whether to lock pages, for copies to a GPU.
        pictures: Gives the pieces' pictures.
    """

    def __init__(
        self,
        steps: Iterable[RankStep],
        *,
        micro_packs: int,
        length: int,
        pad_id: int,
        pin: bool = False,
        pictures: Pictures = pixels,
    ) -> None:
        self._steps = iter(steps)
        self._micro_packs, self._length, self._pad_id = micro_packs, length, pad_id
        self._pin, self._pictures = pin, pictures
        self._pool = ThreadPoolExecutor(1, "batches")

    def __iter__(self) -> Iterator[RankBatch]:
        """The steps, without end."""
        coming = self._pool.submit(self._next)
        while True:
            batch = coming.result()
            coming = self._pool.submit(self._next)
            yield batch

    def close(self) -> None:
        """End the thread."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _next(self) -> RankBatch:
        read = next(self._steps)
        micros = [
            micro_batch(
                read.packs[i : i + self._micro_packs],
                length=self._length,
                pad_id=self._pad_id,
                pictures=self._pictures,
            )
            for i in range(0, len(read.packs), self._micro_packs)
        ]
        return RankBatch(read, [m.pin_memory() for m in micros] if self._pin else micros)
