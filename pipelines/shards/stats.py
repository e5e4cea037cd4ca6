"""`stats.json`: counts of a corpus's contents, from its sidecars alone."""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from pipelines import storage
from pipelines.parts import stable_hash
from pipelines.shards.manifest import ShardInfo
from pipelines.shards.sidecar import read_sidecar

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
        digests, members = [], []
        for row in read_sidecar(storage.join(corpus, shard.sidecar), _COLUMNS):
            counts["samples"] += 1
            counts.update({name: row[name] or 0 for name in _SUMS})
            by["kinds"][row["kind"]] += 1
            by["languages"][row["lang"] or "unknown"] += 1
            by["licenses"][row["license"] or "unknown"] += 1
            by["allowed"][str(bool(row["allowed"])).lower()] += 1
            domains[row["domain"] or "unknown"] += 1
            if row["dedup_group"]:
                members.append(stable_hash(row["dedup_group"]))
            for media in row["media"]:
                by["media_licenses"][media["license"] or "unknown"] += 1
                by["media_types"][media["mime"] or "unknown"] += 1
                by["media_shorter_side"][_side_class(media["width"], media["height"])] += 1
                if media["stored_sha256"]:
                    digests.append(stable_hash(media["stored_sha256"]))
        images.append(np.array(digests, np.uint64))
        groups.append(np.array(members, np.uint64))
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
    values = np.concatenate([np.zeros(0, np.uint64), *found])
    return len(values) - len(np.unique(values))


def _num_sharing(found: Iterable[np.ndarray[Any, Any]]) -> int:
    _, counts = np.unique(np.concatenate([np.zeros(0, np.uint64), *found]), return_counts=True)
    return int(counts[counts > 1].sum())


def _side_class(width: int | None, height: int | None) -> str:
    if width is None or height is None:
        return "unknown"
    return _side_classes()[int(np.searchsorted(SIDES, min(width, height), side="right"))]


def _side_classes() -> list[str]:
    inner = [f"{low}-{high - 1}" for low, high in pairwise(SIDES)]
    return [f"under {SIDES[0]}", *inner, f"{SIDES[-1]} and more", "unknown"]
