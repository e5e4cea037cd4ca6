"""Position of a run's ranks in streams: the state of an approximate order in a checkpoint."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Self

from pipelines.errors import UserError
from trainer.plan.mixture import PhaseStart
from trainer.plan.steps import max_state_bytes


@dataclass(frozen=True, slots=True)
class RankCursor:
    """Position of one rank. What is drawn but not trained on is drawn again from here.

    Attributes:
        position: Position of its next sample, counted over all ranks.
        units: Samples drawn of each source since the phase began.
        at: For each source, the next sample's tar, its number there, and its first window not trained on.
    """

    position: int
    units: tuple[int, ...]
    at: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class StreamState:
    """Position of a run in its streams, at the end of a step.

    Attributes:
        names: Names of the sources.
        step: The next step.
        phase: Current phase of the mixture; None before the first.
        world_size: Number of ranks; None if one cursor is for any number of them.
        ranks: Cursors of the ranks; for a step as read by one rank, only its own.
    """

    names: tuple[str, ...]
    step: int
    phase: PhaseStart | None
    world_size: int | None
    ranks: tuple[RankCursor, ...]

    @classmethod
    def begin(cls, names: tuple[str, ...]) -> Self:
        """Return the state before the first step."""
        return cls(names, 0, None, None, (RankCursor(0, (0,) * len(names), ((0, 0, 0),) * len(names)),))

    def to_json(self) -> str:
        """Return the state as written to `data_state.json`, with one cursor for all ranks if theirs take too much."""
        text = json.dumps({"order": "approximate", **asdict(self)}, sort_keys=True, separators=(",", ":"))
        return (
            text
            if len(text) <= max_state_bytes(len(self.names)) or self.world_size is None
            else self._for_all().to_json()
        )

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read a state written by `to_json`.

        Raises:
            UserError: If it is damaged, or the state of a plan.
        """
        try:
            record = json.loads(text)
            if record.pop("order", None) != "approximate":
                raise ValueError("the run was trained on an indexed corpus, not on data.streams: choose another --out")
            record["ranks"] = tuple(
                RankCursor(r["position"], tuple(r["units"]), tuple((p, n, w) for p, n, w in r["at"]))
                for r in record["ranks"]
            )
            return cls(**record | {"names": tuple(record["names"]), "phase": PhaseStart(**record["phase"])})
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"data_state.json: not the state of streams: {error}") from error

    def joined(self, others: Sequence[Self]) -> Self:
        """Return this state with the cursors of all ranks."""
        return replace(self, ranks=tuple(cursor for state in others for cursor in state.ranks))

    def cursor(self, rank: int, world_size: int, behind: Sequence[int]) -> RankCursor:
        """Return where a rank resumes: its old place or, for another number of ranks, the first unfinished tar.

        Args:
            rank: The rank.
            world_size: Current number of ranks.
            behind: For each source, the number of tars by which this rank is behind the first.
        """
        if world_size == self.world_size:
            return self.ranks[rank]
        (first,) = self._for_all().ranks
        at = tuple((tar + more, 0, 0) for (tar, _, _), more in zip(first.at, behind, strict=True))
        return replace(first, position=first.position + rank, at=at)

    def _for_all(self) -> Self:
        """Return one cursor for all ranks: for each source the first tar that any of them is in."""
        tars = zip(*(rank.at for rank in self.ranks), strict=True)
        at = tuple((min(tar for tar, _, _ in ranks), 0, 0) for ranks in tars)
        one = RankCursor(max(rank.position for rank in self.ranks), (0,) * len(at), at)
        return replace(self, world_size=None, ranks=(one,))
