"""Packed sequences as tensors: the input of one forward pass, with every index computed on the CPU.

B packed sequences, L tokens in each, N images, S pixels per side
"""

from collections.abc import Callable
from collections.abc import Sequence as Many
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from model.sequence import TEXT, VISUAL, Sequence


@dataclass(frozen=True, slots=True)
class Tensors:
    """A dataclass whose tensors, and nested `Tensors`, move between devices together."""

    def to(self, device: torch.device | str, *, non_blocking: bool = True) -> Self:
        """Return a copy on another device."""
        return self._each(lambda part: part.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """Return a copy in page-locked memory, from which copies to a GPU overlap with other work."""
        return self._each(lambda part: part.pin_memory())

    def _each(self, change: Callable[[Any], Any]) -> Self:
        parts = {f.name: getattr(self, f.name) for f in fields(self)}
        moved = {name: change(part) for name, part in parts.items() if isinstance(part, Tensor | Tensors)}
        return replace(self, **moved)


@dataclass(frozen=True, slots=True)
class Batch(Tensors):
    """Packed sequences. `flat` positions count through all packed sequences: row * L + column.

    Attributes:
        token_ids: (B, L) int64.
        positions: (B, L) int64, restarting at 0 with each sequence.
        documents: (B, L) int32, equal within a sequence; padding is a separate sequence.
        boundaries: (sequences + 1,) int32, flat position at which each begins, then the end.
        longest: Tokens of the longest sequence, padding included.
        images: (N, 3, S, S) uint8 or normalised pixels, or (N, ...) features (`Bridge.reduce`); stills, then frames.
                None if there are none.
        num_frames: Number of images, at the end, that are video frames.
        slots: Flat positions of the slots, grouped by image, in the order of `images`.
        text_at: Flat positions whose next token is a text target.
        text_targets: The ids of those tokens.
        visual_at: Flat positions whose next embedding is a regression target.
        visual_rows: Index of that embedding in `slots`; len(slots) is the embedding of `[/IMG]` (Emu).
    """

    token_ids: Tensor
    positions: Tensor
    documents: Tensor
    boundaries: Tensor
    longest: int
    images: Tensor | None
    num_frames: int
    slots: Tensor
    text_at: Tensor
    text_targets: Tensor
    visual_at: Tensor
    visual_rows: Tensor


def collate(packs: Many[Many[Sequence]], images: Many[Tensor], *, seq_len: int, pad_id: int) -> Batch:
    """Return packed sequences as one batch.

    Args:
        packs: The sequences of each packed sequence; together no longer than `seq_len`.
        images: One tensor per image, in the order of the sequences; equal shapes and dtypes.
        seq_len: Tokens per packed sequence; shorter ones are padded.
        pad_id: Id of `[PAD]`.

    Raises:
        ValueError: If a packed sequence is too long, or the number of images does not match the sequences.
    """
    shape = (len(packs), seq_len)
    token_ids, positions = np.full(shape, pad_id, np.int64), np.zeros(shape, np.int64)
    documents, targets = np.zeros(shape, np.int32), np.zeros(shape, np.uint8)
    ends: list[int] = [0]
    blocks: list[np.ndarray] = []  # flat positions of each image's slots
    is_frame: list[bool] = []
    for row, pack in enumerate(packs):
        column = 0
        for sequence in pack:
            size = len(sequence.token_ids)
            if column + size > seq_len:
                raise ValueError(
                    f"packed sequence {row} is longer than {seq_len} tokens; plan by the sequences' lengths"
                )
            here = np.s_[row, column : column + size]
            token_ids[here] = sequence.token_ids
            positions[here] = np.arange(size)
            documents[here] = len(ends)
            targets[here] = sequence.targets
            targets[row, column] = 0  # no earlier position could predict it
            at = np.flatnonzero(sequence.slots) + row * seq_len + column
            blocks += np.split(at, np.cumsum(sequence.slot_counts)[:-1]) if sequence.images else []
            is_frame += sequence.frames
            column += size
            ends.append(row * seq_len + column)
        if column < seq_len:
            positions[row, column:] = np.arange(seq_len - column)
            documents[row, column:] = len(ends)
            ends.append((row + 1) * seq_len)
    if len(images) != len(blocks):
        raise ValueError(f"{len(images)} images, but the sequences have places for {len(blocks)}")

    order = sorted(range(len(blocks)), key=lambda i: is_frame[i])  # stable: stills, then frames
    slots = np.concatenate([blocks[i] for i in order]) if order else np.zeros(0, np.int64)
    row_of = np.full(token_ids.size, len(slots))  # flat position -> index of its embedding; [/IMG] if not a slot
    row_of[slots] = np.arange(len(slots))
    text, visual = np.flatnonzero(targets == TEXT), np.flatnonzero(targets == VISUAL)
    return Batch(
        token_ids=torch.from_numpy(token_ids),
        positions=torch.from_numpy(positions),
        documents=torch.from_numpy(documents),
        boundaries=torch.tensor(ends, dtype=torch.int32),
        longest=int(np.diff(ends).max()),
        images=_stacked([images[i] for i in order]) if order else None,
        num_frames=sum(is_frame),
        slots=torch.from_numpy(slots),
        text_at=torch.from_numpy(text - 1),
        text_targets=torch.from_numpy(token_ids.reshape(-1)[text]),
        visual_at=torch.from_numpy(visual - 1),
        visual_rows=torch.from_numpy(row_of[visual]),
    )


def _stacked(images: Many[Tensor]) -> Tensor:
    """Return images as one tensor, with their channels last in memory if they have them so, as decoded ones do.

    Then it is a plain copy of bytes; the device turns them around.
    """
    if images[0].ndim == 3 and not images[0].is_contiguous():
        return torch.stack([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2)
    return torch.stack([*images])
