"""Parts into which a stage's work is cut, each a transaction with a receipt.

The tables of a part are written as a whole, its receipt last. A rerun skips a part whose receipt shows that it was
made from the same inputs. The receipt states what the part kept and dropped, so a stage's funnel is a sum over
receipts and does not depend on a runner's counters.
"""

import hashlib
import json
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import storage
from pipelines.document import Drop, canonical_json, encodable

DROP_SCHEMA = pa.schema(
    [
        (name, pa.string())
        for name in ("source", "stage", "reason", "unit", "key", "url", "page_url", "record", "excerpt", "detail")
    ]
)


@dataclass(frozen=True, slots=True)
class Count:
    """Number of a source's units that a stage kept, and of those that it dropped, by reason."""

    source: str
    stage: str
    unit: str
    kept: int
    dropped: dict[str, int]

    @property
    def in_(self) -> int:
        """Number of units that came in: kept or dropped."""
        return self.kept + sum(self.dropped.values())


@dataclass(frozen=True, slots=True)
class Receipt:
    """Receipt of a finished part: its name, the hash of its inputs, its counts, and the hashes of its files."""

    part: str
    inputs: str
    counts: tuple[Count, ...]
    files: dict[str, str]
    extra: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the content of the receipt file."""
        counts = [
            {"source": c.source, "stage": c.stage, "unit": c.unit, "kept": c.kept, "dropped": c.dropped}
            for c in self.counts
        ]
        return canonical_json(
            {"part": self.part, "inputs": self.inputs, "counts": counts, "files": self.files, "extra": self.extra}
        )

    @classmethod
    def from_json(cls, text: bytes) -> "Receipt":
        """Parse the result of `to_json`."""
        record = json.loads(text)
        counts = tuple(Count(**c) for c in record["counts"])
        return cls(record["part"], record["inputs"], counts, record["files"], record["extra"])


class _Counted(NamedTuple):
    """What a row of the funnel counts."""

    source: str
    stage: str
    unit: str


class Tally:
    """Counter of what a part of a stage keeps, and collector of what it drops."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.drops: list[Drop] = []
        self._kept: Counter[_Counted] = Counter()

    def keep(self, source: str, unit: str, num: int = 1, *, stage: str | None = None) -> None:
        """Count `num` units of a source as kept; 0 makes the row appear."""
        self._kept[_Counted(source, stage or self.stage, unit)] += num

    def drop(self, drop: Drop) -> None:
        """Count one unit as dropped, with its reason."""
        self.drops.append(drop)

    def absorb(self, other: "Tally") -> None:
        """Add what another tally of the same stage counted."""
        self.drops += other.drops
        for which, num in other._kept.items():
            self._kept[which] += num

    def counts(self) -> tuple[Count, ...]:
        """Return one row per source, stage and unit."""
        reasons: dict[_Counted, Counter[str]] = {}
        for drop in self.drops:
            reasons.setdefault(_Counted(drop.source, drop.stage, drop.unit), Counter())[drop.reason] += 1
        return tuple(
            Count(*which, kept=self._kept[which], dropped=dict(sorted(reasons.get(which, Counter()).items())))
            for which in sorted(self._kept.keys() | reasons.keys())
        )


def sum_counts(receipts: Iterable[Receipt]) -> list[Count]:
    """Return the sums of the counts of many parts, by source, stage and unit."""
    kept: Counter[_Counted] = Counter()
    dropped: dict[_Counted, Counter[str]] = {}
    for receipt in receipts:
        for count in receipt.counts:
            which = _Counted(count.source, count.stage, count.unit)
            kept[which] += count.kept
            dropped.setdefault(which, Counter()).update(count.dropped)
    return [Count(*which, kept=kept[which], dropped=dict(sorted(dropped[which].items()))) for which in sorted(kept)]


def digest(*values: Any) -> str:
    """Return the sha256 in hex of any JSON values, by which the inputs of a part or stage are compared."""
    return hashlib.sha256(canonical_json(values).encode("utf-8", "surrogatepass")).hexdigest()


