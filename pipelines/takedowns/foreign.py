"""What others wrote beside their tars, made to fit tars that have lost samples: tables, and Energon's index."""

import json
import uuid
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from braceexpand import braceexpand

from pipelines import storage
from pipelines.shards.manifest import ShardInfo, sidecar_path
from pipelines.shards.reader_indexes import write_energon_tables

_META = ".nv-meta"


def tables_beside(out: str, shard: ShardInfo) -> list[str]:
    """Return the tables, relative to the corpus, that another program wrote of a shard, as img2dataset does."""
    name = sidecar_path(shard.path)
    return [name] if name != shard.sidecar and storage.exists(storage.join(out, name)) else []


def write_table_without(path: str, target: str, gone: Collection[str]) -> bool:
    """Write a table without the rows of some keys; returns whether it has a column of keys at all."""
    with storage.open_read(path) as file:
        table = pq.ParquetFile(file).read()
    if "key" not in table.column_names:
        return False
    kept = table.filter(pa.array([key not in gone for key in table.column("key").to_pylist()], pa.bool_()))
    with storage.write_whole(target) as file:
        pq.write_table(kept, file)
    return True


def write_energon_files(
    out: str, into: str, left: Mapping[str, ShardInfo], gone: Collection[str], fingerprint: str
) -> None:
    """Write the files of Energon's indexes that change.

    Args:
        out: Folder of the corpus.
        into: Folder to write to, by the same relative paths.
        left: The shards that are left, with their sidecars where they are now, by path.
        gone: Paths of the shards of which nothing is left.
        fingerprint: Fingerprint of the corpus after it.
    """
    for path in storage.list_files(out, ".info.json"):
        name = path[len(out.rstrip("/")) + 1 :].removesuffix(".info.json")
        if not name.endswith(f"{_META}/"):
            continue
        root = name.removesuffix(f"{_META}/")
        info: dict[str, Any] = json.loads(storage.read_bytes(path))
        tars = [tar for tar in info.get("shard_counts", {}) if root + tar not in gone]
        shards: Sequence[ShardInfo] = [left[root + tar] for tar in tars if root + tar in left]
        if not shards or len(shards) < len(tars):
            continue  # of tars that are not in the manifest
        counts = {tar: shard.samples for tar, shard in zip(tars, shards, strict=True)}
        target = storage.join(into, name.rstrip("/"))
        content = json.dumps(info | {"shard_counts": counts}, indent=1) + "\n"
        storage.write_bytes(storage.join(target, ".info.json"), content.encode())
        write_energon_tables(storage.join(target, "index.sqlite"), out, shards)
        number = uuid.uuid5(uuid.NAMESPACE_OID, f"{fingerprint} {name}")
        storage.write_bytes(storage.join(target, "index.uuid"), str(number).encode())
        split = storage.join(out, name + "split.yaml")
        if storage.exists(split) and any(root + tar in gone for tar in info["shard_counts"]):
            tree = yaml.safe_load(storage.read_bytes(split))
            if not isinstance(tree, dict) or not isinstance(tree.get("split_parts"), dict):
                continue  # somebody emptied it
            parts = {
                part: [tar for pattern in patterns for tar in braceexpand(pattern) if root + tar not in gone]
                for part, patterns in tree["split_parts"].items()
            }
            text = yaml.safe_dump(tree | {"split_parts": parts}, sort_keys=False)
            storage.write_bytes(storage.join(target, "split.yaml"), text.encode())
