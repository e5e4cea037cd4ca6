"""Weights that satisfy demands: the shares nearest to wished ones within the limits of each source.

Wished shares `b` and limits `low <= q <= high` give `q = min(max(x b, low), high)`, with the one `x` for which the
shares sum to 1. Sources between their limits keep their wished ratio. It is the distribution within the limits that is
nearest to the wished one in relative entropy. Equal wishes with a cap on epochs are UniMax (arXiv:2304.09151).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pipelines.errors import RunError
from tools.mixture.sizes import CorpusSizes
from tools.output import short

_GRIDS = (10**6, 10**9, 10**12)  # denominators of written shares; the first that the limits leave room for
_LEAST = 1e-300  # a wish of 0 would leave a source out
_SLACK = 1e-9  # of rounding, where limits are compared


@dataclass(frozen=True)
class Demands:
    """What a mixture must satisfy.

    Attributes:
        budget: Tokens that are drawn by the mixture.
        wished: Wished share of each source, in any scale; sources that are not in it, or at 0, are left out.
        max_epochs: Most epochs over a source, those before the mixture included.
        min_shares: Least share of a source in the tokens.
        max_shares: Largest share of a source in the tokens.
        used: Tokens of each source that were drawn before the mixture begins.
    """

    budget: float
    wished: Mapping[str, float]
    max_epochs: Mapping[str, float] = field(default_factory=dict)
    min_shares: Mapping[str, float] = field(default_factory=dict)
    max_shares: Mapping[str, float] = field(default_factory=dict)
    used: Mapping[str, float] = field(default_factory=dict)


def wished_by_temperature(sizes: CorpusSizes, temperature: float) -> dict[str, float]:
    """Return n^(1/T) of each source's tokens n: 1 is proportional, and the larger T, the more equal the sources."""
    largest = max((source.tokens for source in sizes.sources), default=0)
    return {
        source.name: max((source.tokens / largest) ** (1 / temperature), _LEAST) if source.tokens else 0.0
        for source in sizes.sources
    }


def share_limits(sizes: CorpusSizes, demands: Demands) -> dict[str, tuple[float, float]]:
    """Return the least and the largest share of each source in the tokens.

    Raises:
        RunError: If no mixture satisfies the demands; it says which of them conflict.
    """
    low = {name: demands.min_shares.get(name, 0.0) for name in sizes.names}
    high = {name: min(1.0, demands.max_shares.get(name, 1.0)) for name in sizes.names}
    left: dict[str, float] = {}  # tokens that the cap on epochs leaves
    for source in sizes.sources:
        if source.name in demands.max_epochs:
            cap = demands.max_epochs[source.name] * source.tokens
            left[source.name] = max(0.0, cap - demands.used.get(source.name, 0.0))
            high[source.name] = min(high[source.name], left[source.name] / demands.budget)
        if not source.tokens or not demands.wished.get(source.name, 0.0):
            high[source.name] = min(high[source.name], low[source.name] if source.tokens else 0.0)
    _check(sizes, demands, low, high, left)
    return {name: (low[name], high[name]) for name in sizes.names}


def solve(sizes: CorpusSizes, demands: Demands) -> dict[str, float]:
    """Return the share of each source in the tokens; they sum to 1. Errors as in `share_limits`."""
    low, high = map(list, zip(*share_limits(sizes, demands).values(), strict=True))
    wished = [demands.wished.get(name, 0.0) for name in sizes.names]
    return dict(zip(sizes.names, rounded(nearest(wished, low, high), low, high), strict=True))


def nearest(wished: Sequence[float], low: Sequence[float], high: Sequence[float]) -> list[float]:
    """Return the shares within limits that sum to 1 and are nearest to wished ones.

    Args:
        wished: Numbers of 0 or more, in any scale; where it is 0, the share is its lower limit.
        low: Lower limits, with sum at most 1.
        high: Upper limits, with sum at least 1.
    """

    def at(factor: float) -> list[float]:
        return [min(max(factor * b, lo), hi) if b else lo for b, lo, hi in zip(wished, low, high, strict=True)]

    limits = zip(wished, low, high, strict=True)
    turns = sorted({limit / b for b, lo, hi in limits if b for limit in (lo, hi)} | {0.0})  # where one meets a limit
    begin, end = 0, len(turns) - 1
    while begin < end:  # the last turn at which the shares do not exceed 1
        middle = (begin + end + 1) // 2
        if math.fsum(at(turns[middle])) <= 1:
            begin = middle
        else:
            end = middle - 1
    factor = turns[begin]
    missing = 1 - math.fsum(at(factor))
    limits = zip(wished, low, high, strict=True)
    # By the quotients that made the turns: at a turn, the product may be rounded to the wrong side of the limit
    moving = math.fsum(b for b, lo, hi in limits if b and lo / b <= factor < hi / b)
    return at(factor + missing / moving) if missing > 0 and moving else at(factor)


