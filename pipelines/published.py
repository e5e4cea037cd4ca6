"""Samples that an earlier build of a corpus has published, which one with `shard.order: append` leaves as they are."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from pipelines import storage
from pipelines.block_list import document_key
from pipelines.document import SPLITS, Split
from pipelines.errors import UserError
from pipelines.layout import resolved_spec_path
from pipelines.parts import read_table, stable_hash
from pipelines.settings import load_settings
from pipelines.shards.manifest import FILE_NAME, Manifest, load_manifest
from pipelines.spec import CorpusSpec, SourceSpec

_SETTINGS_OF_SOURCES = ("kind", "pages", "filters", "media")
_SETTINGS_OF_SAMPLES = ("max_media", "max_chars")


class Published:
    """The documents of published samples and their splits, by 64 bits of a hash; 9 bytes of memory each.

    Args:
        found: Key and split of each sample.
    """

    def __init__(self, found: Iterator[tuple[str, Split]] | tuple[()] = ()) -> None:
        splits = {split: number for number, split in enumerate(SPLITS)}
        rows = [(stable_hash(document_key(key)), splits[split]) for key, split in found]
        hashes = np.fromiter((hashed for hashed, _ in rows), np.uint64, len(rows))
        order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[order]
        self._splits = np.fromiter((split for _, split in rows), np.int8, len(rows))[order]

    def __bool__(self) -> bool:
        return len(self._hashes) > 0

    def split(self, key: str) -> Split | None:
        """Return the split of a published document, by its key or that of one of its samples; None if it is new."""
        if not self:
            return None
        wanted = np.uint64(stable_hash(document_key(key)))
        place: Any = np.searchsorted(self._hashes, wanted)
        is_there = place < len(self._hashes) and self._hashes[place] == wanted
        return SPLITS[int(self._splits[place])] if is_there else None


def earlier_manifest(spec: CorpusSpec, out: str) -> Manifest | None:
    """Return the manifest of what a build leaves as it is; None if it appends to nothing.

    Raises:
        UserError: If samples were published by other settings than those of the spec.
    """
    if spec.shard.order != "append" or not storage.exists(storage.join(out, FILE_NAME)):
        return None
    manifest = load_manifest(out)
    for name in {shard.source for shard in manifest.shards} - spec.sources.keys():
        raise UserError(
            f"sources.{name}: missing, but it has published samples: with `shard.order: append` they stay, so the spec "
            "must say how they were made. Restore it, or build into another folder"
        )
    if manifest.spec_sha256 != spec.sha256:
        _refuse_other_settings(spec, load_settings(CorpusSpec, resolved_spec_path(out)))
    return manifest


def load_published(spec: CorpusSpec, out: str) -> Published:
    """Return the samples that a build leaves as they are; none without `shard.order: append`."""
    manifest = earlier_manifest(spec, out)
    return Published(_rows(out, manifest)) if manifest is not None else Published()


def _rows(out: str, manifest: Manifest) -> Iterator[tuple[str, Split]]:
    for shard in manifest.shards:
        for key in read_table(storage.join(out, shard.sidecar), ["key"]).column("key").to_pylist():
            yield key, shard.split


def _refuse_other_settings(spec: CorpusSpec, before: CorpusSpec) -> None:
    """Check that what is published would be decided for in the same way now."""
    pairs: list[tuple[str, Any, Any]] = [
        ("policy", before.policy.model_dump(mode="json"), spec.policy.model_dump(mode="json")),
        ("split", before.split.model_dump(mode="json"), spec.split.model_dump(mode="json")),
    ]
    for name in before.sources.keys() & spec.sources.keys():
        pairs.append((f"sources.{name}", _decides(before.sources[name]), _decides(spec.sources[name])))
    for path, old, new in sorted(pairs, key=lambda pair: pair[0]):
        if (found := _first_difference(path, old, new)) is not None:
            where, was, now = found
            raise UserError(
                f"{where} is {now!r}, but the published samples were decided for with {was!r}: with `shard.order: "
                "append` they stay as they are. Restore it, give the setting to a source of a new name, or build into "
                "another folder"
            )


def _decides(source: SourceSpec) -> dict[str, Any]:
    tree = source.model_dump(mode="json", include=set(_SETTINGS_OF_SOURCES))
    return tree | {"sharding": source.sharding.model_dump(mode="json", include=set(_SETTINGS_OF_SAMPLES))}


def _first_difference(path: str, old: Any, new: Any) -> tuple[str, Any, Any] | None:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in {**old, **new}:
            if (found := _first_difference(f"{path}.{name}", old.get(name), new.get(name))) is not None:
                return found
        return None
    return None if old == new else (path, old, new)
