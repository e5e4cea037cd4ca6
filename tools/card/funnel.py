"""Facts from the manifest's funnel: what each stage took in, kept and dropped, and what was refused to us."""

from collections import Counter
from collections.abc import Collection
from typing import Any

from pipelines.drop_reasons import DUPLICATES, PERMISSION, REASONS, meaning
from pipelines.shards.manifest import Manifest

SIGNAL_OF = {
    "robots_disallowed": "robots.txt",
    "robots_unreachable": "robots.txt, not reachable",
    "training_crawlers_disallowed": "robots.txt, for known training crawlers",
    "ai_train_refused": "Content-Usage or Content-Signal",
    "tdm_reserved": "TDMRep",
    "tdm_unreachable": "TDMRep, not reachable",
    "ai_txt_disallowed": "ai.txt",
    "ai_txt_unreachable": "ai.txt, not reachable",
    "noai": "noai in X-Robots-Tag or meta robots",
    "noimageai": "noimageai in X-Robots-Tag or meta robots",
    "noindex": "noindex in X-Robots-Tag or meta robots",
    "noimageindex": "noimageindex in X-Robots-Tag or meta robots",
    "license_not_allowed": "licence",
    "plus_prohibited": "PLUS data mining property in the file",
    "c2pa_not_allowed": "C2PA manifest in the file",
}
"""Kind of signal behind each reason of permission."""

DUPLICATE_REASONS = (*DUPLICATES, "duplicate_url", "repeated_image")


def funnel(manifest: Manifest) -> list[dict[str, Any]]:
    """Return the rows of the funnel."""
    return [row.to_record() for row in manifest.funnel]


def candidates(manifest: Manifest) -> list[dict[str, Any]]:
    """Return for each source how many documents it began with, and how many samples became of them."""
    found = []
    for source in manifest.sources:
        rows = [r for r in manifest.funnel if r.source == source.name and r.unit in ("document", "sample")]
        if rows:
            found.append({"source": source.name, "candidates": rows[0].in_, "samples": rows[-1].kept})
    return found


def stages(manifest: Manifest) -> list[dict[str, Any]]:
    """Return for each stage and unit, over all sources and crawls, how much came in, was kept, and was dropped."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in manifest.funnel:
        whole = found.setdefault((row.stage, row.unit), {"stage": row.stage, "unit": row.unit, "in": 0, "kept": 0})
        whole["in"] += row.in_
        whole["kept"] += row.kept
    return [{**row, "dropped": row["in"] - row["kept"]} for row in found.values()]


def drops(manifest: Manifest) -> list[dict[str, Any]]:
    """Return the numbers of drops by stage, unit and reason over all sources, largest first, with what they mean."""
    counted: Counter[tuple[str, str, str]] = Counter()
    for row in manifest.funnel:
        for reason, num in row.dropped.items():
            counted[row.stage, row.unit, reason] += num
    return [
        {"stage": stage, "unit": unit, "reason": reason, "num": num, "meaning": meaning(reason) or ""}
        for (stage, unit, reason), num in sorted(counted.items(), key=lambda item: (-item[1], item[0]))
    ]


def refusals(manifest: Manifest) -> list[dict[str, Any]]:
    """Return what was not taken because a signal refused it: numbers of pages, documents and media for each reason."""
    counted = _by_reason(manifest, PERMISSION)
    return [
        {"signal": SIGNAL_OF.get(reason, reason), "reason": reason, "meaning": PERMISSION[reason], **counts}
        for reason, counts in sorted(counted.items(), key=lambda item: list(PERMISSION).index(item[0]))
    ]


def duplicate_drops(manifest: Manifest) -> list[dict[str, Any]]:
    """Return the numbers of pages, documents and media that were dropped as duplicates."""
    counted = _by_reason(manifest, DUPLICATE_REASONS)
    return [{"reason": r, "meaning": REASONS[r], **counted[r]} for r in DUPLICATE_REASONS if r in counted]


def _by_reason(manifest: Manifest, reasons: Collection[str]) -> dict[str, dict[str, int]]:
    """Return the drops of some reasons, by unit: the media of a dropped document are counted as well as itself."""
    counted: dict[str, Counter[str]] = {}
    for row in manifest.funnel:
        for reason, num in row.dropped.items():
            if reason in reasons:
                counted.setdefault(reason, Counter())[row.unit] += num
    return {reason: dict(sorted(counts.items())) for reason, counts in counted.items()}
