"""Indexes of archives: where the record of each page is, in WARC files that others keep.

Read are Common Crawl's columnar index (parquet, or a query's result as csv or JSON Lines) and CDXJ, the sorted lines
`<reversed host>)<path> <time> {json}` that most archives have. Which records are wanted is said by conditions on the
columns of the index, on the keys of CDXJ's JSON, and on `urlkey`, `timestamp` and `url_host_name` beside them.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from pydantic import Field

from pipelines.drop_reasons import Reason
from pipelines.errors import UserError
from pipelines.settings import Settings
from pipelines.sources import lines
from pipelines.sources.delimited import PEEKED_ROWS
from pipelines.sources.files import Part, expand
from pipelines.sources.origin import RowError, UnwantedRowError
from pipelines.sources.tables import SUFFIXES, open_table, read_parquet, row_group_parts, suffix
from pipelines.sources.where import Condition, clauses_of, wanted_rows

PART_BYTES = 64 << 20
PART_ROWS = 1_000_000
_NAMES = {
    "url": ("url",),
    "file": ("warc_filename", "filename"),
    "offset": ("warc_record_offset", "offset"),
    "length": ("warc_record_length", "length"),
}
_CRAWL_ID = re.compile(r"(?:^|/)crawl-data/(CC-[A-Z0-9-]+)/")  # of Common Crawl: CC-MAIN-2024-10, CC-NEWS


class WarcIndex(Settings):
    """An index of an archive, by which single records are fetched instead of whole WARC files."""

    files: list[str] = Field(
        min_length=1,
        description="Common Crawl's columnar index (parquet), a query's result (csv, JSON Lines), or CDXJ; globs, "
        "fsspec URLs",
    )
    where: dict[str, Condition] = Field(
        default={},
        description="Conditions on the index's columns or CDXJ's keys: only records that meet all are fetched. Others "
        "are out of scope, counted but not listed as drops",
    )


class IndexedRecord(NamedTuple):
    """A record of an archive, by the path of its WARC file below the archive's base, its offset and compressed length.

    With a `reason` it is a row of the index that names none.
    """

    url: str
    file: str
    offset: int
    length: int
    reason: Reason | None = None
    detail: str | None = None


def crawl_id(warc_file: str) -> str | None:
    """Return the id of Common Crawl's crawl that a WARC file belongs to, by its path; None for other archives."""
    found = _CRAWL_ID.search(warc_file)
    return found[1] if found else None


def archive_name(path: str) -> str:
    """Return the name of a WARC file in samples: Common Crawl's whole path, which names the crawl, else the file's."""
    found = _CRAWL_ID.search(path)
    return path[found.start() :].lstrip("/") if found else path.rpartition("/")[2]


def index_parts(settings: WarcIndex) -> list[Part]:
    """Return the parts of an index that are read independently.

    Raises:
        UserError: If a file is missing.
    """
    found: list[Part] = []
    for path, name in expand(settings.files):
        kind = suffix(path)
        if kind == ".parquet":
            found += row_group_parts(path, name, PART_ROWS)
        elif kind in SUFFIXES:
            found.append(Part(path, name))
        else:
            found += lines.line_parts(path, name, PART_BYTES)
    return [replace(part, index=i) for i, part in enumerate(found)]


def read_index(part: Part, where: Mapping[str, Condition]) -> Iterator[IndexedRecord | None]:
    """Yield the wanted records of a part of an index; None for each row that is not wanted.

    Raises:
        BrokenFileError: If the file ends early.
        UserError: If it has no place of records, or `where` names a column that is not there.
    """
    columns, rows = _open(part, where)
    by_name = {name.lower(): name for name in columns}
    places = {what: next((by_name[n] for n in names if n in by_name), None) for what, names in _NAMES.items()}
    lost = [" or ".join(_NAMES[what]) for what, name in places.items() if name is None]
    if lost and columns:
        raise UserError(f"{part.path}: no index of an archive: it lacks the columns {', '.join(lost)}")
    for locator, row in rows:
        if isinstance(row, UnwantedRowError):
            yield None
        elif isinstance(row, RowError):
            yield IndexedRecord(f"{part.name} {locator}", part.name, 0, 0, row.reason, row.detail)
        else:
            yield _record(f"{part.name} {locator}", {what: row.get(name or "") for what, name in places.items()})


def _record(name: str, row: Mapping[str, Any]) -> IndexedRecord:
    url, file = row["url"], row["file"]
    try:
        offset, length = int(row["offset"]), int(row["length"])
    except (TypeError, ValueError):
        offset, length = -1, 0
    if not (isinstance(url, str) and isinstance(file, str) and file and offset >= 0 and length > 0):
        shown = url if isinstance(url, str) and url else name
        return IndexedRecord(shown, str(file or ""), 0, 0, "malformed_row", "no file, offset and length of a record")
    if "://" in file or file.startswith("/") or ".." in file.split("/"):
        return IndexedRecord(url, file, offset, length, "malformed_row", "the file is not below the archive's base")
    return IndexedRecord(url, file, offset, length)


def _open(part: Part, where: Mapping[str, Condition]) -> tuple[tuple[str, ...], Iterable[tuple[str, Any]]]:
    """Return the columns of a part of an index, and its rows judged by `where`."""
    kind = suffix(part.path)
    if kind not in SUFFIXES:
        shown = [row for _, row in _head(replace(part, start=0, stop=None)) if isinstance(row, dict)]
        columns = tuple(dict.fromkeys(name for row in shown for name in row))
        if not shown:
            raise UserError(f"{part.path}: no index of an archive: neither CDXJ nor a table by its name")
        return columns, wanted_rows(_read_cdxj(part), clauses_of(part.path, columns, where))
    table = open_table(part, where=where, has_header_setting=False)
    if kind != ".parquet":
        return table.columns, table.rows
    needed = {name for names in _NAMES.values() for name in names}
    wanted = [name for name in table.columns if name.lower() in needed]
    return table.columns, read_parquet(part, wanted, where)


def _head(part: Part) -> Iterator[tuple[str, dict[str, Any] | RowError]]:
    for number, item in enumerate(_read_cdxj(part)):
        if number >= PEEKED_ROWS:
            return
        yield item


def _read_cdxj(part: Part) -> Iterator[tuple[str, dict[str, Any] | RowError]]:
    for locator, line in lines.read_text_lines(part):
        if isinstance(line, RowError):
            yield locator, line
        elif not line.startswith(("!", " CDX")):  # what describes the file
            yield locator, _cdxj_row(line)


def _cdxj_row(line: str) -> dict[str, Any] | RowError:
    head, brace, rest = line.partition("{")
    key, _, time = head.strip().partition(" ")
    row = lines.json_object(brace + rest)
    if isinstance(row, RowError) or not time:
        return row if isinstance(row, RowError) else RowError("malformed_row", "no CDXJ line", text=line[:2_000])
    try:
        host = urlsplit(str(row.get("url") or "")).hostname
    except ValueError:
        host = None
    return {"urlkey": key, "timestamp": time, "url_host_name": host} | row
