"""Rows of csv and tsv files: delimiter, quoting and header as the file's first lines show them.

Quoting is a rule of csv. Lists with tabs have it where pandas or a spreadsheet wrote them, and none where CC3M's and
CC12M's authors did: there a caption may begin with a quotation mark. One file has one rule.
"""

import contextlib
import csv
import functools
import io
import itertools
import re
from collections import deque
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple, TypeVar

from pipelines import storage
from pipelines.errors import UserError
from pipelines.sources import lines
from pipelines.sources.files import Part
from pipelines.sources.origin import BrokenFileError, RowError

DELIMITERS = (",", ";", "\t", "|")
_SHOWN = 2_000  # characters of a row that cannot be read, for its drop
_SHOWN_BYTES = 1 << 20  # of the beginning, by which the quoting is told
PEEKED_ROWS = 100
"""First rows of a file, by which its columns are told."""

_Row = TypeVar("_Row")
Cells = Iterator[tuple[str, list[str] | RowError]]


class Dialect(NamedTuple):
    """How the rows of a file are written."""

    delimiter: str
    is_quoted: bool
    skips_space: bool = False
    has_preamble: bool = False


class Table(NamedTuple):
    """Columns as a file names them, and (locator, row), where an unreadable row is a `RowError`."""

    columns: tuple[str, ...]
    rows: Iterator[tuple[str, dict[str, Any] | RowError]]


def dialect_of(path: str, kind: str) -> Dialect:
    """Return how the rows of a file are written; a name in `.tsv` or `.txt` says that they have tabs.

    Args:
        path: The file.
        kind: The ending of its name: `.csv`, `.tsv` or `.txt`.
    """
    return _dialect(path, kind, repr(storage.stamp(path)))


@functools.lru_cache(maxsize=64)
def _dialect(path: str, kind: str, _: str) -> Dialect:
    data = b""
    try:
        with lines.open_text(path) as file:
            while len(data) <= _SHOWN_BYTES and (chunk := file.read(_SHOWN_BYTES)):
                data += chunk
            if kind != ".csv" and not _has_quote(data):
                data = _first_quoted(file, data)
    except BrokenFileError:
        pass  # told when the rows are read
    text = data.decode("utf-8-sig", "replace")
    if kind == ".csv":
        return _csv_dialect(text[:_SHOWN_BYTES])
    if len(data) > _SHOWN_BYTES:
        text = text[: text.rfind("\n") + 1]
    return Dialect("\t", is_quoted=_is_quoted(text))


def _has_quote(data: bytes) -> bool:
    """Return whether a cell of lines with tabs begins with a quotation mark."""
    return data.startswith(b'"') or b'\t"' in data or b'\n"' in data


def _first_quoted(file: BinaryIO, data: bytes) -> bytes:
    """Return the first megabyte from the line on that has a quotation mark at a cell's beginning, empty if none has.

    A writer that quotes only where it must may do so first after any number of plain lines.

    Args:
        file: The rest of the file.
        data: Its beginning, without such a cell.
    """
    while chunk := file.read(_SHOWN_BYTES):
        # Of a line that is longer than all that is shown, only its end: it may be a bomb's, of gigabytes.
        data = data[max(data.rfind(b"\n") + 1, len(data) - _SHOWN_BYTES) :] + chunk
        found = [at for mark in (b'\t"', b'\n"') if (at := data.find(mark)) >= 0]
        if found:
            return data[data.rfind(b"\n", 0, min(found) + 1) + 1 :] + file.read(_SHOWN_BYTES)
    return b""


def _csv_dialect(text: str) -> Dialect:
    """Return the dialect of a csv by its first lines: the delimiter that gives most rows the same number of cells.

    The first line may name it, as `sep=;`, which spreadsheets write and read.
    """
    named = re.match(r"sep=(.)\r?\n", text, re.IGNORECASE)
    shown = text[named.end() :] if named else text
    first = shown.partition("\n")[0]
    delimiter = named[1] if named else max(DELIMITERS, key=lambda d: (_fit(shown, first, d), d == ","))
    skips_space = bool(re.search(rf"{re.escape(delimiter)} +[\"\w]", first))
    return Dialect(delimiter, True, skips_space, has_preamble=named is not None)


def _fit(text: str, first: str, delimiter: str) -> tuple[bool, float, bool]:
    """Return how well a delimiter fits: the first line names or has a URL, the rows are alike, URLs hold no other."""
    cells = [cell.strip().strip('"') for cell in first.split(delimiter)]
    known = [cell for cell in cells if is_url(cell)]
    has_url = len(cells) > 1 and (bool(known) or any("url" in c.lower() and c.isidentifier() for c in cells))
    if not has_url:
        return (False, 0.0, False)
    rows: list[list[str]] = []
    with contextlib.suppress(csv.Error):
        rows.extend(itertools.islice(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), PEEKED_ROWS))
    share = sum(len(row) == len(cells) for row in rows if row) / max(sum(bool(row) for row in rows), 1)
    return (True, share, not any(d in cell for cell in known for d in DELIMITERS))


def _is_quoted(text: str) -> bool:
    """Return whether cells are quoted: all of the first line, or those that a writer of csv has to quote."""
    plain = [line.rstrip("\r").split("\t") for line in text.split("\n") if line.strip()]
    if not any(cell.startswith('"') for row in plain for cell in row):
        return False
    parsed: list[list[str]] = []
    try:
        for row in csv.reader(io.StringIO(text, newline=""), delimiter="\t", strict=True):
            if row:
                parsed.append(row)
    except csv.Error as error:
        if "unexpected end of data" not in str(error):  # else the text shown ends within a cell
            return False
    if all(len(cell) > 1 and cell[0] == cell[-1] == '"' for cell in plain[0]):
        return True
    num_fitting = sum(len(row) == len(plain[0]) for row in parsed)
    has_needed = any(mark in cell for row in parsed for cell in row for mark in '"\t\n')
    return has_needed and parsed != plain and num_fitting >= 0.9 * len(parsed)


