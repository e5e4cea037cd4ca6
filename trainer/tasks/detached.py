"""The loader of a task in another process, where neither its model nor this process's data are."""

from collections.abc import Callable, Mapping
from functools import partial

from trainer.engine.distributed import World
from trainer.plan.steps import Costs
from trainer.reading.micro_batches import Collate
from trainer.reading.reader import Loader
from trainer.reading.reading_process import ReadingProcess
from trainer.tasks.data import CorpusData
from trainer.tasks.task import Task


def reading_process(task: Task, world: World, state: Mapping[str, str] | None) -> ReadingProcess | None:
    """Start the process that reads a rank's steps; return None if the training's own is to read them.

    Args:
        task: The task.
        world: Processes of the run.
        state: A checkpoint's files of the data; None: from the beginning.

    Raises:
        UserError: If the mixture does not fit the data, or the state belongs to other data.
    """
    if not task.run.data.reader.own_process:
        return None
    if (detached := task.detached()) is None:
        return None
    task.data.loader(task.costs(), world, state).close()  # what is wrong is said here
    return ReadingProcess(partial(_make, *detached, task.costs(), world.rank, world.size, state))


def _make(
    open_data: Callable[[], CorpusData],
    collate: Collate,
    costs: Costs,
    rank: int,
    world_size: int,
    state: Mapping[str, str] | None,
) -> tuple[Loader, Collate]:
    return open_data().loader_of_rank(costs, rank, world_size, state), collate
