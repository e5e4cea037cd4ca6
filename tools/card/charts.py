"""Diagrams of the card as SVG: no script, no style of their own, colours by classes of the page's style sheet."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from tools.numbers import count, short

WIDTH = 960
MAX_LANES = 12
"""Sources and crawls in the diagram of the funnel; a table has all."""

_STAGES = ("crawl", "extract", "fetch", "filter", "shard")
_LEFT, _RIGHT = 128, 92
_LANE, _FLOW, _TOP = 84, 34, 30
_MIN_DROP = 1.5
_WIDEST = 46


def bar(part: float, whole: float, kind: str = "fill-a") -> Markup:
    """Return a bar that fills its cell by the share of a whole."""
    share = 0.0 if not whole else max(0.6 if part else 0.0, min(100.0, 100 * part / whole))
    return _svg(f'<rect class="{kind}" width="{share:.2f}" height="10" rx="0"/>', 100, 10, "bar", stretch=True)


def stacked_bar(parts: Sequence[float], whole: float) -> Markup:
    """Return a bar of parts side by side, in the colours of the splits."""
    at, drawn = 0.0, []
    for place, part in enumerate(parts):
        share = 100 * part / whole if whole else 0.0
        drawn.append(f'<rect class="split-{place}" x="{at:.2f}" width="{max(0.0, share):.2f}" height="10"/>')
        at += share
    return _svg("".join(drawn), 100, 10, "bar", stretch=True)


def columns(
    values: Sequence[tuple[str, float]], *, width: int = 300, height: int = 120, kind: str = "fill-a", title: str = ""
) -> Markup:
    """Return a histogram: columns side by side, the labels of the first, last and some between, the highest in figures.

    Args:
        values: Label and number of each column, in order.
        width: Width in pixels at which it is shown.
        height: Height likewise.
        kind: Class of the columns.
        title: What it shows, for those who do not see it.
    """
    if not values:
        return Markup("")
    top, bottom = 16, 20
    highest = max(value for _, value in values) or 1
    step = min(width / len(values), _WIDEST)
    gap = min(2.0, step * 0.15)
    every = max(1, math.ceil(40 / step))
    drawn = [f'<line class="axis" x1="0" x2="{step * len(values):.1f}" y1="{height - bottom}" y2="{height - bottom}"/>']
    for place, (label, value) in enumerate(values):
        tall = (height - top - bottom) * value / highest
        tall = max(tall, 1.0) if value else 0.0
        x = place * step
        hint = f"<title>{escape(label)}: {count(value)}</title>"
        drawn.append(
            f'<rect class="{kind}" x="{x + gap / 2:.2f}" y="{height - bottom - tall:.2f}" width="{step - gap:.2f}"'
            f' height="{tall:.2f}">{hint}</rect>'
        )
        if value == highest and not any("peak" in line for line in drawn):
            anchor = "start" if x + step / 2 < 20 else "middle" if x + step / 2 < width - 20 else "end"
            middle = {"start": x, "end": x + step}.get(anchor, x + step / 2)
            drawn.append(
                f'<text class="peak" x="{middle:.1f}" y="{height - bottom - tall - 4:.1f}"'
                f' text-anchor="{anchor}">{escape(short(value))}</text>'
            )
        if place % every == 0:
            drawn.append(
                f'<text class="tick" x="{x + step / 2:.1f}" y="{height - 5}" text-anchor="middle">'
                f"{escape(label)}</text>"
            )
    return _svg("".join(drawn), width, height, "columns", title=title)


def funnel(rows: Sequence[Mapping[str, Any]], kinds: Mapping[str, str]) -> Markup:
    """Return the flow of pages and documents through the stages: a lane for each crawl and source.

    The height of a flow is its share of what its lane began with; what a stage dropped leaves it downwards, at least a
    line wide.

    Args:
        rows: The funnel of the manifest.
        kinds: Kind of each source; others are crawls.
    """
    lanes: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["unit"] == ("page" if row["source"] not in kinds else "document") or row["unit"] == "sample":
            lanes.setdefault(row["source"], []).append(row)
    chosen = sorted(lanes, key=lambda name: -lanes[name][0]["in"])[:MAX_LANES]
    lanes = {name: lane for name, lane in lanes.items() if name in chosen}
    step = (WIDTH - _LEFT - _RIGHT) / len(_STAGES)
    drawn = [
        f'<text class="stage" x="{_LEFT + step * (place + 0.5):.0f}" y="14" text-anchor="middle">{stage}</text>'
        for place, stage in enumerate(_STAGES)
    ]
    drawn += [
        f'<line class="grid" x1="{_LEFT + step * place:.0f}" x2="{_LEFT + step * place:.0f}" y1="22"'
        f' y2="{_TOP + _LANE * len(lanes)}"/>'
        for place in range(len(_STAGES) + 1)
    ]
    for number, (name, lane) in enumerate(lanes.items()):
        drawn.append(_lane(name, kinds.get(name, "crawl"), lane, _TOP + number * _LANE, step))
    title = "How many candidates each stage took in, kept and dropped"
    return _svg("".join(drawn), WIDTH, _TOP + _LANE * len(lanes) + 6, "funnel", title=title)


def _lane(name: str, kind: str, rows: Sequence[Mapping[str, Any]], y: int, step: float) -> str:
    most = max(row["in"] for row in rows) or 1
    base = y + 16
    cut = name if len(name) <= 20 else name[:19] + "…"
    drawn = [
        f'<text class="lane" x="0" y="{base + 14}">{escape(cut)}</text>',
        f'<text class="tick" x="0" y="{base + 30}">{escape(kind)}</text>',
    ]
    for row in rows:
        place = _STAGES.index(row["stage"]) if row["stage"] in _STAGES else 0
        x0, x1 = _LEFT + step * place, _LEFT + step * (place + 1)
        tall, kept = (_FLOW * row[key] / most for key in ("in", "kept"))
        dropped = sum(row["dropped"].values())
        hint = (
            f"<title>{escape(name)}, {escape(row['stage'])}: {count(row['in'])} in, {count(row['kept'])} kept</title>"
        )
        drawn.append(
            f'<rect class="kept" x="{x0:.1f}" y="{base}" width="{step:.1f}" height="{max(kept, 0.6):.2f}">{hint}</rect>'
        )
        drawn.append(f'<text class="count" x="{x0 + 4:.1f}" y="{base - 4}">{escape(count(row["in"]))}</text>')
        if dropped:
            drawn.append(_dropped(row, dropped, x0, x1, base, kept, tall))
    last = rows[-1]
    at = _LEFT + step * (_STAGES.index(last["stage"]) + 1 if last["stage"] in _STAGES else 1)
    words = "samples" if last["unit"] == "sample" else f"{last['unit']}s"
    drawn.append(f'<text class="total" x="{at + 10:.1f}" y="{base + 15}">{escape(count(last["kept"]))}</text>')
    drawn.append(f'<text class="tick" x="{at + 10:.1f}" y="{base + 30}">{escape(words)}</text>')
    return "".join(drawn)


def _dropped(row: Mapping[str, Any], dropped: int, x0: float, x1: float, base: int, kept: float, tall: float) -> str:
    """Return what a stage dropped: a flow that bends down, its number and its most frequent reason."""
    thick = max(_MIN_DROP, tall - kept)
    bend, end, out = x0 + 16, x0 + 32, base + _FLOW + 8
    top = base + kept
    path = (
        f"M{x0:.1f},{top:.2f} C{bend:.1f},{top:.2f} {bend:.1f},{out:.1f} {end:.1f},{out:.1f}"
        f" L{end:.1f},{out + thick:.2f} C{bend - 6:.1f},{out + thick:.2f} {bend - 6:.1f},{top + thick:.2f}"
        f" {x0:.1f},{top + thick:.2f} Z"
    )
    reason, num = max(row["dropped"].items(), key=lambda item: (item[1], item[0]))
    others = len(row["dropped"]) - 1
    more = f" +{others}" if others else ""
    room = int((x1 - end - 6) / 5.2)
    words = reason.replace("_", " ")
    words = words if len(words) + len(more) <= room else words[: max(3, room - len(more) - 1)] + "…"
    hint = f"<title>{escape(reason)}: {count(num)}{f' and {others} more reasons' if others else ''}</title>"
    return (
        f'<path class="dropped" d="{path}">{hint}</path>'
        f'<text class="lost" x="{end + 5:.1f}" y="{out + 1:.1f}">−{escape(count(dropped))}</text>'
        f'<text class="why" x="{end + 5:.1f}" y="{out + 13:.1f}">{escape(words + more)}</text>'
    )


def _svg(content: str, width: float, height: float, kind: str, *, stretch: bool = False, title: str = "") -> Markup:
    ratio = ' preserveAspectRatio="none"' if stretch else ""
    said = f'role="img" aria-label="{escape(title)}"' if title else 'aria-hidden="true"'
    return Markup(f'<svg class="{kind}" viewBox="0 0 {width:g} {height:g}"{ratio} {said}>{content}</svg>')
