"""Attributes that captions name in known words (a colour, a shape), to judge generated captions and images by."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

Values = dict[str, str]
"""The value of each attribute, by name."""
Combination = tuple[str, ...]


class Attributes:
    """Finds attributes in texts.

    Args:
        words: The values of each attribute. One may be the beginning of another (`top`, `top left`).
        combined: The attributes whose values together form a combination.
    """

    def __init__(self, words: Mapping[str, Sequence[str]], combined: Sequence[str] = ()) -> None:
        self.words = {name: tuple(value.lower() for value in values) for name, values in words.items()}
        self._combined = tuple(combined)
        self._patterns = {name: _pattern(values) for name, values in self.words.items()}

    def found(self, text: str) -> Iterator[tuple[str, str, int, int]]:
        """Yield every attribute that a text names: its name, its value, and start and end in the text."""
        for name, pattern in self._patterns.items():
            for match in pattern.finditer(text.lower()):
                yield name, re.sub(r"\s+", " ", match[1]), match.start(), match.end()

    def first(self, text: str) -> Values:
        """Return the first value of each attribute; attributes that the text does not name are left out."""
        values: Values = {}
        for name, value, _, _ in self.found(text):
            values.setdefault(name, value)
        return values

    def of_single(self, text: str) -> Values | None:
        """Return the values of a text with exactly one value per attribute, so about a single thing; otherwise None."""
        return self._only(text, self.words) if self.words else None

    def combination(self, values: Values) -> Combination:
        """Return the values of the combined attributes."""
        return tuple(values[name] for name in self._combined)

    def combinations(self, captions: Iterable[str]) -> set[Combination]:
        """Return the combinations that captions name, without captions about several things, which are ambiguous."""
        named = (self._only(caption, self._combined) for caption in captions)
        return {self.combination(values) for values in named if values is not None}

    def _only(self, text: str, names: Iterable[str]) -> Values | None:
        values: dict[str, set[str]] = {name: set() for name in names}
        for name, value, _, _ in self.found(text):
            if name in values:
                values[name].add(value)
        return {name: min(v) for name, v in values.items()} if all(len(v) == 1 for v in values.values()) else None


def _pattern(values: Sequence[str]) -> re.Pattern[str]:
    """Return a pattern of whole words, singular or plural, the longest first."""
    longest_first = sorted(values, key=len, reverse=True)
    return re.compile(rf"\b({'|'.join(map(re.escape, longest_first))})(?:e?s)?\b".replace(r"\ ", r"\s+"))
