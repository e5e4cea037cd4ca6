"""Writer of a task's candidates: into one part, or into several where they are too many for a worker's memory.

A list may be one file of any length, which cannot be cut before it is read. The parts after the first are named after
it, and its receipt, which comes last, says how many there are.
"""

from typing import Any

import pyarrow as pa

from pipelines.block_list import BlockList
from pipelines.part_candidates import PartCandidates
from pipelines.parts import PartFolder, Receipt, Tally, write_table
from pipelines.spec import CorpusSpec

MAX_ROWS = 5_000
MAX_BYTES = 32 << 20
"""Candidates of a part, and bytes of their documents: later stages hold a part in memory, several times over.

A list of 20,000 rows so has parts for four workers after it was read by one.
"""

MAX_DROPS = 100_000
CANDIDATE_SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("key", pa.string()),
        ("document", pa.string()),
        ("requests", pa.string()),
        ("record", pa.string()),
        ("inline", pa.list_(pa.struct([("sha256", pa.string()), ("data", pa.binary())]))),
    ]
)


class CandidateParts:
    """Parts of one task, whose candidates are added to `found`.

    Args:
        spec: The corpus.
        block: What was taken down of it.
        folder: Of candidates.
        name: Of the first part.
        inputs: Hash of what the candidates are made from.
    """

    def __init__(self, spec: CorpusSpec, block: BlockList, folder: PartFolder, name: str, inputs: str) -> None:
        self._spec, self._block, self._folder, self._name, self._inputs = spec, block, folder, name, inputs
        self._first: tuple[Tally, dict[str, str]] | None = None
        self._num_more = 0
        self.found = PartCandidates(spec, block)

    def next_if_full(self) -> None:
        """Begin another part if the present one is full."""
        num_rows, num_drops = len(self.found.rows), len(self.found.tally.drops)
        if num_rows >= MAX_ROWS or num_drops >= MAX_DROPS or self.found.num_bytes >= MAX_BYTES:
            self._write()
            self.found = PartCandidates(self._spec, self._block)

    def finish(self) -> Receipt:
        """Write what is left, and the receipt of the first part; returns it."""
        if self._first is None or self.found.rows or self.found.tally.drops:
            self._write()
        assert self._first is not None
        tally, files = self._first
        more: dict[str, Any] = {"num_more": self._num_more} if self._num_more else {}
        return self._folder.finish(self._name, self._inputs, tally, files, **more)

    def _write(self) -> None:
        name = more_name(self._name, self._num_more + 1) if self._first is not None else self._name
        self.found.rows.sort(key=lambda row: (row["source"], row["key"]))
        files = {".parquet": write_table(self._folder.file(name, ".parquet"), self.found.rows, CANDIDATE_SCHEMA)}
        if self._first is None:
            self._first = self.found.tally, files
        else:
            self._num_more += 1
            self._folder.finish(name, self._inputs, self.found.tally, files)


def more_name(name: str, number: int) -> str:
    """Return the name of a further part of a task; `number` begins at 1."""
    return f"{name}-{number:04d}"


def parts_of_tasks(folder: PartFolder, tasks: set[str]) -> set[str]:
    """Return the names of all parts of finished tasks."""
    found = set(tasks)
    for receipt in folder.receipts():
        if receipt.part in tasks:
            found |= {more_name(receipt.part, n + 1) for n in range(receipt.extra.get("num_more", 0))}
    return found
