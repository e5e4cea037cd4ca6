"""Loss on held-out samples: the same few packed sequences of each source every time."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from pipelines.errors import UserError
from trainer.config import RunSettings
from trainer.engine.distributed import World
from trainer.engine.engine import Engine
from trainer.plan.packing import pack_prefix
from trainer.plan.steps import Chunk
from trainer.plan.windows import SourceWindows
from trainer.reading.consumed import QuarantineRow
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

    Attributes:
        bad: The samples among them that cannot be read, which are left out.
    """

    def __init__(self, task: Task, micro_batch_size: int, world: World) -> None:
        settings, plan = task.run.held_out, task.run.data.plan
        try:
            data = task.open(settings.split)
        except UserError as error:
            raise UserError(f"held_out: {error}") from error
        assert isinstance(data, CorpusData)  # the config refuses held-out loss of streams
        self._task, self._data = task, data
        self.bad: list[QuarantineRow] = []
        reader, read = data.reader(), {}
        for number, source in enumerate(data.sources):
            read[source.name], bad = _first_packs(source, number, reader, task.run, settings.packs)
            self.bad += bad
        first = next((packs[:micro_batch_size] for packs in read.values() if packs), None)
        filler = task.collate(first) if first is not None else None
        joint = isinstance(filler, JointBatch)
        of_sources = {name: _groups(packs, plan.global_batch_size, joint=joint) for name, packs in read.items()}
        groups = [group for found in of_sources.values() for group in found]
        sizes = tuple(map(len, groups))
        chunks = [
            (group[i : i + micro_batch_size], Group(number, i, sizes))
            for number, group in enumerate(groups)
            for i in range(0, len(group), micro_batch_size)
        ]
        mine = chunks[world.rank :: world.size]
        self._micros: list[MicroBatch | None] = [_placed(task.collate(chunk), group) for chunk, group in mine]
        self._micros += [None] * (-(-len(chunks) // world.size) - len(mine))
        self._filler = _placed(filler, Group(0, None, sizes)) if filler is not None and chunks else None
        self._report(world, {name for name, found in of_sources.items() if found})

    def losses(self, engine: Engine, weights: Mapping[str, float]) -> dict[str, float]:
        """Return the losses of all held-out sources, and of what is trained on; all ranks must call.

        Args:
            engine: The engine.
            weights: Weights by which the sources are trained on now.

        Returns:
            `held_out_<objective>/<source>` for each source, and `held_out_<objective>`, their mean by the weights.
        """
        if self._filler is None:
            return {}
        found = engine.losses(self._micros, self._filler)
        return found.means(self._task.data.names, "held_out_", weights)

    def samples(self, engine: Engine) -> list[dict[str, Any]]:
        """Return the model's output for a few samples; all ranks must call, and get the same."""
        num = self._task.run.held_out.samples
        engine.module.eval()
        found = self._task.samples(engine.module, self._data, num) if num else []
        engine.module.train()
        return found

    def _report(self, world: World, there: set[str]) -> None:
        """Say what is missing: samples that cannot be read, and sources that are trained on without a held-out loss."""
        run = self._task.run
        for name in sorted({row.source for row in self.bad}):
            bad = [row for row in self.bad if row.source == name]
            world.say(
                f"held_out: {name}: left out {len(bad)} that cannot be read, the first {bad[0].key} "
                f"({bad[0].reason}); see quarantine.jsonl"
            )
        trained = {name for phase in run.mixture.phases for name, weight in phase.weights.items() if weight}
        if missing := sorted(trained - there):
            world.say(
                f"held_out: too few samples in the split {run.held_out.split} of {', '.join(missing)}: their held-out "
                "losses are missing, and the totals are over the other sources"
            )


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
) -> tuple[list[list[ReadChunk]], list[QuarantineRow]]:
    """Read the source's first windows, packed as in training and laid out as in its last stage.

    What cannot be read is left out, without a substitute: another sample in its place would count twice.

    Returns:
        The packed sequences, and the samples that cannot be read.
    """
    seq_len = run.data.plan.seq_len
    num = min(len(source.tokens), num_packs * seq_len)
    if not num:
        return [], []
    tokens, images = source.tokens[:num].astype(np.int64), source.images[:num].astype(np.int64)
    _, packs = pack_prefix(tokens, images, min(num_packs, num), seq_len)
    samples = np.searchsorted(source.first, np.arange(num), side="right") - 1
    chunks = [
        Chunk(int(s), number, 0, int(s), int(w - source.first[s]), int(tokens[w]), int(images[w]))
        for w, s in enumerate(samples.tolist())
    ]
    read = [[reader.read_itself(chunks[i], run.steps - 1) for i in pack] for pack in packs]
    whole = [[chunk for chunk in pack if isinstance(chunk, ReadChunk)] for pack in read]
    bad = {row.key: replace(row, position=None) for pack in read for row in pack if isinstance(row, QuarantineRow)}
    return [pack for pack in whole if pack], list(bad.values())
