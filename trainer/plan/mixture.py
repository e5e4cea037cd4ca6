"""Mixtures: the source of each sample of the schedule, exactly by the weights, and the log of changes of weights.

Both rules give the next sample of each source an earliest time and a deadline, and choose the earliest deadline among
the sources whose next sample is allowed:

* `samples`: Tijdeman's rule (The chairman assignment problem, 1980). After every sample each of n sources is within
  1 - 1/(2n - 2) samples of its share, for any weights; no rule can guarantee less.
* `tokens`: worst-case fair weighted fair queueing (Bennett and Zhang, INFOCOM 1996) on samples of known lengths. Each
  source is within the longest sample of its share. Taking the largest deficit instead, as most loaders do, drifts by
  several samples with many sources.

All arithmetic is on integers: nothing is rounded, so that a schedule of any length is the same everywhere.
"""

import hashlib
import heapq
import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from pipelines import storage
from pipelines.errors import UserError
from pipelines.settings import Settings, load_settings

Unit = Literal["samples", "tokens"]
Order = Literal["exact", "approximate"]

SUM_TOLERANCE = 1e-3  # weights written with three decimals; scaled to sum to exactly 1
_MAX_REASON = 200  # characters: every checkpoint holds the current phase's
_MAX_PATH = 120  # characters of a path in a reason
_MAX_LISTED = 3  # names of sources in a reason or message


class Phase(Settings):
    """Weights of the sources, from a step on."""

    step: int = Field(0, ge=0, description="first step of the phase")
    weights: dict[str, float] = Field(description="share of each source, with sum 1; 0 for sources not listed")
    unit: Unit = Field("samples", description="unit of the shares: samples, or positions in the sequence")
    reason: str = Field("config", max_length=_MAX_REASON, description="reason for the phase; written to mixture.jsonl")

    @field_validator("weights")
    @classmethod
    def _sums_to_one(cls, weights: dict[str, float]) -> dict[str, float]:
        for name, weight in weights.items():
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(f"the weight of {name} is {weight}; weights must be 0 or more")
        total = math.fsum(weights.values())
        if abs(total - 1) > SUM_TOLERANCE:
            near = ", ".join(f"{name}: {weight / total:.4g}" for name, weight in weights.items()) if total else ""
            raise ValueError(f"the weights sum to {total:.6g}, not to 1{'; in the same ratio: ' if near else ''}{near}")
        return weights


class MixtureSettings(Settings):
    """Mixture of the sources, phase by phase."""

    phases: tuple[Phase, ...] = Field(
        min_length=1, description="phases in the order of their steps, the first at step 0"
    )
    max_epochs: dict[str, float] = Field(
        default_factory=dict, description="most epochs over a source, by source; see `when_source_ends`"
    )
    when_source_ends: Literal["end", "continue"] = Field(
        "end",
        description="what follows when a source has reached its `max_epochs`, or a stream cannot be read any further: "
        "end saves and ends the run; continue divides the source's share among the others",
    )

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        steps = [phase.step for phase in self.phases]
        if steps[0] != 0 or any(a >= b for a, b in pairwise(steps)):
            raise ValueError(f"phases must begin at increasing steps, the first at 0, not at {steps}")
        return self


class MixtureFile(Settings):
    """A file with a mixture alone, as `python -m tools mixture` writes it."""

    mixture: MixtureSettings


def of_file(value: Any) -> Any:
    """Return the mixture of a file if a path stands in place of a mixture; the reasons of its phases name the file.

    Raises:
        UserError: If the file cannot be read, or has no valid mixture.
    """
    if not isinstance(value, str):
        return value
    mixture = load_settings(MixtureFile, value).mixture
    digest = hashlib.sha256(storage.read_bytes(value)).hexdigest()[:12]
    link = f"; {value if len(value) <= _MAX_PATH else '...' + value[-_MAX_PATH:]} sha256 {digest}"
    phases = [p.model_copy(update={"reason": p.reason[: _MAX_REASON - len(link)] + link}) for p in mixture.phases]
    return mixture.model_copy(update={"phases": tuple(phases)})


MixtureOrFile = Annotated[MixtureSettings, BeforeValidator(of_file)]
"""A mixture, or the path of a file with one, relative to the working directory."""


