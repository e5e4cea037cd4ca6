"""`where`: conditions on the columns of a list, by which rows fall before anything is requested for them.

A row falls by the first condition, in the spec's order, that it does not meet. Its drop names the row and the condition
and nothing else, since of a parquet file no other column is read for it; it is one small row of the drops like any
other, so that the counts of drops and funnel stay equal.
"""

import difflib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import date
from typing import Any, Literal, NamedTuple
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
from pydantic import ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from pipelines.errors import UserError
from pipelines.settings import Pattern, Settings
from pipelines.sources.files import Files
from pipelines.sources.origin import RowError, UnwantedRowError, number

Value = bool | int | float | str
_HIVE_FOLDER = re.compile(r"([A-Za-z_]\w*)=(.*)")
_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
MET, UNMET, UNKNOWN = 1, 0, 2


class Condition(Settings):
    """Requirement on a column; all that is given must hold."""

    model_config = ConfigDict(serialize_by_alias=True)

    min: float | str | None = Field(
        None, description="Lowest value; a text compares as text, such as '2024-01-31'; null: none"
    )
    max: float | str | None = Field(None, description="Highest value, likewise; null: none")
    equals: Value | None = Field(None, description="The only value; null: any")
    in_: list[Value] | None = Field(None, alias="in", min_length=1, description="Possible values; null: any")
    not_in: list[Value] | None = Field(None, min_length=1, description="Values that fall; null: none")
    matches: Pattern | None = Field(
        None,
        description="Regular expression that the value, as text, contains a match of, such as '^de\\b'; null: none",
    )
    not_null: Literal[True] | None = Field(None, description="Any value but none; null: none is asked for")
    nulls: Literal["drop", "keep"] = Field(
        "drop",
        description="What happens to rows whose value is unknown: null, not a number, an empty text, or no number "
        "where min and max are numbers",
    )

    @model_validator(mode="after")
    def _asks_something(self) -> "Condition":
        if not self.asked:
            raise ValueError("needs one of 'min', 'max', 'equals', 'in', 'not_in', 'matches' and 'not_null'")
        if self.not_null and self.nulls == "keep":
            raise ValueError("'not_null' and 'nulls: keep' contradict each other")
        return self

    @model_serializer(mode="wrap")
    def _only_what_is_asked(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in serialize(self).items() if value is not None}

    @property
    def asked(self) -> dict[str, Any]:
        """What is required, by the names of the spec."""
        named = {"min": self.min, "max": self.max, "equals": self.equals, "in": self.in_, "not_in": self.not_in}
        named |= {"matches": self.matches, "not_null": self.not_null}
        return {k: v for k, v in named.items() if v is not None}

    @property
    def is_range(self) -> bool:
        """True if only bounds are required, and these are numbers."""
        return self.asked.keys() <= {"min", "max"} and not any(isinstance(v, str) for v in self.asked.values())

    @property
    def texts(self) -> list[str] | None:
        """The only values that can meet it, if these are texts."""
        values = [self.equals] if self.equals is not None else self.in_
        texts = [value for value in values or () if isinstance(value, str)]
        return texts if values and len(texts) == len(values) else None

    def verdict(self, value: Any) -> int:
        """Return `MET`, `UNMET` or, for a value that cannot be judged, `UNKNOWN`."""
        if is_unknown(value):
            return UNKNOWN
        for bound, is_lower in ((self.min, True), (self.max, False)):
            if bound is None:
                continue
            held = _as_text(value) if isinstance(bound, str) else number(value)
            if held is None:
                return UNKNOWN
            if held < bound if is_lower else held > bound:  # type: ignore[operator]
                return UNMET
        if self.equals is not None and not _is_equal(value, self.equals):
            return UNMET
        if self.in_ is not None and not any(_is_equal(value, wanted) for wanted in self.in_):
            return UNMET
        if (
            self.matches is not None
            and re.search(self.matches, text if (text := _as_text(value)) else str(value)) is None
        ):
            return UNMET
        return UNMET if any(_is_equal(value, unwanted) for unwanted in self.not_in or ()) else MET


class ListFiles(Files):
    """Settings of a format whose rows have columns."""

    LATER = Files.LATER | {"where"}

    where: dict[str, Condition] = Field(
        default={},
        description="Conditions on columns of the list, those of hive folders (`lang=en/`) included, by name without "
        "regard to case; a dot leads into objects (meta.lang). Rows that fail one are dropped before any request",
    )


class Clause(NamedTuple):
    """A condition with the place of its value in a row: a column, then keys of objects."""

    condition: Condition
    column: str
    keys: tuple[str, ...]
    unmet: UnwantedRowError
    unknown: UnwantedRowError

    def fall(self, value: Any) -> UnwantedRowError | None:
        """Return the drop of a row by the value of the column, or None if it stays."""
        verdict = self.condition.verdict(at_keys(value, self.keys))
        return self.unmet if verdict == UNMET else self.unknown if self._falls_unknown(verdict) else None

    def _falls_unknown(self, verdict: int) -> bool:
        return verdict == UNKNOWN and self.condition.nulls == "drop"

    def falls(self, column: pa.ChunkedArray) -> np.ndarray:
        """Return the verdict on each value of a column of parquet: `MET`, `UNMET` or `UNKNOWN`, if that falls."""
        found = _verdicts(self, column)
        return np.where(found == UNKNOWN, MET, found) if self.condition.nulls == "keep" else found


