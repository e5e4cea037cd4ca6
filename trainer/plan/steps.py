"""Steps of packed chunks, the settings that shape them, and the state of a plan in a checkpoint.

A chunk is a window of a sample at a position in the schedule.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Self

from pydantic import Field

from pipelines.errors import UserError
from pipelines.settings import Settings
from trainer.plan.mixture import PhaseStart
from trainer.plan.order import I64, OrderSettings

STATE_FILE = "data_state.json"


def max_state_bytes(num_sources: int) -> int:
    """Return the largest size of `data_state.json` in bytes for a number of sources."""
    return 1024 + 160 * num_sources


class PlanSettings(Settings):
    """Settings of packing samples into steps."""

    seed: int = Field(0, description="seed of the order of samples")
    seq_len: int = Field(2048, ge=1, description="positions per packed sequence")
    global_batch_size: int = Field(64, ge=1, description="packed sequences per step, over all ranks and micro-batches")
    max_images: int | None = Field(None, ge=1, description="most images per packed sequence; null: as many as fit")
    packing_buffer_size: int = Field(
        512, ge=1, description="sequences packed together, in whole steps; best fit reaches 99 % from a few hundred on"
    )
    order: OrderSettings = Field(OrderSettings(), description="how widely samples are shuffled")


@dataclass(frozen=True, slots=True)
class Costs:
    """Cost of a packed sequence in FLOPs, in any unit, by which steps and ranks are balanced."""

    per_token: float = 1.0
    per_pair: float = 0.0  # per token and token that it may attend to, in the same sample
    per_image: float = 0.0


@dataclass(frozen=True, slots=True)
class PlanState:
    """Position of a plan, at the end of a step. All else is recomputed.

    Attributes:
        fingerprint: Hash of the corpus and everything else on which the windows' lengths depend.
        seed: Seed of the plan.
        step: The next step.
        buffer_step: First step of the packing buffer with this step; all fields below are of its beginning.
        buffer_steps: Steps of that packing buffer; None if not planned yet.
        global_batch_size: Packed sequences per step.
        position: The next position in the schedule.
        drawn: Samples drawn so far of each source, in the manifest's order.
        open_source: The source of the last sample drawn, if its windows are not all planned.
        open_window: Its next window.
        phase: Current phase of the schedule; None before the first.
        units: Samples or tokens drawn of each source since the phase began.
        longest: Tokens of the longest sample drawn since the phase began, when counting tokens.
        exhausted: Sources that the run continues without, with the most epochs that they had.
        note: What a phase that begins here is logged with beside its own reason; None in most states.
    """

    fingerprint: str
    seed: int
    step: int
    buffer_step: int
    buffer_steps: int | None
    global_batch_size: int
    position: int
    drawn: tuple[int, ...]
    open_source: int | None
    open_window: int
    phase: PhaseStart | None
    units: tuple[int, ...]
    longest: int
    exhausted: dict[str, float] = field(default_factory=dict)
    note: str | None = None

    def files(self) -> dict[str, str]:
        """Return the files of a checkpoint."""
        return {STATE_FILE: self.to_json()}

    def to_json(self) -> str:
        """Return the state as written to `data_state.json`: a few numbers per source, for a corpus of any size."""
        record = asdict(self)
        if self.note is None:
            del record["note"]
        return json.dumps(record, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read a state written by `to_json`.

        Raises:
            UserError: If it is damaged.
        """
        try:
            record = json.loads(text)
            if "order" in record:
                raise ValueError("the run was trained on data.streams, not on an indexed corpus: choose another --out")
            phase = PhaseStart(**record["phase"]) if record["phase"] is not None else None
            record |= {"phase": phase, "drawn": tuple(record["drawn"]), "units": tuple(record["units"])}
            return cls(**record)
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{STATE_FILE}: not the state of a plan: {error}") from error


@dataclass(frozen=True)
class PackingBuffer:
    """Planned steps. The arrays have one entry per chunk, a window of a sample.

    Attributes:
        start: The state before it.
        end: The state after it.
        positions: Position of the sample in the schedule.
        sources: Index of the source.
        epochs: Epoch of the source, from 0.
        samples: Index of the sample in its source.
        windows: Index of the window in its sample.
        tokens: Positions of the window.
        images: Images in the window.
        packs: The chunks of each packed sequence.
        steps: The packed sequence in each slot of each step.
        phase: The phase that begins with it, if any.
    """

    start: PlanState
    end: PlanState
    positions: I64
    sources: I64
    epochs: I64
    samples: I64
    windows: I64
    tokens: I64
    images: I64
    packs: list[list[int]]
    steps: list[list[int]]
    phase: PhaseStart | None


@dataclass(frozen=True)
class Chunk:
    """A window of a sample, and its position in the schedule."""

    position: int
    source: int
    epoch: int
    sample: int
    window: int
    tokens: int
    images: int


@dataclass(frozen=True)
class Step:
    """One training step, for all ranks."""

    number: int
    buffer: PackingBuffer = field(repr=False)

    @property
    def state(self) -> PlanState:
        """State from which a plan resumes after this step."""
        after = self.number + 1
        buffer = self.buffer
        if after == buffer.end.step:
            return buffer.end
        return replace(buffer.start, step=after, buffer_steps=len(buffer.steps), global_batch_size=len(buffer.steps[0]))

    @property
    def phase(self) -> PhaseStart | None:
        """Phase that begins with this step, if any."""
        return self.buffer.phase if self.number == self.buffer.start.buffer_step else None

    @property
    def weights(self) -> dict[str, float]:
        """Weights by which the step's sources are drawn."""
        phase = self.buffer.phase or self.buffer.start.phase
        assert phase is not None, "every step belongs to a phase"
        return phase.weights

    @cached_property
    def packs(self) -> list[list[Chunk]]:
        """Chunks of each slot, in their order in the packed sequence."""
        return self.of_rank(0, 1)

    def of_rank(self, rank: int, world_size: int) -> list[list[Chunk]]:
        """Return the packed sequences that a rank trains on: slots rank, rank + world_size, ..."""
        buffer = self.buffer
        chosen = buffer.steps[self.number - buffer.start.buffer_step][rank::world_size]
        columns = (
            buffer.positions, buffer.sources, buffer.epochs, buffer.samples, buffer.windows, buffer.tokens,
            buffer.images,
        )  # fmt: skip
        return [
            [Chunk(*row) for row in zip(*(column[buffer.packs[p]].tolist() for column in columns), strict=True)]
            for p in chosen
        ]

    @property
    def num_tokens(self) -> int:
        """Positions used in all packed sequences."""
        return sum(chunk.tokens for pack in self.packs for chunk in pack)

    @property
    def num_images(self) -> int:
        """Images in all packed sequences."""
        return sum(chunk.images for pack in self.packs for chunk in pack)

    def digest(self) -> str:
        """Return the sha256 of what is trained on, in the order of slots."""
        rows = [
            [[p.position, p.source, p.epoch, p.sample, p.window, p.tokens, p.images] for p in pack]
            for pack in self.packs
        ]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
