"""Counts of a text: words, repetition, punctuation. The rules on these numbers are in quality.py."""

import functools
import itertools
import math
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_EAST_ASIAN = "\u3040-\u30ff\u31f0-\u31ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han, kana
_SOUTH_EAST_ASIAN = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
_FIRST_UNSPACED = "\u0e00"
_LATER = re.compile(f"[{_FIRST_UNSPACED}-\U0010ffff]")
_UNSPACED = re.compile(f"[{_EAST_ASIAN}{_SOUTH_EAST_ASIAN}]")
_UNSPACED_TOKEN = re.compile(rf"[{_EAST_ASIAN}{_SOUTH_EAST_ASIAN}]|[^\W_{_EAST_ASIAN}{_SOUTH_EAST_ASIAN}]+")
_PUNCTUATION = string.punctuation + "“”„‘’‚«»‹›…–—·•¿¡、。，！？：；「」『』（）।؟،"

_ASCII_KINDS = tuple(  # letters and punctuation
    bytes(code for code in range(128) if unicodedata.category(chr(code))[0] == kind) for kind in "LP"
)
_MIN_CHARS_OF_NUMBERS = 200
_MAX_STRIPPED, _MAX_STRIPPED_CHARS = 1 << 15, 50  # words that are remembered, some 6 MB, and the longest of them
_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")
_PARAGRAPH_BREAK = re.compile(r"\n\s*\n")
_SENTENCE_END = re.compile(r"[.!?…]['\"”’»)\]]*(?=\s|$)|[。！？｡।۔؟]")
_SENTENCE_MARKS = frozenset(".!?…。！？｡।۔؟\"'”’»』」")
_CLOSING = ")]） "
ELLIPSES = ("...", "…")
BULLETS = frozenset("•‣◦▪■●-–*")


@dataclass(frozen=True)
class Words:
    """Words of a text in lower case without surrounding punctuation; punctuation alone is no word.

    If most letters are of a script written without spaces, `tokens` are its characters (and runs of other letters), and
    `chars_per_word` of them count as a word: 2 in Chinese and Japanese, 5 in Thai, Lao, Burmese and Khmer.
    `num_between_spaces` also counts what is no word.
    """

    tokens: list[str]
    chars_per_word: int
    num_between_spaces: int

    @functools.cached_property
    def counts(self) -> Counter[str]:
        """How often each different token occurs, in order of the first ones."""
        return Counter(self.tokens)

    @property
    def number(self) -> float:
        """The number of words."""
        return len(self.tokens) / self.chars_per_word

    @property
    def are_spaced(self) -> bool:
        """True if tokens are words."""
        return self.chars_per_word == 1

    @property
    def mean_chars(self) -> float:
        """Characters of a token on average; there must be one."""
        return sum(map(len, self.tokens)) / len(self.tokens)

    @property
    def alphabetic_fraction(self) -> float:
        """The share of what stands between spaces that has a letter; there must be one."""
        unsure = [token for token in self.counts if not token[0].isalpha()]
        num_without = sum(self.counts[token] for token in unsure if not any(map(str.isalpha, token)))
        return (len(self.tokens) - num_without) / self.num_between_spaces

    def fraction_in(self, words: frozenset[str]) -> float:
        """Return the share of the tokens that are in `words`."""
        return sum(map(words.__contains__, self.tokens)) / max(len(self.tokens), 1)


class _Stripped(dict[str, str]):
    """What stands between spaces, without its punctuation: the words of a language repeat from text to text."""

    def __missing__(self, token: str) -> str:
        stripped = token.strip(_PUNCTUATION)
        if len(token) <= _MAX_STRIPPED_CHARS:
            if len(self) >= _MAX_STRIPPED:
                self.clear()
            self[token] = stripped
        return stripped


_STRIPPED = _Stripped()


def split_words(text: str) -> Words:
    """Split a text into words, by its script."""
    unspaced = [] if text.isascii() else unspaced_chars(text)
    if unspaced and 2 * len(unspaced) > sum(map(str.isalpha, text)):
        east_asian = sum(char >= "\u2000" for char in unspaced)
        tokens = _UNSPACED_TOKEN.findall(text.lower())
        return Words(tokens, 2 if 2 * east_asian >= len(unspaced) else 5, len(text.split()))
    written = text.lower().split()
    return Words(list(filter(None, map(_STRIPPED.__getitem__, written))), 1, len(written))


