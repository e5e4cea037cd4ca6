"""Plots of a suggestion: weights before and with it, and the losses that it rests on."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipelines import storage
from tools.mixture.runs import RunLosses
from tools.mixture.suggestion import Suggestion

_BEFORE, _WITH, _INK, _GRID = "#8b98a5", "#1d64d8", "#1c2024", "#d5d9de"
_COLOURS = ("#1d64d8", "#d6293e", "#12833c", "#b45309", "#9333c9", "#0e7490", "#be185d", "#4d7c0f")


def write_plot(
    path: str,
    suggestion: Suggestion,
    before: Mapping[str, float],
    shares: Mapping[str, float],
    runs: Sequence[RunLosses],
) -> None:
    """Draw a suggestion as PNG.

    Args:
        path: File to write, local or an fsspec URL.
        suggestion: The suggestion.
        before: Shares before it.
        shares: Shares with it, within all limits.
        runs: The runs that it rests on; the last may be a reference.
    """
    columns = 3 if suggestion.fit is not None else 2
    figure = Figure(figsize=(4.6 * columns, 3.8), dpi=110, layout="constrained", facecolor="white")
    names = list(shares)
    bars = [(before.get(name, 0.0), shares[name]) for name in names]
    _bars(figure.add_subplot(1, columns, 1), names, bars, "Shares of the tokens", percent=True)
    if suggestion.fit is not None:
        losses = suggestion.losses
        axes = figure.add_subplot(1, columns, 2)
        _bars(axes, list(losses), list(losses.values()), "Predicted held-out losses")
        axes.set_xlim(left=0.9 * min(map(min, losses.values())))
        _predictions(figure.add_subplot(1, columns, 3), suggestion)
    else:
        _curves(figure.add_subplot(1, columns, 2), runs)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    storage.write_bytes(path, buffer.getvalue())


def _bars(
    axes: Axes, names: Sequence[str], pairs: Sequence[tuple[float, float]], title: str, *, percent: bool = False
) -> None:
    at = np.arange(len(names))
    for offset, label, colour, values in (
        (-0.2, "before", _BEFORE, [a for a, _ in pairs]),
        (0.2, "suggested", _WITH, [b for _, b in pairs]),
    ):
        drawn = axes.barh(at + offset, values, 0.38, color=colour, label=label)
        axes.bar_label(drawn, [f"{v:.1%}" if percent else f"{v:.3f}" for v in values], fontsize=7, padding=2)
    axes.set_yticks(at, names, fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.18)
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    _finish(axes, title)
    axes.grid(visible=False, axis="y")


def _predictions(axes: Axes, suggestion: Suggestion) -> None:
    """Draw each run's mean loss against what a fit without it predicts."""
    found = suggestion.fit
    assert found is not None
    mean, predicted = found.losses @ suggestion.targets, found.left_out @ suggestion.targets
    ends = [min(mean.min(), predicted.min()), max(mean.max(), predicted.max())]
    axes.plot(ends, ends, color=_INK, linewidth=0.8, linestyle=(0, (4, 3)), alpha=0.6)
    axes.plot(mean, predicted, color=_WITH, marker="o", markersize=5, markerfacecolor="white", linestyle="")
    axes.set_xlabel("mean held-out loss of a run", fontsize=9)
    axes.set_ylabel("predicted without that run", fontsize=9)
    _finish(axes, f"Cross-validation: error {suggestion.error:.3f}")


def _curves(axes: Axes, runs: Sequence[RunLosses]) -> None:
    """Draw held-out losses over tokens, those of a reference dashed."""
    names = list(runs[0].last.losses)
    for number, run in enumerate(runs):
        for i, name in enumerate(names):
            points = [(point.tokens, point.losses[name]) for point in run.held_out if name in point.losses]
            line: dict[str, Any] = {"linestyle": (0, (4, 3)), "linewidth": 1.0} if number else {"label": name}
            axes.plot(*zip(*points, strict=True), color=_COLOURS[i % len(_COLOURS)], marker="o", markersize=3, **line)
    axes.set_xscale("log")
    axes.set_xlabel("tokens" + (" (reference dashed)" if len(runs) > 1 else ""), fontsize=9)
    axes.legend(fontsize=8, frameon=False)
    _finish(axes, "Held-out losses")


def _finish(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=11, loc="left", color=_INK)
    axes.tick_params(labelsize=8)
    axes.grid(color=_GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
