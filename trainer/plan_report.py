"""What a mixture will do, before anything runs: passes of each source, when one runs dry, fill, tokens and pictures.

The plan itself is gone through, for as many steps as take a few seconds; what lies beyond goes on at the pace of the
phase that it is in.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from pipelines.errors import UserError
from trainer.plan import Plan
from trainer.steps import Stretch

STEPS_GONE_THROUGH = 2000


@dataclass
class SourceReport:
    """One source. `dry_at` is the step in which its first pass ends; null where it does not."""

    name: str
    kind: str
    num_samples: int
    num_refused: int
    samples: float = 0.0
    windows: float = 0.0
    tokens: float = 0.0
    images: float = 0.0
    dry_at: int | None = None
    max_passes: float | None = None

    @property
    def passes(self) -> float:
        """How often it is gone through."""
        return self.samples / self.num_samples if self.num_samples else 0.0


@dataclass
class PlanReport:
    """What a plan does in a number of steps."""

    num_steps: int
    num_planned: int
    places: int  # of a step, padding included
    sources: list[SourceReport]
    phases: list[str] = field(default_factory=list)
    imbalance: float = 1.0
    exhausted: str | None = None

    @property
    def tokens(self) -> float:
        """Places taken in all steps."""
        return sum(s.tokens for s in self.sources)

    @property
    def images(self) -> float:
        """Pictures in all steps."""
        return sum(s.images for s in self.sources)

    @property
    def fill(self) -> float:
        """Share of places that are taken."""
        return self.tokens / (self.places * self.num_steps)

    def __str__(self) -> str:
        """A table for people."""
        tokens, images = max(self.tokens, 1), self.images
        lines = [
            f"{self.num_steps:,} steps of {self.places:,} places: {self.tokens:,.0f} tokens, {images:,.0f} pictures; "
            f"a step {self.tokens / self.num_steps:,.0f} and {images / self.num_steps:,.1f}",
            f"fill {self.fill:.2%}; the costliest step costs {self.imbalance:.3f} times the mean",
            *self.phases,
            f"{'source':24} {'kind':12} {'samples':>12} {'passes':>8} {'first ends':>11} {'tokens':>16} {'share':>7} "
            f"{'pictures':>12}",
        ]
        for s in self.sources:
            dry = f"step {s.dry_at:,}" if s.dry_at is not None else "-"
            lines.append(
                f"{s.name:24} {s.kind:12} {s.num_samples:12,} {s.passes:8.2f} {dry:>11} {s.tokens:16,.0f} "
                f"{s.tokens / tokens:7.2%} {s.images:12,.0f}"
                + (f"   {s.num_refused:,} samples left out" if s.num_refused else "")
            )
        if self.num_planned < self.num_steps:
            lines.append("planned are the first steps of each phase; the rest goes on at their pace")
        if self.exhausted:
            lines.append(f"WARNING: {self.exhausted}")
        return "\n".join(lines)


def report_plan(plan: Plan, num_steps: int, *, max_planned: int = STEPS_GONE_THROUGH) -> PlanReport:
    """Go through the first steps of a plan and reckon what all of them do.

    Args:
        plan: At its beginning; it is moved on.
        num_steps: Of the run.
        max_planned: Steps to go through at most, in each phase.
    """
    sources = [
        SourceReport(s.name, s.kind, s.num_samples, len(s.refused), max_passes=plan.max_passes.get(s.name))
        for s in plan.sources
    ]
    report = PlanReport(num_steps, 0, plan.settings.length * plan.settings.packs_per_step, sources)
    starts = [p.step for p in plan.phases if p.step < num_steps]
    worst: list[float] = []
    state = plan.state
    done = state.step
    for begin, end in zip(starts, [*starts[1:], num_steps], strict=True):
        phase = next(p for p in plan.phases if p.step == begin)
        weights = ", ".join(f"{name} {weight:g}" for name, weight in phase.weights.items() if weight)
        report.phases.append(f"from step {begin:,} by {phase.unit}: {weights}")
        planned = _Amounts(len(sources))
        first = done
        while done < end and done - first < max_planned and report.exhausted is None:
            try:
                stretch = plan.plan_stretch(state)
            except UserError as error:
                report.exhausted = str(error)
                break
            share = min(1.0, (end - done) / len(stretch.steps))  # a stretch may reach beyond the last step
            planned.add(stretch, share)
            worst += _step_costs(plan, stretch)
            _note_ends(sources, stretch)
            state = stretch.end
            done = min(stretch.end.step, end)
            report.num_planned = max(report.num_planned, done)
        if done > first:
            planned.spread(sources, (end - first) / (done - first))
        _extrapolate_ends(sources, planned, first, done, end)
        if done < end:
            done = end  # only amounts are asked of what follows, so nothing need be drawn on the way
            state = replace(state, step=end, stretch_step=end, stretch_steps=None)
    report.imbalance = float(max(worst) / np.mean(worst)) if worst else 1.0
    for s in sources:
        if report.exhausted is None and s.max_passes is not None and s.passes > s.max_passes:
            report.exhausted = f"{s.name}: {s.passes:.2f} passes are needed, mixture.max_passes allows {s.max_passes:g}"
    return report


class _Amounts:
    """What the stretches of a phase hold of each source."""

    def __init__(self, num_sources: int) -> None:
        self.samples, self.windows, self.tokens, self.images = (np.zeros(num_sources) for _ in range(4))

    def add(self, stretch: Stretch, share: float) -> None:
        n = len(self.samples)
        self.samples += share * np.bincount(stretch.sources[stretch.windows == 0], minlength=n)
        self.windows += share * np.bincount(stretch.sources, minlength=n)
        self.tokens += share * np.bincount(stretch.sources, stretch.tokens, n)
        self.images += share * np.bincount(stretch.sources, stretch.images, n)

    def spread(self, sources: Sequence[SourceReport], factor: float) -> None:
        """Add them to the reports, for as many steps as the phase has."""
        for i, s in enumerate(sources):
            s.samples += factor * float(self.samples[i])
            s.windows += factor * float(self.windows[i])
            s.tokens += factor * float(self.tokens[i])
            s.images += factor * float(self.images[i])


def _step_costs(plan: Plan, stretch: Stretch) -> list[float]:
    costs, tokens = plan.costs, stretch.tokens.astype(float)
    of_piece = costs.per_token * tokens + costs.per_pair * tokens**2 + costs.per_image * stretch.images
    return [float(sum(of_piece[stretch.packs[p]].sum() for p in step)) for step in stretch.steps]


def _note_ends(sources: Sequence[SourceReport], stretch: Stretch) -> None:
    for i, s in enumerate(sources):
        if s.dry_at is None and s.num_samples and stretch.end.drawn[i] >= s.num_samples:
            s.dry_at = stretch.end.step


def _extrapolate_ends(sources: Sequence[SourceReport], planned: _Amounts, first: int, done: int, end: int) -> None:
    """In which step the first pass ends, of sources whose pass goes on beyond what was planned."""
    for i, s in enumerate(sources):
        rate = planned.samples[i] / max(1, done - first)
        if s.dry_at is None and rate and s.samples >= s.num_samples:
            s.dry_at = int(end - (s.samples - s.num_samples) / rate)
