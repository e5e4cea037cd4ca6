"""Dry run of the trainer's own plan, packing buffer by packing buffer, without a model and without reading a sample."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from model.config import EmuConfig
from model.emu import Emu
from pipelines.errors import UserError
from tools.output import Section, print_sections, say, short, track, write_json
from trainer.engine.flops import ModelFlops
from trainer.plan.mixture import MixtureSettings, PhaseStart
from trainer.plan.order import I64
from trainer.plan.plan import Plan
from trainer.plan.steps import PackingBuffer
from trainer.tasks.data import TrainingData

COLUMNS = ("samples", "tokens", "images", "pairs")  # pairs: of causal attention, half the squared lengths of windows


@dataclass
class PhaseDrawn:
    """What was drawn in a phase.

    Attributes:
        phase: The phase.
        num_steps: Number of its steps so far.
        sums: (S, 4) `COLUMNS` of each source.
    """

    phase: PhaseStart
    num_steps: int
    sums: np.ndarray

    def shares(self, names: tuple[str, ...]) -> dict[str, float]:
        """Return the share of each source in the unit of the phase."""
        column = self.sums[:, COLUMNS.index(self.phase.unit)]
        return dict(zip(names, (column / max(1.0, float(column.sum()))).tolist(), strict=True))


@dataclass
class Simulation:
    """What a plan draws.

    Attributes:
        data: The data that is planned.
        num_steps: Number of steps that were planned.
        phases: What was drawn in each phase.
        sums: (S, 4) `COLUMNS` of each source.
        flops: (S,) FLOPs of training on each source.
        first_epoch_ends: Step in which the first epoch of a source ends.
        ended: The reason why the plan ends early; None if it does not.
    """

    data: TrainingData
    num_steps: int = 0
    phases: list[PhaseDrawn] = field(default_factory=list)
    sums: np.ndarray = field(default_factory=lambda: np.zeros(0))
    flops: np.ndarray = field(default_factory=lambda: np.zeros(0))
    first_epoch_ends: dict[str, int] = field(default_factory=dict)
    ended: str | None = None

    @property
    def fill(self) -> float:
        """Part of the positions of all packed sequences that is used."""
        plan = self.data.run.data.plan
        return float(self.sums[:, 1].sum()) / max(1, self.num_steps * plan.global_batch_size * plan.seq_len)

    def add(self, buffer: PackingBuffer, flops: ModelFlops) -> None:
        """Count a packing buffer."""
        run, num = self.data.run, len(self.data.sources)
        of_steps = sums_by_step(buffer, num)
        phase = buffer.phase or buffer.start.phase
        assert phase is not None, "a packing buffer is in a phase"
        if not self.phases or self.phases[-1].phase != phase:
            self.phases.append(PhaseDrawn(phase, 0, np.zeros((num, len(COLUMNS)))))
        self.phases[-1].num_steps += len(of_steps)
        self.phases[-1].sums += of_steps.sum(0)
        first = buffer.start.buffer_step
        stages = np.array([run.stage_at(step) for step in range(first, first + len(of_steps))])
        for stage in np.unique(stages).tolist():
            sums = of_steps[stages == stage].sum(0)
            self.flops += [
                flops.step(tokens, pairs, self._targets(source, tokens, images), images, run.stages[stage].lr)
                for source, (_, tokens, images, pairs) in enumerate(sums.tolist())
            ]
        reached = self.sums[:, 0] + of_steps[:, :, 0].cumsum(0)  # (steps, S)
        for source, windows in enumerate(self.data.sources):
            done = np.flatnonzero(reached[:, source] >= windows.num_samples)
            if len(done) and windows.num_samples:
                self.first_epoch_ends.setdefault(windows.name, first + int(done[0]))
        self.sums += of_steps.sum(0)
        self.num_steps = buffer.end.step

    def _targets(self, source: int, tokens: float, images: float) -> float:
        """Return the text targets: about all positions but the slots of images."""
        slots = self.data.layout.slots[self.data.sources[source].kind == "video"]
        return max(0.0, tokens - slots * images)


def simulate(data: TrainingData, mixture: MixtureSettings, num_steps: int) -> Simulation:
    """Plan the first steps of a run with a mixture.

    Raises:
        UserError: If the mixture does not fit the corpus.
    """
    run = data.run.model_copy(update={"mixture": mixture, "steps": num_steps})
    data = TrainingData(run, data.tokenizer, data.model, data.corpus, data.sources, data.fingerprint, data.layout)
    flops = model_flops(data.model)
    num = len(data.sources)
    result = Simulation(data, sums=np.zeros((num, len(COLUMNS))), flops=np.zeros(num))
    plan = data.plan(flops.costs())
    try:
        for buffer in track(_buffers(plan, num_steps), num_steps, "steps", size=_num_steps):
            result.add(buffer, flops)
    except UserError as error:  # the names were checked by the plan: what is left is that a source is exhausted
        result.ended = str(error)
    return result


def model_flops(config: EmuConfig) -> ModelFlops:
    """Return the FLOPs of a model, from its shapes."""
    with torch.device("meta"):
        return ModelFlops.of(Emu(config))


def _buffers(plan: Plan, num_steps: int) -> Iterator[PackingBuffer]:
    while plan.state.step < num_steps:
        buffer = plan.plan_buffer(plan.state)
        yield buffer
        plan.state = buffer.end


def _num_steps(buffer: PackingBuffer) -> int:
    return buffer.end.step - buffer.start.buffer_step


def sums_by_step(buffer: PackingBuffer, num_sources: int) -> np.ndarray:
    """Return (steps, sources, 4) `COLUMNS` of a packing buffer; a sample counts with its first window."""
    of_pack = np.empty(len(buffer.packs), np.int64)
    for step, packs in enumerate(buffer.steps):
        of_pack[packs] = step
    of_chunk = np.empty(len(buffer.sources), np.int64)
    of_chunk[np.concatenate([np.array(pack, np.int64) for pack in buffer.packs])] = np.repeat(
        of_pack, [len(pack) for pack in buffer.packs]
    )
    cells: I64 = of_chunk * num_sources + buffer.sources
    size = len(buffer.steps) * num_sources
    tokens = buffer.tokens.astype(np.float64)
    columns = (
        np.bincount(cells[buffer.windows == 0], minlength=size),
        np.bincount(cells, tokens, size),
        np.bincount(cells, buffer.images, size),
        np.bincount(cells, tokens**2 / 2, size),
    )
    return np.stack(columns, axis=-1).reshape(len(buffer.steps), num_sources, len(COLUMNS)).astype(np.float64)


# --- output ---------------------------------------------------------------------------------------------------------


def show_simulation(
    result: Simulation, flops_per_hour: float, price: float | None, json_path: str | None, fingerprint: str
) -> None:
    """Show what a plan draws.

    Args:
        result: The simulation.
        flops_per_hour: FLOPs that a device does in an hour.
        price: Price of an hour of a device; None if unknown.
        json_path: File for programs.
        fingerprint: Hash of the corpus.
    """
    names, sizes = result.data.names, [source.num_samples for source in result.data.sources]
    for drawn in result.phases:
        shares, last = drawn.shares(names), drawn.phase.step + drawn.num_steps - 1
        rows = [
            [name, f"{weight:.4%}", f"{shares[name]:.4%}", f"{shares[name] - weight:+.4%}"]
            for name, weight in ((name, drawn.phase.weights.get(name, 0.0)) for name in names)
            if weight or shares[name]
        ]
        title = f"steps {drawn.phase.step:,} to {last:,}: shares of {drawn.phase.unit} ({drawn.phase.reason})"
        print_sections([Section(title, ("source", "asked", "drawn", "difference"), rows)])
    hours = result.flops / flops_per_hour
    columns = ["source", "samples", "images", "tokens", "of tokens", "epochs", "first epoch ends", "FLOPs", "of FLOPs"]
    columns += ["device hours", *(["cost"] if price is not None else [])]
    rows, records = [], []
    total = np.maximum(1.0, result.sums.sum(0))
    for number, (name, size) in enumerate(zip(names, sizes, strict=True)):
        samples, tokens, images, _ = result.sums[number].tolist()
        ends = result.first_epoch_ends.get(name)
        flops, epochs = float(result.flops[number]), samples / size if size else 0.0
        cost = float(hours[number]) * price if price is not None else None
        row = [name, short(samples), short(images), short(tokens), f"{tokens / total[1]:.2%}", f"{epochs:.3g}"]
        row += ["-" if ends is None else f"step {ends:,}", f"{flops:.3g}", f"{flops / max(1, result.flops.sum()):.2%}"]
        row += [f"{hours[number]:.3g}", *([f"{cost:,.4g}"] if cost is not None else [])]
        rows.append(row)
        records.append(
            {"name": name, "samples": int(samples), "images": int(images), "tokens": int(tokens), "epochs": epochs}
            | {"first_epoch_ends": ends, "flops": flops, "device_hours": float(hours[number]), "cost": cost}
        )
    sums = result.sums.sum(0)
    row = [
        "all",
        *(short(value) for value in (sums[0], sums[2], sums[1])),
        "",
        "",
        "",
        f"{result.flops.sum():.3g}",
        "",
    ]
    row += [f"{hours.sum():.3g}", *([f"{hours.sum() * price:,.4g}"] if price is not None else [])]
    print_sections([Section(f"{result.num_steps:,} steps", tuple(columns), [*rows, row])])
    say(
        f"packed sequences are {result.fill:.1%} full; device hours at {flops_per_hour / 3600:.3g} FLOPs per second, "
        "with every text position counted as a target"
    )
    phases = [
        {"step": drawn.phase.step, "num_steps": drawn.num_steps, "unit": drawn.phase.unit, "reason": drawn.phase.reason}
        | {"weights": drawn.phase.weights, "shares": drawn.shares(names)}
        for drawn in result.phases
    ]
    record = {"corpus": fingerprint, "steps": result.num_steps, "fill": result.fill, "phases": phases}
    if json_path:
        schema = {"schema": "dromaius-mixture-simulate/1"}
        write_json(json_path, schema | record | {"sources": records, "ended": result.ended})
