"""One figure of a benchmark, with its 95 % confidence interval and what is reached by chance."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from trainer.benchmarks.formats.example import Example

_Z = 1.959964  # 97.5th percentile of the normal distribution
_RESAMPLES = 1_000

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Answered:
    """A question with the model's answer: a text, or the file of an image (None if there was no room to draw it)."""

    example: Example
    text: str = ""
    image: Path | None = None


@dataclass(frozen=True, slots=True)
class Figure:
    """A metric over `num` examples.

    Attributes:
        value: The figure.
        num: Examples from which it is computed.
        low: Lower end of the 95 % confidence interval; None where there is no score per example.
        high: Upper end.
        chance: What is reached without looking: by the best answer that is always the same, by guessing, or by the
            answers to other questions.
        scores: Score of each example, in order; empty if there are none.
    """

    value: float
    num: int
    low: float | None = None
    high: float | None = None
    chance: float | None = None
    scores: tuple[float, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the figure without the single scores."""
        return {name: value for name, value in asdict(self).items() if name != "scores"}


def of_others(items: Sequence[Item]) -> list[Item] | None:
    """Return for each item the next one that differs from it, the first after the last; None if all are equal."""
    found = []
    for number, item in enumerate(items):
        following = (items[(number + step) % len(items)] for step in range(1, len(items)))
        if (other := next((one for one in following if one != item), None)) is None:
            return None
        found.append(other)
    return found


def mean(scores: Sequence[float], *, chance: float | None = None) -> Figure:
    """Return the mean of scores: with Wilson's interval if all are 0 or 1, otherwise with a bootstrap's."""
    if all(score in (0, 1) for score in scores):
        low, high = wilson(int(sum(scores)), len(scores))
    else:
        low, high = bootstrap(scores)
    return Figure(sum(scores) / len(scores), len(scores), low, high, chance, tuple(map(float, scores)))


def wilson(num_right: int, num: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson, 1927)."""
    share, z2 = num_right / num, _Z**2
    centre = (share + z2 / (2 * num)) / (1 + z2 / num)
    half = _Z / (1 + z2 / num) * math.sqrt(share * (1 - share) / num + z2 / (4 * num**2))
    return centre - half if num_right else 0.0, centre + half if num_right < num else 1.0


def bootstrap(scores: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of a mean, by percentiles of 1,000 resamples with a fixed seed."""
    values, random = np.asarray(scores, np.float64), np.random.default_rng(0)
    means = [values[random.integers(0, len(values), len(values))].mean() for _ in range(_RESAMPLES)]
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)