def unspaced_chars(text: str) -> list[str]:
    """Return the characters of scripts written without spaces; that there are none is found out soonest by numbers."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    later = codes[codes >= ord(_FIRST_UNSPACED)]
    return _UNSPACED.findall(later.tobytes().decode("utf-32-le", "surrogatepass")) if len(later) else []


def has_words(text: str, least: int) -> bool:
    """Return whether a text has so many words, as `split_words` counts them; of most only the first are looked at."""
    if text.isascii() or not (_LATER.search(text) and _UNSPACED.search(text)):
        num_words, tokens = 0, text.split(None, 2 * least)
        for token in tokens[: 2 * least]:  # the one behind them is the rest of the text
            num_words += token[0].isalnum() or bool(token.strip(_PUNCTUATION))
            if num_words == least:
                return True
        if len(tokens) <= 2 * least:
            return num_words >= least
    return split_words(text).number >= least


def split_lines(text: str) -> list[str]:
    """Return lines that are not blank, stripped."""
    return [line for line in map(str.strip, text.split("\n")) if line]


def split_paragraphs(text: str) -> list[str]:
    """Return the parts between blank lines."""
    return [paragraph for paragraph in map(str.strip, _PARAGRAPH_BREAK.split(text)) if paragraph]


def ends_sentence(line: str) -> bool:
    """Return whether a line ends like a sentence, with or without a bracket after it."""
    last = line[-1:]
    return last in _SENTENCE_MARKS or (last in _CLOSING and line.rstrip(_CLOSING)[-1:] in _SENTENCE_MARKS)


def count_sentences(text: str, most: int | None = None) -> int:
    """Return the number of sentence ends, counted up to `most`; abbreviations count as well, as in C4."""
    return sum(1 for _ in itertools.islice(_SENTENCE_END.finditer(text), most))


def repeated(items: Sequence[str]) -> tuple[float, float]:
    """Return the share of items that repeat an earlier one, and the share of all characters in them."""
    if len(set(items)) == len(items):
        return 0.0, 0.0
    again = _again(items)
    chars = sum(map(len, items))
    return len(again) / len(items), sum(map(len, again)) / max(chars, 1)


def _again(items: Sequence[str]) -> list[str]:
    seen: set[str] = set()
    return [item for item in items if item in seen or seen.add(item)]  # type: ignore[func-returns-value]


class NGrams(NamedTuple):
    """N-grams of words that occur more than once: the first word of each occurrence, and a number for each n-gram."""

    n: int  # tokens
    starts: np.ndarray  # (num_occurrences,) int64, ascending
    numbers: np.ndarray  # (num_occurrences,) int64, dense from 0
    counts: np.ndarray  # (num_different,) int64, all at least 2


class Repetition:
    """Repetition among the words of a text; the n-grams of each length are found once, on request."""

    def __init__(self, words: Words) -> None:
        self._per_word = words.chars_per_word
        numbers = dict(zip(words.counts, itertools.count(), strict=False))
        self._tokens = np.fromiter(map(numbers.__getitem__, words.tokens), np.int64, len(words.tokens))
        lengths = np.fromiter(map(len, numbers), np.int64, len(numbers))
        self._ends = np.concatenate(([0], lengths[self._tokens].cumsum()))  # characters before each token
        self._base = max(len(numbers), 2)
        self._num_digits = int(62 / math.log2(self._base))  # tokens that fit 63 bits, as digits of one number
        self._n_grams: dict[int, NGrams] = {}
        # By the length of n-grams less one: how often the rarest token of each occurs.
        self._rarest = [np.fromiter(words.counts.values(), np.int64, len(numbers))[self._tokens]]

    def top_n_gram(self, n: int, limit: float = 0.0) -> float:
        """Return the share of the words' characters in the most frequent n-gram; 0 if none is repeated.

        A share of at most `limit` may be given as 0: it is not computed where no n-gram has tokens frequent enough.
        """
        n *= self._per_word
        chars = self._ends[n:] - self._ends[:-n]
        while len(self._rarest) < n:
            self._rarest.append(np.minimum(self._rarest[-1][:-1], self._rarest[0][len(self._rarest) :]))
        if int((self._rarest[n - 1] * chars).max(initial=0)) <= limit * int(self._ends[-1]):
            return 0.0
        grams = self._repeated(n)
        if not len(grams.starts):
            return 0.0
        most = grams.counts.max()
        longest = chars[grams.starts[grams.counts[grams.numbers] == most]].max()
        return min(int(most) * int(longest) / int(self._ends[-1]), 1.0)

    def duplicate_n_grams(self, n: int) -> float:
        """Return the share of the words' characters in n-grams that repeat earlier ones, none counted twice."""
        grams = self._repeated(n * self._per_word)
        if not len(grams.starts):
            return 0.0
        seen: set[int] = set()
        chars = position = 0
        for start, number in zip(grams.starts.tolist(), grams.numbers.tolist(), strict=True):
            if start < position:
                continue
            if number in seen:
                position = start + grams.n
                chars += int(self._ends[position] - self._ends[start])
            else:
                seen.add(number)
        return chars / int(self._ends[-1])

    def repeated_fraction(self, n: int) -> float:
        """Return the share of the words' characters in n-grams that occur more than once, each time included.

        `duplicate_n_grams` gives no more than that for `n`, nor for a longer one, whose characters are among these.
        """
        grams = self._repeated(n * self._per_word)
        if not len(grams.starts):
            return 0.0
        stops = np.minimum(grams.starts + grams.n, np.append(grams.starts[1:], len(self._tokens)))
        return int((self._ends[stops] - self._ends[grams.starts]).sum()) / int(self._ends[-1])

    def _repeated(self, n: int) -> NGrams:
        if n not in self._n_grams:
            if n <= self._num_digits and n - 1 not in self._n_grams:
                starts = np.arange(len(self._tokens) - n + 1)
                keys = self._tokens[: len(starts)]
                for i in range(1, n):
                    keys = keys * self._base + self._tokens[i : len(starts) + i]
            else:
                # Two n-grams are equal if those of one token less are that begin and that end them: so each length is
                # found among the few places where the one before repeats.
                last = self._repeated(n - 1)
                is_followed = np.diff(last.starts) == 1
                first, second = last.numbers[:-1][is_followed], last.numbers[1:][is_followed]
                starts, keys = last.starts[:-1][is_followed], first * len(last.counts) + second
            self._n_grams[n] = _repeating(n, starts, keys)
        return self._n_grams[n]


