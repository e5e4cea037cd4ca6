"""Counts of a text: words, repetition, punctuation. The rules on these numbers are in quality.py."""

import itertools
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

_EAST_ASIAN = "\u3040-\u30ff\u31f0-\u31ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han, kana
_SOUTH_EAST_ASIAN = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
_UNSPACED = re.compile(f"[{_EAST_ASIAN}{_SOUTH_EAST_ASIAN}]")
_UNSPACED_TOKEN = re.compile(rf"[{_EAST_ASIAN}{_SOUTH_EAST_ASIAN}]|[^\W_{_EAST_ASIAN}{_SOUTH_EAST_ASIAN}]+")
_PUNCTUATION = string.punctuation + "“”„‘’‚«»‹›…–—·•¿¡、。，！？：；「」『』（）।؟،"

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
    if 2 * len(unspaced) > sum(map(str.isalpha, text)):
        east_asian = sum(char >= "\u2000" for char in unspaced)
        return Words(_UNSPACED_TOKEN.findall(text.lower()), 2 if 2 * east_asian >= len(unspaced) else 5)
    stripped = (token.strip(_PUNCTUATION) for token in text.lower().split())
    return Words([token for token in stripped if token], 1)


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


def repeated(items: Sequence[str]) -> tuple[float, float]:
    """Return the share of items that repeat an earlier one, and the share of all characters in them."""
    again = _again(items)
    chars = sum(map(len, items))
    return len(again) / max(len(items), 1), sum(map(len, again)) / max(chars, 1)


def _again(items: Sequence[str]) -> list[str]:
    seen: set[str] = set()
    return [item for item in items if item in seen or seen.add(item)]  # type: ignore[func-returns-value]


def top_n_gram(words: Words, n: int) -> float:
    """Return the share of the words' characters in the most frequent n-gram; 0 if none is repeated."""
    counts = Counter(_n_grams(words, n))
    most = max(counts.values(), default=0)
    if most < 2:
        return 0.0
    chars = max(sum(map(len, gram)) for gram, count in counts.items() if count == most)
    return min(most * chars / sum(map(len, words.tokens)), 1.0)


def duplicate_n_grams(words: Words, n: int) -> float:
    """Return the share of the words' characters in n-grams that repeat earlier ones, none counted twice."""
    grams = list(_n_grams(words, n))
    if len(set(grams)) == len(grams):
        return 0.0
    seen: set[tuple[str, ...]] = set()
    chars = position = 0
    while position < len(grams):
        gram = grams[position]
        if gram in seen:
            chars += sum(map(len, gram))
            position += len(gram)
        else:
            seen.add(gram)
            position += 1
    return chars / sum(map(len, words.tokens))


def word_repetition(words: Words, n: int = 5) -> float:
    """Return the share of the n-grams of words that occur more than once."""
    counts = Counter(_n_grams(words, n)).values()
    return sum(count for count in counts if count > 1) / max(sum(counts), 1)


def _n_grams(words: Words, n: int) -> Iterator[tuple[str, ...]]:
    n *= words.chars_per_word
    return zip(*(itertools.islice(words.tokens, i, None) for i in range(n)), strict=False)


def character_repetition(text: str, n: int = 10) -> float:
    """Return the share of the n-grams of characters that are the most frequent: the square root of their number.

    N-grams that occur once are not frequent (the measure of ROOTS, arXiv:2303.03915). Runs of space count as one.
    """
    text = " ".join(text.split())
    grams = Counter(text[i : i + n] for i in range(len(text) - n + 1))
    if len(grams) == len(text) - n + 1:
        return 0.0
    counts = sorted(grams.values(), reverse=True)
    num_frequent = min(int(len(counts) ** 0.5), sum(count > 1 for count in counts))
    return sum(counts[:num_frequent]) / max(sum(counts), 1)


class Characters(NamedTuple):
    """Numbers of characters by kind; spaces are only in `total`, runs of them as one."""

    total: int
    letters: int
    punctuation: int


def count_characters(text: str) -> Characters:
    """Count letters (with their marks) and punctuation among all characters."""
    text = " ".join(text.split())
    kinds: Counter[str] = Counter()
    for char, number in Counter(text).items():
        kinds[unicodedata.category(char)[0]] += number
    return Characters(len(text), kinds["L"] + kinds["M"], kinds["P"])
