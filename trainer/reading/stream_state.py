"""Where the ranks of a run are in streams: the state that a checkpoint keeps of an approximate order."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Self

from pipelines.errors import UserError
from trainer.plan.mixture import PhaseStart
from trainer.plan.steps import max_state_bytes


@dataclass(frozen=True, slots=True)
class RankCursor:
    """Where a rank is. What is drawn but not trained on is drawn again from here.

    Attributes:
        position: Of its next sample, counted over all ranks.
        units: Samples drawn of each source since the phase began.
        at: Of each source, the next sample's tar, its number there, and its first window that is not trained on.
    """

    position: int
    units: tuple[int, ...]
    at: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class StreamState:
    """Where a run is in its streams, at the edge of a step.

    Attributes:
        names: Of the sources.
        step: The next step.
        phase: That the mixture is in; null before the first.
        world_size: How many ranks there are; null where one cursor stands for any number of them.
        ranks: The ranks' cursors; of a step that a rank has read, only its own.
    """

    names: tuple[str, ...]
    step: int
    phase: PhaseStart | None
    world_size: int | None
    ranks: tuple[RankCursor, ...]

    @classmethod
    def begin(cls, names: tuple[str, ...]) -> Self:
        """Before the first step."""
        return cls(names, 0, None, None, (RankCursor(0, (0,) * len(names), ((0, 0, 0),) * len(names)),))

    def to_json(self) -> str:
        """Return the state as `data_state.json` holds it, with one cursor for all ranks where theirs take too much."""
        text = json.dumps({"order": "approximate", **asdict(self)}, sort_keys=True, separators=(",", ":"))
        return (
            text
            if len(text) <= max_state_bytes(len(self.names)) or self.world_size is None
            else self._for_all().to_json()
        )

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """The state that `to_json` wrote.

        Raises:
            UserError: If it is damaged, or that of a plan.
        """
        try:
            record = json.loads(text)
            if record.pop("order", None) != "approximate":
                raise ValueError("the run was trained on an indexed corpus, not on data.streams: give another --out")
            record["ranks"] = tuple(
                RankCursor(r["position"], tuple(r["units"]), tuple((p, n, w) for p, n, w in r["at"]))
                for r in record["ranks"]
            )
            return cls(**record | {"names": tuple(record["names"]), "phase": PhaseStart(**record["phase"])})
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"data_state.json: no state of streams: {error}") from error

    def joined(self, others: Sequence[Self]) -> Self:
        """This state with the cursors of all ranks."""
        return replace(self, ranks=tuple(cursor for state in others for cursor in state.ranks))

    def cursor(self, rank: int, world_size: int, behind: Sequence[int]) -> RankCursor:
        """Where a rank goes on: where it was or, of another number of ranks, with the first tar that is not done with.

        Args:
            rank: Which.
            world_size: How many ranks there are now.
            behind: Of each source, how many tars behind the first rank's this one's lies.
        """
        if world_size == self.world_size:
            return self.ranks[rank]
        (first,) = self._for_all().ranks
        at = tuple((tar + more, 0, 0) for (tar, _, _), more in zip(first.at, behind, strict=True))
        return replace(first, position=first.position + rank, at=at)

    def _for_all(self) -> Self:
        """One cursor for all ranks: of each source the first tar that one of them is in."""
        tars = zip(*(rank.at for rank in self.ranks), strict=True)
        at = tuple((min(tar for tar, _, _ in ranks), 0, 0) for ranks in tars)
        one = RankCursor(max(rank.position for rank in self.ranks), (0,) * len(at), at)
        return replace(self, world_size=None, ranks=(one,))
