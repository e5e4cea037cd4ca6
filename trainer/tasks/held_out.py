"""Loss on held-out samples: the same few packed sequences of each source every time."""

from typing import Any

import numpy as np

from pipelines.errors import UserError
from trainer.config import RunSettings
from trainer.engine.distributed import World
from trainer.engine.engine import Engine
from trainer.plan.packing import pack_prefix
from trainer.plan.steps import Chunk
from trainer.plan.windows import SourceWindows
from trainer.reading.micro_batches import Group, GroupedBatch, JointBatch, MicroBatch
from trainer.reading.reader import ReadChunk, SampleReader
from trainer.tasks.data import CorpusData
from trainer.tasks.task import Task


class HeldOut:
    """Packed sequences of a held-out split, distributed over the ranks.

    Args:
        task: The task that is trained.
        micro_batch_size: Packed sequences per forward pass.
        world: Processes of the run.
    """

    def __init__(self, task: Task, micro_batch_size: int, world: World) -> None:
        settings = task.run.held_out
        try:
            data = task.open(settings.split)
        except UserError as error:
            raise UserError(f"held_out: {error}") from error
        assert isinstance(data, CorpusData)  # the config refuses held-out loss of streams
        self._task, self._data = task, data
        reader = data.reader()
        sources = [
            _first_packs(source, number, reader, task.run, settings.packs) for number, source in enumerate(data.sources)
        ]
        first = next((packs[:micro_batch_size] for packs in sources if packs), None)
        self._filler = task.collate(first) if first is not None else None
        size, joint = task.run.data.plan.global_batch_size, isinstance(self._filler, JointBatch)
        groups = [group for packs in sources for group in _groups(packs, size, joint=joint)]
        sizes = tuple(map(len, groups))
        chunks = [
            (group[i : i + micro_batch_size], Group(number, i, sizes))
            for number, group in enumerate(groups)
            for i in range(0, len(group), micro_batch_size)
        ]
        mine = chunks[world.rank :: world.size]
        self._micros: list[MicroBatch | None] = [_placed(task.collate(chunk), group) for chunk, group in mine]
        self._micros += [None] * (-(-len(chunks) // world.size) - len(mine))

    def losses(self, engine: Engine) -> dict[str, float]:
        """Return `held_out_ce/<source>` and `held_out_regression/<source>`; all ranks must call."""
        if self._filler is None:
            return {}
        return engine.losses(self._micros, self._filler).means(self._task.data.names, "held_out_")

    def samples(self, engine: Engine) -> list[dict[str, Any]]:
        """Return the model's output for a few samples; all ranks must call, and get the same."""
        num = self._task.run.held_out.samples
        engine.module.eval()
        found = self._task.samples(engine.module, self._data, num) if num else []
        engine.module.train()
        return found


def _groups(packs: list[list[ReadChunk]], size: int, *, joint: bool) -> list[list[list[ReadChunk]]]:
    """Cut a source's packed sequences into groups as large as a global batch.

    Where sequences are told from each other (`joint`), none is alone in its group: its loss would be 0.
    """
    groups = [packs[i : i + size] for i in range(0, len(packs), size)]
    if joint and len(packs) % size == 1:
        *groups, alone = groups
        if groups:
            groups[-1] = groups[-1] + alone
    return groups


def _placed(micro: MicroBatch, group: Group) -> MicroBatch:
    """Return a micro-batch that knows its place, if its losses depend on it."""
    return micro.of_group(group) if isinstance(micro, GroupedBatch) else micro


def _first_packs(
    source: SourceWindows, number: int, reader: SampleReader, run: RunSettings, num_packs: int
) -> list[list[ReadChunk]]:
    """Read the source's first windows, packed as in training and laid out as in its last stage."""
    seq_len = run.data.plan.seq_len
    num = min(len(source.tokens), num_packs * seq_len)
    if not num:
        return []
    tokens, images = source.tokens[:num].astype(np.int64), source.images[:num].astype(np.int64)
    _, packs = pack_prefix(tokens, images, min(num_packs, num), seq_len)
    samples = np.searchsorted(source.first, np.arange(num), side="right") - 1
    chunks = [
        Chunk(int(s), number, 0, int(s), int(w - source.first[s]), int(tokens[w]), int(images[w]))
        for w, s in enumerate(samples.tolist())
    ]
    return [[reader.read(chunks[i], run.steps - 1) for i in pack] for pack in packs]
