"""The order in which a source is gone through: a permutation of each epoch that is computed, not stored.

An epoch is cut into blocks of neighbours in the tars, the blocks are permuted, and samples are permuted within pools of
several blocks. So reads stay close together, any position of any epoch is found in constant time, and a resume needs to
refill no buffer.
"""

import hashlib
from typing import Any

import numpy as np
from pydantic import Field

from pipelines.settings import Settings

U64 = np.ndarray[Any, np.dtype[np.uint64]]
I64 = np.ndarray[Any, np.dtype[np.int64]]

_AHEAD = 4096  # samples whose order is worked out at once, at most
_ROUNDS = 4  # each turns both halves


class OrderSettings(Settings):
    """How far samples are scattered."""

    block_samples: int = Field(64, ge=1, description="neighbours in a tar that stay together: 64 of 50 KB are one read")
    pool_blocks: int = Field(64, ge=1, description="blocks whose samples are mixed with each other")


def key_of(*names: str | int) -> int:
    """64 bits that depend on nothing but these names."""
    return int.from_bytes(hashlib.sha256("\x1f".join(map(str, names)).encode()).digest()[:8], "little")


def mix(values: U64, key: U64) -> U64:
    """A hash of 64-bit numbers (the finaliser of SplitMix64, Steele et al. 2014)."""
    x = values + key
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def permute(index: I64, size: I64 | int, key: U64 | int, *, inverse: bool = False) -> I64:
    """Where each index goes in a keyed permutation of `range(size)`.

    A Feistel network whose halves add modulo a and b, with a * b hardly more than `size` (Black and Rogaway 2002);
    what falls outside goes round again.

    Args:
        index: Numbers below `size`.
        size: One for all, or one for each index.
        key: One for all, or one for each index.
        inverse: The other way round.
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
    """Once through the network: x = left * b + right, left below a, right below b."""
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
    """The order of one source.

    Args:
        num_samples: Samples in an epoch.
        seed: Another seed is another order.
        name: The source's.
        settings: How far samples are scattered.
    """

    def __init__(self, num_samples: int, seed: int, name: str, settings: OrderSettings | None = None) -> None:
        settings = settings or OrderSettings()
        self.num_samples = num_samples
        self._key = key_of("order", seed, name)
        self._block, self._pool = settings.block_samples, settings.pool_blocks
        self._num_blocks = -(-num_samples // self._block)
        self._missing = self._num_blocks * self._block - num_samples  # what the last block lacks
        self._short_at: dict[int, int] = {}  # epoch -> place of the last block among the permuted ones

    def samples(self, ordinals: I64) -> tuple[I64, I64]:
        """Epoch and sample of each ordinal: the how manieth sample drawn from this source, from 0."""
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
        # Pools hold equally many blocks, so all are equally large but the one with the short block, and the last.
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
    """The coming samples of a source, worked out some thousand at a time: a cache, and no more.

    Args:
        order: The source's.
        totals: Positions that each of its samples takes.
    """

    def __init__(self, order: SourceOrder, totals: I64) -> None:
        self._order, self._all_totals = order, totals
        self._ahead = min(_AHEAD, max(64, order.num_samples))  # each epoch is worked out by itself
        self._base = 0  # the ordinal of the first that is kept
        self.epochs = self.samples = self.totals = np.zeros(0, np.int64)
        self._total_list: list[int] = []

    def at(self, ordinals: I64) -> tuple[I64, I64, I64]:
        """Epoch, sample and its total positions, for rising ordinals."""
        self.reach(int(ordinals[0]), int(ordinals[-1]) + 1)
        index = ordinals - self._base
        return self.epochs[index], self.samples[index], self.totals[index]

    def total(self, ordinal: int) -> int:
        """Places of all windows of a coming sample, inside what was reached for or after it."""
        if ordinal - self._base >= len(self._total_list):
            self.reach(self._base, ordinal + 1)
        return self._total_list[ordinal - self._base]

    def reach(self, start: int, end: int) -> None:
        """Make sure of ordinals from `start` to `end`; earlier ones may be forgotten."""
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
            self.totals = np.concatenate([self.totals, self._all_totals[samples]])
            self._total_list = self.totals.tolist()
