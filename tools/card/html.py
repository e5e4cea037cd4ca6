"""`card.html`: one file that needs no network and no script, light and dark, and fit to print."""

import base64
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pipelines.document import Role
from tools import numbers
from tools.card import charts, view
from tools.card.answers import Answers, groups, label
from tools.card.facts import Facts
from tools.card.queries import SIDES
from tools.card.samples import Block, Shown

_SECTIONS = {
    "samples": "Samples",
    "funnel": "Funnel",
    "sources": "Sources",
    "languages": "Languages, domains",
    "permission": "Permission",
    "licences": "Licences",
    "shapes": "Shapes",
    "scores": "Scores",
    "duplicates": "Duplicates",
    "changes": "Changes",
    "people": "People",
    "limits": "Limits",
    "origins": "Queries",
}
_ROLES = frozenset(Role.__args__)  # type: ignore[attr-defined]


def render_html(facts: Facts, answers: Answers, samples: Sequence[Shown], changes: Mapping[str, Any] | None) -> str:
    """Return the page; everything from the corpus is escaped, and cut where it could be of any length.

    Args:
        facts: The corpus's facts.
        answers: What people say.
        samples: Samples to show.
        changes: The fact `changes`, if another version was compared.
    """
    environment = Environment(
        loader=PackageLoader("tools.card"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": numbers.count,
        "size": numbers.size,
        "day": numbers.day,
        "clock": numbers.clock,
        "duration": numbers.duration,
        "some": lambda value: numbers.count(value) if value else "",
        "decimals": lambda value: "–" if value is None else f"{value:.3f}",
        "role": lambda role: role if role in _ROLES else "other",
    }
    style = environment.loader.get_source(environment, "card.css")[0]  # type: ignore[union-attr]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    sources = view.sources(facts)
    kinds = {source.name: source.kind for source in sources}
    moving = [row for row in facts["scores"] if row["min"] != row["max"]]
    of_kind = {kind: [sample for sample in samples if sample.kind == kind] for kind in view.KIND_NAMES}
    of_kind |= {s.kind: [x for x in samples if x.kind == s.kind] for s in samples if s.kind not in of_kind}
    return environment.get_template("card.html").render(
        style=Markup(style),
        style_hash=f"sha256-{digest}",
        facts=facts,
        origin=facts.origin,
        answers={name: found for name, _, found in answers.items()},
        questions={name: question for name, question, _ in answers.items()},
        groups=groups(),
        label=label,
        num_questions=len(Answers.model_fields),
        unanswered=answers.unanswered,
        samples_by_kind=[(kind, shown) for kind, shown in of_kind.items() if shown],
        has_boxes=any(block.boxes for sample in samples for block in sample.blocks),
        changes=changes,
        sections=[item for item in _SECTIONS.items() if item[0] != "changes" or changes],
        headline=view.headline(facts),
        sources=sources,
        largest_source=max((source.samples for source in sources), default=0),
        splits_of=lambda row: [row.splits.get(split, 0) for split in view.SPLITS],
        tokenizer=view.first_tokenizer(facts),
        num_tokens=view.num_tokens(facts),
        datasets_differ={row["value"] for row in facts["datasets"]} != set(kinds),
        collection=view.collection(facts),
        limits=view.limits(facts),
        is_foreign=view.is_foreign(facts),
        kind_names=view.KIND_NAMES,
        named=view.named,
        named_license=lambda row: view.named(row, "none found"),
        image_license=view.image_license,
        percent=numbers.percent,
        counted=numbers.counted,
        period=view.period(facts),
        bar=charts.bar,
        stacked=charts.stacked_bar,
        frames=_frames,
        funnel=charts.funnel(facts["funnel"], kinds),
        domain_columns=_domain_columns(facts),
        side_columns=_side_columns(facts),
        length_charts=[(row, _length_columns(facts, row["name"])) for row in facts["text_lengths"]],
        several_images=[row for row in facts["images_per_sample"] if row["max"] > 1],
        score_charts=[(row, _score_columns(facts, row["name"])) for row in moving[:18]],
        constant_scores=[row for row in facts["scores"] if row["min"] == row["max"]],
        month_columns=_month_columns(facts),
    )


def _frames(sample: Shown) -> Iterator[list[Block]]:
    """Yield the frames of a video, each with the cues up to the next."""
    held: list[Block] = []
    for block in sample.blocks:
        if not block.runs and any(not b.runs for b in held):
            yield held
            held = []
        held.append(block)
    if held:
        yield held


def _domain_columns(facts: Facts) -> Markup:
    values = [
        (f"{numbers.short(row['from_samples'])}+" if row["from_samples"] > 1 else "1–9", row["domains"])
        for row in facts["domain_sizes"]
    ]
    return charts.columns(values, width=420, height=150, kind="fill-c", title="Domains by number of samples")


def _side_columns(facts: Facts) -> Markup:
    found = {row["class"]: row["images"] for row in facts["image_sides"]}
    labels = ["<64", *map(str, SIDES)]
    used = range(min(found, default=0), max(found, default=-1) + 1)
    values = [(labels[i] + ("+" if i == len(SIDES) else ""), found.get(i, 0)) for i in used]
    return charts.columns(values, title="Images by their shorter side in pixels")


def _length_columns(facts: Facts, kind: str) -> Markup:
    found = {row["from_chars"]: row["samples"] for row in facts["text_length_bins"] if row["kind"] == kind}
    places = range(round(2 * math.log2(min(found))), round(2 * math.log2(max(found))) + 1)
    bins = dict.fromkeys(round(2 ** (place / 2)) for place in places)
    values = [(numbers.short(low), found.get(low, 0)) for low in bins]
    return charts.columns(values, title=f"Texts by length, {kind}")


def _score_columns(facts: Facts, name: str) -> Markup:
    rows = [row for row in facts["score_bins"] if row["name"] == name]
    if not rows:
        return Markup("")
    low, high = rows[0]["low"], rows[0]["high"]
    if low == high:  # they differ in less than the three digits that are counted
        return Markup("")
    found = {row["bin"]: row["num"] for row in rows}
    values = [(f"{low + (high - low) * i / 24:.3g}", found.get(i, 0)) for i in range(24)]
    return charts.columns(values, kind="fill-b", title=name)


def _month_columns(facts: Facts) -> Markup:
    values = [(row["month"], row["samples"]) for row in reversed(facts["months"][:36])]
    return charts.columns(values, width=420, height=110, kind="fill-d", title="Samples by month")
