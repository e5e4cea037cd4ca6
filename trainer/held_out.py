"""Loss on samples that are not trained on: the same few packs of each source every time."""

from collections.abc import Sequence

import numpy as np

from pipelines.errors import UserError
from trainer.batch import MicroBatch, micro_batch
from trainer.config import TrainConfig
from trainer.data import TrainingData
from trainer.distributed import World
from trainer.engine import Engine
from trainer.packing import pack_prefix
from trainer.reader import PieceReader, ReadPiece
from trainer.steps import Piece
from trainer.windows import SourceWindows


class HeldOut:
    """Packs of a held-out split, shared between ranks.

    Args:
        corpus: The corpus's folder.
        config: The run's.
        names: The sources of training, by whose numbers losses are told apart.
        world: The run's processes.
    """

    def __init__(self, corpus: str, config: TrainConfig, names: Sequence[str], world: World) -> None:
        try:
            data = TrainingData.open(corpus, config, config.held_out.split)
        except UserError as error:
            raise UserError(f"held_out: {error}") from error
        self._names = names
        reader = data.reader()
        length, pad_id = config.data.plan.length, data.tokenizer.pad_id
        packs = [
            pack
            for number, source in enumerate(data.sources)
            for pack in _first_packs(source, number, reader, length, config.held_out.packs)
        ]
        mine = packs[world.rank :: world.size]
        num = -(-len(packs) // world.size)
        self._micros: list[MicroBatch | None] = [micro_batch([p], length=length, pad_id=pad_id) for p in mine]
        self._micros += [None] * (num - len(mine))
        self._filler = micro_batch([packs[0]], length=length, pad_id=pad_id) if packs else None

    def losses(self, engine: Engine) -> dict[str, float]:
        """`held_out_ce/<source>` and `held_out_regression/<source>`; all ranks must ask."""
        if self._filler is None:
            return {}
        return engine.losses(self._micros, self._filler).means(self._names, "held_out_")


def _first_packs(
    source: SourceWindows, number: int, reader: PieceReader, length: int, num_packs: int
) -> list[list[ReadPiece]]:
    """The source's first windows, packed as in training."""
    num = min(len(source.tokens), num_packs * length)
    if not num:
        return []
    tokens, images = source.tokens[:num].astype(np.int64), source.images[:num].astype(np.int64)
    _, packs = pack_prefix(tokens, images, min(num_packs, num), length)
    samples = np.searchsorted(source.first, np.arange(num), side="right") - 1
    pieces = [
        Piece(int(s), number, 0, int(s), int(w - source.first[s]), int(tokens[w]), int(images[w]))
        for w, s in enumerate(samples.tolist())
    ]
    return [[reader.read(pieces[i], 0) for i in pack] for pack in packs]
