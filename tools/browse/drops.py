"""Drops by stage and reason, in pages of the sorted copy."""

import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pipelines.errors import UserError
from pipelines.shards.manifest import Manifest
from tools.browse.lookup import MEMORY, Lookup
from tools.browse.making import PATIENCE_SECONDS, Making
from tools.queries.tables import Tables

_MAX_CHARS = 2000


@dataclass(frozen=True, slots=True)
class DropFilters:
    """What drops are narrowed to; None is no filter. `find` is a part of a URL or a record, or a key."""

    stage: str | None = None
    reason: str | None = None
    unit: str | None = None
    source: str | None = None
    find: str | None = None

    @classmethod
    def parse(cls, query: Mapping[str, str]) -> "DropFilters":
        """Return the filters in a query string.

        Raises:
            UserError: If one is too long.
        """
        found = {name: value for name in cls.__dataclass_fields__ if (value := query.get(name, "").strip())}
        for name, value in found.items():
            if len(value) > _MAX_CHARS:
                raise UserError(f"{name}: longer than {_MAX_CHARS:,} characters")
        return cls(**found)

    @property
    def given(self) -> dict[str, str]:
        """The filters that are given, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True)
class DropPage:
    """Drops of a page as records with `row`, and whether there are more before and after it."""

    rows: list[dict[str, Any]]
    has_previous: bool
    has_next: bool


class Drops:
    """The drops of a corpus; may be asked from several threads. The copy is made by the first question.

    Args:
        lookup: Its look-up files.
    """

    def __init__(self, lookup: Lookup) -> None:
        self.sorted = Making("the drops are being sorted", lookup.drops)
        self._lock = threading.Lock()
        self._tables: Tables | None = None

    def close(self) -> None:
        """Close the file."""
        if self._tables is not None:
            self._tables.close()

    def page(self, filters: DropFilters, size: int, *, after: int = -1, before: int | None = None) -> DropPage:
        """Return a page of drops by stage and reason, as `Catalogue.page` does of samples.

        Raises:
            NotReadyError: If they are still being sorted.
            UserError: If a file of them is damaged.
        """
        if before is None:
            rows = self._rows(filters, "row > ?", after, "ASC", size + 1)
            shown = rows[:size]
            has_previous = bool(shown) and bool(self._rows(filters, "row < ?", shown[0]["row"], "DESC", 1))
            return DropPage(shown, has_previous, len(rows) > size)
        rows = self._rows(filters, "row < ?", before, "DESC", size + 1)
        shown = rows[:size][::-1]
        has_next = bool(shown) and bool(self._rows(filters, "row > ?", shown[-1]["row"], "ASC", 1))
        return DropPage(shown, len(rows) > size, has_next)

    def _rows(self, filters: DropFilters, bound: str, row: int, order: str, limit: int) -> list[dict[str, Any]]:
        conditions: list[str] = [bound]
        values: list[int | str] = [row]
        for name in ("stage", "reason", "unit", "source"):
            if (value := getattr(filters, name)) is not None:
                conditions.append(f"{name} = ?")
                values.append(value)
        if filters.find is not None:
            conditions.append("(key = ? OR contains(url, ?) OR contains(page_url, ?) OR contains(record, ?))")
            values += [filters.find] * 4
        query = f"SELECT * FROM made.drops WHERE {' AND '.join(conditions)} ORDER BY row {order} LIMIT {limit}"
        return list(self._opened().records(query, *values))

    def _opened(self) -> Tables:
        path = self.sorted.get(PATIENCE_SECONDS)
        with self._lock:
            if self._tables is None:
                tables = Tables(MEMORY)
                try:
                    tables.attach(path, "made", read_only=True)
                except BaseException:
                    tables.close()
                    raise
                self._tables = tables
            return self._tables


@dataclass(frozen=True, slots=True)
class Reason:
    """How many of a unit were dropped at a stage for a reason, from all sources or one."""

    stage: str
    unit: str
    reason: str
    num: int


def reasons(manifest: Manifest, source: str | None = None) -> list[Reason]:
    """Return the reasons of the funnel in the order of its stages, the most frequent first."""
    found: dict[tuple[str, str, str], int] = {}
    stages: dict[str, int] = {}
    for row in manifest.funnel:
        stages.setdefault(row.stage, len(stages))
        if source in (None, row.source):
            for reason, num in row.dropped.items():
                found[row.stage, row.unit, reason] = found.get((row.stage, row.unit, reason), 0) + num
    rows = [Reason(stage, unit, reason, num) for (stage, unit, reason), num in found.items() if num]
    return sorted(rows, key=lambda r: (stages[r.stage], -r.num, r.reason, r.unit))


def sources(manifest: Manifest) -> list[str]:
    """Return the sources and crawls that the funnel names, sorted."""
    return sorted({row.source for row in manifest.funnel})
