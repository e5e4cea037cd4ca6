"""Packs of sequences as tensors: what one forward pass needs, with every index worked out before it leaves the CPU.

B packs, L tokens a pack, N images, S pixels a side
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
    """A dataclass whose tensors, and whose fields of this kind, go from one memory to another together."""

    def to(self, device: torch.device | str, *, non_blocking: bool = True) -> Self:
        """The same on another device."""
        return self._each(lambda part: part.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """The same in page-locked memory, from which copies to a GPU run beside other work."""
        return self._each(lambda part: part.pin_memory())

    def _each(self, change: Callable[[Any], Any]) -> Self:
        parts = {f.name: getattr(self, f.name) for f in fields(self)}
        moved = {name: change(part) for name, part in parts.items() if isinstance(part, Tensor | Tensors)}
        return replace(self, **moved)


@dataclass(frozen=True, slots=True)
class Batch(Tensors):
    """Packed sequences. `flat` positions count through all packs: row * L + column.

    Attributes:
        token_ids: (B, L) int64.
        positions: (B, L) int64, restarting at 0 with each sequence.
        documents: (B, L) int32, equal within a sequence; padding is a sequence of its own.
        boundaries: (sequences + 1,) int32, where each begins in flat order, and the end.
        longest: Tokens of the longest sequence, padding included.
        images: (N, 3, S, S) uint8 or normalised pixels, or (N, ...) features (`Bridge.reduce`); stills, then frames.
            Null where there are none.
        num_frames: How many of the images, at the end, are video frames.
        slots: Flat positions of the slots, those of each image together, in the order of `images`.
        text_at: Flat positions whose next token is a text target.
        text_targets: The ids of those tokens.
        visual_at: Flat positions whose next embedding is a regression target.
        visual_rows: Which embedding that is, counted through `slots`; len(slots) stands for `[/IMG]`'s own (Emu).
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
    """Packs as one batch.

    Args:
        packs: The sequences of each pack; together no longer than `seq_len`.
        images: One tensor for each image, in the order in which the sequences hold them; equal shapes and dtypes.
        seq_len: Tokens a pack; shorter ones are padded.
        pad_id: Id of `[PAD]`.

    Raises:
        ValueError: If a pack is too long, or there are not as many images as the sequences hold.
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
                raise ValueError(f"pack {row} is longer than {seq_len} tokens; plan packs by their sequences' lengths")
            here = np.s_[row, column : column + size]
            token_ids[here] = sequence.token_ids
            positions[here] = np.arange(size)
            documents[here] = len(ends)
            targets[here] = sequence.targets
            targets[row, column] = 0  # nothing stands before it that could predict it
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
        raise ValueError(f"{len(images)} images for {len(blocks)} positions in the sequences")

    order = sorted(range(len(blocks)), key=lambda i: is_frame[i])  # stable: stills, then frames
    slots = np.concatenate([blocks[i] for i in order]) if order else np.zeros(0, np.int64)
    row_of = np.full(token_ids.size, len(slots))  # flat position -> which embedding; [/IMG] where it is no slot
    row_of[slots] = np.arange(len(slots))
    text, visual = np.flatnonzero(targets == TEXT), np.flatnonzero(targets == VISUAL)
    return Batch(
        token_ids=torch.from_numpy(token_ids),
        positions=torch.from_numpy(positions),
        documents=torch.from_numpy(documents),
        boundaries=torch.tensor(ends, dtype=torch.int32),
        longest=int(np.diff(ends).max()),
        images=torch.stack([images[i] for i in order]) if order else None,
        num_frames=sum(is_frame),
        slots=torch.from_numpy(slots),
        text_at=torch.from_numpy(text - 1),
        text_targets=torch.from_numpy(token_ids.reshape(-1)[text]),
        visual_at=torch.from_numpy(visual - 1),
        visual_rows=torch.from_numpy(row_of[visual]),
    )
