"""Rows that takedowns removed from the tables below `work/`, counted, so that the stage that reads a table drops them.

Without the count, a stage would take in fewer units than the one before it kept. It is in the file that lost the rows,
since both must change at once: a purge may be killed and repeated.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence

import pyarrow as pa

from pipelines.document import Drop
from pipelines.drop_reasons import Stage, Unit
from pipelines.parts import Tally, read_notes, write_arrow

_NOTE = "taken_down"

Units = Mapping[tuple[str, Unit], int]
"""Numbers of units, by source or crawl and unit."""


def remove_rows(path: str, table: pa.Table, is_gone: Sequence[bool], units: Units) -> None:
    """Write a table again without some rows, and with the number of all units that it has lost.

    Args:
        path: Its file.
        table: Its rows.
        is_gone: Whether each goes.
        units: What they stand for.
    """
    lost: dict[str, dict[str, int]] = {}
    for (source, unit), num in sorted((Counter(units) + gone_units(path)).items()):
        lost.setdefault(source, {})[unit] = num
    write_arrow(path, table.filter(pa.array([not each for each in is_gone], pa.bool_())), {_NOTE: json.dumps(lost)})


def gone_units(path: str) -> Counter[tuple[str, Unit]]:
    """Return what takedowns removed from a table; nothing from most."""
    lost = json.loads(read_notes(path).get(_NOTE, "{}"))
    return Counter({(source, unit): num for source, units in lost.items() for unit, num in units.items()})


def drop_gone(path: str, stage: Stage, tally: Tally) -> None:
    """Count what takedowns removed from a table as dropped by the stage that reads it."""
    for (source, unit), num in sorted(gone_units(path).items()):
        for _ in range(num):
            tally.drop(Drop(source=source, stage=stage, reason="taken_down", unit=unit))
