"""`curve.png`: figures of a benchmark over the number of shots, with their 95 % intervals and chance."""

import io
from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure as Chart

from pipelines import storage
from trainer.benchmarks.metrics.figure import Figure

_COLOURS = ("#1d64d8", "#d6293e", "#12833c", "#b45309", "#9333c9", "#0e7490")
_INK, _GRID = "#1c2024", "#d5d9de"
_DPI = 100


def write_curve(path: str, name: str, figures: Mapping[int, Mapping[str, Figure]]) -> None:
    """Draw the figures of one benchmark.

    Args:
        path: The file.
        name: Title.
        figures: By the number of shots, then by the metric.
    """
    numbers = sorted(figures)
    metrics = list(dict.fromkeys(metric for number in numbers for metric in figures[number]))
    chart = Chart(figsize=(6.0, 3.6), dpi=_DPI, layout="constrained", facecolor="white")
    axes = chart.add_subplot()
    for metric, colour in zip(metrics, _COLOURS, strict=False):
        found = [(number, figures[number][metric]) for number in numbers if metric in figures[number]]
        at = [number for number, _ in found]
        axes.plot(at, [figure.value for _, figure in found], color=colour, marker="o", markersize=4, label=metric)
        spans = [(n, f.low, f.high) for n, f in found if f.low is not None and f.high is not None]
        if spans:
            across, low, high = (list(values) for values in zip(*spans, strict=True))
            axes.fill_between(across, low, high, color=colour, alpha=0.15, linewidth=0)
        chances = [(number, figure.chance) for number, figure in found if figure.chance is not None]
        if chances:
            style: dict[str, Any] = {"color": colour, "linestyle": (0, (4, 3)), "linewidth": 0.9}
            axes.plot(*zip(*chances, strict=True), label=f"{metric}, by chance", **style)
    axes.set_title(name, fontsize=11, loc="left", color=_INK)
    axes.set_xlabel("shots", fontsize=9)
    axes.set_xticks(numbers)
    axes.tick_params(labelsize=8)
    axes.grid(color=_GRID, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    buffer = io.BytesIO()
    chart.savefig(buffer, format="png", metadata={"Software": None})
    storage.write_bytes(path, buffer.getvalue())
