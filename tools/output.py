"""Output of the commands that answer for the data: tables for people, JSON for programs, progress on a terminal.

Text from a corpus may hold anything. Nothing of it reaches a terminal but printable characters.
"""

import io
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from pipelines import storage
from pipelines.command_line import printable

Item = TypeVar("Item")

MAX_CHARS = 100
"""Length to which a cell is cut; the JSON has all of it."""

_MAX_WIDTH = 4000
_NUMBER = re.compile(r"[-+]?[\d,.]+(e[-+]?\d+)?[%KMBT]?|-?")  # as `Section` and `short` write one, or nothing


@dataclass(frozen=True, slots=True)
class Section:
    """A table of a report.

    Args:
        title: What it shows.
        columns: Headings; numbers stand on the right.
        rows: Values of any types.
        more: Number of rows that are left out, which a last line says.
    """

    title: str
    columns: tuple[str, ...]
    rows: Sequence[Sequence[Any]] = field(default_factory=list)
    more: int = 0


def print_sections(sections: Sequence[Section]) -> None:
    """Print tables to stdout, in lines as long as they need: no URL or key is broken, by `less -S` all can be seen."""
    for section in sections:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        cells = [[_cell(value) for value in row] for row in section.rows]
        for place, column in enumerate(section.columns):
            are_numbers = bool(cells) and all(_NUMBER.fullmatch(row[place]) for row in cells)
            table.add_column(Text(column), justify="right" if are_numbers else "left", no_wrap=True)
        for row in cells:
            table.add_row(*map(Text, row))
        console = Console(file=io.StringIO(), width=_MAX_WIDTH)
        with console.capture() as captured:
            console.print(table)
        lines = (line.rstrip() for line in captured.get().splitlines())
        print(section.title, *(line for line in lines if line), sep="\n")
        if section.more:
            print(f"and {section.more:,} more: --json writes all")
        print()


def say(line: str) -> None:
    """Print a line on stdout, with control and bidi characters escaped."""
    print(printable(line))


def short(value: float) -> str:
    """Return a number as people read it: 12,345 or 12.30M."""
    if abs(value) >= 1e15:
        return f"{value:.3g}"
    for limit, scale, unit in ((1e12, 1e12, "T"), (1e9, 1e9, "B"), (1e7, 1e6, "M")):
        if abs(value) >= limit:
            return f"{value / scale:,.2f}{unit}"
    return f"{value:,.0f}"


def write_json(path: str, record: Mapping[str, Any]) -> None:
    """Write a JSON object, or nothing at all; an iterator among its values becomes a list, one item in memory."""
    with storage.write_whole(path) as file:
        for place, (name, value) in enumerate(record.items()):
            file.write(f"{',' if place else '{'}\n{json.dumps(name)}: ".encode())
            if isinstance(value, Iterator):
                file.write(b"[")
                for number, item in enumerate(value):
                    file.write(f"{',' if number else ''}\n {_json(item)}".encode())
                file.write(b"]")
            else:
                file.write(_json(value).encode())
        file.write(b"\n}\n")


@contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Show progress on stderr if it is a terminal; yields a function to call with the number of items done."""
    if not sys.stderr.isatty():
        yield lambda num: None
        return
    columns = [SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()]
    if total is not None:
        columns[2:2] = [BarColumn(), MofNCompleteColumn()]
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(printable(what), total=total)
        yield lambda num: bar.advance(task, num)


def track(items: Iterable[Item], total: int, what: str, *, size: Callable[[Item], int] = lambda _: 1) -> Iterator[Item]:
    """Yield items, showing progress on stderr if it is a terminal.

    Args:
        items: What is worked through.
        total: Size of all items together.
        what: Description of the work.
        size: Size of an item.
    """
    with progress(what, total) as done:
        for item in items:
            yield item
            done(size(item))


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}"
    text = value if isinstance(value, str) else _json(value)
    return printable(text if len(text) <= MAX_CHARS else text[: MAX_CHARS - 1] + "…")


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=True, allow_nan=False)
