"""Output of a benchmark: one line per figure, a ratio to the named peer, and the machine."""

import os
import platform
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import click


def figure(bench: str, what: str, value: float, unit: str) -> None:
    """Print one measured figure."""
    click.echo(f"{bench:8} {what:58} {_number(value):>10} {unit}")


def ratio(bench: str, what: str, ours: Sequence[float], peers: Sequence[float]) -> None:
    """Print how many times as fast ours is: the median over pairs of runs measured in turn, and the range."""
    pairs = sorted(our / peer for our, peer in zip(ours, peers, strict=True))
    spread = f" ({pairs[0]:.2f} to {pairs[-1]:.2f} over {len(pairs)} pairs)" if len(pairs) > 1 else ""
    click.echo(f"{bench:8} {what:58} {statistics.median(pairs):>10.2f} x{spread}")


def interleave(rounds: int, *contenders: Callable[[], float]) -> list[list[float]]:
    """Measure in turns, so that other load on the machine affects all equally; one list per contender."""
    rows = [[measure() for measure in contenders] for _ in range(rounds)]
    return [list(column) for column in zip(*rows, strict=True)]


def machine() -> str:
    """Processor, number of cores, and current load."""
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    name = names[0].partition(":")[2].strip() if names else platform.processor() or platform.machine()
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    return f"{os.cpu_count()} cores of {name}, Python {platform.python_version()}, load {load}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
