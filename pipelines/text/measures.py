"""Counts of a text: words, repetition, punctuation. The rules on these numbers are in quality.py."""

import itertools
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_EAST_ASIAN = "\u3040-\u30ff\u31f0-\u31ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han, kana
_SOUTH_EAST_ASIAN = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
_UNSPACED = re.compile(f"[{_EAST_ASIAN}{_SOUTH_EAST_ASIAN}]")
_UNSPACED_TOKEN = re.compile(rf"[{_EAST_ASIAN}{_SOUTH_EAST_ASIAN}]|[^\W_{_EAST_ASIAN}{_SOUTH_EAST_ASIAN}]+")
_PUNCTUATION = string.punctuation + "“”„‘’‚«»‹›…–—·•¿¡、。，！？：；「」『』（）।؟،"

_ASCII_KINDS = tuple(  # letters and punctuation
    bytes(code for code in range(128) if unicodedata.category(chr(code))[0] == kind) for kind in "LP"
)
_MIN_CHARS_OF_NUMBERS = 500
_PARAGRAPH_BREAK = re.compile(r"\n\s*\n")
_SENTENCE_END = re.compile(r"[.!?…]['\"”’»)\]]*(?=\s|$)|[。！？｡।۔؟]")
_SENTENCE_MARKS = (*".!?…。！？｡।۔؟", *"\"'”’»』」")
ELLIPSES = ("...", "…")
BULLETS = ("•", "‣", "◦", "▪", "■", "●", "-", "–", "*")


class Words(NamedTuple):
    """Words of a text in lower case without surrounding punctuation; punctuation alone is no word.

    If most letters are of a script written without spaces, `tokens` are its characters (and runs of other letters), and
    `chars_per_word` of them count as a word: 2 in Chinese and Japanese, 5 in Thai, Lao, Burmese and Khmer.
    """

    tokens: list[str]
    chars_per_word: int

    @property
    def number(self) -> float:
        """The number of words."""
        return len(self.tokens) / self.chars_per_word

    @property
    def are_spaced(self) -> bool:
        """True if tokens are words."""
        return self.chars_per_word == 1

    def fraction_in(self, words: frozenset[str]) -> float:
        """Return the share of the tokens that are in `words`."""
        return sum(token in words for token in self.tokens) / max(len(self.tokens), 1)


def split_words(text: str) -> Words:
    """Split a text into words, by its script."""
    unspaced = [] if text.isascii() else _UNSPACED.findall(text)
    if unspaced and 2 * len(unspaced) > sum(map(str.isalpha, text)):
        east_asian = sum(char >= "\u2000" for char in unspaced)
        return Words(_UNSPACED_TOKEN.findall(text.lower()), 2 if 2 * east_asian >= len(unspaced) else 5)
    tokens = text.lower().split()
    stripped = {token: token.strip(_PUNCTUATION) for token in set(tokens)}
    return Words(list(filter(None, map(stripped.__getitem__, tokens))), 1)


def has_words(text: str, least: int) -> bool:
    """Return whether a text has so many words, as `split_words` counts them; of most only the first are looked at."""
    if not text.isascii():
        return split_words(text).number >= least
    num_words = 0
    for token in text.split():
        num_words += token[0].isalnum() or bool(token.strip(_PUNCTUATION))
        if num_words >= least:
            return True
    return num_words >= least


def split_lines(text: str) -> list[str]:
    """Return lines that are not blank, stripped."""
    return [line for line in map(str.strip, text.split("\n")) if line]


def split_paragraphs(text: str) -> list[str]:
    """Return the parts between blank lines."""
    return [paragraph for paragraph in map(str.strip, _PARAGRAPH_BREAK.split(text)) if paragraph]


def ends_sentence(line: str) -> bool:
    """Return whether a line ends like a sentence, with or without a bracket after it."""
    return line.rstrip(")]） ").endswith(_SENTENCE_MARKS)


def count_sentences(text: str) -> int:
    """Return the number of sentence ends; abbreviations count as well, as in C4."""
    return sum(1 for _ in _SENTENCE_END.finditer(text))


def alphabetic_fraction(tokens: Sequence[str]) -> float:
    """Return the share of the tokens that have a letter; there must be one."""
    without = {token for token in set(tokens) if not token[0].isalpha() and not any(map(str.isalpha, token))}
    return sum(token not in without for token in tokens) / len(tokens)


def repeated(items: Sequence[str]) -> tuple[float, float]:
    """Return the share of items that repeat an earlier one, and the share of all characters in them."""
    again = _again(items)
    chars = sum(map(len, items))
    return len(again) / max(len(items), 1), sum(map(len, again)) / max(chars, 1)