def clauses_of(path: str, names: Iterable[str], where: Mapping[str, Condition]) -> list[Clause]:
    """Return the conditions with the columns that they are about.

    Args:
        path: The file, for messages.
        names: Its columns.
        where: Conditions by the spec's names of columns.

    Raises:
        UserError: If there is no such column; names the nearest.
    """
    names = tuple(names)
    found = []
    for wanted, condition in where.items():
        column, keys = _place(path, names, wanted)
        shown = json.dumps(condition.asked, ensure_ascii=False)[1:-1].replace('"', "")
        detail = f"{wanted} ({shown})"
        clause = Clause(
            condition, column, keys, UnwantedRowError("where_unmet", detail), UnwantedRowError("where_unknown", detail)
        )
        found.append(clause)
    return found


def wanted_rows(rows: Iterable[tuple[str, Any]], clauses: list[Clause]) -> Iterator[tuple[str, Any]]:
    """Yield rows, and in the place of those that do not meet all conditions their `UnwantedRowError`."""
    for locator, row in rows:
        if isinstance(row, RowError):
            yield locator, row
            continue
        yield locator, first_fall(row, clauses) or row


def first_fall(row: Mapping[str, Any], clauses: Iterable[Clause]) -> UnwantedRowError | None:
    """Return the drop of a row by the first condition that it does not meet, or None if it meets all."""
    fallen = (clause.fall(row.get(clause.column)) for clause in clauses)
    return next((each for each in fallen if each is not None), None)


def partition_columns(path: str) -> dict[str, str | None]:
    """Return the columns that the folders of a file name, as Hive and Spark write them: `lang=en/part-0.parquet`."""
    matches = (_HIVE_FOLDER.fullmatch(folder) for folder in path.split("/")[:-1])
    found = {match[1]: unquote(match[2]) for match in matches if match}
    return {name: None if value == _HIVE_NULL else value for name, value in found.items()}


def is_unknown(value: Any) -> bool:
    """Return whether a value is null: None, NaN, or a text without characters, as csv writes null."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float) and math.isnan(value))


def at_keys(value: Any, keys: tuple[str, ...]) -> Any:
    """Return what an object, or JSON text of one, has at keys; None if it is not there."""
    for key in keys:
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                return None
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _place(path: str, names: tuple[str, ...], wanted: str) -> tuple[str, tuple[str, ...]]:
    first, *keys = wanted.split(".")
    for name, rest in ((wanted, ()), (first, tuple(keys))):
        if name in names:
            return name, rest
        alike = [known for known in names if known.lower() == name.lower()]
        if len(alike) == 1:
            return alike[0], rest
    lowered = {name.lower(): name for name in names}
    near = difflib.get_close_matches(wanted.lower(), lowered, n=1, cutoff=0.5)
    near = near or [name for name in lowered if name.startswith(wanted.lower())]
    hint = f"did you mean {lowered[near[0]]!r}?" if near else f"the file has {', '.join(names)}"
    raise UserError(f"{path}: where.{wanted}: no such column; {hint}")


def _verdicts(clause: Clause, column: pa.ChunkedArray) -> np.ndarray:
    condition = clause.condition
    if (
        not clause.keys
        and condition.is_range
        and (pa.types.is_integer(column.type) or pa.types.is_floating(column.type))
    ):
        values = column.to_numpy().astype(np.float64)  # nulls are NaN
        is_met = np.full(len(values), True)
        if condition.min is not None:
            is_met &= values >= float(condition.min)
        if condition.max is not None:
            is_met &= values <= float(condition.max)
        return np.where(np.isfinite(values), is_met, UNKNOWN).astype(np.uint8)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        encoded = column.combine_chunks().dictionary_encode()
        encoded = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
        judged = [condition.verdict(at_keys(v, clause.keys)) for v in encoded.dictionary.to_pylist()]
        table = np.array([*judged, UNKNOWN], np.uint8)
        found: np.ndarray = table[encoded.indices.fill_null(len(judged)).to_numpy(zero_copy_only=False)]
        return found
    cells = (v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in column.to_pylist())
    return np.fromiter((condition.verdict(at_keys(v, clause.keys)) for v in cells), np.uint8, len(column))


def _as_text(value: Any) -> str | None:
    if isinstance(value, date):  # a datetime is one
        return value.isoformat()
    return value if isinstance(value, str) else None


def _is_equal(value: Any, wanted: Value) -> bool:
    """Return whether a cell holds a value of the spec, which csv has as text and parquet perhaps as a number."""
    if isinstance(wanted, bool) or isinstance(value, bool):
        return str(value).lower() == str(wanted).lower()
    if isinstance(wanted, str):
        return (_as_text(value) if isinstance(value, str | date) else str(value)) == wanted
    if isinstance(value, int) and isinstance(wanted, int):
        return value == wanted  # ids have 64 bits, more than a float holds
    if isinstance(value, str) and isinstance(wanted, int) and value.strip() == str(wanted):
        return True
    return number(value) == wanted
