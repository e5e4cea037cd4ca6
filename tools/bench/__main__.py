"""Benchmarks against named peers: `python -m tools.bench [names...]`; without names, all of them.

Each prints one line per figure and ratios, never a verdict; RESULTS.md records the results and their dates.
"""

from collections.abc import Callable
from pathlib import Path

import click

from tools.bench.audit import bench_audit
from tools.bench.browse import bench_browse
from tools.bench.card import bench_card
from tools.bench.fetch import bench_fetch
from tools.bench.generation import bench_generation
from tools.bench.gpu import PARTS, bench_gpu
from tools.bench.growth import KINDS, NUM_ROWS, bench_growth
from tools.bench.html import bench_html
from tools.bench.memory import bench_memory
from tools.bench.reader import bench_reader
from tools.bench.report import machine
from tools.bench.stages import bench_stages
from tools.bench.takedown import bench_takedown
from tools.bench.text import bench_text
from tools.bench.trace import bench_trace
from tools.bench.training import bench_training
from tools.bench.video import bench_video
from tools.bench.workers import bench_workers

BENCHES: dict[str, Callable[[Path], None]] = {
    "fetch": bench_fetch,
    "stages": bench_stages,
    "reader": bench_reader,
    "memory": bench_memory,
    "training": bench_training,
    "generation": bench_generation,
    "trace": bench_trace,
    "card": bench_card,
    "takedown": bench_takedown,
    "browse": bench_browse,
    "audit": bench_audit,
    "growth": bench_growth,
    "video": bench_video,
    "workers": bench_workers,
}
"""Benchmarks by name; each takes a folder for the files it makes, which the next run reuses."""

OF_PAGES: dict[str, Callable[[Path], None]] = {"html": bench_html, "text": bench_text}
"""Benchmarks that read a folder of HTML files and make none."""


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.argument("names", nargs=-1, type=click.Choice([*BENCHES, "gpu", *OF_PAGES]))
@click.option(
    "--folder",
    default=Path("build/bench"),
    type=click.Path(path_type=Path),
    help="Folder for the files that benchmarks make.",
)
@click.option(
    "--pages",
    default=Path("build/real-site"),
    type=click.Path(path_type=Path),
    help="Folder of HTML files for `html` and `text`, at any depth; `make real-site` fetches the GIMP manual's.",
)
@click.option("--rows", multiple=True, type=click.IntRange(10), help="Rows of a build that `growth` measures.")
@click.option("--kind", "kinds", multiple=True, type=click.Choice(KINDS), help="What `growth` builds; default: all.")
@click.option("--part", "parts", multiple=True, type=click.Choice([*PARTS]), help="What `gpu` measures; default: all.")
def main(
    names: tuple[str, ...],
    folder: Path,
    pages: Path,
    rows: tuple[int, ...],
    kinds: tuple[str, ...],
    parts: tuple[str, ...],
) -> None:
    """Run the named benchmarks, or all of them but `gpu`."""
    for name in names or [*BENCHES, *OF_PAGES]:
        click.echo(f"{name:8} on {machine()}")
        if name in OF_PAGES:
            OF_PAGES[name](pages)
        elif name == "growth":
            bench_growth(folder / name, rows or NUM_ROWS, kinds or KINDS)
        elif name == "gpu":
            bench_gpu(folder / name, parts)
        else:
            BENCHES[name](folder / name)


if __name__ == "__main__":
    main()