def _again(items: Sequence[str]) -> list[str]:
    seen: set[str] = set()
    return [item for item in items if item in seen or seen.add(item)]  # type: ignore[func-returns-value]


class NGrams(NamedTuple):
    """N-grams of words that occur more than once: the first word of each occurrence, and a number for each n-gram.

    `n` is in tokens. Two n-grams are equal if those of one token less are that begin and that end them: so each length
    is found among the few places where the one before repeats.
    """

    n: int
    starts: np.ndarray  # (num_occurrences,) int64, ascending
    numbers: np.ndarray  # (num_occurrences,) int64, dense from 0
    counts: np.ndarray  # (num_different,) int64, all at least 2


class Repetition:
    """Repetition among the words of a text; the n-grams of each length are found once, on request."""

    def __init__(self, words: Words) -> None:
        self._per_word = words.chars_per_word
        self._ends = np.cumsum([0, *map(len, words.tokens)])  # characters before each token
        numbers = {token: number for number, token in enumerate(dict.fromkeys(words.tokens))}
        of_token = np.fromiter(map(numbers.__getitem__, words.tokens), np.int64, len(words.tokens))
        self._n_grams = [_repeating(1, np.arange(len(of_token)), of_token)]

    def top_n_gram(self, n: int) -> float:
        """Return the share of the words' characters in the most frequent n-gram; 0 if none is repeated."""
        grams = self._repeated(n)
        if not len(grams.starts):
            return 0.0
        most = grams.counts.max()
        starts = grams.starts[grams.counts[grams.numbers] == most]
        chars = (self._ends[starts + grams.n] - self._ends[starts]).max()
        return min(int(most) * int(chars) / int(self._ends[-1]), 1.0)

    def duplicate_n_grams(self, n: int) -> float:
        """Return the share of the words' characters in n-grams that repeat earlier ones, none counted twice."""
        grams = self._repeated(n)
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

    def _repeated(self, n: int) -> NGrams:
        n *= self._per_word
        while len(self._n_grams) < n:
            last = self._n_grams[-1]
            is_followed = np.diff(last.starts) == 1
            first, second = last.numbers[:-1][is_followed], last.numbers[1:][is_followed]
            self._n_grams.append(
                _repeating(last.n + 1, last.starts[:-1][is_followed], first * len(last.counts) + second)
            )
        return self._n_grams[n - 1]


def _repeating(n: int, starts: np.ndarray, keys: np.ndarray) -> NGrams:
    """Keep the places where equal keys stand several times."""
    _, numbers, counts = np.unique(keys, return_inverse=True, return_counts=True)
    is_repeated = counts > 1
    dense = np.cumsum(is_repeated) - 1
    is_kept = is_repeated[numbers]
    return NGrams(n, starts[is_kept], dense[numbers[is_kept]], counts[is_repeated])


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
    if len(counts) == len(text) - n + 1:
        return 0.0
    num_frequent = min(int(len(counts) ** 0.5), int((counts > 1).sum()))
    return int(np.sort(counts)[len(counts) - num_frequent :].sum()) / int(counts.sum())


def _substring_counts(text: str, n: int) -> np.ndarray:
    """Return how often each substring of n characters occurs."""
    alphabet = {character: number for number, character in enumerate(sorted(set(text)))}
    # As digits of a number, 10 characters fit 64 bits up to an alphabet of 84. A short text is counted sooner.
    if len(text) < _MIN_CHARS_OF_NUMBERS or len(alphabet) ** n > 2**64:
        return np.array(list(Counter([text[i : i + n] for i in range(len(text) - n + 1)]).values()))
    digits = np.fromiter(map(alphabet.__getitem__, text), np.uint64, len(text))
    keys = np.zeros(len(text) - n + 1, np.uint64)
    for i in range(n):
        keys *= np.uint64(len(alphabet))
        keys += digits[i : len(keys) + i]
    keys.sort()
    ends = np.flatnonzero(np.append(keys[1:] != keys[:-1], True))
    return np.diff(ends, prepend=-1)


class Characters(NamedTuple):
    """Numbers of characters by kind; spaces are only in `total`, runs of them as one."""

    total: int
    letters: int
    punctuation: int


def count_characters(text: str) -> Characters:
    """Count letters (with their marks) and punctuation among all characters."""
    text = " ".join(text.split())
    if text.isascii():
        written = text.encode()
        letters, punctuation = (len(written) - len(written.translate(None, kind)) for kind in _ASCII_KINDS)
        return Characters(len(written), letters, punctuation)
    kinds: Counter[str] = Counter()
    for char, number in Counter(text).items():
        kinds[unicodedata.category(char)[0]] += number
    return Characters(len(text), kinds["L"] + kinds["M"], kinds["P"])
