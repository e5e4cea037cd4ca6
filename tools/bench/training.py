"""The training loop against its own engine on a batch in memory: the cost of plan, reading and records."""

import contextlib
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pipelines.errors import UserError
from tools.bench.report import figure, ratio
from trainer.config import TrainConfig
from trainer.engine import distributed
from trainer.loop import Training
from trainer.tasks.table import TASKS

CORPUS = Path("build/corpus/demo")
BLOCK = 10  # steps of each kind in turn
ROUNDS = 8

_CONFIG: dict[str, Any] = {
    "model": {"size": "demo"},
    "pretrain": {
        "steps": 1 + BLOCK * (ROUNDS + 1),
        "data": {"plan": {"seq_len": 256, "global_batch_size": 8, "packing_buffer_size": 256}},
        "mixture": {"phases": [{"weights": {"webpages": 0.3, "pairs": 0.4, "grounded": 0.2, "videos": 0.1}}]},
        "stages": [{"lr": {"encoder": 1e-4, "bridge": 1e-4, "language_model": 1e-4}}],
        "engine": {"precision": "fp32", "zero_stage": 1},
        "guard": {"sigmas": None},
        "checkpoints": {"every": 1_000_000},
        "log": {"every": 10},
    },
}


@dataclass
class Blocks:
    """What blocks of steps took, in turn in the loop and by the engine alone on the block's last batch.

    Attributes:
        first_step: Seconds of the very first step, which warms up and compiles.
        loop: Seconds per step of the loop, block by block.
        alone: Seconds per step of the engine alone.
        loop_flops: Useful FLOPs per step of each block of the loop.
        alone_flops: The same of the engine alone.
        images: Images per step of each block of the loop.
        tokens: The same of tokens.
    """

    first_step: float = 0.0
    loop: list[float] = field(default_factory=list)
    alone: list[float] = field(default_factory=list)
    loop_flops: list[float] = field(default_factory=list)
    alone_flops: list[float] = field(default_factory=list)
    images: list[float] = field(default_factory=list)
    tokens: list[float] = field(default_factory=list)


class _Enough(Exception):  # noqa: N818 - no error
    """All blocks are measured; what follows in a run, as the last checkpoint, is not wanted."""


def measure_blocks(
    training: Training,
    *,
    block: int,
    rounds: int,
    warm: int = 1,
    alone: int | None = None,
    tell: Callable[[Blocks], object] = lambda found: None,
) -> Blocks:
    """Train, timing steps in blocks, and after each block the engine alone on the last batch; then break the run off.

    Args:
        training: The run, of at least as many steps.
        block: Steps of each block.
        rounds: Number of blocks.
        warm: Steps before the first block.
        alone: Steps of the engine after each block; None: as many as in the block.
        tell: Called after the first step, and after each block, with what was measured so far.
    """
    found, num_alone = Blocks(), block if alone is None else alone
    train, after, device = training._train, training._after, training.world.device
    began, last, sums = 0.0, list[Any](), [0.0, 0.0, 0.0]

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def remember(batch: Any, targets: list[int]) -> Any:
        last[:] = [batch, targets]
        if found.first_step:
            return train(batch, targets)
        start = now()
        result = train(batch, targets)
        found.first_step = now() - start
        tell(found)
        return result

    def measure(batch: Any, result: Any, step: int, targets: list[int], *rest: Any) -> None:
        nonlocal began
        after(batch, result, step, targets, *rest)
        counts = training.data.totals(batch.read, training.world)
        flops = training.task.flops(counts, targets, training.settings.stages[training.stage].lr)
        sums[:] = [sums[0] + flops, sums[1] + counts.images, sums[2] + counts.tokens]
        if step < warm or (step - warm) % block:
            return
        if step > warm:
            found.loop.append((now() - began) / block)
            for column, value in zip((found.loop_flops, found.images, found.tokens), sums, strict=True):
                column.append(value / block)
            start = now()
            for _ in range(num_alone):
                train(*last)
            found.alone.append((now() - start) / num_alone)
            found.alone_flops.append(flops)
            tell(found)
            if len(found.loop) == rounds:
                raise _Enough
        sums[:] = [0.0, 0.0, 0.0]
        began = now()

    training._train, training._after = remember, measure  # type: ignore[method-assign,assignment]
    with contextlib.suppress(_Enough):
        training.run()
    return found


def bench_training(folder: Path) -> None:
    """Time blocks of steps in turn: of the whole loop, and of the engine alone on the block's last batch."""
    if not (CORPUS / "tokens").exists():
        raise UserError(f"{CORPUS}: no corpus with tokens: run `make pretrain` first, which makes both")
    world = distributed.start()
    training = Training(TASKS["pretrain"][0], TrainConfig.model_validate(_CONFIG), str(CORPUS), str(folder), world)
    found = measure_blocks(training, block=BLOCK, rounds=ROUNDS)
    distributed.stop()
    figure("training", "a step of the loop, median", 1000 * statistics.median(found.loop), "ms")
    figure("training", "a step of the engine on a batch in memory, median", 1000 * statistics.median(found.alone), "ms")
    ratio("training", "time of the loop to that of the engine", found.loop, found.alone)
