"""A plan as tables on a terminal."""

import sys

from rich.console import Console
from rich.table import Table

from pipelines.planning import measured
from pipelines.planning.figures import Counts
from pipelines.planning.plan import Plan

_MAX_REASONS = 4


def print_plan(plan: Plan) -> None:
    """Print what each source takes in, what the build takes, and what would stop it."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    table = Table("source", "kind", "rows", "documents", "images", "videos", "hosts", "falls", box=None, pad_edge=False)
    for name, each in plan.counts.items():
        cells = (each.num_rows, each.num_documents, each.num_images, each.num_videos)
        table.add_row(name, plan.spec.sources[name].kind, *map(_number, cells), _hosts(each), _falls(each))
    console.print(table)
    known_by: dict[str, list[str]] = {}
    for name, each in plan.counts.items():
        known_by.setdefault(each.how, []).append(name)
    for how, names in known_by.items():
        console.print(f"rows of {', '.join(names)}: {how}", soft_wrap=True)
    console.print()
    for what, value in _lines(plan):
        console.print(f"{what:<24} {value}", soft_wrap=True)
    for line in plan.figures.unknown:
        console.print(f"not estimated: {line}", soft_wrap=True)
    for line in plan.obstacles:
        console.print(f"stops the build: {line}", soft_wrap=True)
    console.print(_verdict(plan), soft_wrap=True)


def _lines(plan: Plan) -> list[tuple[str, str]]:
    figures, cores, machines = plan.figures, plan.num_cores, plan.num_machines
    if figures.core_hours is None or figures.fetched_bytes is None or figures.memory_bytes is None:
        return []
    images, texts = f"{measured.IMAGES.value:.0f} images", f"{measured.TEXTS.value:.0f} texts"
    pages = f"{measured.PAGES.value:.0f} pages"
    one, many = figures.hours(cores) or 0.0, figures.hours(cores, machines) or 0.0
    line = figures.fetched_bytes * 8 / max(many * 3600, 1e-9) / 1e9
    found = [
        ("requests for media", f"{figures.num_media:,}, and {measured.SITE_FILES} files of each host before them"),
        ("bytes to fetch", f"{size(figures.fetched_bytes)}, at {measured.IMAGE_BYTES.value / 1e3:.0f} kB an image"),
        ("one machine", f"{hours(one)} on {cores} cores, at {images}, {texts}, {pages} a second and core"),
        (f"{machines} machines", f"{hours(many)} of {cores} cores each; a line of {line:,.2f} Gbit/s"),
        ("largest host", _largest(plan)),
        (
            "disk",
            f"{size(figures.raw_bytes)} raw store, {size(figures.work_bytes)} work, {size(figures.tar_bytes)} tars",
        ),
        ("memory", f"{size(figures.memory_bytes)} in the largest process of a local build"),
    ]
    return [row for row in found if machines > 1 or not row[0].endswith("machines")]


def _largest(plan: Plan) -> str:
    figures = plan.figures
    if figures.largest_host is None:
        return "none"
    delay = plan.spec.http.delay_seconds
    return f"{figures.largest_host}, {hours(figures.polite_hours or 0.0)} at {delay:g} s between requests"


def _verdict(plan: Plan) -> str:
    if plan.obstacles:
        num = len(plan.obstacles)
        return f"{plan.spec.name}: {num} thing{'s' if num > 1 else ''} would stop the build"
    return f"{plan.spec.name}: nothing found that would stop the build"


def size(num_bytes: float | None) -> str:
    """Return a number of bytes as people read it."""
    if num_bytes is None:
        return "?"
    if not num_bytes:
        return "none"
    for unit, value in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if num_bytes >= value:
            return f"{num_bytes / value:,.1f} {unit}"
    return f"{num_bytes / 1e3:,.1f} kB"


def hours(value: float) -> str:
    """Return hours with as many digits as the heads of the ready specs give: 434, 2.7, 0.03."""
    if value >= 10:
        return f"{value:,.0f} h"
    if value < 0.005:
        return f"{value * 3600:,.0f} s"
    return f"{value:.1f} h" if value >= 0.1 else f"{value:.2f} h"


def _number(value: int | None) -> str:
    return "?" if value is None else f"{value:,}"


def _hosts(counts: Counts) -> str:
    return f"{counts.num_hosts:,} in sample" if counts.num_hosts else ""


def _falls(counts: Counts) -> str:
    ranked = sorted(counts.dropped.items(), key=lambda item: (-item[1], item[0]))
    rest = f", {len(ranked) - _MAX_REASONS} more" if len(ranked) > _MAX_REASONS else ""
    return ", ".join(f"{reason} {num:,}" for reason, num in ranked[:_MAX_REASONS]) + rest
