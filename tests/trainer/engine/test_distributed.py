import dataclasses
import datetime
import time
from typing import Any

import pytest
import torch.distributed as dist

from tests.trainer.ranks import ALONE, in_ranks
from trainer.engine import distributed
from trainer.engine.distributed import World


def after_the_first(world: World) -> list[Any]:
    """Let the first process work three times as long as any message may take."""
    distributed._BEAT = 0.2
    group = dist.new_group(backend="gloo", timeout=datetime.timedelta(seconds=1))
    world = dataclasses.replace(world, control=group)
    begun = time.monotonic()

    def make() -> str:
        if world.is_first:
            time.sleep(3)
        return f"made by {world.rank}"

    return [world.first_then_others(make), time.monotonic() - begun > 2.9]


@pytest.mark.slow
def test_the_others_wait_for_the_first_however_long_it_takes():
    assert in_ranks(2, after_the_first) == [["made by 0", True], ["made by 1", True]]


def failing(world: World) -> None:
    distributed._BEAT = 0.2

    def make() -> None:
        raise ValueError("no such corpus") if world.is_first else AssertionError("the first has failed")

    world.first_then_others(make)


def test_a_first_one_that_fails_ends_all():
    with pytest.raises(RuntimeError, match="no such corpus"):
        in_ranks(2, failing)


def test_alone_nothing_is_waited_for():
    assert ALONE.first_then_others(lambda: 3) == 3
