"""Samples that the filter stage decided for: a table of small rows, and beside it the documents that these refer to.

The documents of a part lie end to end in `<part>.samples`, each after the references to its media. The shard stage
shuffles the rows and reads the documents by their places, as it reads media.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipelines import storage
from pipelines.document import plain
from pipelines.media.raw_store import Blob
from pipelines.parts import PartFolder, read_rows, write_table

DECISION_SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("split", pa.string()),
        ("key", pa.string()),
        ("num_bytes", pa.int64()),  # the most that the sample takes in a tar
        ("offset", pa.int64()),  # of the sample in the file of the part
        ("length", pa.int64()),
        ("digest", pa.binary(16)),  # of what lies there
    ]
)
SAMPLES = ".samples"


@dataclass(frozen=True, slots=True)
class DecidedSample:
    """A sample that was decided for: its document as JSON, and where the bytes of its media are."""

    source: str
    split: str
    key: str
    num_bytes: int
    document: str
    blobs: tuple[Blob, ...]

    def to_bytes(self) -> bytes:
        """Return what `parse_decided` reads: the references to media in a line, then the document."""
        return json.dumps(plain(self.blobs)).encode() + b"\n" + self.document.encode() + b"\n"


def parse_decided(data: bytes) -> tuple[str, tuple[Blob, ...]]:
    """Return the document, as JSON, and the references to its media."""
    blobs, _, document = data.partition(b"\n")
    return document.rstrip(b"\n").decode(), tuple(Blob(**blob) for blob in json.loads(blobs))


def write_decided(folder: PartFolder, part: str, samples: list[DecidedSample]) -> dict[str, str]:
    """Write the samples of a part and their rows; returns the hashes of both files by suffix."""
    rows: list[dict[str, Any]] = []
    whole, offset = hashlib.sha256(), 0
    with storage.write_whole(folder.file(part, SAMPLES)) as file:
        for sample in samples:
            data = sample.to_bytes()
            file.write(data)
            whole.update(data)
            digest = hashlib.blake2b(data, digest_size=16).digest()
            row = {"source": sample.source, "split": sample.split, "key": sample.key, "num_bytes": sample.num_bytes}
            rows.append(row | {"offset": offset, "length": len(data), "digest": digest})
            offset += len(data)
    table = write_table(folder.file(part, ".parquet"), rows, DECISION_SCHEMA)
    return {SAMPLES: whole.hexdigest(), ".parquet": table}


def read_decided(folder: PartFolder, part: str) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Yield the rows of a part, each with what lies at its place."""
    with storage.open_read(folder.file(part, SAMPLES)) as file:
        for row in read_rows(folder.file(part, ".parquet")):
            file.seek(row["offset"])
            yield row, file.read(row["length"])
