"""Parts: the numbered pieces that a stage's work is cut into, each a transaction with a receipt.

A part's tables are written whole, its receipt last; a rerun skips a part whose receipt says that it was made from
the same inputs. What a part kept and dropped stands in the receipt, so a stage's funnel is a sum over receipts and
never depends on a runner's counters.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import storage
from pipelines.document import Drop, canonical_json

DROP_SCHEMA = pa.schema(
    [
        (name, pa.string())
        for name in ("source", "stage", "reason", "unit", "key", "url", "page_url", "record", "excerpt", "detail")
    ]
)


@dataclass(frozen=True, slots=True)
class Count:
    """How many of a source's `unit`s a stage took in and kept, and what it dropped by reason."""

    source: str
    stage: str
    unit: str
    kept: int
    dropped: dict[str, int]

    @property
    def in_(self) -> int:
        """What came in: everything that was kept or dropped."""
        return self.kept + sum(self.dropped.values())


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a finished part says of itself: its name, the hash of its inputs, its counts, and its files' hashes."""

    part: str
    inputs: str
    counts: tuple[Count, ...]
    files: dict[str, str]
    extra: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """Canonical JSON."""
        counts = [
            {"source": c.source, "stage": c.stage, "unit": c.unit, "kept": c.kept, "dropped": c.dropped}
            for c in self.counts
        ]
        return canonical_json(
            {"part": self.part, "inputs": self.inputs, "counts": counts, "files": self.files, "extra": self.extra}
        )

    @classmethod
    def from_json(cls, text: bytes) -> "Receipt":
        """The receipt that `to_json` wrote."""
        record = json.loads(text)
        counts = tuple(Count(**c) for c in record["counts"])
        return cls(record["part"], record["inputs"], counts, record["files"], record["extra"])


class Tally:
    """Counts what a part keeps and collects what it drops, of one stage."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.drops: list[Drop] = []
        self._kept: Counter[tuple[str, str, str]] = Counter()

    def keep(self, source: str, unit: str, num: int = 1, *, stage: str | None = None) -> None:
        """Count `num` units of a source as kept; 0 makes the row appear."""
        self._kept[source, stage or self.stage, unit] += num

    def drop(self, drop: Drop) -> None:
        """Count one unit as dropped, with its reason."""
        self.drops.append(drop)

    def counts(self) -> tuple[Count, ...]:
        """One row a source, stage and unit."""
        reasons: dict[tuple[str, str, str], Counter[str]] = {}
        for drop in self.drops:
            reasons.setdefault((drop.source, drop.stage, drop.unit), Counter())[drop.reason] += 1
        return tuple(
            Count(*which, kept=self._kept[which], dropped=dict(sorted(reasons.get(which, Counter()).items())))
            for which in sorted(self._kept.keys() | reasons.keys())
        )


def sum_counts(receipts: Iterable[Receipt]) -> list[Count]:
    """The counts of many parts, added up by source, stage and unit."""
    kept: Counter[tuple[str, str, str]] = Counter()
    dropped: dict[tuple[str, str, str], Counter[str]] = {}
    for receipt in receipts:
        for count in receipt.counts:
            which = (count.source, count.stage, count.unit)
            kept[which] += count.kept
            dropped.setdefault(which, Counter()).update(count.dropped)
    return [Count(*which, kept=kept[which], dropped=dict(sorted(dropped[which].items()))) for which in sorted(kept)]


def digest(*values: Any) -> str:
    """sha256 in hex of any JSON values: the name of a part's or stage's inputs."""
    return hashlib.sha256(canonical_json(values).encode("utf-8", "surrogatepass")).hexdigest()


def stage_inputs(version: int, *values: Any) -> str:
    """Return the hash of what a part is made from: the version of the stage's code, and all that the part depends on.

    A rerun keeps what was made from equal inputs. A raised version therefore makes all parts of its stage anew, and of
    later stages those that read something else because of it; earlier stages are left alone.

    Args:
        version: The stage's own, a constant in its module. `tests/pipelines/test_goldens.py` fails where a stage gives
            other results under its old version. The version of the package is none of it: a release that changes no
            result of a stage redoes nothing.
        values: Settings, and hashes of the files that are read.
    """
    return digest(version, *values)


def stable_hash(text: str) -> int:
    """64 bits of a text's sha256: equal on every machine and run, unlike `hash`."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")


