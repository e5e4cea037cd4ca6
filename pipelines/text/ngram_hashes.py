"""64-bit hashes of the n-grams of a text's words: what MinHash and decontamination compare."""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_MAX_WORDS, _MAX_WORD_CHARS = 1 << 15, 50  # words that are remembered, some 6 MB, and the longest of them


class _WordHashes(dict[str, int]):
    """Hashes of words, which repeat from text to text."""

    def __missing__(self, word: str) -> int:
        digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        hashed = int.from_bytes(digest, "little")
        if len(word) <= _MAX_WORD_CHARS:
            if len(self) >= _MAX_WORDS:
                self.clear()
            self[word] = hashed
        return hashed


_WORD_HASHES = _WordHashes()


def ngram_hashes(words: Sequence[str], n: int) -> Hashes:
    """Return the hash of each n-gram, in their order; none if there are fewer words than `n`."""
    hashes = np.fromiter(map(_WORD_HASHES.__getitem__, words), np.uint64, len(words))
    grams = np.zeros(max(len(words) - n + 1, 0), np.uint64)
    for i in range(n):  # a polynomial in the words' hashes, modulo 2^64
        grams = grams * _MULTIPLIER + hashes[i : i + len(grams)]
    return grams
