"""What a list of samples is narrowed to: filters as they stand in a query string, and as conditions in SQL."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Self
from urllib.parse import urlencode

from pipelines.errors import UserError

UNKNOWN = "unknown"
"""How a language or licence that is None is called."""

CATEGORIES = ("source", "split", "kind", "lang", "license", "allowed")
"""Filters by a value of few; the numbers of samples by all of these together are counted once."""

MAX_CHARS = 2000


@dataclass(frozen=True, slots=True)
class Filters:
    """Filters, all of which a sample must pass; None is no filter.

    Args:
        source, split, kind, lang, license: The value; `UNKNOWN` where there is none.
        allowed: `yes` or `no`: the verdict on its use.
        score: Name of a score, of which one value at least must lie in `min` to `max`.
        min, max: Bounds of the score, inclusive.
        group: The group of duplicates.
        url: URL of the page or of an image.
        domain: Domain of the page or of an image, or one above it.
        words: Words that its texts must all have.
    """

    source: str | None = None
    split: str | None = None
    kind: str | None = None
    lang: str | None = None
    license: str | None = None
    allowed: str | None = None
    score: str | None = None
    min: float | None = None
    max: float | None = None
    group: str | None = None
    url: str | None = None
    domain: str | None = None
    words: str | None = None

    @classmethod
    def parse(cls, query: Mapping[str, str]) -> Self:
        """Return the filters in a query string; its other names are left alone.

        Raises:
            UserError: If a value cannot be one.
        """
        found: dict[str, str | float] = {}
        for field in fields(cls):
            value = query.get(field.name, "").strip()
            if not value:
                continue
            if len(value) > MAX_CHARS:
                raise UserError(f"{field.name}: longer than {MAX_CHARS:,} characters")
            found[field.name] = _number(field.name, value) if field.name in ("min", "max") else value
        filters = cls(**found)  # type: ignore[arg-type]  # each field has its type
        if filters.allowed not in (None, "yes", "no"):
            raise UserError(f"allowed: {filters.allowed!r} is neither yes nor no")
        if filters.score is None and (filters.min is not None or filters.max is not None):
            raise UserError("min and max: bounds of which score? Name it")
        return filters

    @property
    def given(self) -> dict[str, str | float]:
        """The filters that are given, by name."""
        return {field.name: value for field in fields(self) if (value := getattr(self, field.name)) is not None}

    @property
    def is_categorical(self) -> bool:
        """True if only categories are filtered by, so that the number of samples is known."""
        return self.given.keys() <= set(CATEGORIES)

    def query(self, **more: str | int | None) -> str:
        """Return the query string, with further values."""
        values = [*self.given.items(), *more.items()]
        found = [(name, _short(value)) for name, value in values if value is not None]
        return urlencode(found, errors="replace")

    def without(self, *names: str) -> "Filters":
        """Return the filters without some; the bounds of a score go with it."""
        gone = {*names, *(("min", "max") if "score" in names else ())}
        return replace(self, **dict.fromkeys(gone))

    def with_value(self, name: str, value: str) -> "Filters":
        """Return the filters with one set."""
        return replace(self, **{name: value})  # type: ignore[arg-type]  # each field has its type

    def conditions(self, first: int, last: int) -> Iterator[tuple[str, tuple[str | float | bool, ...]]]:
        """Yield conditions on the rows of `samples`, and their values; URL, domain and words are not among them.

        Scores are looked for in the rows from `first` to `last` alone, in which the query must look for samples.
        """
        for name in CATEGORIES:
            value = getattr(self, name)
            if value is not None:
                yield f"{name} = ?", (value == "yes" if name == "allowed" else value,)
        if self.score is not None:
            bounds = (-math.inf if self.min is None else self.min, math.inf if self.max is None else self.max)
            yield (
                "row IN (SELECT row FROM made.scores WHERE name = ?"
                ' AND row BETWEEN ? AND ? AND "value" BETWEEN ? AND ?)',
                (self.score, first, last, *bounds),
            )
        if self.group is not None:
            yield "row IN (SELECT row FROM made.groups WHERE hash = md5_number_lower(?))", (self.group,)


def _number(name: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{name}: {value[:50]!r} is no number")
    return number


def _short(value: str | float) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
