"""Plan: which windows of which samples are trained on at which step, in which packed sequence and slot.

It is a pure function of the corpus's fingerprint, the seed, the phases of the mixture and the position in its schedule.
The schedule is cut into packing buffers of a few hundred packed sequences. A buffer draws the next samples, packs their
windows by best fit and deals the packed sequences to its steps. Rank r of W takes the slots r, r + W, ... of a step.
World size and workers change nothing, so that the state is one small JSON, equal on all ranks, and a resume plans only
one packing buffer again.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import astuple, replace

import numpy as np

from pipelines.errors import UserError
from trainer.plan.mixture import Phase, PhaseStart, Scheduler, without
from trainer.plan.order import I64, SourceOrder, Upcoming, key_of, mix
from trainer.plan.packing import deal, pack_prefix
from trainer.plan.steps import Costs, PackingBuffer, PlanSettings, PlanState, Step
from trainer.plan.windows import SourceWindows


class Plan:
    """Steps of a run, from a state on.

    Args:
        sources: All sources of the corpus, in the manifest's order.
        settings: How samples are turned into steps.
        phases: In the order of their steps. The phase of the state continues if they agree with it; else theirs
            begins with the next packing buffer, so that no sample is lost or repeated.
        fingerprint: Hash of corpus, tokenizer and layout: all that windows depend on.
        costs: Costs by which packed sequences are balanced.
        max_epochs: Most epochs over a source, by source.
        continues: Whether the others are drawn when a source has reached its most epochs, which else is an error.
        state: State from which to resume; None: the beginning.

    Raises:
        UserError: If phases name unknown or empty sources, or the state is of another plan.
    """

    def __init__(
        self,
        sources: Sequence[SourceWindows],
        settings: PlanSettings,
        phases: Sequence[Phase],
        fingerprint: str,
        *,
        costs: Costs | None = None,
        max_epochs: dict[str, float] | None = None,
        continues: bool = False,
        state: PlanState | None = None,
    ) -> None:
        self.sources = tuple(sources)
        self.settings = settings
        self.costs = costs or Costs()
        decided = settings.model_dump(include={"seq_len", "max_images", "order"})
        self.fingerprint = hashlib.sha256(json.dumps([fingerprint, decided, astuple(self.costs)]).encode()).hexdigest()
        self._names = [source.name for source in self.sources]
        self.max_epochs, self.continues = dict(max_epochs or {}), continues
        self.change(phases)
        zeros = (0,) * len(self.sources)
        self.state = state or PlanState(
            self.fingerprint, settings.seed, 0, 0, None, settings.global_batch_size, 0, zeros, None, 0, None, zeros, 0
        )
        self._check_state()
        limits = {name: self.max_epochs.get(name, math.inf) for name in self.state.exhausted}
        still = {name: limit for name, limit in self.state.exhausted.items() if continues and limits[name] <= limit}
        self.state = replace(self.state, exhausted=still)
        self._streams = [
            Upcoming(SourceOrder(max(1, t.num_samples), settings.seed, t.name, settings.order), t.totals)
            for t in self.sources
        ]
        self._tie_key = np.array(key_of("ties", settings.seed), np.uint64)

    def __iter__(self) -> Iterator[Step]:
        """Yield the steps from the state on, without end; `state` advances at the ends of packing buffers.

        Raises:
            UserError: If a source has reached its most epochs.
        """
        while True:
            buffer = self.plan_buffer(self.state)
            for number in range(self.state.step, buffer.end.step):
                yield Step(number, buffer)
            self.state = buffer.end

    def change(self, phases: Sequence[Phase]) -> None:
        """Draw by other phases from the end of the planned steps; see `Loader.change`.

        Raises:
            UserError: If they name unknown or empty sources.
        """
        self._check_names(phases)
        self.phases = sorted(phases, key=lambda phase: phase.step)

    def plan_buffer(self, state: PlanState) -> PackingBuffer:
        """Return the packing buffer that contains a state."""
        start = replace(
            state, step=state.buffer_step, buffer_steps=None, global_batch_size=self.settings.global_batch_size
        )
        while True:
            begun, phase = (start, None) if state.buffer_steps is not None else self._entered(start)
            num_steps = state.buffer_steps or self._num_steps(state.buffer_step)
            buffer = self._buffer_of(begun, num_steps, phase)
            if not (exhausted := self._exhausted(buffer)) or (self.continues and state.buffer_steps is not None):
                return buffer  # one that was planned before stays as it was, whatever the limits are now
            if not self.continues:
                raise self._exhaustion(exhausted[0], start)
            while exhausted and num_steps > 1:  # so that less than a step's samples of the last epoch remain
                num_steps //= 2
                buffer = self._buffer_of(begun, num_steps, phase)
                exhausted = self._exhausted(buffer)
            if not exhausted:
                return buffer
            start = replace(start, exhausted=start.exhausted | {name: self.max_epochs[name] for name in exhausted})

    def _buffer_of(self, start: PlanState, num_steps: int, phase: PhaseStart | None) -> PackingBuffer:
        """Plan a packing buffer of some steps."""
        num_packs = num_steps * self.settings.global_batch_size
        drawn_sources, ordinals = self._draw(start, num_packs)
        columns = self._chunks(start, drawn_sources, ordinals)
        num_chunks, packs = pack_prefix(
            columns["tokens"], columns["images"], num_packs, self.settings.seq_len, self.settings.max_images
        )
        columns = {name: column[:num_chunks] for name, column in columns.items()}
        end = self._end(start, drawn_sources, columns, num_steps)
        steps = deal(*self._pack_costs(packs, columns), num_steps)
        return PackingBuffer(start=start, end=end, **columns, packs=packs, steps=steps, phase=phase)

    # --- the parts of a packing buffer ---

    def _entered(self, start: PlanState) -> tuple[PlanState, PhaseStart | None]:
        """Return a state in its phase, and the phase if it begins there.

        Raises:
            UserError: If all of its sources are exhausted.
        """
        whole = [phase for phase in self.phases if phase.step <= start.buffer_step][-1]
        wanted = without(whole, start.exhausted, start.phase)
        weights = {name: float(weight) for name, weight in wanted.weights.items() if weight}
        if not weights:
            raise self._exhaustion(next(name for name in start.exhausted if whole.weights.get(name)), start)
        if start.phase is not None and start.phase.equals(wanted):
            return start, None
        reason = wanted.reason if start.note is None else f"{wanted.reason}; {start.note}"
        phase = PhaseStart(start.buffer_step, start.position, weights, wanted.unit, reason)
        return replace(start, phase=phase, units=(0,) * len(self.sources), longest=0, note=None), phase

    def _num_steps(self, step: int) -> int:
        """Return the steps of the packing buffer that begins at `step`: a phase begins with a packing buffer."""
        num = max(1, self.settings.packing_buffer_size // self.settings.global_batch_size)
        following = [phase.step for phase in self.phases if phase.step > step]
        return min(num, following[0] - step) if following else num

    def _draw(self, start: PlanState, num_packs: int) -> tuple[I64, I64]:
        """Return sources of at least as many samples as fit, and the ordinal of each within its source."""
        assert start.phase is not None, "a packing buffer is in a phase"
        weights = [start.phase.weights.get(name, 0.0) for name in self._names]
        scheduler = Scheduler(weights, start.phase.unit, start.units, start.longest)
        wanted = num_packs * self.settings.seq_len
        for stream, weight, first in zip(self._streams, weights, start.drawn, strict=True):
            if weight:  # and the previous sample, which may be open
                stream.reach(max(0, first - 1), first + 1)
        drawn = list(start.drawn)
        drawn_sources, drawn_ordinals, have = [], [], 0
        num = num_packs
        while have < wanted:
            begun = tuple(drawn)
            sources = np.array(
                scheduler.draw(num, lambda s, i: self._streams[s].total(begun[s] + i)),  # noqa: B023
                np.int64,
            )
            ordinals = np.empty_like(sources)
            for s in np.unique(sources).tolist():
                at = np.flatnonzero(sources == s)
                ordinals[at] = begun[s] + np.arange(len(at))
                drawn[s] += len(at)
                self._streams[s].reach(max(0, start.drawn[s] - 1), drawn[s])
                have += int(self._streams[s].at(ordinals[at])[2].sum())
            drawn_sources.append(sources)
            drawn_ordinals.append(ordinals)
            mean = have / sum(map(len, drawn_sources))
            num = max(64, min(int((wanted - have) / max(mean, 1) * 1.05) + 1, 1 << 20))
        return np.concatenate(drawn_sources), np.concatenate(drawn_ordinals)

    def _chunks(self, start: PlanState, sources: I64, ordinals: I64) -> dict[str, I64]:
        """Return the windows of the drawn samples, in order, after those left over from the previous sample."""
        positions = start.position + np.arange(len(sources))
        skip = np.zeros(len(sources), np.int64)
        if start.open_source is not None:
            sources = np.concatenate([[start.open_source], sources])
            ordinals = np.concatenate([[start.drawn[start.open_source] - 1], ordinals])
            positions = np.concatenate([[start.position - 1], positions])
            skip = np.concatenate([[start.open_window], skip])
        epochs, samples = np.empty_like(sources), np.empty_like(sources)
        first, count = np.empty_like(sources), np.empty_like(sources)
        for s in np.unique(sources).tolist():
            at = sources == s
            table = self.sources[s]
            epochs[at], samples[at], _ = self._streams[s].at(ordinals[at])
            first[at] = table.first[samples[at]]
            count[at] = table.first[samples[at] + 1] - first[at]
        first, count = first + skip, count - skip
        row = np.repeat(np.arange(len(sources)), count)
        inside = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
        at_window = first[row] + inside
        tokens, images = np.empty(len(row), np.int64), np.empty(len(row), np.int64)
        for s in np.unique(sources).tolist():
            at = sources[row] == s
            tokens[at] = self.sources[s].tokens[at_window[at]]
            images[at] = self.sources[s].images[at_window[at]]
        return {
            "positions": positions[row],
            "sources": sources[row],
            "epochs": epochs[row],
            "samples": samples[row],
            "windows": skip[row] + inside,
            "tokens": tokens,
            "images": images,
        }

    def _end(self, start: PlanState, drawn_sources: I64, columns: dict[str, I64], num_steps: int) -> PlanState:
        """Return the state after a packing buffer that planned these chunks."""
        assert start.phase is not None, "a packing buffer is in a phase"
        longest = start.longest
        last = int(columns["positions"][-1])
        used = drawn_sources[: last + 1 - start.position]
        counts = np.bincount(used, minlength=len(self.sources))
        open_source: int | None = int(columns["sources"][-1])
        open_window = int(columns["windows"][-1]) + 1
        table = self.sources[int(columns["sources"][-1])]
        sample = int(columns["samples"][-1])
        if open_window == table.first[sample + 1] - table.first[sample]:
            open_source, open_window = None, 0
        if start.phase.unit == "samples":
            added = counts
        else:
            # A sample counts in full when it is drawn, though its last windows may be planned later.
            is_new = (columns["positions"] >= start.position) & (columns["windows"] == 0)
            sources, samples = columns["sources"][is_new], columns["samples"][is_new]
            added = np.zeros(len(self.sources), np.int64)
            for s in np.unique(sources).tolist():
                totals = self.sources[s].totals(samples[sources == s])
                added[s] = totals.sum()
                longest = max(longest, int(totals.max()))
        step = start.buffer_step + num_steps
        return replace(
            start,
            step=step,
            buffer_step=step,
            position=last + 1,
            drawn=tuple(int(d + c) for d, c in zip(start.drawn, counts, strict=True)),
            open_source=open_source,
            open_window=open_window,
            units=tuple(int(u + a) for u, a in zip(start.units, added, strict=True)),
            longest=longest,
        )

    def _pack_costs(self, packs: list[list[int]], columns: dict[str, I64]) -> tuple[list[float], list[int]]:
        tokens = columns["tokens"].astype(np.float64)
        costs = self.costs
        of_chunk = costs.per_token * tokens + costs.per_pair * tokens**2 + costs.per_image * columns["images"]
        flat = np.concatenate([np.array(pack) for pack in packs])
        starts = np.cumsum([0, *map(len, packs)])[:-1]
        of_pack = np.round(np.add.reduceat(of_chunk[flat], starts), 6)
        names = columns["positions"][[pack[0] for pack in packs]] << 20
        ties = mix((names + columns["windows"][[pack[0] for pack in packs]]).astype(np.uint64), self._tie_key)
        return of_pack.tolist(), ties.tolist()

    # --- checks ---

    def _check_names(self, phases: Sequence[Phase]) -> None:
        if all(phase.step for phase in phases):
            raise UserError("mixture.phases: the first phase must begin at step 0")
        sizes = {source.name: source.num_samples for source in self.sources}
        for phase in phases:
            for name in (name for name, weight in phase.weights.items() if weight):
                if name not in sizes:
                    raise UserError(f"mixture: no source {name!r} in the corpus; it has {', '.join(sizes)}")
                if not sizes[name]:
                    raise UserError(f"mixture: source {name!r} has weight, but no sample to train on")
        for name in self.max_epochs:
            if name not in sizes:
                raise UserError(f"mixture.max_epochs: no source {name!r} in the corpus; it has {', '.join(sizes)}")

    def _check_state(self) -> None:
        state = self.state
        if state.fingerprint != self.fingerprint:
            raise UserError(
                "the checkpoint was trained on other data, or with another tokenizer, layout, seq_len, order or cost "
                f"per sequence ({state.fingerprint[:12]}, here {self.fingerprint[:12]}): it cannot be continued. "
                "Restore those, or start a new run from its weights"
            )
        if state.seed != self.settings.seed:
            raise UserError(
                f"the checkpoint's order has seed {state.seed}, the config {self.settings.seed}: restore the former"
            )
        packs = self.settings.global_batch_size
        if state.buffer_steps is not None and state.global_batch_size != packs:
            edge = state.buffer_step + state.buffer_steps
            raise UserError(
                f"global_batch_size is {packs}, but steps up to {edge} are packed {state.global_batch_size} per step: "
                f"train to step {edge} as before, then change it"
            )

    def _exhausted(self, buffer: PackingBuffer) -> list[str]:
        """Return the sources from which a packing buffer draws beyond their most epochs."""
        return [
            source.name
            for source, before, drawn in zip(self.sources, buffer.start.drawn, buffer.end.drawn, strict=True)
            if before < drawn and drawn > self.max_epochs.get(source.name, math.inf) * source.num_samples
        ]

    def _exhaustion(self, name: str, start: PlanState) -> UserError:
        (source,) = (source for source in self.sources if source.name == name)
        return UserError(
            f"{name} is exhausted: steps from {start.buffer_step} on need more than the {self.max_epochs[name]:g} "
            f"epochs over its {source.num_samples:,} samples that mixture.max_epochs allows. Train fewer "
            "steps, give it less weight or allow more epochs; `python -m trainer plan` shows what is needed"
        )
