"""`loss.png`: the loss curves of a run and of the runs in its subfolders, from their `metrics.jsonl`."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipelines import storage
from trainer.engine.metrics import read_metrics

_SMOOTHING = 0.02  # standard deviation of the Gaussian that smooths curves, as a fraction of the steps
_COLOURS = ("#1d64d8", "#d6293e", "#12833c", "#b45309", "#9333c9", "#0e7490", "#be185d", "#4d7c0f")
_INK, _GRID = "#1c2024", "#d5d9de"
_DPI = 100
_MAX_POINTS = 2000  # points per curve; the others are left out

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart: an objective of a run, with one curve per source."""

    folder: str
    objective: str
    title: str


PANELS = (
    Panel("", "ce", "Next token: cross-entropy (nats)"),
    Panel("", "regression", "Next visual embedding: squared error"),
    Panel("encoder", "contrastive", "Encoder: contrastive loss"),
    Panel("autoencoder", "reconstruction", "Autoencoder: reconstruction"),
    Panel("decoder", "diffusion", "Image decoder: diffusion loss"),
    Panel("video_decoder", "diffusion", "Video decoder: diffusion loss"),
)


def write_loss_chart(run: str) -> None:
    """Draw the curves of all logged steps into the run's folder; write nothing if there are none."""
    found = [
        (panel, rows)
        for panel in PANELS
        if (rows := read_metrics(storage.join(run, *filter(None, (panel.folder, "metrics.jsonl")))))
        and _curves(rows, panel.objective)
    ]
    if not found:
        return
    sources = list(dict.fromkeys(name for panel, rows in found for name in _curves(rows, panel.objective)))
    colours = {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(sources)}
    num_rows = math.ceil(len(found) / 2)
    columns = min(2, len(found))
    figure = Figure(figsize=(6.0 * columns, 3.6 * num_rows), dpi=_DPI, layout="constrained", facecolor="white")
    for number, (panel, rows) in enumerate(found, 1):
        _draw(figure.add_subplot(num_rows, columns, number), panel, rows, colours)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    storage.write_bytes(storage.join(run, "loss.png"), buffer.getvalue())


def _draw(axes: Axes, panel: Panel, rows: Sequence[Row], colours: dict[str, str]) -> None:
    smoothed = []
    for name, (steps, losses) in _curves(rows, panel.objective).items():
        axes.plot(steps, losses, color=colours[name], alpha=0.18, linewidth=0.8)
        smoothed += smooth(steps, losses)
        axes.plot(steps, smoothed[-len(steps) :], color=colours[name], linewidth=1.6, label=name)
    held_out = _curves(rows, f"held_out_{panel.objective}")
    marker: dict[str, Any] = {"marker": "o", "markersize": 3.5, "markerfacecolor": "white", "linestyle": ""}
    for name, points in held_out.items():
        axes.plot(*points, color=colours.get(name, _INK), **marker)
    if held_out:
        axes.plot([], [], color=_INK, label="held out", **marker)
    # Limits from the curves only: a held-out loss may be far above while a stage does not train on its source.
    low, high = min(smoothed), max(smoothed)
    margin = 0.06 * (high - low) or 0.1
    axes.set_ylim(low - margin, high + margin)
    for step, name in stage_borders(rows):
        axes.axvline(step, color=_INK, linewidth=0.8, linestyle=(0, (4, 3)), alpha=0.6)
        axes.annotate(name, (step, high), (4, 0), textcoords="offset points", fontsize=8, va="center", color=_INK)
    axes.set_title(panel.title, fontsize=11, loc="left", color=_INK)
    axes.set_xlabel("step", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(color=_GRID, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False, loc="upper right")


def _curves(rows: Sequence[Row], objective: str) -> dict[str, tuple[list[int], list[float]]]:
    """Return steps and losses of each source."""
    curves: dict[str, tuple[list[int], list[float]]] = {}
    for row in rows[:: len(rows) // _MAX_POINTS + 1]:
        for key, value in row.items():
            name, _, source = key.partition("/")
            if name == objective and source and value is not None:
                steps, losses = curves.setdefault(source, ([], []))
                steps.append(row["step"])
                losses.append(value)
    return curves


def stage_borders(rows: Sequence[Row]) -> list[tuple[int, str]]:
    """Return the first step and the name of each stage; nothing if there is only one."""
    borders: list[tuple[int, str]] = []
    for row in rows:
        if (stage := row.get("stage")) is not None and (not borders or borders[-1][1] != stage):
            borders.append((row["step"], stage))
    return borders if len(borders) > 1 else []


def smooth(steps: Sequence[int], losses: Sequence[float]) -> list[float]:
    """Smooth losses by means over neighbouring steps, weighted by a Gaussian of their distance."""
    at = np.asarray(steps, np.float64)
    distances = (at[:, None] - at) / max(1e-9, _SMOOTHING * (at[-1] - at[0]))
    weights = np.exp(-0.5 * distances**2)
    smoothed: list[float] = ((weights @ np.asarray(losses)) / weights.sum(1)).tolist()
    return smoothed
