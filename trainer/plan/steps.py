"""Steps of packs of chunks, the settings that shape them, and the state of a plan that a checkpoint keeps.

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


def max_state_bytes(num_sources: int) -> int:
    """Return the most bytes that `data_state.json` may take for a number of sources."""
    return 1024 + 160 * num_sources


class PlanSettings(Settings):
    """How samples become steps."""

    seed: int = Field(0, description="another seed is another order")
    seq_len: int = Field(2048, ge=1, description="positions of a pack")
    global_batch_size: int = Field(64, ge=1, description="packs of a step, over all ranks and micro-batches")
    max_images: int | None = Field(None, ge=1, description="images in a pack at most; null: as many as fit")
    packing_buffer_size: int = Field(
        512, ge=1, description="packs filled together, in whole steps; best fit reaches 99 % from a few hundred on"
    )
    order: OrderSettings = Field(OrderSettings(), description="how far samples are scattered")


@dataclass(frozen=True, slots=True)
class Costs:
    """What a pack costs, by which steps and ranks are balanced: FLOPs, in any unit."""

    per_token: float = 1.0
    per_pair: float = 0.0  # of a token and one that it may attend to, in the same sample
    per_image: float = 0.0


@dataclass(frozen=True, slots=True)
class PlanState:
    """Where a plan is, at the edge of a step. All that is not here is worked out again.

    Attributes:
        fingerprint: Of the corpus and everything else that the windows' lengths depend on.
        seed: The plan's.
        step: The next step.
        buffer_step: With which the packing buffer began that the step lies in; all that follows is as it was then.
        buffer_steps: Steps of that packing buffer; null where it is not planned yet.
        global_batch_size: Packs of its steps.
        position: The next position in the schedule.
        drawn: Samples drawn so far of each source, in the manifest's order.
        open_source: The source of the last sample drawn, if its windows are not all planned.
        open_window: Its next window.
        phase: The phase that the schedule is in; null before the first.
        units: Samples or tokens drawn of each source since the phase began.
        longest: Tokens of the longest sample drawn since the phase began, when counting tokens.
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

    def to_json(self) -> str:
        """Return the state as `data_state.json` holds it: a few numbers for each source, whatever the corpus's size."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """The state that `to_json` wrote.

        Raises:
            UserError: If it is damaged.
        """
        try:
            record = json.loads(text)
            if "order" in record:
                raise ValueError("the run was trained on data.streams, not on an indexed corpus: give another --out")
            phase = PhaseStart(**record["phase"]) if record["phase"] is not None else None
            record |= {"phase": phase, "drawn": tuple(record["drawn"]), "units": tuple(record["units"])}
            return cls(**record)
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"data_state.json: no state of a plan: {error}") from error


@dataclass(frozen=True)
class PackingBuffer:
    """Planned steps. All arrays have an entry a chunk: a window of a sample.

    Attributes:
        start: The state with which it began.
        end: The state after it.
        positions: The sample's position in the schedule.
        sources: Which source.
        epochs: 0 the first time through the source.
        samples: Which of the source's samples.
        windows: Which window of the sample.
        tokens: Positions it takes.
        images: Its images.
        packs: The chunks of each pack.
        steps: The pack in each slot of each step.
        phase: A phase that begins with it.
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
    """A window of a sample, and where it stands in the schedule."""

    position: int
    source: int
    epoch: int
    sample: int
    window: int
    tokens: int
    images: int


@dataclass(frozen=True)
class Step:
    """One step of training, for all ranks."""

    number: int
    buffer: PackingBuffer = field(repr=False)

    @property
    def state(self) -> PlanState:
        """From which a plan goes on after this step."""
        after = self.number + 1
        buffer = self.buffer
        if after == buffer.end.step:
            return buffer.end
        return replace(buffer.start, step=after, buffer_steps=len(buffer.steps), global_batch_size=len(buffer.steps[0]))

    @property
    def phase(self) -> PhaseStart | None:
        """The phase that begins with this step, if one does."""
        return self.buffer.phase if self.number == self.buffer.start.buffer_step else None

    @cached_property
    def packs(self) -> list[list[Chunk]]:
        """The chunks of each slot, in the order in which they lie in the pack."""
        return self.of_rank(0, 1)

    def of_rank(self, rank: int, world_size: int) -> list[list[Chunk]]:
        """The packs that a rank trains on: slots rank, rank + world size, ..."""
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
        """Positions taken in all packs."""
        return sum(chunk.tokens for pack in self.packs for chunk in pack)

    @property
    def num_images(self) -> int:
        """Images in all packs."""
        return sum(chunk.images for pack in self.packs for chunk in pack)

    def digest(self) -> str:
        """sha256 of what is trained on, in the order of slots."""
        rows = [
            [[p.position, p.source, p.epoch, p.sample, p.window, p.tokens, p.images] for p in pack]
            for pack in self.packs
        ]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
