"""Position of a run's ranks in streams: the state of an approximate order in a checkpoint."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from pipelines.errors import UserError
from trainer.plan.mixture import PhaseStart
from trainer.plan.steps import STATE_FILE, max_state_bytes
from trainer.reading.streamed_tars import Tars

CURSORS_FILE = "stream_cursors.json"
_LAST_OTHER_NAMES = "0.1.0"  # the last version that masked less of a tar's name


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
        tars: Fingerprint of each source's list of tars, in which positions count; empty if it is not known.
        step: The next step.
        phase: Current phase of the mixture; None before the first.
        world_size: Number of ranks; None if one cursor is for any number of them.
        ranks: Cursors of the ranks; for a step as read by one rank, only its own.
    """

    names: tuple[str, ...]
    tars: tuple[str, ...]
    step: int
    phase: PhaseStart | None
    world_size: int | None
    ranks: tuple[RankCursor, ...]

    @classmethod
    def begin(cls) -> Self:
        """Return the state before the first step, of no source yet; see `fitted`."""
        return cls((), (), 0, None, None, (RankCursor(0, (), ()),))

    def files(self) -> dict[str, str]:
        """Return the files of a checkpoint: the cursors of many ranks are in one of their own."""
        text = self.to_json()
        if self.world_size is None or len(text.encode()) <= max_state_bytes(len(self.names)):
            return {STATE_FILE: text}
        cursors = {"world_size": self.world_size, "ranks": [asdict(rank) for rank in self.ranks]}
        return {STATE_FILE: self._for_all().to_json(), CURSORS_FILE: _json(cursors)}

    def to_json(self) -> str:
        """Return the state with the cursors of all ranks."""
        record = asdict(self)
        if self.phase is not None:  # in the order of the names, each of which would else be written twice
            record["phase"]["weights"] = [self.phase.weights.get(name, 0) for name in self.names]
        return _json({"order": "approximate", **record})

    @classmethod
    def from_files(cls, files: Mapping[str, str]) -> Self:
        """Read a state from the files of a checkpoint.

        Raises:
            UserError: If it is damaged, or the state of a plan.
        """
        state = cls.from_json(files[STATE_FILE])
        if CURSORS_FILE not in files:
            return state
        try:
            record = json.loads(files[CURSORS_FILE])
            return replace(state, world_size=record["world_size"], ranks=_cursors(record["ranks"]))
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{CURSORS_FILE}: not the cursors of streams: {error}") from error

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
            names, phase = tuple(record["names"]), record["phase"]
            if phase is not None:
                if isinstance(phase["weights"], list):
                    weights = zip(names, phase["weights"], strict=True)
                    phase["weights"] = {name: weight for name, weight in weights if weight}
                phase = PhaseStart(**phase)
            tars = tuple(record.get("tars", ()))
            cursors = _cursors(record["ranks"])
            return cls(names, tars, record["step"], phase, record["world_size"], cursors)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(f"{STATE_FILE}: not the state of streams: {error}") from error

    def joined(self, others: Sequence[Self]) -> Self:
        """Return this state with the cursors of all ranks."""
        return replace(self, ranks=tuple(cursor for state in others for cursor in state.ranks))

    def fitted(self, names: Sequence[str], tars: Sequence[Tars]) -> Self:
        """Return this state for the sources that a config has now, by their names; new ones are at their beginning.

        Raises:
            UserError: If one is missing, or has another list of tars.
        """
        if missing := [name for name in self.names if name not in names]:
            raise UserError(
                f"the checkpoint was trained on data.streams {', '.join(self.names)}, but the config has no "
                f"{missing[0]!r}: name it too; a stream that is no longer wanted needs no weight in the mixture"
            )
        found = tuple(each.fingerprint for each in tars)
        was = dict(zip(self.names, self.tars, strict=False))
        for name, now, each in zip(names, found, tars, strict=True):
            if was.get(name, now) != now:
                renamed = (
                    f". If the list is the same: names of tars changed after version {_LAST_OTHER_NAMES}, such as "
                    f"{each.renamed}; choose another --out, or finish the run with that version"
                )
                raise UserError(
                    f"data.streams.{name}: its list of {len(each.urls)} tars is not that of the checkpoint, in which "
                    "positions count. Restore its names and their order, and add further tars as another stream"
                    + (renamed if each.renamed else "")
                )
        place = {name: number for number, name in enumerate(self.names)}

        def begin(rank: int, each: Tars) -> tuple[int, int, int]:
            return (0 if self.world_size is None or each.is_shared(self.world_size) else rank, 0, 0)

        ranks = tuple(
            RankCursor(
                cursor.position,
                tuple(cursor.units[place[name]] if name in place else 0 for name in names),
                tuple(
                    cursor.at[place[name]] if name in place else begin(rank, each)
                    for name, each in zip(names, tars, strict=True)
                ),
            )
            for rank, cursor in enumerate(self.ranks)
        )
        return replace(self, names=tuple(names), tars=found, ranks=ranks)

    def cursor(self, rank: int, world_size: int, tars: Sequence[Tars]) -> RankCursor:
        """Return where a rank resumes: its old place or, for another number of ranks, the first unfinished tar.

        Args:
            rank: The rank.
            world_size: Current number of ranks.
            tars: Tars of each source.
        """
        if world_size == self.world_size:
            return self.ranks[rank]
        (first,) = self._for_all().ranks
        behind = (0 if each.is_shared(world_size) else rank for each in tars)
        at = tuple((tar + more, 0, 0) for (tar, _, _), more in zip(first.at, behind, strict=True))
        return replace(first, position=first.position + rank, at=at)

    def _for_all(self) -> Self:
        """Return one cursor for all ranks: for each source the first tar that any of them is in."""
        tars = zip(*(rank.at for rank in self.ranks), strict=True)
        at = tuple((min(tar for tar, _, _ in ranks), 0, 0) for ranks in tars)
        one = RankCursor(max(rank.position for rank in self.ranks), (0,) * len(at), at)
        return replace(self, world_size=None, ranks=(one,))


def _cursors(records: Sequence[Any]) -> tuple[RankCursor, ...]:
    return tuple(RankCursor(r["position"], tuple(r["units"]), tuple((p, n, w) for p, n, w in r["at"])) for r in records)


def _json(record: Any) -> str:
    return json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
