"""A random part of a corpus, and what it says of the whole."""

import random
from collections.abc import Sequence
from itertools import accumulate

from pipelines.shards.manifest import ShardInfo
from tools.audit.plan import ShardTask, whole_shards

CONFIDENCE = 0.95


def draw_samples(shards: Sequence[ShardInfo], number: int, seed: int) -> list[ShardTask]:
    """Return tasks for `number` samples of a corpus, each as likely as any other, without repetition."""
    ends = list(accumulate(shard.samples for shard in shards))
    total = ends[-1] if ends else 0
    drawn = sorted(random.Random(seed).sample(range(total), min(number, total)))
    tasks: list[ShardTask] = []
    at = 0
    for place, (shard, end) in enumerate(zip(shards, ends, strict=True)):
        mine = at
        while mine < len(drawn) and drawn[mine] < end:
            mine += 1
        if mine > at:
            first = end - shard.samples
            tasks.append(ShardTask(place, shard, tuple(n - first for n in drawn[at:mine])))
        at = mine
    return tasks


def draw_shards(shards: Sequence[ShardInfo], number: int, seed: int) -> list[ShardTask]:
    """Return tasks for `number` whole shards, each as likely as any other."""
    drawn = random.Random(seed).sample(range(len(shards)), min(number, len(shards)))
    tasks = whole_shards(shards)
    return [tasks[place] for place in sorted(drawn)]


def upper_bound(num_checked: int, num_bad: int, confidence: float = CONFIDENCE) -> float:
    """Return the fraction of bad ones in the whole that is exceeded only with a probability of 1 - confidence.

    The exact one-sided bound of the binomial distribution (Clopper and Pearson, 1934): the fraction with which so few
    bad ones or fewer would be drawn with that probability. Drawing without repetition makes it only safer.

    Args:
        num_checked: Number that was drawn; with none there is nothing to say, and the bound is 1.
        num_bad: How many of them were bad.
    """
    from scipy.special import betaincinv  # slow, and needed only here

    if num_checked == num_bad:
        return 1.0
    return float(betaincinv(num_bad + 1, num_checked - num_bad, confidence))
