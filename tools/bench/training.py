"""The training loop against its own engine on a batch in memory: the cost of plan, reading and records."""

import statistics
import time
from pathlib import Path
from typing import Any

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


def bench_training(folder: Path) -> None:
    """Time blocks of steps in turn: of the whole loop, and of the engine alone on the block's last batch."""
    if not (CORPUS / "tokens").exists():
        raise UserError(f"{CORPUS}: no corpus with tokens: run `make pretrain` first, which makes both")
    world = distributed.start()
    training = Training(TASKS["pretrain"][0], TrainConfig.model_validate(_CONFIG), str(CORPUS), str(folder), world)
    train, after = training._train, training._after
    loop: list[float] = []
    alone: list[float] = []
    last: list[Any] = []
    began = 0.0

    def remember(batch: Any, targets: list[int]) -> Any:
        last[:] = [batch, targets]
        return train(batch, targets)

    def measure(batch: Any, result: Any, step: int, *rest: Any) -> None:
        nonlocal began
        after(batch, result, step, *rest)
        if step % BLOCK == 1:  # the very first step warms up
            if step > 1:
                loop.append((time.perf_counter() - began) / BLOCK)
                start = time.perf_counter()
                for _ in range(BLOCK):
                    train(*last)
                alone.append((time.perf_counter() - start) / BLOCK)
            began = time.perf_counter()

    training._train, training._after = remember, measure  # type: ignore[method-assign,assignment]
    training.run()
    distributed.stop()
    figure("training", "a step of the loop, median", 1000 * statistics.median(loop), "ms")
    figure("training", "a step of the engine on a batch in memory, median", 1000 * statistics.median(alone), "ms")
    ratio("training", "time of the loop to that of the engine", loop, alone)
