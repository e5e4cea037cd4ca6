"""Positions and images of each window of each sample: all that a plan needs of a source, without opening it."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

I64 = np.ndarray[Any, np.dtype[np.int64]]
I32 = np.ndarray[Any, np.dtype[np.int32]]


@dataclass(frozen=True)
class SourceWindows:
    """Windows of a source's samples, in the order of its shards.

    Attributes:
        name: Name of the source.
        kind: Kind of its samples.
        shards: Paths of its shards, as in the manifest.
        shard_ends: (S,) samples up to and including each shard.
        numbers: (N,) indices of the samples that are trained on; None: all.
        first: (N + 1,) index in `tokens` of each sample's first window, then the end.
        tokens: (M,) positions of each window, including image slots.
        images: (M,) images in each window.
        refused: (key, reason) of the samples that are not trained on.
    """

    name: str
    kind: str
    shards: tuple[str, ...]
    shard_ends: I64
    numbers: I64 | None
    first: I64
    tokens: I32
    images: I32
    refused: tuple[tuple[str, str], ...] = ()

    @property
    def num_samples(self) -> int:
        """Number of samples that are trained on."""
        return len(self.first) - 1

    @cached_property
    def totals(self) -> I64:
        """(N,) positions of all windows of each sample together."""
        ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.tokens, dtype=np.int64)])
        totals: I64 = ends[self.first[1:]] - ends[self.first[:-1]]
        return totals

    @cached_property
    def _ends(self) -> list[int]:
        ends: list[int] = self.shard_ends.tolist()
        return ends

    def locate(self, sample: int) -> tuple[int, int]:
        """Return the shard of a sample and its row there."""
        number = sample if self.numbers is None else int(self.numbers[sample])
        shard = bisect_right(self._ends, number)
        return shard, number - (self._ends[shard - 1] if shard else 0)


def one_window_each(name: str, kind: str, shards: Sequence[str], samples: Sequence[int]) -> SourceWindows:
    """Build a source whose samples count one position and one image each, for training on images without sequences.

    Args:
        name: Name of the source.
        kind: Kind of its samples.
        shards: Paths of its shards.
        samples: Number of samples in each shard.
    """
    num = int(sum(samples))
    ones = np.ones(num, np.int32)
    return SourceWindows(
        name, kind, tuple(shards), np.cumsum(samples, dtype=np.int64), None, np.arange(num + 1), ones, ones
    )
