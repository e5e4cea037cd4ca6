"""Questions to the look-up files: pages of samples, numbers of them, and single samples.

Pages are cut by row: the next one begins after the last row of this one, so that the thousandth costs as much as the
first.
"""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np

from pipelines.shards.manifest import ShardInfo
from tools.browse.filters import CATEGORIES, Filters
from tools.browse.lookup import MEMORY, Lookup
from tools.browse.making import PATIENCE_SECONDS, Making
from tools.browse.words import WordIndex
from tools.queries.tables import Tables
from tools.trace import Question, spellings

_DETAILS = (
    *("row", "shard", "key", "source", "split", "kind", "lang", "license", "allowed", "num_media", "num_text_chars"),
    *("dedup", "byte_offset", "bytes", "parts"),
)
MAX_VALUES = 200
"""Values of a category that are listed."""

NUM_NEIGHBOURS = 2
"""Samples on either side that `neighbours` gives."""

_SEARCHED_AT_ONCE = (256, 1 << 16)
_ROWS_AT_ONCE = 1 << 16  # in which a score is first looked for
_FEW = 10_000  # samples that pass filters, each of which the index of words is then asked for
_MAX_ANSWERS = 500

DRAWN = "hash(hash(row, ?::UBIGINT))"
"""A number of each row that a draw gives; the least of some rows is any of them with the same chance.

One `hash` is not enough: it is that of the row, xor that of the draw, by which some rows are the least 20 times as
often as others.
"""


