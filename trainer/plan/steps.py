"""What a plan gives: steps of packs of pieces, a piece being a window of a sample at a place in the schedule."""

import hashlib
import json
from dataclasses import dataclass, field, replace
from functools import cached_property

from trainer.plan.mixture import PhaseStart
from trainer.plan.order import I64
from trainer.plan.state import PlanState


@dataclass(frozen=True)
class Stretch:
    """Planned steps. All arrays have an entry a piece: a window of a sample.

    Attributes:
        start: The state with which it began.
        end: The state after it.
        positions: The sample's place in the schedule.
        sources: Which source.
        epochs: 0 the first time through the source.
        samples: Which of the source's samples.
        windows: Which window of the sample.
        tokens: Places it takes.
        images: Its images.
        packs: The pieces of each pack.
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
class Piece:
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
    stretch: Stretch = field(repr=False)

    @property
    def state(self) -> PlanState:
        """From which a plan goes on after this step."""
        after = self.number + 1
        stretch = self.stretch
        if after == stretch.end.step:
            return stretch.end
        return replace(
            stretch.start, step=after, stretch_steps=len(stretch.steps), global_batch_size=len(stretch.steps[0])
        )

    @property
    def phase(self) -> PhaseStart | None:
        """The phase that begins with this step, if one does."""
        return self.stretch.phase if self.number == self.stretch.start.stretch_step else None

    @cached_property
    def packs(self) -> list[list[Piece]]:
        """The pieces of each slot, in the order in which they lie in the pack."""
        return self.of_rank(0, 1)

    def of_rank(self, rank: int, world_size: int) -> list[list[Piece]]:
        """The packs that a rank trains on: slots rank, rank + world size, ..."""
        stretch = self.stretch
        chosen = stretch.steps[self.number - stretch.start.stretch_step][rank::world_size]
        columns = (
            stretch.positions, stretch.sources, stretch.epochs, stretch.samples, stretch.windows, stretch.tokens,
            stretch.images,
        )  # fmt: skip
        return [
            [Piece(*row) for row in zip(*(column[stretch.packs[p]].tolist() for column in columns), strict=True)]
            for p in chosen
        ]

    @property
    def num_tokens(self) -> int:
        """Places taken in all packs."""
        return sum(piece.tokens for pack in self.packs for piece in pack)

    @property
    def num_images(self) -> int:
        """Images in all packs."""
        return sum(piece.images for pack in self.packs for piece in pack)

    def digest(self) -> str:
        """sha256 of what is trained on, in the order of slots."""
        rows = [
            [[p.position, p.source, p.epoch, p.sample, p.window, p.tokens, p.images] for p in pack]
            for pack in self.packs
        ]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
