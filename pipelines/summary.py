"""What a command prints at its end: the funnel as a table, rates, and what was written where."""

import resource
import sys
from collections import Counter
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table

from pipelines.funnel import FunnelRow, check_filled, checked_funnel
from pipelines.layout import stage_folder
from pipelines.shards.manifest import Manifest
from pipelines.spec import CorpusSpec

MAX_REASONS = 4  # shown per row; the manifest has all


def check_stage(spec: CorpusSpec, out: str, stage: str) -> list[FunnelRow]:
    """Return the funnel up to a stage that was completed.

    Raises:
        RunError: If it does not add up, or a source has ended empty.
    """
    rows = checked_funnel(out, spec.crawls, spec.sources, stage)
    check_filled(out, spec.crawls, spec.needed, rows, stage)
    return rows


def print_summary(manifest: Manifest, out: str, seconds: dict[str, float]) -> None:
    """Print the funnel as a table, the rates, and in the last line what was written where."""
    console = _print_funnel(manifest.funnel)
    pages = sum(row.kept for row in manifest.funnel if (row.stage, row.unit) == ("crawl", "page"))
    media = sum(row.kept for row in manifest.funnel if (row.stage, row.unit) == ("fetch", "media"))
    rates = []
    if pages and seconds.get("crawl", 0) > 1:
        rates.append(f"{pages / seconds['crawl']:.0f} pages/s crawled")
    if media and seconds.get("fetch", 0) > 1:
        rates.append(f"{media / seconds['fetch']:.0f} media/s fetched and joined")
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    scale = 1 if sys.platform == "darwin" else 1024
    rates.append(f"largest process {peak * scale / 2**20:,.0f} MiB")
    console.print(", ".join(rates))
    took = f", {sum(seconds.values()):.0f} s" if seconds else ""
    console.print(
        f"{out}: {manifest.num_samples:,} samples in {len(manifest.shards)} shards "
        f"({sum(s.bytes for s in manifest.shards) / 1e6:,.1f} MB), {_num_dropped(manifest.funnel):,} drops in drops/"
        f"{took}",
        soft_wrap=True,
    )


def print_stage(spec: CorpusSpec, out: str, stage: str) -> None:
    """Print a stage's rows of the funnel as a table, and in the last line how many it kept and dropped, and where.

    Raises:
        RunError: If the funnel up to the stage does not add up, or a source has ended empty.
    """
    rows = [row for row in check_stage(spec, out, stage) if row.stage == stage]
    kept = _kept_units(rows)
    line = f"{stage_folder(out, stage)}: {stage} kept {kept or 'nothing'}, dropped {_num_dropped(rows):,}"
    _print_funnel(rows).print(line, soft_wrap=True)


def _print_funnel(rows: Sequence[FunnelRow]) -> Console:
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    table = Table("source", "stage", "unit", "in", "kept", "dropped by reason", box=None, pad_edge=False)
    for row in rows:
        table.add_row(row.source, row.stage, row.unit, f"{row.in_:,}", f"{row.kept:,}", _reasons(row))
    console.print(table)
    return console


def _kept_units(rows: Iterable[FunnelRow]) -> str:
    """Return how many of each unit were kept, of those of which any was."""
    kept: Counter[str] = Counter()
    for row in rows:
        kept[row.unit] += row.kept
    names = {"site_file": "files of sites", "media": "media"}
    return ", ".join(f"{num:,} {names.get(unit, f'{unit}s')}" for unit, num in kept.items() if num)


def _num_dropped(rows: Iterable[FunnelRow]) -> int:
    return sum(sum(row.dropped.values()) for row in rows)


def _reasons(row: FunnelRow) -> str:
    ranked = sorted(row.dropped.items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{reason} {num:,}" for reason, num in ranked[:MAX_REASONS]]
    rest = len(ranked) - len(shown)
    return ", ".join(shown) + (f", {rest} more" if rest else "")
