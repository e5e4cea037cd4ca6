"""Positions and images of each window of each sample: all that a plan needs of a source, without opening it."""

import json
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

I64 = np.ndarray[Any, np.dtype[np.int64]]
I32 = np.ndarray[Any, np.dtype[np.int32]]
U8 = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True)
class SourceWindows:
    """Windows of a source's samples, in the order of its shards.

    The arrays may be mapped from a file that all processes of a machine share: nothing here copies them.

    Attributes:
        name: Name of the source.
        kind: Kind of its samples.
        shards: Paths of its shards, as in the manifest.
        shard_ends: (S,) samples up to and including each shard.
        numbers: (N,) indices of the samples that are trained on; None: all.
        first: (N + 1,) index in `tokens` of each sample's first window, then the end.
        tokens: (M,) positions of each window, including image slots.
        images: (M,) images in each window.
        refused_json: [key, reason] of the samples that are not trained on, as JSON.
    """

    name: str
    kind: str
    shards: tuple[str, ...]
    shard_ends: I64
    numbers: I64 | None
    first: I64
    tokens: I32
    images: I32
    refused_json: U8 | None = None

    @property
    def num_samples(self) -> int:
        """Number of samples that are trained on."""
        return len(self.first) - 1

    @property
    def refused(self) -> tuple[tuple[str, str], ...]:
        """(key, reason) of the samples that are not trained on."""
        found = json.loads(bytes(self.refused_json)) if self.refused_json is not None else ()
        return tuple((key, reason) for key, reason in found)

    def totals(self, samples: I64) -> I64:
        """Return the positions of all windows of each of some samples together."""
        if not len(samples):
            return np.zeros(0, np.int64)
        first, count = self.first[samples], self.first[samples + 1] - self.first[samples]  # 1 or more of each
        starts = np.cumsum(count) - count
        windows = np.repeat(first - starts, count) + np.arange(int(count.sum()))
        totals: I64 = np.add.reduceat(self.tokens[windows], starts, dtype=np.int64)
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
    ones = ones_of(num)
    return SourceWindows(
        name, kind, tuple(shards), np.cumsum(samples, dtype=np.int64), None, np.arange(num + 1), ones, ones
    )


def ones_of(num: int) -> I32:
    """Return as many ones, which take no memory."""
    return np.broadcast_to(np.int32(1), (num,))