def stage_inputs(version: int, *values: Any) -> str:
    """Return the hash of what a part is made from: the version of the stage's code, and all that the part depends on.

    A rerun keeps what was made from equal inputs. A higher version therefore makes all parts of its stage again, and
    those parts of later stages whose inputs change as a result; earlier stages are not affected.

    Args:
        version: Constant in the stage's module. `tests/test_goldens.py` fails if a stage gives other results under its
            old version. The package's version is not included: a release that changes no result repeats nothing.
        values: Settings, and hashes of the files that are read.
    """
    return digest(version, *values)


def new_run() -> str:
    """Return a random word that begins the names of the parts that one run of a pipeline writes.

    A cluster gives the work of a lost worker to another one, which knows by the names what was done meanwhile.
    """
    return uuid.uuid4().hex[:8]


def stable_hash(text: str) -> int:
    """Return 64 bits of a text's sha256, equal on every machine and in every run, unlike `hash`."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")


# --- tables ---------------------------------------------------------------------------------------------------------


def write_table(path: str, rows: list[dict[str, Any]], schema: pa.Schema) -> str:
    """Write rows as a parquet file, atomically; returns its sha256. Equal rows give equal bytes."""
    try:
        table = pa.Table.from_pylist(rows, schema=schema)
    except UnicodeEncodeError:
        table = pa.Table.from_pylist([_encodable(row) for row in rows], schema=schema)
    return write_arrow(path, table)


def _encodable(value: Any) -> Any:
    """Return a row, or a value of one, with text that a file can hold."""
    if isinstance(value, str):
        return encodable(value)
    if isinstance(value, dict):
        return {key: _encodable(item) for key, item in value.items()}
    return [_encodable(item) for item in value] if isinstance(value, list | tuple) else value


def write_arrow(path: str, table: pa.Table, notes: Mapping[str, str] | None = None) -> str:
    """Write a table as a parquet file, atomically; returns its sha256.

    Args:
        path: The file.
        table: The table.
        notes: Written at the end of the file, where `read_notes` finds them.
    """
    buffer = pa.BufferOutputStream()
    with pq.ParquetWriter(buffer, table.schema, compression="zstd", compression_level=3, store_schema=False) as writer:
        writer.write_table(table)
        if notes:
            writer.add_key_value_metadata(dict(notes))
    data = buffer.getvalue()
    storage.write_bytes(path, data)
    return hashlib.sha256(data).hexdigest()


def read_table(path: str, columns: list[str] | None = None) -> pa.Table:
    """Read a parquet file, or some of its columns."""
    with storage.open_read(path) as file:
        return pq.ParquetFile(file).read(columns=columns)


def read_notes(path: str) -> dict[str, str]:
    """Return the notes at the end of a parquet file; none if it was written without."""
    with storage.open_read(path) as file:
        found = pq.ParquetFile(file).metadata.metadata or {}
    return {name.decode(): value.decode() for name, value in found.items()}


def read_rows(path: str, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """Yield the rows of a parquet file as dictionaries; one batch is in memory at a time."""
    with storage.open_read(path) as file:
        for batch in pq.ParquetFile(file).iter_batches(1024, columns=columns):
            yield from batch.to_pylist()


# --- the folder of a stage ------------------------------------------------------------------------------------------


MIN_TABLED = 64
"""Receipts of a stage from which on they are kept in one table too: a store takes a request for each of them."""

_TABLE = ".receipts"
_TABLE_SCHEMA = pa.schema([("part", pa.string()), ("stamp", pa.string()), ("text", pa.binary())])


@dataclass(frozen=True, slots=True)
class PartFolder:
    """Folder of a stage's parts: files `<path>/<part><suffix>`, and `<path>/<part>.json` for the receipt."""

    path: str

    def file(self, part: str, suffix: str) -> str:
        """Return the path of one of a part's files."""
        return storage.join(self.path, part + suffix)

    def receipt(self, part: str) -> Receipt | None:
        """Return the receipt of a part, or None if it is not finished."""
        path = self.file(part, ".json")
        return Receipt.from_json(storage.read_bytes(path)) if storage.exists(path) else None

    def names(self) -> list[str]:
        """Return the names of the finished parts, in order, by a listing alone."""
        found = (path[len(self.path) + 1 :] for path in storage.list_files(self.path, ".json"))
        return sorted(name.removesuffix(".json") for name in found if "/" not in name and name != "stage.json")

    def receipts(self) -> list[Receipt]:
        """Return all receipts, in order of parts."""
        return [Receipt.from_json(text) for _, text in sorted(self._receipt_texts().items())]

    def _receipt_texts(self) -> dict[str, bytes]:
        """Return the content of each receipt: by one table where the file is as it was when the stage ended."""
        names = set(self.names())
        if not storage.exists(table := self.file("stage", _TABLE)):
            return {name: storage.read_bytes(self.file(name, ".json")) for name in names}
        kept = {row["part"]: row for row in read_rows(table)}
        found: dict[str, bytes] = {}
        for path, stamp in storage.list_stamps(self.path, ".json").items():
            if (name := path[len(self.path) + 1 :].removesuffix(".json")) in names:
                row = kept.get(name)
                is_same = row is not None and row["stamp"] == canonical_json(stamp)
                found[name] = row["text"] if row is not None and is_same else storage.read_bytes(path)
        return found

    def finish(self, part: str, inputs: str, tally: Tally, files: dict[str, str], **extra: Any) -> Receipt:
        """Write the drops, then the receipt, which finishes the part."""
        if tally.drops:
            rows = [d.row() for d in tally.drops]
            files = files | {".drops.parquet": write_table(self.file(part, ".drops.parquet"), rows, DROP_SCHEMA)}
        receipt = Receipt(part, inputs, tally.counts(), files, extra)
        storage.write_bytes(self.file(part, ".json"), receipt.to_json().encode())
        return receipt

    def once(self, part: str, inputs: str, work: Callable[[], Receipt]) -> Receipt:
        """Return the part's receipt: the existing one if it was made from these inputs, else the result of `work`."""
        found = self.receipt(part)
        return found if found is not None and found.inputs == inputs else work()

    def keep_only(self, parts: set[str]) -> None:
        """Remove the files of other parts, left by an earlier run with other inputs."""
        for path in storage.list_files(self.path):
            name = path[len(self.path) + 1 :]
            if not name.startswith("stage.") and name.split(".", 1)[0] not in parts:
                storage.remove(path)

    def drops(self) -> list[str]:
        """Return the paths of the drop tables."""
        return storage.list_files(self.path, ".drops.parquet")

    def fingerprint(self) -> str:
        """Return the hash of the contents of all finished parts."""
        return digest([[r.part, r.files] for r in self.receipts()])

    def is_finished(self, inputs: str) -> bool:
        """Return whether a run with these inputs was completed."""
        path = storage.join(self.path, "stage.json")
        return storage.exists(path) and json.loads(storage.read_bytes(path)).get("inputs") == inputs

    def begin(self) -> None:
        """Mark the stage as unfinished, and remove what a killed run left."""
        storage.remove(storage.join(self.path, "stage.json"))
        storage.remove(self.file("stage", _TABLE))
        storage.remove_leftovers(self.path)

    def end(self, inputs: str) -> None:
        """Mark the stage as finished, with its receipts in one table if they are many."""
        texts = self._receipt_texts()
        if len(texts) >= MIN_TABLED:
            stamps = storage.list_stamps(self.path, ".json")
            rows = [
                {"part": name, "stamp": canonical_json(stamps[self.file(name, ".json")]), "text": text}
                for name, text in sorted(texts.items())
            ]
            write_table(self.file("stage", _TABLE), rows, _TABLE_SCHEMA)
        storage.write_bytes(storage.join(self.path, "stage.json"), canonical_json({"inputs": inputs}).encode())
