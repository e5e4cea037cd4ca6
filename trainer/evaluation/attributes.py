"""Attributes that captions name in known words (a colour, a shape): a model is judged by what it makes of them."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

Values = dict[str, str]
"""A value for each attribute."""
Combination = tuple[str, ...]


class Attributes:
    """Finds attributes in texts.

    Args:
        words: The values of each attribute. One may be the beginning of another (`top`, `top left`).
        combined: The attributes whose values together make a combination.
    """

    def __init__(self, words: Mapping[str, Sequence[str]], combined: Sequence[str] = ()) -> None:
        self.words = {name: tuple(value.lower() for value in values) for name, values in words.items()}
        self._combined = tuple(combined)
        self._patterns = {name: _pattern(values) for name, values in self.words.items()}

    def found(self, text: str) -> Iterator[tuple[str, str, int, int]]:
        """Every attribute that a text names: its name, its value, and where."""
        for name, pattern in self._patterns.items():
            for match in pattern.finditer(text.lower()):
                yield name, re.sub(r"\s+", " ", match[1]), match.start(), match.end()

    def first(self, text: str) -> Values:
        """The first value of each attribute; one that the text does not name is left out."""
        values: Values = {}
        for name, value, _, _ in self.found(text):
            values.setdefault(name, value)
        return values

    def of_single(self, text: str) -> Values | None:
        """The values of a text that names exactly one of each attribute: it speaks of a single thing. Else null."""
        return self._only(text, self.words) if self.words else None

    def combination(self, values: Values) -> Combination:
        """The combined attributes' values."""
        return tuple(values[name] for name in self._combined)

    def combinations(self, captions: Iterable[str]) -> set[Combination]:
        """The combinations that captions name; those that name several things do not say what goes with what."""
        named = (self._only(caption, self._combined) for caption in captions)
        return {self.combination(values) for values in named if values is not None}

    def _only(self, text: str, names: Iterable[str]) -> Values | None:
        values: dict[str, set[str]] = {name: set() for name in names}
        for name, value, _, _ in self.found(text):
            if name in values:
                values[name].add(value)
        return {name: min(v) for name, v in values.items()} if all(len(v) == 1 for v in values.values()) else None


def _pattern(values: Sequence[str]) -> re.Pattern[str]:
    """Whole words, singular or plural, the longest first."""
    longest_first = sorted(values, key=len, reverse=True)
    return re.compile(rf"\b({'|'.join(map(re.escape, longest_first))})(?:e?s)?\b".replace(r"\ ", r"\s+"))
