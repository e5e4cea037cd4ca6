"""Which examples come before a question: at random, or the most similar ones (RICES).

RICES: Yang et al., An Empirical Study of GPT-3 for Few-Shot Knowledge-Based VQA (arXiv:2109.05014); Flamingo, appendix
A.2 (arXiv:2204.14198), which places the most similar one last, next to the question.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from trainer.benchmarks.formats.example import Example
from trainer.benchmarks.settings import ShotSettings

Vectors = np.ndarray[Any, np.dtype[np.float32]]
Embed = Callable[[Sequence[Example]], Vectors]
"""Returns (examples, width) unit vectors of what examples show."""


class Shots:
    """Chooses shots from a pool.

    Args:
        settings: How they are chosen.
        pool: Examples with answers.
        embed: Embeds what examples show; only for `rices`.
    """

    def __init__(self, settings: ShotSettings, pool: Sequence[Example], embed: Embed) -> None:
        self._settings, self._pool, self._embed = settings, pool, embed
        self._groups: dict[str | None, list[int]] = defaultdict(list)
        for number, example in enumerate(pool):
            self._groups[example.group if settings.same_group else None].append(number)

    def of(self, asked: Sequence[Example], num_shots: int) -> list[list[Example]]:
        """Return the shots of each question in the order in which they are shown; fewer if the pool has no more.

        A question is never among its shots, and nothing that shows one of its images. At random, more shots begin with
        the fewer ones, so that a curve over their number compares the same examples.
        """
        if not num_shots:
            return [[] for _ in asked]
        if self._settings.choice == "random":
            return [self._at_random(example)[:num_shots] for example in asked]
        return [
            self._nearest(example, vector, num_shots) for example, vector in zip(asked, self._embed(asked), strict=True)
        ]

    def _at_random(self, asked: Example) -> list[Example]:
        numbers = list(self._group(asked))
        random.Random(f"{self._settings.seed} {asked.id}").shuffle(numbers)
        found = []
        for number in numbers:
            if _may_show(self._pool[number], asked):
                found.append(self._pool[number])
            if len(found) == max(self._settings.numbers):
                break
        return found

    def _nearest(self, asked: Example, vector: Vectors, num_shots: int) -> list[Example]:
        group = self._group(asked)
        similarity = self._vectors[group] @ vector
        order = (group[i] for i in np.argsort(-similarity, kind="stable"))
        found = []
        for number in order:
            if _may_show(self._pool[number], asked):
                found.append(self._pool[number])
            if len(found) == num_shots:
                break
        return found[::-1]

    def _group(self, asked: Example) -> list[int]:
        return self._groups[asked.group if self._settings.same_group else None]

    @cached_property
    def _vectors(self) -> Vectors:
        return self._embed(self._pool)


def _may_show(shot: Example, asked: Example) -> bool:
    return shot.id != asked.id and not shot.shows & asked.shows


def first_file(example: Example) -> Path:
    """Return the file by which an example is compared with others: what it shows, or is to show, first."""
    found: tuple[Path, ...] = (
        *example.images,
        *example.references,
        *(() if example.video is None else (example.video,)),
    )
    return found[0]
