"""Forecast of a mixture before training: epochs over each source and their ends, packing efficiency, tokens per step.

For streams only the shares are known.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from model.emu import Emu
from trainer.engine.flops import ModelFlops
from trainer.engine.metrics import Totals
from trainer.plan.mixture import Phase
from trainer.plan.plan import Plan
from trainer.plan.steps import Costs, Step
from trainer.reading.streamed_tars import Tars
from trainer.tasks.data import CorpusData, StreamData

_BUFFERS = 8  # packing buffers planned per phase; the others are assumed to be alike


@dataclass(frozen=True)
class PhaseForecast:
    """A phase of the mixture.

    Attributes:
        first: First step of the phase.
        num_steps: Number of its steps.
        samples: Samples per step, for each source.
        tokens: Tokens per step, for each source.
        images: Images per step, for each source.
        fill: Fraction of the packed sequences' positions that are used.
    """

    first: int
    num_steps: int
    samples: tuple[float, ...]
    tokens: tuple[float, ...]
    images: tuple[float, ...]
    fill: float


def forecast(data: CorpusData) -> list[PhaseForecast]:
    """Forecast each phase from the plan of its first packing buffers."""
    with torch.device("meta"):
        costs = ModelFlops.of(Emu(data.model)).costs()
    phases, steps = data.run.mixture.phases, data.run.steps
    ends = [*(phase.step for phase in phases[1:]), steps]
    return [
        _of_phase(data, phase, min(end, steps) - phase.step, costs)
        for phase, end in zip(phases, ends, strict=True)
        if phase.step < steps
    ]


def _of_phase(data: CorpusData, phase: Phase, num_steps: int, costs: Costs) -> PhaseForecast:
    settings = data.run.data.plan
    starts = [phase.model_copy(update={"step": 0}), phase.model_copy(update={"step": num_steps})]
    plan = Plan(data.sources, settings, starts, data.fingerprint, costs=costs)
    total, planned = Totals(), 0
    for step in _steps(plan, num_steps):
        total += Totals.of(step, len(data.sources))
        planned += 1
    columns = zip(*total.by_source, strict=True)
    samples, tokens, images = (tuple(value / planned for value in column) for column in columns)
    fill = total.tokens / (planned * settings.global_batch_size * settings.seq_len)
    return PhaseForecast(phase.step, num_steps, samples, tokens, images, fill)


def _steps(plan: Plan, num_steps: int) -> Iterator[Step]:
    buffers = 0
    for step in plan:
        yield step
        buffers += step.number + 1 == step.buffer.end.step
        if buffers == _BUFFERS or step.number + 1 == num_steps:
            return


def describe(data: CorpusData, phases: Sequence[PhaseForecast]) -> str:
    """Return a forecast as text."""
    lines = []
    done = [0.0] * len(data.sources)
    for phase in phases:
        per_step = (sum(phase.samples), sum(phase.tokens), sum(phase.images))
        lines.append(
            f"steps {phase.first:,} to {phase.first + phase.num_steps - 1:,}: per step {per_step[0]:,.1f} samples, "
            f"{per_step[1]:,.0f} tokens, {per_step[2]:,.1f} images; packed sequences are {phase.fill:.1%} full"
        )
        lines.append(f"  {'source':24} {'samples':>12} {'of':>12} {'tokens':>15} {'images':>12} {'epochs':>8}")
        rows = zip(data.sources, phase.samples, phase.tokens, phase.images, strict=True)
        for number, (source, samples, tokens, images) in enumerate(rows):
            if not samples:
                continue
            before, drawn = done[number], samples * phase.num_steps
            done[number] += drawn
            epochs = done[number] / source.num_samples
            line = f"  {source.name:24} {drawn:12,.0f} {source.num_samples:12,} {tokens * phase.num_steps:15,.0f}"
            line += f" {images * phase.num_steps:12,.0f} {epochs:8.2f}"
            limit = data.run.mixture.max_epochs.get(source.name)
            end = phase.first + (source.num_samples * (limit or 1) - before) / samples
            if limit is not None and epochs > limit:
                line += f"  exhausted at about step {end:,.0f}: mixture.max_epochs is {limit:g}"
            elif before < source.num_samples < done[number]:
                line += f"  first epoch ends at about step {end:,.0f}"
            lines.append(line)
    for source in data.sources:
        if source.refused:
            lines.append(f"{source.name}: {len(source.refused):,} samples are left out (not allowed, or too large)")
    return "\n".join(lines)


def describe_streams(data: StreamData) -> str:
    """Return what is known of a run on streams, as text."""
    run, plan = data.run, data.run.data.plan
    ends = [*(phase.step for phase in run.mixture.phases[1:]), run.steps]
    lines = [f"order: {data.order}; the size of streams, thus epochs and fill, is unknown before they are read"]
    for phase, end in zip(run.mixture.phases, ends, strict=True):
        if phase.step >= run.steps:
            break
        lines.append(
            f"steps {phase.step:,} to {min(end, run.steps) - 1:,}: per step {plan.global_batch_size:,} packed "
            f"sequences of {plan.seq_len:,} tokens"
        )
        lines.append(f"  {'stream':24} {'of samples':>12} {'tars':>12}")
        tars = {name: len(Tars.of(urls).urls) for name, urls in run.data.streams.items()}
        lines += [f"  {name:24} {share:12.2%} {tars[name]:12,}" for name, share in phase.weights.items() if share]
    return "\n".join(lines)
