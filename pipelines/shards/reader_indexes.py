"""Indexes for other readers of the same tars: Megatron-Energon's `.nv-meta` and wids' JSON, made from the sidecars.

Both contain only a source's relative paths, so that a folder may be moved or published unchanged. Energon's tables
equal those of its own `energon prepare`; a test compares them row by row.
"""

import json
import shutil
import sqlite3
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import yaml

from pipelines import storage
from pipelines.document import SPLITS, Kind
from pipelines.shards.manifest import Manifest, ShardInfo
from pipelines.shards.sidecar import read_sidecar

ENERGON_VERSION = "7.4.1"  # the version with this layout

_CRUDE = {"__module__": "megatron.energon", "__class__": "CrudeWebdataset"}
_DATASETS: dict[Kind, dict[str, Any]] = {
    "pair": {
        "sample_type": {"__module__": "megatron.energon", "__class__": "CaptioningSample"},
        "field_map": {"image": "jpg,png,webp", "caption": "txt"},
    },
    "text": {
        "sample_type": {"__module__": "megatron.energon", "__class__": "TextSample"},
        "part_filter": ["json"],
        "sample_loader": "cookers.py:load_text",
    },
    "interleaved": _CRUDE,
    "video": _CRUDE,
    "grounded": _CRUDE,  # Energon has no sample type with boxes
    "conversation": _CRUDE,  # nor with images on both sides
}

_TABLES = """
CREATE TABLE samples (tar_file_id INTEGER NOT NULL, sample_key TEXT NOT NULL UNIQUE, sample_index INTEGER NOT NULL,
    byte_offset INTEGER, byte_size INTEGER);
CREATE TABLE sample_parts (tar_file_id INTEGER, sample_index INTEGER, part_name TEXT, content_byte_offset INTEGER,
    content_byte_size INTEGER);
"""
_INDEXES = """
CREATE INDEX idx_samples_by_tar_and_idx ON samples(tar_file_id, sample_index);
CREATE INDEX idx_sample_parts_seq ON sample_parts(tar_file_id, sample_index, content_byte_offset);
CREATE INDEX idx_sample_parts_full ON sample_parts(tar_file_id, sample_index, part_name, content_byte_offset,
    content_byte_size);
"""


def write_reader_indexes(
    corpus: str, manifest: Manifest, exclude: Sequence[str] = (), *, into: str | None = None
) -> None:
    """Write Energon's and wids' indexes of every source of a manifest.

    Args:
        corpus: Folder of the shards and their sidecars.
        manifest: All shards; it need not be written yet.
        exclude: Shards (`<path>`) or samples (`<path>/<key>`) that Energon must skip, by paths of the manifest.
        into: Folder to write to, by the same relative paths; None for the corpus itself.
    """
    into = into or corpus
    for source in manifest.sources:
        shards = manifest.shards_of(source.name)
        prefix = f"{source.name}/"
        left_out = [name.removeprefix(prefix) for name in exclude if name.startswith(prefix)]
        write_energon_index(corpus, source.kind, shards, manifest.fingerprint, left_out, into=into)
        for split in SPLITS:
            path = storage.join(into, source.name, f"wids-{split}.json")
            if split in source.splits:
                text = wids_index(f"{manifest.name}-{source.name}-{split}", manifest.shards_of(source.name, split))
                storage.write_bytes(path, text.encode())
            else:
                storage.remove(path)  # an earlier build may have had that split