@dataclass(frozen=True, slots=True)
class Row:
    """A sample as the look-up knows it.

    Args:
        row: Its number in the corpus.
        place: Its number in its shard.
        shard: The shard, of the manifest.
        byte_offset, bytes: Its range in the tar.
        parts: Offset in the tar and bytes of each of its members, by the part's name.
        has_group: Whether it is in a group of duplicates.
    """

    row: int
    place: int
    shard: ShardInfo
    key: str
    kind: str
    lang: str
    license: str
    allowed: bool
    num_media: int
    num_text_chars: int
    has_group: bool
    byte_offset: int
    bytes: int
    parts: dict[str, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Page:
    """Samples of a page, and whether there are more before and after it."""

    rows: list[Row]
    has_previous: bool
    has_next: bool


@dataclass(frozen=True, slots=True)
class ScoreRange:
    """Least and greatest value of a score, and the number of values."""

    name: str
    num: int
    least: float
    greatest: float


class Catalogue:
    """What can be found in a corpus; may be asked from several threads.

    What is asked by URL or domain raises `NotReadyError` while these are being sorted.

    Args:
        lookup: Its look-up files; those of URLs and words are made when they are first needed.
    """

    def __init__(self, lookup: Lookup) -> None:
        self.manifest = lookup.manifest
        self.num_samples = lookup.manifest.num_samples
        self.words = WordIndex(lookup.words(), self.num_samples)
        self.terms = Making("the URLs and domains are being sorted", lookup.terms)
        self._starts = self.manifest.starts()
        self._lock = threading.Lock()
        self._answers: dict[tuple[Any, ...], list[tuple[Any, ...]]] = {}
        self._has_terms = False
        self._tables = Tables(MEMORY)
        try:
            self._tables.attach(lookup.samples(), "made", read_only=True)
        except BaseException:
            self.close()
            raise
        columns = ", ".join(("name", "num", "least", "greatest"))
        self.scores = [
            ScoreRange(*row) for row in self._tables.rows(f"SELECT {columns} FROM made.score_ranges ORDER BY name")
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        self._tables.close()

    def page(self, filters: Filters, size: int, *, after: int = -1, before: int | None = None) -> Page:
        """Return a page of the samples that pass filters, in the order of the corpus.

        Args:
            filters: What they must pass.
            size: Number of samples on a page.
            after: The row that the page begins after.
            before: The row that it ends before; then `after` is not looked at.
        """
        if before is None:
            rows = self._rows(filters, after, None, size + 1)
            shown = rows[:size]
            has_previous = after >= 0 and bool(shown) and bool(self._rows(filters, -1, shown[0], 1, is_backward=True))
            return Page(self.details(shown), has_previous, len(rows) > size)
        rows = self._rows(filters, -1, before, size + 1, is_backward=True)
        shown = rows[:size][::-1]
        has_next = bool(shown) and bool(self._rows(filters, shown[-1], None, 1))
        return Page(self.details(shown), len(rows) > size, has_next)

    def neighbours(self, row: Row) -> list[Row]:
        """Return the samples next to one in its tar, and itself."""
        first = row.row - row.place
        last = first + row.shard.samples
        return self.between(max(first, row.row - NUM_NEIGHBOURS), min(last, row.row + NUM_NEIGHBOURS + 1))

    def beside(self, filters: Filters, row: int) -> tuple[Row | None, Row | None]:
        """Return the samples before and after a row among those that pass filters."""
        found = [*self._rows(filters, -1, row, 1, is_backward=True), *self._rows(filters, row, None, 1)]
        by_row = {sample.row: sample for sample in self.details(found)}
        before = next((by_row[r] for r in found if r < row), None)
        return before, next((by_row[r] for r in found if r > row), None)

    def has(self, filters: Filters) -> bool:
        """Return whether a sample passes filters."""
        return bool(self._rows(filters, -1, None, 1))

    def count(self, filters: Filters) -> int | None:
        """Return the number of samples that pass filters; None where words were searched for, which are not counted."""
        if filters.words is not None:
            return None
        where, values = self._where(filters)
        if filters.is_categorical:
            query = f"SELECT coalesce(sum(num), 0)::BIGINT FROM made.counts {where}"
        else:
            query = f"SELECT count(*) FROM made.samples {where}"
        ((num,),) = self._kept(query, values)
        return int(num)

    def values(self, name: str, filters: Filters) -> tuple[list[tuple[str, int]], int]:
        """Return the most frequent values of a category with their numbers of samples, and the number of values.

        Other categories that are filtered by are heeded, and no other filters: those numbers are not kept.
        """
        assert name in CATEGORIES
        where, values = self._where(Filters(**{n: getattr(filters, n) for n in CATEGORIES if n != name}))
        query = f"SELECT {name}, sum(num)::BIGINT AS n, count(*) OVER () FROM made.counts {where} GROUP BY 1"
        found = self._kept(f"{query} ORDER BY n DESC, 1 LIMIT {MAX_VALUES}", values)
        listed = [(("yes" if value else "no") if name == "allowed" else value, num) for value, num, _ in found]
        return listed, found[0][2] if found else 0

    def _kept(self, query: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        """Return the rows of a query, which is asked once: the files do not change."""
        asked = (query, *values)
        if (known := self._answers.get(asked)) is not None:
            return known
        found = list(self._tables.rows(query, *values))
        with self._lock:
            if len(self._answers) >= _MAX_ANSWERS:
                self._answers.clear()
            self._answers[asked] = found
        return found

    def by_key(self, key: str, source: str | None = None) -> list[Row]:
        """Return the samples with a key: one, or in foreign tars one of each source at most."""
        rows = [row for (row,) in self._tables.rows("SELECT row FROM made.keys WHERE hash = md5_number_lower(?)", key)]
        return [s for s in self.details(sorted(rows)) if s.key == key and source in (None, s.shard.source)]

    def group(self, row: Row, size: int) -> tuple[list[Row], int]:
        """Return the first samples of a sample's group of duplicates, and the number of all of them."""
        ((group,),) = self._tables.rows("SELECT dedup FROM made.samples WHERE row = ?", row.row)
        query = "SELECT row, count(*) OVER () FROM made.groups WHERE hash = ?"
        found = list(self._tables.rows(f"{query} ORDER BY row LIMIT {size}", group))
        return self.details([r for r, _ in found]), found[0][1] if found else 0

    def random_row(self, filters: Filters, draw: int) -> Row | None:
        """Return a sample that passes filters, each with the same chance; None if none passes.

        Of more than `_FEW` with some words, which are not counted, it is the first after a place that is drawn.

        Args:
            filters: What it must pass.
            draw: A random number of 64 bits, from which all else follows.
        """
        if not filters.given:
            rows = [draw % self.num_samples] if self.num_samples else []
        elif filters.words is None:
            where, values = self._where(filters)
            query = f"SELECT arg_min(row, {DRAWN}) FROM made.samples {where}"
            rows = [row for (row,) in self._tables.rows(query, draw, *values) if row is not None]
        else:
            found = self._rows(filters, -1, None, _FEW + 1)
            if len(found) > _FEW:
                found = self._rows(filters, draw % self.num_samples, None, 1) or found
            rows = [found[draw % len(found)]] if found else []
        return next(iter(self.details(rows)), None)

    def between(self, begin: int, end: int) -> list[Row]:
        """Return the samples of the rows from one up to another."""
        query = f"SELECT {', '.join(_DETAILS)} FROM made.samples WHERE row >= ? AND row < ? ORDER BY row"
        return [self._row(record) for record in self._tables.records(query, begin, end)]

    def details(self, rows: Sequence[int]) -> list[Row]:
        """Return the samples at rows, in the order of the rows asked for; rows that do not exist are left out."""
        if not rows:
            return []
        marks = ", ".join("?" for _ in rows)
        names = ", ".join(_DETAILS)
        # The bounds let DuckDB skip what lies outside, for which it does not use a list.
        query = f"SELECT {names} FROM made.samples WHERE row BETWEEN ? AND ? AND row IN ({marks})"
        found = {r["row"]: self._row(r) for r in self._tables.records(query, min(rows), max(rows), *rows)}
        return [found[row] for row in rows if row in found]

    def _row(self, record: dict[str, Any]) -> Row:
        shard = record["shard"]
        return Row(
            row=record["row"],
            place=record["row"] - self._starts[shard],
            shard=self.manifest.shards[shard],
            key=record["key"],
            kind=record["kind"],
            lang=record["lang"],
            license=record["license"],
            allowed=record["allowed"],
            num_media=record["num_media"] or 0,
            num_text_chars=record["num_text_chars"] or 0,
            has_group=record["dedup"] is not None,
            byte_offset=record["byte_offset"],
            bytes=record["bytes"],
            parts={part["name"]: (part["offset"], part["bytes"]) for part in record["parts"] or ()},
        )

    def _where(self, filters: Filters, within: tuple[int, int] | None = None) -> tuple[str, list[Any]]:
        """Return the condition of a query, in the rows from one to another or in all, and its values in order."""
        found: list[tuple[str, Sequence[Any]]] = [*filters.conditions(*(within or (0, self.num_samples)))]
        if within is not None:
            found.append(("row BETWEEN ? AND ?", within))
        terms = [(what, value) for what in ("url", "domain") if (value := getattr(filters, what)) is not None]
        if terms:
            self._add_terms()
        for what, value in terms:
            wanted = sorted(spellings(Question(**{what: value})))
            marks = ", ".join("md5_number_lower(?)" for _ in wanted)
            found.append((f"row IN (SELECT row FROM made_terms.terms WHERE hash IN ({marks}))", wanted))
        where = f"WHERE {' AND '.join(condition for condition, _ in found)}" if found else ""
        return where, [value for _, values in found for value in values]

    def _add_terms(self) -> None:
        path = self.terms.get(PATIENCE_SECONDS)
        with self._lock:
            if not self._has_terms:
                self._tables.attach(path, "made_terms", read_only=True)
                self._has_terms = True

    def _rows(
        self, filters: Filters, after: int, before: int | None, limit: int, *, is_backward: bool = False
    ) -> list[int]:
        """Return the first or last rows between two that pass filters."""
        before = self.num_samples if before is None else before
        if filters.words is None:
            return self._filtered(filters, after, before, limit, is_backward)
        others = filters.without("words")
        num = self.count(others) if others.given else None
        parts: Iterator[Sequence[int]]
        if num is not None and num <= _FEW:
            parts = self._few_with_words(filters.words, others, after, before, is_backward)
        elif others.given:
            parts = self._passing(
                others, self._with_words(filters.words, after, before, limit, is_backward), is_backward
            )
        else:
            parts = self._with_words(filters.words, after, before, limit, is_backward)
        found: list[int] = []
        for rows in parts:
            found += rows[: limit - len(found)]
            if len(found) == limit:
                break
        return found

    def _few_with_words(
        self, words: str, others: Filters, after: int, before: int, is_backward: bool
    ) -> Iterator[list[int]]:
        """Yield rows that pass other filters and have words: the few that pass are looked for in the index."""
        size = _SEARCHED_AT_ONCE[0]
        while rows := self._filtered(others, after, before, size, is_backward):
            yield self.words.among(words, rows)
            after, before = (after, rows[-1]) if is_backward else (rows[-1], before)

    def _passing(self, others: Filters, parts: Iterator[list[int]], is_backward: bool) -> Iterator[list[int]]:
        """Yield those of rows that pass other filters."""
        for rows in parts:
            where, values = self._where(others, (min(rows), max(rows)))
            found = self._tables.batches(f"SELECT row FROM made.samples {where}", *values, size=_SEARCHED_AT_ONCE[1])
            passed = [np.zeros(0, np.int64), *(batch.column(0).to_numpy() for batch in found)]
            common = np.intersect1d(np.array(rows, np.int64), np.concatenate(passed))
            yield (common[::-1] if is_backward else common).tolist()

    def _with_words(self, words: str, after: int, before: int, limit: int, is_backward: bool) -> Iterator[list[int]]:
        """Yield rows whose texts have words, in growing parts: filters may let few of them pass."""
        size, most = max(limit, _SEARCHED_AT_ONCE[0]), _SEARCHED_AT_ONCE[1]
        while rows := self.words.find(words, after, before, size, is_backward=is_backward):
            yield rows
            if len(rows) < size:
                return
            after, before = (after, rows[-1]) if is_backward else (rows[-1], before)
            size = min(size * 8, most)

    def _filtered(self, filters: Filters, after: int, before: int, limit: int, is_backward: bool) -> list[int]:
        """Return the first or last rows that pass filters other than words, looked for in growing ranges of rows.

        The values of a score are sorted by row, so a page of them need not read those of the whole corpus.
        """
        order = "DESC" if is_backward else "ASC"
        found: list[int] = []
        first, last = after + 1, before - 1
        size = _ROWS_AT_ONCE if filters.score is not None else self.num_samples
        while first <= last and len(found) < limit:
            within = (max(first, last - size + 1), last) if is_backward else (first, min(last, first + size - 1))
            where, values = self._where(filters, within)
            query = f"SELECT row FROM made.samples {where} ORDER BY row {order} LIMIT {limit - len(found)}"
            found += [row for (row,) in self._tables.rows(query, *values)]
            first, last = (first, within[0] - 1) if is_backward else (within[1] + 1, last)
            size *= 8
        return found