def _repeating(n: int, starts: np.ndarray, keys: np.ndarray) -> NGrams:
    """Keep the places where equal keys stand several times."""
    order = keys.argsort()
    ordered = keys[order]
    is_same = np.zeros(len(keys) + 1, bool)  # as the one before, in order of keys
    np.equal(ordered[1:], ordered[:-1], out=is_same[1:-1])
    is_repeated = is_same[1:] | is_same[:-1]
    order = order[is_repeated]
    numbers = np.cumsum(~is_same[:-1][is_repeated]) - 1
    places = order.argsort()
    return NGrams(n, starts[order[places]], numbers[places], np.bincount(numbers))


def word_repetition(words: Words, n: int = 5) -> float:
    """Return the share of the n-grams of words that occur more than once."""
    n *= words.chars_per_word
    grams = list(zip(*(itertools.islice(words.tokens, i, None) for i in range(n)), strict=False))
    if len(set(grams)) == len(grams):
        return 0.0
    return sum(count for count in Counter(grams).values() if count > 1) / len(grams)


def character_repetition(text: str, n: int = 10) -> float:
    """Return the share of the n-grams of characters that are the most frequent: the square root of their number.

    N-grams that occur once are not frequent (the measure of ROOTS, arXiv:2303.03915). Runs of space count as one.
    """
    text = " ".join(text.split())
    if len(text) <= n:
        return 0.0
    counts = _substring_counts(text, n)
    if counts is None:
        return 0.0
    num_frequent = min(int(len(counts) ** 0.5), int((counts > 1).sum()))
    return int(np.sort(counts)[len(counts) - num_frequent :].sum()) / int(counts.sum())


def _substring_counts(text: str, n: int) -> np.ndarray | None:
    """Return how often each substring of n characters occurs; None if each occurs once."""
    keys = _substring_keys(text, n) if len(text) >= _MIN_CHARS_OF_NUMBERS else None
    if keys is None:
        substrings = [text[i : i + n] for i in range(len(text) - n + 1)]
        return np.array([*Counter(substrings).values()]) if len(set(substrings)) < len(substrings) else None
    keys.sort()
    ends = np.flatnonzero(keys[1:] != keys[:-1])
    return np.diff(ends, prepend=-1, append=len(keys) - 1) if len(ends) < len(keys) - 1 else None


def _substring_keys(text: str, n: int) -> NDArray[np.uint64] | None:
    """Return each substring of n characters as the digits of a number; None if they do not fit 64 bits.

    10 characters do so up to an alphabet of 84.
    """
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    is_used = np.zeros(int(codes.max()) + 1, bool)
    is_used[codes] = True
    base = int(np.count_nonzero(is_used))
    if base**n > 2**64:
        return None
    return _join_digits((is_used.cumsum(dtype=np.uint64) - np.uint64(1))[codes], base, n)


def _join_digits(digits: NDArray[np.uint64], base: int, n: int) -> NDArray[np.uint64]:
    """Return the number that each n adjacent digits make up, from those of half as many."""
    if n == 1:
        return digits
    half = n // 2
    numbers = _join_digits(digits, base, half)
    numbers = numbers[:-half] * np.uint64(base**half) + numbers[half:]
    if n % 2:
        numbers = numbers[:-1] * np.uint64(base) + digits[n - 1 :]
    return numbers


class Characters(NamedTuple):
    """Numbers of characters by kind; spaces are only in `total`, runs of them as one."""

    total: int
    letters: int
    punctuation: int


def count_characters(text: str) -> Characters:
    """Count letters (with their marks) and punctuation among all characters."""
    text = " ".join(text.split())
    written = text.encode("ascii", "ignore")
    letters, punctuation = (len(written) - len(written.translate(None, kind)) for kind in _ASCII_KINDS)
    if len(written) < len(text):
        for char, number in Counter("".join(_NOT_ASCII.findall(text))).items():
            kind = unicodedata.category(char)[0]
            letters += number * (kind in "LM")
            punctuation += number * (kind == "P")
    return Characters(len(text), letters, punctuation)
