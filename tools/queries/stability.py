"""How far the samples of a corpus have shifted from an earlier version's: population stability index by source.

PSI = sum over bins of (new - old) ln(new / old), of the bins' shares: below 0.1 little has changed, from 0.25 on much
has (Siddiqi, Credit Risk Scorecards, 2006). Two draws from the same source have one of about (1/old + 1/new) times a
chi-squared number with one degree of freedom less than there are bins, so that few samples shift by chance (Yurdakul
and Naranjo, Statistical properties of the population stability index, 2020).
"""

import math
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tools.queries.tables import Tables

COLUMNS = ("key", "lang", "num_text_chars", "num_media", "domain", "scores")
"""Columns of sidecars that are compared."""

NUM_BINS = 10
NUM_CATEGORIES = 50
"""Languages, or domains, that are bins of their own: those with most samples; the others share one."""

# Three significant digits keep the number of different values, and with it memory, small for any number of samples.
_NUMBERS = """
WITH numbers AS (
    SELECT source, 'length' AS what, num_text_chars::DOUBLE AS value FROM {table}
    UNION ALL SELECT source, 'images', num_media::DOUBLE FROM {table}
    UNION ALL SELECT source, 'score ' || score.name || ' of ' || regexp_replace(score.target, ':.*', ''), score.value
    FROM (SELECT source, unnest(scores) AS score FROM {table})
)
SELECT source, what, CASE WHEN value IS NULL OR isnan(value) THEN NULL WHEN isinf(value) OR value = 0 THEN value
    ELSE round(value, (2 - floor(log10(abs(value))))::INT) END AS value, count(*) AS num
FROM numbers GROUP BY ALL ORDER BY ALL
"""
_CATEGORIES = """
WITH counted AS (
    SELECT source, {column} AS value, count(*) FILTER (is_old) AS old, count(*) FILTER (NOT is_old) AS new
    FROM (SELECT source, {column}, true AS is_old FROM {old} UNION ALL SELECT source, {column}, false FROM {new})
    GROUP BY ALL
), ranked AS (
    SELECT *, row_number() OVER (PARTITION BY source ORDER BY old + new DESC, value) AS place FROM counted
)
SELECT source, sum(old)::BIGINT AS old, sum(new)::BIGINT AS new
FROM ranked GROUP BY source, least(place, {limit} + 1) ORDER BY source, least(place, {limit} + 1)
"""


@dataclass(frozen=True, slots=True)
class Shift:
    """Shift of one quantity of a source.

    `psi` is None where one version has no values. 19 of 20 pairs of draws from one source stay below `by_chance`.
    """

    source: str
    what: str
    num_old: int
    num_new: int
    num_bins: int
    psi: float | None
    by_chance: float | None

    @property
    def words(self) -> str:
        """Return what the index means."""
        if self.psi is None or self.by_chance is None:
            return "only in one of them"
        if self.psi <= self.by_chance:
            return "none beyond chance"
        return "little" if self.psi < 0.1 else "some" if self.psi < 0.25 else "much"


def shifts(tables: Tables, old: str, new: str) -> list[Shift]:
    """Return the shifts of scores, languages, lengths and domains between two tables of samples, source by source.

    Args:
        tables: Has both, made by `add_sidecars` with `COLUMNS`.
        old: Name of the earlier version's table.
        new: Name of the later one's.
    """
    found = [*_of_categories(tables, old, new, "lang", "language"), *_of_numbers(tables, old, new)]
    found += _of_categories(tables, old, new, "domain", "domain")
    return sorted(found, key=lambda shift: (shift.source, shift.what))


def stability_index(old: Sequence[int], new: Sequence[int]) -> float:
    """Return the population stability index of counts in the same bins; half a sample is added to each bin."""
    num_old, num_new = sum(old) + len(old) / 2, sum(new) + len(new) / 2
    shares = [((a + 0.5) / num_old, (b + 0.5) / num_new) for a, b in zip(old, new, strict=True)]
    return math.fsum((b - a) * math.log(b / a) for a, b in shares)


def _of_numbers(tables: Tables, old: str, new: str) -> Iterator[Shift]:
    counts: dict[tuple[str, str], dict[float | None, list[int]]] = {}
    for place, table in enumerate((old, new)):
        for source, what, value, num in tables.rows(_NUMBERS.format(table=table)):
            counts.setdefault((source, what), {}).setdefault(value, [0, 0])[place] += num
    for (source, what), values in counts.items():
        yield _shift(source, what, _in_bins(values))


def _of_categories(tables: Tables, old: str, new: str, column: str, what: str) -> Iterator[Shift]:
    bins: dict[str, list[tuple[int, int]]] = {}
    sql = _CATEGORIES.format(column=column, old=old, new=new, limit=NUM_CATEGORIES)
    for source, num_old, num_new in tables.rows(sql):
        bins.setdefault(source, []).append((num_old, num_new))
    for source, found in bins.items():
        yield _shift(source, what, found)


def _in_bins(values: Mapping[float | None, Sequence[int]]) -> list[tuple[int, int]]:
    """Return the counts in bins of as many old values each as can be; unknown values have a bin of their own."""
    known = sorted((value, num_old) for value, (num_old, _) in values.items() if value is not None)
    bounds: list[float] = []
    num, seen = sum(num_old for _, num_old in known), 0
    for value, num_old in known:
        if num_old and seen * NUM_BINS // max(num, 1) != (seen + num_old) * NUM_BINS // max(num, 1):
            bounds.append(value)  # the last value of its bin
        seen += num_old
    bins = [[0, 0] for _ in range(len(bounds) + 2)]
    for key, found in values.items():
        place = len(bounds) + 1 if key is None else min(bisect_left(bounds, key), len(bounds))
        bins[place][0] += found[0]
        bins[place][1] += found[1]
    return [(a, b) for a, b in bins if a or b]


def _shift(source: str, what: str, bins: Sequence[tuple[int, int]]) -> Shift:
    old, new = [a for a, _ in bins], [b for _, b in bins]
    num_old, num_new = sum(old), sum(new)
    psi = stability_index(old, new) if num_old and num_new else None
    by_chance = None if psi is None else _chi_squared_95(len(bins) - 1) * (1 / num_old + 1 / num_new)
    return Shift(source, what, num_old, num_new, len(bins), psi, by_chance)


def _chi_squared_95(freedom: int) -> float:
    """Return what 95 % of chi-squared numbers stay below, within 1 % from 2 degrees on (Wilson and Hilferty, 1931)."""
    if freedom == 0:
        return 0.0
    part = 2 / (9 * freedom)
    return freedom * (1 - part + 1.6449 * math.sqrt(part)) ** 3
