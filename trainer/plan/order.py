"""Order in which a source's samples are read: a permutation of each epoch that is computed, not stored.

An epoch is cut into blocks of neighbours in the tars, the blocks are permuted, and samples are permuted within pools of
several blocks. So reads stay close together, any position of any epoch is found in constant time, and a resume does
not refill a buffer.
"""

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
from pydantic import Field

from pipelines.settings import Settings

U64 = np.ndarray[Any, np.dtype[np.uint64]]
I64 = np.ndarray[Any, np.dtype[np.int64]]

_AHEAD = 4096  # most samples whose order is computed at once
_ROUNDS = 4  # each changes both halves


class OrderSettings(Settings):
    """Settings of how widely samples are shuffled."""

    block_samples: int = Field(64, ge=1, description="neighbours in a tar that stay together: 64 of 50 KB are one read")
    pool_blocks: int = Field(64, ge=1, description="blocks whose samples are shuffled together")


def key_of(*names: str | int) -> int:
    """Return 64 bits that depend only on these names."""
    return int.from_bytes(hashlib.sha256("\x1f".join(map(str, names)).encode()).digest()[:8], "little")


def mix(values: U64, key: U64) -> U64:
    """Hash 64-bit numbers (the finaliser of SplitMix64, Steele et al. 2014)."""
    x = values + key
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def permute(index: I64, size: I64 | int, key: U64 | int, *, inverse: bool = False) -> I64:
    """Return the image of each index under a keyed permutation of `range(size)`.

    A Feistel network whose halves add modulo a and b, with a * b just above `size` (Black and Rogaway 2002);
    values outside the range go through again.

    Args:
        index: Numbers below `size`.
        size: One for all, or one per index.
        key: One for all, or one per index.
        inverse: Whether to apply the inverse permutation.
    """
    sizes = np.broadcast_to(np.asarray(size, np.uint64), index.shape)
    keys = np.broadcast_to(np.asarray(key, np.uint64), index.shape)
    out = index.astype(np.uint64)
    a = np.maximum(np.ceil(np.sqrt(sizes.astype(np.float64))).astype(np.uint64), np.uint64(1))
    b = (sizes + a - np.uint64(1)) // a
    todo = np.arange(len(out))
    while len(todo):
        here = _turn(out[todo], a[todo], b[todo], keys[todo], inverse)
        out[todo] = here
        todo = todo[here >= sizes[todo]]
    return out.astype(np.int64)


def _turn(x: U64, a: U64, b: U64, key: U64, inverse: bool) -> U64:
    """Pass once through the network: x = left * b + right, left below a, right below b."""
    left, right = np.divmod(x, b)
    for n in reversed(range(_ROUNDS)) if inverse else range(_ROUNDS):
        first, second = key + np.uint64(2 * n + 1), key ^ np.uint64((2 * n + 2) << 32)
        if inverse:
            right = (right + b - mix(left, second) % b) % b
            left = (left + a - mix(right, first) % a) % a
        else:
            left = (left + mix(right, first) % a) % a
            right = (right + mix(left, second) % b) % b
    return left * b + right


class SourceOrder:
    """Order of one source's samples.

    Args:
        num_samples: Samples in an epoch.
        seed: Seed of the order.
        name: Name of the source.
        settings: How widely samples are shuffled.
    """

    def __init__(self, num_samples: int, seed: int, name: str, settings: OrderSettings | None = None) -> None:
        settings = settings or OrderSettings()
        self.num_samples = num_samples
        self._key = key_of("order", seed, name)
        self._block, self._pool = settings.block_samples, settings.pool_blocks
        self._num_blocks = -(-num_samples // self._block)
        self._missing = self._num_blocks * self._block - num_samples  # samples that the last block lacks
        self._short_at: dict[int, int] = {}  # epoch -> position of the last block among the permuted ones

    def samples(self, ordinals: I64) -> tuple[I64, I64]:
        """Return epoch and sample of each ordinal: the index among the samples drawn from this source, from 0."""
        epochs, positions = np.divmod(ordinals, self.num_samples)
        samples = np.empty_like(positions)
        for number in np.unique(epochs).tolist():
            chosen = epochs == number
            samples[chosen] = self._in_epoch(number, positions[chosen])
        return epochs, samples

    def _in_epoch(self, number: int, positions: I64) -> I64:
        key = key_of(self._key, "pass", number)
        if number not in self._short_at:
            last = np.array([self._num_blocks - 1], np.int64)
            self._short_at = {number: int(permute(last, self._num_blocks, key, inverse=True)[0])}
        short = self._short_at[number]
        # Pools have equally many blocks, so that only the one with the short block and the last differ in size.
        size, missing = self._pool * self._block, self._missing
        pool = positions // size
        pool = np.where(pool > short // self._pool, (positions + missing) // size, pool)
        pool = np.where((pool == short // self._pool) & (positions >= (pool + 1) * size - missing), pool + 1, pool)
        start = pool * size - np.where(pool > short // self._pool, missing, 0)
        end = np.minimum(start + size - np.where(pool == short // self._pool, missing, 0), self.num_samples)
        keys = mix(pool.astype(np.uint64), np.array(key ^ (1 << 63), np.uint64))
        position = start + permute(positions - start, end - start, keys)
        # The blocks' order, with the short one among them
        after = position >= (short + 1) * self._block - missing
        block, inside = np.divmod(position + np.where(after, missing, 0), self._block)
        return permute(block, self._num_blocks, key) * self._block + inside


class Upcoming:
    """Cache of a source's next samples, computed some thousand at a time.

    Args:
        order: Order of the source.
        totals: Returns the positions of each of some samples.
    """

    def __init__(self, order: SourceOrder, totals: Callable[[I64], I64]) -> None:
        self._order, self._totals_of = order, totals
        self._ahead = min(_AHEAD, max(64, order.num_samples))  # each epoch is computed separately
        self._base = 0  # ordinal of the first cached sample
        self.epochs = self.samples = self.totals = np.zeros(0, np.int64)
        self._total_list: list[int] = []

    def at(self, ordinals: I64) -> tuple[I64, I64, I64]:
        """Return epoch, sample and the sample's total positions, for increasing ordinals."""
        self.reach(int(ordinals[0]), int(ordinals[-1]) + 1)
        index = ordinals - self._base
        return self.epochs[index], self.samples[index], self.totals[index]

    def total(self, ordinal: int) -> int:
        """Return the positions of all windows of a later sample, cached or beyond the cache."""
        if ordinal - self._base >= len(self._total_list):
            self.reach(self._base, ordinal + 1)
        return self._total_list[ordinal - self._base]

    def reach(self, start: int, end: int) -> None:
        """Cache ordinals from `start` to `end`; earlier ones may be forgotten."""
        if start < self._base or start > self._base + len(self.samples):
            self._base = start
            self.epochs = self.samples = self.totals = np.zeros(0, np.int64)
        elif end > self._base + len(self.samples):
            keep = slice(start - self._base, None)
            self.epochs, self.samples, self.totals = self.epochs[keep], self.samples[keep], self.totals[keep]
            self._base = start
        have = self._base + len(self.samples)
        if end > have or not len(self._total_list):
            epochs, samples = self._order.samples(np.arange(have, max(end, have + self._ahead)))
            self.epochs = np.concatenate([self.epochs, epochs])
            self.samples = np.concatenate([self.samples, samples])
            self.totals = np.concatenate([self.totals, self._totals_of(samples)])
            self._total_list = self.totals.tolist()
