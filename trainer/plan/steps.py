"""What a plan gives: steps of packs of chunks, a chunk being a window of a sample at a position in the schedule."""

import hashlib
import json
from dataclasses import dataclass, field, replace
from functools import cached_property

from trainer.plan.mixture import PhaseStart
from trainer.plan.order import I64
from trainer.plan.state import PlanState


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