def open_delimited(part: Part, header: list[str] | None, kind: str, *, has_header_setting: bool = True) -> Table:
    """Open the rows of a part of a csv or tsv file.

    Args:
        part: The part.
        header: Column names of a file without a header line.
        kind: The ending of its name.
        has_header_setting: Whether the format has a setting `header`, which messages may name.

    Raises:
        UserError: If the file is not text, or its columns cannot be identified.
    """
    is_range = part.start > 0 or part.stop is not None  # only files without quoting are split
    dialect = Dialect("\t", is_quoted=False) if is_range else dialect_of(part.path, kind)
    whole = Part(part.path, part.name, index=part.index)
    head, is_broken = first_rows(_cells(whole, dialect))
    peeked = [row for row in head if not isinstance(row, RowError)]
    if not peeked:
        if is_broken:
            return Table((), ((at, RowError("malformed_row")) for at, _ in _cells(part, dialect)))
        raise UserError(f"{part.path}: empty, or not text")
    has_header = header is None and not any(is_url(cell) for cell in peeked[0])
    if has_header:
        columns = tuple(cell.strip() for cell in peeked[0])
    else:
        columns = tuple(header) if header else _guessed(part.path, peeked, has_header_setting)

    def rows() -> Iterator[tuple[str, dict[str, Any] | RowError]]:
        for number, (locator, row) in enumerate(_cells(part, dialect, len(columns))):
            if has_header and number == 0 and part.start == 0:
                continue
            if isinstance(row, RowError):
                yield locator, row
            elif len(row) != len(columns):
                detail = f"{len(row)} fields where {len(columns)} are expected"
                yield locator, RowError("malformed_row", detail, text=" ".join(row)[:_SHOWN])
            else:
                yield locator, dict(zip(columns, row, strict=True))

    return Table(columns, rows())


def first_rows(rows: Iterator[tuple[str, _Row | RowError]]) -> tuple[list[_Row | RowError], bool]:
    """Return the first rows, and whether the file broke among them."""
    found: list[_Row | RowError] = []
    try:
        found.extend(row for _, row in itertools.islice(rows, PEEKED_ROWS))
    except BrokenFileError:
        return found, True
    return found, False


def is_url(cell: str) -> bool:
    """Return whether a cell is an http(s) URL and nothing else."""
    return re.match(r"\s*https?://\S+\s*$", cell, re.IGNORECASE) is not None


def _guessed(path: str, peeked: list[list[str]], has_header_setting: bool) -> tuple[str, ...]:
    """Return `url` and `caption` for one or two columns without a header: in the order of CC3M, or of CC12M."""
    shares = [sum(is_url(row[i]) for row in peeked if i < len(row)) / len(peeked) for i in range(len(peeked[0]))]
    if len(shares) > 2 or sum(share > 0.5 for share in shares) != 1:
        remedy = "name them in 'header'" if has_header_setting else "write one as the first line"
        raise UserError(f"{path}: no header line, and its columns cannot be identified: {remedy}")
    return tuple("url" if share > 0.5 else "caption" for share in shares)


def _cells(part: Part, dialect: Dialect, num_cells: int | None = None) -> Cells:
    """Yield rows as lists of cells.

    Args:
        part: The part of a file.
        dialect: How its rows are written.
        num_cells: Number of cells of a row, if it is known: a quoted row of several lines with another one is none.
    """
    if not dialect.is_quoted:
        for locator, line in lines.read_text_lines(part):
            yield locator, line if isinstance(line, RowError) else line.split(dialect.delimiter)
        return
    with lines.open_text(part.path) as stream:
        text = _Lines(io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline=""))
        reader = csv.reader(text, delimiter=dialect.delimiter, skipinitialspace=dialect.skips_space, strict=True)
        number = 0
        if dialect.has_preamble:
            next(text)
            text.taken.clear()
        while True:
            begin = text.num_read + 1
            error: str | None = None
            row: list[str] = []
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as fault:
                error = str(fault)
            num_lines = len(text.taken)
            if error is None and num_lines > 1 and num_cells is not None and len(row) != num_cells:
                error = f"{len(row)} fields where {num_cells} are expected, over {num_lines} lines"
            if error is not None:
                # A quotation mark that nothing closes: it costs its own line, and not those after it.
                shown = text.give_back()[:_SHOWN].strip()
                detail = f"line {begin}: {error}"
                yield str(number), RowError("malformed_row", detail, text=_printable(shown) or None)
            else:
                text.taken.clear()
                if not row:
                    continue
                is_text = not any("\ud800" <= c <= "\udfff" for cell in row for c in cell)
                yield str(number), row if is_text else RowError("not_utf8", text=_printable(" ".join(row)[:_SHOWN]))
            number += 1


class _Lines:
    """Lines for a reader of csv, which may be given back after an error."""

    def __init__(self, file: Iterator[str]) -> None:
        self._file = file
        self._waiting: deque[str] = deque()
        self.taken: list[str] = []
        """Lines of the row that is being read."""
        self.num_read = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._waiting.popleft() if self._waiting else next(self._file)
        self.taken.append(line)
        self.num_read += 1
        return line

    def give_back(self) -> str:
        """Return the first line of the row; those after it will be read again."""
        first, *rest = self.taken or [""]
        self._waiting.extendleft(reversed(rest))
        self.num_read -= len(rest)
        self.taken.clear()
        return first


def _printable(text: str) -> str:
    """Return text in which bytes that are no UTF-8 are question marks."""
    return text.encode("utf-8", "replace").decode()