def rounded(shares: Sequence[float], low: Sequence[float], high: Sequence[float]) -> list[float]:
    """Return shares with few decimals that sum to exactly 1 and stay within the limits, if these leave room for it.

    Few are so many that no share becomes 0, if twelve suffice.
    """
    found = list(shares)
    for grid in _GRIDS:
        floor = [math.ceil(limit * grid - _SLACK) for limit in low]
        ceiling = [math.floor(limit * grid + _SLACK) for limit in high]
        if any(lo > hi for lo, hi in zip(floor, ceiling, strict=True)):
            continue  # limits so close that no multiple lies between them
        units = [
            min(max(math.floor(share * grid), lo), hi) for share, lo, hi in zip(shares, floor, ceiling, strict=True)
        ]
        missing = grid - sum(units)
        order = sorted(range(len(units)), key=lambda i: units[i] - shares[i] * grid)  # the largest remainder first
        while missing:
            step = 1 if missing > 0 else -1
            movable = [i for i in (order if step > 0 else order[::-1]) if floor[i] <= units[i] + step <= ceiling[i]][
                : abs(missing)
            ]
            if not movable:
                break
            for i in movable:
                units[i] += step
            missing -= step * len(movable)
        if not missing:
            found = [unit / grid for unit in units]
            if all(unit or not share for unit, share in zip(units, shares, strict=True)):
                break
    return found


def _check(
    sizes: CorpusSizes,
    demands: Demands,
    low: Mapping[str, float],
    high: Mapping[str, float],
    left: Mapping[str, float],
) -> None:
    """Refuse demands that no mixture satisfies.

    Raises:
        RunError: Naming the demands that conflict, and what would satisfy them.
    """
    tokens = {source.name: source.tokens for source in sizes.sources}
    for name in sizes.names:
        if low[name] <= high[name] + _SLACK:
            continue
        least = f"no mixture satisfies this: {name} is to have at least {low[name]:.4g} of the tokens"
        if not tokens[name]:
            raise RunError(f"{least}, but has no sample to train on")
        if low[name] > demands.max_shares.get(name, 1.0):
            raise RunError(f"{least} and at most {demands.max_shares.get(name, 1.0):.4g}")
        needed = (demands.used.get(name, 0.0) + low[name] * demands.budget) / tokens[name]
        cap = epochs_in_words(demands.max_epochs[name])
        raise RunError(
            f"{least}, {needed:.4g} epochs of it, but at most {cap}: lower its share to "
            f"{math.floor(high[name] * 1e4) / 1e4:g}, allow {_above(needed)} epochs, or lower the budget of "
            f"{short(demands.budget)} tokens to {short(left[name] / low[name])}"
        )
    if math.fsum(low.values()) > 1 + _SLACK:
        shares = ", ".join(f"{name} {share:.4g}" for name, share in low.items() if share)
        raise RunError(
            f"no mixture satisfies this: the least shares sum to {math.fsum(low.values()):.4g}, more than 1: {shares}"
        )
    if (most := math.fsum(high.values())) < 1 - _SLACK:
        limits = ", ".join(f"{name} {_limit(name, demands, left, high[name])}" for name in sizes.names if high[name])
        raise RunError(
            f"no mixture satisfies this: the limits leave {short(most * demands.budget)} of the budget's "
            f"{short(demands.budget)} tokens: {limits or 'no source'}. Allow more epochs or larger shares, or lower "
            "the budget"
        )


def _above(epochs: float) -> str:
    """Return a number of epochs rounded up, so that it suffices."""
    return f"{math.ceil(epochs * 100 - 1e-6) / 100:g}"


def epochs_in_words(epochs: float) -> str:
    """Return a number of epochs as a phrase."""
    return "1 epoch" if epochs == 1 else f"{epochs:g} epochs"


def _limit(name: str, demands: Demands, left: Mapping[str, float], high: float) -> str:
    """Return what limits a source, in words."""
    if name in left and left[name] / demands.budget <= high + _SLACK:
        return f"{epochs_in_words(demands.max_epochs[name])} ({short(left[name])} tokens)"
    return f"at most {high:.4g}"