# --- tables ---------------------------------------------------------------------------------------------------------


def write_table(path: str, rows: list[dict[str, Any]], schema: pa.Schema) -> str:
    """Write rows as a parquet file, whole; returns its sha256. Equal rows give equal bytes."""
    return write_arrow(path, pa.Table.from_pylist(rows, schema=schema))


def write_arrow(path: str, table: pa.Table) -> str:
    """Write a table as a parquet file, whole; returns its sha256."""
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="zstd", compression_level=3, store_schema=False)
    data = buffer.getvalue()
    storage.write_bytes(path, data)
    return hashlib.sha256(data).hexdigest()


def read_table(path: str, columns: list[str] | None = None) -> pa.Table:
    """A parquet file, or some of its columns."""
    with storage.open_read(path) as file:
        return pq.ParquetFile(file).read(columns=columns)


def read_rows(path: str, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a parquet file as dictionaries, a batch at a time."""
    with storage.open_read(path) as file:
        for batch in pq.ParquetFile(file).iter_batches(1024, columns=columns):
            yield from batch.to_pylist()


# --- the folder of a stage ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PartFolder:
    """Where a stage's parts lie: `<path>/<part><suffix>`, and `<path>/<part>.json` for the receipt."""

    path: str

    def file(self, part: str, suffix: str) -> str:
        """Path of one of a part's files."""
        return storage.join(self.path, part + suffix)

    def receipt(self, part: str) -> Receipt | None:
        """The receipt of a part, or null where it is not finished."""
        path = self.file(part, ".json")
        return Receipt.from_json(storage.read_bytes(path)) if storage.exists(path) else None

    def receipts(self) -> list[Receipt]:
        """All receipts, by part."""
        names = (path[len(self.path) + 1 :] for path in storage.list_files(self.path, ".json"))
        return [
            Receipt.from_json(storage.read_bytes(storage.join(self.path, name)))
            for name in names
            if "/" not in name and name != "stage.json"
        ]

    def finish(self, part: str, inputs: str, tally: Tally, files: dict[str, str], **extra: Any) -> Receipt:
        """Write the drops, then the receipt: from here on the part is done."""
        if tally.drops:
            rows = [d.row() for d in tally.drops]
            files = files | {".drops.parquet": write_table(self.file(part, ".drops.parquet"), rows, DROP_SCHEMA)}
        receipt = Receipt(part, inputs, tally.counts(), files, extra)
        storage.write_bytes(self.file(part, ".json"), receipt.to_json().encode())
        return receipt

    def once(self, part: str, inputs: str, work: Callable[[], Receipt]) -> Receipt:
        """The part's receipt: the one that lies there if it was made from these inputs, else a new one."""
        found = self.receipt(part)
        return found if found is not None and found.inputs == inputs else work()

    def keep_only(self, parts: set[str]) -> None:
        """Remove what belongs to no part of this run, left by an earlier one over other inputs."""
        for path in storage.list_files(self.path):
            name = path[len(self.path) + 1 :]
            if name != "stage.json" and name.split(".", 1)[0] not in parts:
                storage.remove(path)

    def drops(self) -> list[str]:
        """Paths of the drop tables."""
        return storage.list_files(self.path, ".drops.parquet")

    def fingerprint(self) -> str:
        """Hash of everything that the finished parts hold."""
        return digest([[r.part, r.files] for r in self.receipts()])

    def is_finished(self, inputs: str) -> bool:
        """Whether a run over these inputs came to its end."""
        path = storage.join(self.path, "stage.json")
        return storage.exists(path) and json.loads(storage.read_bytes(path)).get("inputs") == inputs

    def begin(self) -> None:
        """Take back the word that the stage is finished, and remove what a killed run left."""
        storage.remove(storage.join(self.path, "stage.json"))
        storage.remove_leftovers(self.path)

    def end(self, inputs: str) -> None:
        """Write down that the stage is finished."""
        storage.write_bytes(storage.join(self.path, "stage.json"), canonical_json({"inputs": inputs}).encode())
