"""`stats.json`: counts of a corpus's contents, from its sidecars alone."""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines import storage
from pipelines.parts import read_table
from pipelines.shards.manifest import ShardInfo

SCHEMA = "dromaius-stats/1"
NUM_DOMAINS = 100
SIDES = (64, 128, 224, 256, 384, 448, 512, 768, 1024, 2048)
"""Lower bounds of the classes of an image's shorter side, pixels; 224 and 448 are Emu's and Emu2's input."""

_SUMS = ("num_media", "num_text_chars", "num_segments", "num_synthetic_segments", "num_regions", "pii_hits", "bytes")
_COLUMNS = (*_SUMS, "kind", "lang", "domain", "dedup_group", "allowed", "license", "media")


def collect_stats(corpus: str, shards: Sequence[ShardInfo]) -> dict[str, Any]:
    """Count over all shards: equal sidecars give equal statistics.

    Samples by source, split, kind, language, registered domain and licence; images by licence, MIME type and
    shorter side; the images whose bytes repeat an earlier image's, and the samples that share a duplicate group.
    Unknown values are counted as `unknown`.

    Args:
        corpus: The corpus's folder.
        shards: Shards of the manifest; their sidecars are read one after another.
    """
    sources: dict[str, dict[str, Counter[str]]] = {}
    by: dict[str, Counter[str]] = {
        name: Counter()
        for name in ("kinds", "languages", "licenses", "media_licenses", "media_types", "media_shorter_side", "allowed")
    }
    domains: Counter[str] = Counter()
    images: list[np.ndarray[Any, Any]] = []
    groups: list[np.ndarray[Any, Any]] = []
    for shard in shards:
        counts = sources.setdefault(shard.source, {}).setdefault(shard.split, Counter())
        table = read_table(storage.join(corpus, shard.sidecar), list(_COLUMNS))
        media = pc.list_flatten(table["media"].combine_chunks())
        counts.update({"samples": len(table)} | {name: pc.sum(table[name]).as_py() or 0 for name in _SUMS})
        by["kinds"].update(_counted(table["kind"]))
        by["languages"].update(_counted(table["lang"]))
        by["licenses"].update(_counted(table["license"]))
        by["allowed"].update(_counted(pc.cast(pc.fill_null(table["allowed"], False), pa.string())))
        domains.update(_counted(table["domain"]))
        by["media_licenses"].update(_counted(pc.struct_field(media, "license")))
        by["media_types"].update(_counted(pc.struct_field(media, "mime")))
        by["media_shorter_side"].update(_side_counts(pc.struct_field(media, "width"), pc.struct_field(media, "height")))
        images.append(_hashes(pc.struct_field(media, "stored_sha256")))
        groups.append(_hashes(table["dedup_group"]))
    totals: Counter[str] = Counter()
    for found in sources.values():
        for counts in found.values():
            totals.update(counts)
    num_unknown_domain = domains.pop("unknown", 0)
    return {
        "schema": SCHEMA,
        "totals": dict(totals),
        "sources": {source: {split: dict(c) for split, c in found.items()} for source, found in sources.items()},
        **{name: _ranked(counter) for name, counter in by.items() if name != "media_shorter_side"},
        "media_shorter_side": {c: by["media_shorter_side"][c] for c in _side_classes() if by["media_shorter_side"][c]},
        "domains": {
            "num_domains": len(domains),
            "num_samples_without": num_unknown_domain,
            "top": _ranked(domains, NUM_DOMAINS),
        },
        "duplicates": {
            "num_repeated_images": _num_repeated(images),
            "num_dedup_groups": len(np.unique(np.concatenate(groups))) if groups else 0,
            "num_samples_sharing_a_group": _num_sharing(groups),
        },
    }


def _ranked(counter: Counter[str], limit: int | None = None) -> dict[str, int]:
    """Sort by frequency, highest first, ties by name."""
    return dict(sorted(counter.items(), key=lambda item: (-item[1], item[0]))[:limit])


def _num_repeated(found: Iterable[np.ndarray[Any, Any]]) -> int:
    """Return the number of images that equal an earlier one."""
    values = np.concatenate([np.zeros(0, np.int64), *found])
    return len(values) - len(np.unique(values))


def _num_sharing(found: Iterable[np.ndarray[Any, Any]]) -> int:
    _, counts = np.unique(np.concatenate([np.zeros(0, np.int64), *found]), return_counts=True)
    return int(counts[counts > 1].sum())


def _counted(values: pa.Array | pa.ChunkedArray) -> dict[str, int]:
    """Return how often each value occurs; null and the empty text are `unknown`."""
    found: Counter[str] = Counter()
    for item in pc.value_counts(values).to_pylist():
        found[item["values"] or "unknown"] += item["counts"]
    return found


def _hashes(values: pa.Array | pa.ChunkedArray) -> np.ndarray[Any, Any]:
    """Return 64 bits for each text that is not empty, equal for equal ones in this process."""
    return np.fromiter((hash(value) for value in values.to_pylist() if value), np.int64)


def _side_counts(widths: pa.Array, heights: pa.Array) -> dict[str, int]:
    shorter = pc.min_element_wise(widths, heights, skip_nulls=False)
    known = pc.drop_null(shorter).to_numpy(zero_copy_only=False)
    classes = np.bincount(np.searchsorted(SIDES, known, side="right"), minlength=len(SIDES) + 1)
    found = {name: int(num) for name, num in zip(_side_classes(), classes, strict=False) if num}
    return found | ({"unknown": shorter.null_count} if shorter.null_count else {})


def _side_classes() -> list[str]:
    inner = [f"{low}-{high - 1}" for low, high in pairwise(SIDES)]
    return [f"under {SIDES[0]}", *inner, f"{SIDES[-1]} and more", "unknown"]