def without(phase: Phase, ended: Collection[str], before: "PhaseStart | None" = None) -> Phase:
    """Return a phase without some of its sources, whose share the others divide in their ratio.

    Its reason names those that were still in the phase `before`, and gives the number of the others: each source is
    named once in a run, and a reason stays short.
    """
    gone = sorted(name for name, weight in phase.weights.items() if weight and name in ended)
    if not gone:
        return phase
    new = [name for name in gone if before is None or name in before.weights]
    reasons = [phase.reason]
    reasons += [f"ended: {listed(new)}"] * bool(new)
    reasons += [f"{len(gone) - len(new)} ended before"] * (len(new) < len(gone))
    kept = {name: weight for name, weight in phase.weights.items() if name not in ended}
    total = math.fsum(kept.values())
    weights = {name: weight / total for name, weight in kept.items()} if total else kept
    return phase.model_copy(update={"weights": weights, "reason": "; ".join(reasons)})


def listed(names: Sequence[str]) -> str:
    """Return the first few of some names, and the number of the others."""
    more = len(names) - _MAX_LISTED
    return f"{', '.join(names[:_MAX_LISTED])} and {more} more" if more > 0 else ", ".join(names)


def integer_weights(weights: Iterable[float]) -> list[int]:
    """Return the smallest integers in the ratio of some decimal numbers, taken as they are written."""
    fractions = [Fraction(repr(w)) for w in weights]
    scale = math.lcm(*(f.denominator for f in fractions))
    numbers = [int(f * scale) for f in fractions]
    divisor = math.gcd(*numbers) or 1
    return [n // divisor for n in numbers]


class Scheduler:
    """Draws sources one after the other.

    Depends only on what it has drawn: one rebuilt from `units` and `longest` draws the same from there.

    Attributes:
        units: Samples or tokens drawn of each source since the phase began.
        longest: Tokens of the longest sample drawn since the phase began; 0 when counting samples.

    Args:
        weights: Weight of each source, in any scale; sources of weight 0 are never drawn.
        unit: What the weights count.
        units: Value from which to resume; None at the beginning of a phase.
        longest: Value from which to resume.
    """

    def __init__(
        self, weights: Sequence[float], unit: Unit, units: Sequence[int] | None = None, longest: int = 0
    ) -> None:
        self.weights = integer_weights(weights)
        if not any(self.weights):
            raise ValueError("all weights are 0")
        self.unit = unit
        self.units = list(units) if units is not None else [0] * len(self.weights)
        self.longest = longest
        self._active = [s for s, weight in enumerate(self.weights) if weight]
        self._total = sum(self.weights)
        common = math.lcm(*(self.weights[s] for s in self._active))
        self._inverse = [common // weight if weight else 0 for weight in self.weights]

    def draw(self, num: int, size: Callable[[int, int], int] | None = None) -> list[int]:
        """Return the sources of the next `num` samples.

        Args:
            num: Number of samples.
            size: Tokens of the i-th next sample of source s, as `size(s, i)`; called only when counting tokens.
        """
        if len(self._active) == 1:
            return self._draw_one_source(num, size)
        if self.unit == "samples":
            return self._draw_samples(num)
        assert size is not None, "lengths are needed to count tokens"
        return self._draw_tokens(num, size)

    def _draw_one_source(self, num: int, size: Callable[[int, int], int] | None) -> list[int]:
        (source,) = self._active
        if self.unit == "samples":
            self.units[source] += num
        else:
            assert size is not None, "lengths are needed to count tokens"
            sizes = [size(source, i) for i in range(num)]
            self.units[source] += sum(sizes)
            self.longest = max([self.longest, *sizes])
        return [source] * num

    def _draw_samples(self, num: int) -> list[int]:
        """Draw by Tijdeman's rule.

        With c drawn of a source of share w and D = 2n - 2, the next sample is allowed when w T >= c + 1/D and due when
        w T >= c + 1 - 1/D, where T counts the samples of all sources, including it.
        """
        units, weights, inverse, total = self.units, self.weights, self._inverse, self._total
        d = 2 * len(self._active) - 2
        may_come = [(-(-((units[s] * d + 1) * total) // (d * weights[s])), s) for s in self._active]
        heapq.heapify(may_come)
        waiting: list[tuple[int, int]] = []  # (deadline, source)
        push, pop, replace = heapq.heappush, heapq.heappop, heapq.heapreplace
        drawn: list[int] = []
        time = sum(units)
        for now in range(time + 1, time + num + 1):
            while may_come and may_come[0][0] <= now:
                s = pop(may_come)[1]
                push(waiting, ((units[s] * d + d - 1) * inverse[s], s))
            s = waiting[0][1]
            drawn.append(s)
            units[s] = count = units[s] + 1
            start = -(-((count * d + 1) * total) // (d * weights[s]))
            if start <= now + 1:
                replace(waiting, ((count * d + d - 1) * inverse[s], s))
            else:
                pop(waiting)
                push(may_come, (start, s))
        return drawn

    def _draw_tokens(self, num: int, size: Callable[[int, int], int]) -> list[int]:
        """Draw by fair queueing.

        A source's next sample is allowed when the source is not ahead of its share. It is due when the share would
        contain it, counted as no longer than the longest so far, so that a very long one is not delayed for long.
        """
        units, weights, inverse, total = self.units, self.weights, self._inverse, self._total
        taken = [0] * len(weights)
        heads = {s: size(s, 0) for s in self._active}
        drawn: list[int] = []
        now = sum(units)
        may_come: list[tuple[int, int]] = []
        waiting: list[tuple[int, int]] = []

        def begin() -> None:
            nonlocal may_come, waiting
            waiting = []
            may_come = [(-(-units[s] * total // weights[s]), s) for s in self._active]
            heapq.heapify(may_come)

        begin()
        for _ in range(num):
            while may_come and may_come[0][0] <= now:
                s = heapq.heappop(may_come)[1]
                heapq.heappush(waiting, ((units[s] + min(heads[s], self.longest)) * inverse[s], s))
            s = heapq.heappop(waiting)[1]
            drawn.append(s)
            length = heads[s]
            units[s] += length
            now += length
            taken[s] += 1
            heads[s] = size(s, taken[s])
            if length > self.longest:
                self.longest = length
                begin()  # deadlines depend on the longest sample
            else:
                heapq.heappush(may_come, (-(-units[s] * total // weights[s]), s))
        return drawn


def share_error(weights: Sequence[float], units: Sequence[int]) -> float:
    """Return how far the source farthest from its share is from it, in the units of `units`."""
    numbers = integer_weights(weights)
    done, total = sum(units), sum(numbers)
    return float(max(abs(Fraction(u * total - done * w, total)) for u, w in zip(units, numbers, strict=True)))


def share_bound(weights: Sequence[float]) -> float:
    """Return Tijdeman's bound on `share_error` in samples."""
    n = sum(w > 0 for w in weights)
    return 1 - 1 / (2 * n - 2) if n > 1 else 0.0


# --- the log --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PhaseStart:
    """A row of `mixture.jsonl`: from this step and position on, samples are drawn with these weights."""

    step: int
    position: int
    weights: dict[str, float]
    unit: Unit
    reason: str
    order: Order = "exact"

    def equals(self, phase: Phase) -> bool:
        """Return whether a phase has the weights and unit of this one."""
        return self.unit == phase.unit and _shares(self.weights) == _shares(phase.weights)


def _shares(weights: Mapping[str, float]) -> dict[str, int]:
    names = sorted(name for name, weight in weights.items() if weight)
    return dict(zip(names, integer_weights([weights[name] for name in names]), strict=True))


def load_phases(path: str) -> list[PhaseStart]:
    """Read the rows of a run's `mixture.jsonl`; none if there is no such file.

    Raises:
        UserError: If a line is damaged.
    """
    if not storage.exists(path):
        return []
    rows = []
    for number, line in enumerate(storage.read_bytes(path).splitlines(), 1):
        try:
            rows.append(PhaseStart(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise UserError(f"{path}:{number}: not a row of a mixture: {error}") from error
    return rows


def append_phase(path: str, row: PhaseStart) -> None:
    """Append a row, unless it is already the last one: a resumed run passes its phases again."""
    rows = load_phases(path)
    if not rows or rows[-1] != row:
        _write(path, [*rows, row])


def cut_phases(path: str, step: int) -> None:
    """Remove the phases that began after `step` was done; a resume from there draws their samples again."""
    rows = load_phases(path)
    kept = [row for row in rows if row.step < step or row.step == 0]
    if len(kept) < len(rows):
        _write(path, kept)


def _write(path: str, rows: Iterable[PhaseStart]) -> None:
    storage.write_bytes(path, "".join(json.dumps(asdict(row)) + "\n" for row in rows).encode())