def write_energon_index(
    corpus: str,
    kind: Kind,
    shards: Sequence[ShardInfo],
    fingerprint: str,
    exclude: Sequence[str] = (),
    *,
    into: str | None = None,
) -> None:
    """Write `.nv-meta` of one source; equal shards give equal files.

    Args:
        corpus: Folder that contains the source's folder, which is the dataset for Energon.
        kind: Kind of the source.
        shards: All of the source, in the manifest's order, which becomes Energon's `tar_file_id`.
        fingerprint: Fingerprint of the manifest; the index's UUID derives from it.
        exclude: As in Energon's `split.yaml`: shards or `<shard>/<key>`, relative to the source's folder.
        into: Folder to write to, by the same relative paths; None for the corpus itself.
    """
    name = shards[0].source
    paths = [shard.path.removeprefix(f"{name}/") for shard in shards]
    info = {
        "energon_version": ENERGON_VERSION,
        "shard_counts": {p: s.samples for p, s in zip(paths, shards, strict=True)},
    }
    by_split = {split: [p for p, s in zip(paths, shards, strict=True) if s.split == split] for split in SPLITS}
    meta = storage.join(into or corpus, name, ".nv-meta")
    write_energon_tables(storage.join(meta, "index.sqlite"), corpus, shards)
    storage.write_bytes(
        storage.join(meta, "index.uuid"), str(uuid.uuid5(uuid.NAMESPACE_OID, f"{fingerprint} {name}")).encode()
    )
    storage.write_bytes(storage.join(meta, "dataset.yaml"), yaml.safe_dump(_DATASETS[kind], sort_keys=False).encode())
    storage.write_bytes(storage.join(meta, "cookers.py"), Path(__file__).with_name("energon_cookers.py").read_bytes())
    splits = {"split_parts": by_split, "exclude": list(exclude)}
    storage.write_bytes(storage.join(meta, "split.yaml"), yaml.safe_dump(splits, sort_keys=False).encode())
    storage.write_bytes(storage.join(meta, ".info.json"), (json.dumps(info, indent=1) + "\n").encode())


def wids_index(name: str, shards: Sequence[ShardInfo]) -> str:
    """Return the JSON that wids reads, for one split of a source; it belongs in the source's folder."""
    listed = [{"url": s.path.removeprefix(f"{s.source}/"), "nsamples": s.samples, "filesize": s.bytes} for s in shards]
    record = {"__kind__": "wids-shard-index-v1", "wids_version": 1, "name": name, "shardlist": listed}
    return json.dumps(record, indent=1, ensure_ascii=False) + "\n"


def write_energon_tables(target: str, corpus: str, shards: Sequence[ShardInfo]) -> None:
    """Write an `index.sqlite`: the offsets of each sample and its parts, in the order of the shards.

    It is made on a disk of this machine and copied from there; the rows of one shard are in memory.
    """
    with TemporaryDirectory() as scratch:
        path = Path(scratch, "index.sqlite")
        database = sqlite3.connect(path, isolation_level=None)
        try:
            database.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;" + _TABLES)
            database.execute("BEGIN")
            for tar_file_id, shard in enumerate(shards):
                rows = list(read_sidecar(storage.join(corpus, shard.sidecar), ("key", "byte_offset", "bytes", "parts")))
                samples, parts = _sample_rows(tar_file_id, rows), _part_rows(tar_file_id, rows)
                database.executemany("INSERT INTO samples VALUES (?, ?, ?, ?, ?)", samples)
                database.executemany("INSERT INTO sample_parts VALUES (?, ?, ?, ?, ?)", parts)
            database.execute("COMMIT")
            database.executescript(_INDEXES)
        finally:
            database.close()
        with path.open("rb") as made, storage.write_whole(target) as file:
            shutil.copyfileobj(made, file, 1 << 20)


class _SampleRow(NamedTuple):
    """A row of Energon's table `samples`."""

    tar_file_id: int
    sample_key: str
    sample_index: int
    byte_offset: int
    byte_size: int


class _PartRow(NamedTuple):
    """A row of Energon's table `sample_parts`."""

    tar_file_id: int
    sample_index: int
    part_name: str
    content_byte_offset: int
    content_byte_size: int


def _sample_rows(tar_file_id: int, sidecar: list[dict[str, Any]]) -> Iterator[_SampleRow]:
    for i, row in enumerate(sidecar):
        yield _SampleRow(tar_file_id, row["key"], i, row["byte_offset"], row["bytes"])


def _part_rows(tar_file_id: int, sidecar: list[dict[str, Any]]) -> Iterator[_PartRow]:
    for i, row in enumerate(sidecar):
        for part in row["parts"]:
            yield _PartRow(tar_file_id, i, part["name"], part["offset"], part["bytes"])
