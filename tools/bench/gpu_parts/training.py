"""Training from tars: both stages of the config, and an image decoder of SDXL's size."""

import shutil
import statistics
import time
from typing import Any

import torch

from model.config import named_size
from model.emu import VisualEmbedder
from tools.bench.gpu_parts.part import Bench, quick_weights
from tools.bench.training import Blocks, measure_blocks
from trainer.config import TrainConfig
from trainer.engine import distributed
from trainer.loop import Training
from trainer.tasks.build import save_tensors
from trainer.tasks.table import TASKS


def corpus(bench: Bench) -> None:
    """Write the corpus, and the weights of an encoder for the image decoder."""
    start = time.perf_counter()
    bench.corpus()
    tree = bench.tree()
    config = named_size(tree["model"]["size"])
    with quick_weights(on_gpu=bench.on_gpu):
        embedder = VisualEmbedder(config)
    save_tensors(embedder.state_dict(), str(bench.embedder_file))
    bench.add("corpus and encoder written", time.perf_counter() - start, "s")


def captions(bench: Bench) -> None:
    """The captions stage of the config: the encoder learns along."""
    _stage(bench, 0)


def unified(bench: Bench) -> None:
    """The unified stage of the config: the encoder is frozen."""
    _stage(bench, 1)


def decoder_512(bench: Bench) -> None:
    """The image decoder at 512 pixels."""
    _decoder(bench, 512, 32)


def decoder_1024(bench: Bench) -> None:
    """The image decoder at 1,024 pixels."""
    _decoder(bench, 1024, 8 if bench.has_much_memory else 4)


def _stage(bench: Bench, number: int) -> None:
    """Measure the loop over one of the config's stages against its engine alone."""
    tree = bench.tree()
    run = tree["pretrain"]
    stage, phase = run["stages"][number], run["mixture"]["phases"][number]
    block = bench.size(5, 2)
    run |= {
        "steps": 1_000,
        "stages": [stage | {"step": 0}],
        "mixture": {"phases": [phase | {"step": 0}]},
        "held_out": {"every": None},
        "guard": {"sigmas": None},
        "log": {"every": 1_000, "tensorboard": False},
    }
    run["engine"]["precision"] = bench.precision()
    if not bench.on_gpu:
        run["data"]["plan"] = {"seq_len": 256, "global_batch_size": 4, "packing_buffer_size": 16}
        run["engine"] |= {"micro_batch_size": 2, "compile": False}
    _report(bench, _measured(bench, "pretrain", tree, block, rounds=bench.size(1, 2)))


def _decoder(bench: Bench, side: int, batch: int) -> None:
    """Measure the training of an image decoder of SDXL's size."""
    tree = bench.tree()
    changes = {"image_decoder": {"image_size": side}} if bench.on_gpu else {}
    tree["model"] |= {"changes": changes, "weights": [{"path": str(bench.embedder_file.resolve())}]}
    tree["decoder"] = {
        "steps": 1_000,
        "data": {"plan": {"seq_len": 1, "global_batch_size": bench.size(batch, 4)}},
        "mixture": {"phases": [{"weights": {"capsfusion": 0.8, "grit": 0.2}}]},
        "stages": [{"lr": {"decoder": 1e-4}}],
        "engine": {"precision": bench.precision(), "compile": bench.on_gpu, "zero_stage": 1},
        "guard": {"sigmas": None},
        "log": {"every": 1_000, "tensorboard": False},
    }
    _report(bench, _measured(bench, "decoder", tree, bench.size(6, 2), rounds=1))


def _measured(bench: Bench, section: str, tree: dict[str, Any], block: int, rounds: int) -> Blocks:
    world = distributed.start()
    trained = next(run for run in TASKS[section] if run.section == section)
    out = bench.folder / bench.part
    shutil.rmtree(out, ignore_errors=True)
    with quick_weights(on_gpu=bench.on_gpu):
        training = Training(trained, TrainConfig.model_validate(tree), bench.corpus(), str(out), world)
    told = [False]

    def tell(found: Blocks) -> None:
        if not told[0]:
            bench.add("first step", found.first_step, "s")
            told[0] = True

    return measure_blocks(training, block=block, rounds=rounds, warm=2, tell=tell)


def _report(bench: Bench, found: Blocks) -> None:
    peak, loop, alone = bench.peak(), statistics.median(found.loop), statistics.median(found.alone)
    bench.add("MFU of the loop, from tars", 100 * found.loop_flops[-1] / found.loop[-1] / peak, "%")
    bench.add("MFU of the engine alone on the last batch", 100 * found.alone_flops[-1] / found.alone[-1] / peak, "%")
    bench.add("a step of the loop", 1000 * loop, "ms")
    bench.add("a step of the engine alone", 1000 * alone, "ms")
    # Steps differ in their work: both as seconds per useful FLOP.
    ratios = [
        (a / b) / (c / d)
        for a, b, c, d in zip(found.loop, found.loop_flops, found.alone, found.alone_flops, strict=True)
    ]
    bench.add("time of the loop to that of its engine", statistics.median(ratios), "x")
    bench.add("tokens", found.tokens[-1] / found.loop[-1], "/s")
    bench.add("images", found.images[-1] / found.loop[-1], "/s")
    if bench.on_gpu:
        bench.add("peak memory", torch.cuda.max_memory_allocated() / 2**30, "GiB")
