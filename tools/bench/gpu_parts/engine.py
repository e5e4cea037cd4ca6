"""The engine alone: a language model against transformers' own in a bare loop, and ZeRO 1 to 3."""

import copy
import gc

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from model.batch import collate
from model.compiling import compile_blocks
from model.config import EmuConfig, LanguageModelConfig, named_size
from model.emu import Emu
from model.sequence import Sequence
from tools.bench.gpu_parts.part import NO_GUARD, Bench, quick_weights
from trainer.config import MODULES, TrainConfig
from trainer.engine import distributed
from trainer.engine.distributed import World
from trainer.engine.engine import Engine
from trainer.engine.flops import ModelFlops
from trainer.engine.optimizer import SpikeGuard
from trainer.tasks.pretrain import SequenceBatch

_RATES = dict.fromkeys(MODULES, 1e-5)


def language_model(bench: Bench) -> None:
    """Steps of a LLaMA of 7B's width under our engine, against the same transformers model in a bare loop.

    As many of its 32 layers as fit: both keep master weights and moments in fp32.
    """
    layers = bench.size(16 if bench.has_much_memory else 8, 2)
    wide = LanguageModelConfig(width=4096, layers=layers, heads=32, mlp_hidden=11008)
    small = named_size("debug").language_model
    base = named_size("debug")
    config = base.model_copy(
        update={"language_model": bench.size(wide, small), "vocab_size": bench.size(32_000, base.vocab_size)}
    )
    seq_len, num_packs = bench.size(2048, 64), bench.size(8, 2)
    rng = np.random.default_rng(0)
    packs = [[_text_sequence(rng, seq_len)] for _ in range(num_packs)]
    steps = bench.size(4, 2)
    bare = _bare_seconds(bench, config, packs, steps)
    gc.collect()
    if bench.on_gpu:
        torch.cuda.empty_cache()
    ours, flops = _engine_seconds(bench, config, packs, steps)
    bench.add(f"layers of 7B's width ({config.language_model.width} channels here)", layers, "")
    bench.add("a step of our engine", 1000 * ours, "ms")
    bench.add("a step of transformers' model in a bare loop", 1000 * bare, "ms")
    bench.add("speed of our engine to the bare loop's", bare / ours, "x")
    bench.add("MFU of our engine", 100 * flops / ours / bench.peak(), "%")


def _text_sequence(rng: np.random.Generator, seq_len: int) -> Sequence:
    nothing = np.zeros(seq_len, bool)
    return Sequence(rng.integers(3, 250, seq_len).astype(np.int32), np.ones(seq_len, np.uint8), nothing, (), (), ())


def _engine_seconds(bench: Bench, config: EmuConfig, packs: list[list[Sequence]], steps: int) -> tuple[float, float]:
    """Return the seconds, and the useful FLOPs, of a step of our engine."""
    world = distributed.start()
    with quick_weights(on_gpu=bench.on_gpu):
        module = Emu(config)
    engine = _engine(bench, module, config, world, packs=len(packs), micro=len(packs) // 2, stage=1)
    half = len(packs) // 2
    micros = [_micro(part) for part in (packs[:half], packs[half:])]
    seconds = _step_seconds(bench, engine, micros, steps)
    tokens = sum(len(s.token_ids) for pack in packs for s in pack)
    pairs = sum(len(s.token_ids) ** 2 / 2 for pack in packs for s in pack)
    with torch.device("meta"):
        flops = ModelFlops.of(Emu(config)).step(tokens, pairs, tokens, 0, MODULES)
    engine.close()
    return seconds, flops


def _step_seconds(bench: Bench, engine: Engine, micros: list[SequenceBatch], steps: int) -> float:
    guard, totals = SpikeGuard(NO_GUARD), _totals(micros)
    for _ in range(2):
        engine.step(micros, totals, _RATES, guard)
    start = bench.now()
    for _ in range(steps):
        engine.step(micros, totals, _RATES, guard)
    return (bench.now() - start) / steps


def _engine(
    bench: Bench, module: Emu, config: EmuConfig, world: World, *, packs: int, micro: int, stage: int
) -> Engine:
    tree = bench.tree()["pretrain"] | {"stages": [{"lr": _RATES}]}
    tree["data"] = {"plan": {"seq_len": bench.size(2048, 64), "global_batch_size": packs}}
    compiles = bench.on_gpu and stage < 3
    tree["engine"] = {
        "precision": bench.precision(), "zero_stage": stage, "micro_batch_size": micro, "compile": compiles,
    }  # fmt: skip
    tree["mixture"] = {"phases": [{"weights": {"pile": 1.0}}]}
    run = TrainConfig.model_validate({"pretrain": tree}).pretrain
    assert run is not None
    if compiles:
        compile_blocks(module.blocks(), varying=True)
        module.compile_losses()
    for buffer in (b for part in (module.encoder, module.bridge) for b in part.buffers()):
        buffer.data = buffer.data.to(bench.dtype) if buffer.is_floating_point() else buffer.data
    return Engine(module, run.stages[0], MODULES, run, world, ("ce", "regression"), 1)


def _micro(packs: list[list[Sequence]], images: list[Tensor] | None = None) -> SequenceBatch:
    batch = collate(packs, images or [], seq_len=len(packs[0][0].token_ids), pad_id=0)
    nowhere = torch.zeros(len(batch.text_at), dtype=torch.long)
    return SequenceBatch(batch, nowhere, torch.zeros(len(batch.visual_at), dtype=torch.long))


def _totals(micros: list[SequenceBatch]) -> list[int]:
    return [sum(map(len, parts)) for parts in zip(*(micro.sources for micro in micros), strict=True)]


def _bare_seconds(bench: Bench, config: EmuConfig, packs: list[list[Sequence]], steps: int) -> float:
    """Return the seconds of a step of transformers' own model: compiled layers, fused AdamW on fp32 masters."""
    with quick_weights(on_gpu=bench.on_gpu):
        model = Emu(config).to(bench.device, bench.dtype).language_model
    assert isinstance(model, LlamaForCausalLM)
    model.set_attn_implementation("sdpa")
    if bench.on_gpu:
        for layer in model.model.layers:
            layer.compile()
    weights = list(model.parameters())
    masters = [p.detach().float() for p in weights]
    optimizer = torch.optim.AdamW(masters, lr=1e-5, fused=bench.on_gpu)
    ids = torch.tensor(np.stack([pack[0].token_ids for pack in packs]), device=bench.device).long()
    halves = ids.chunk(2)

    def step() -> None:
        for part in halves:
            (model(input_ids=part, labels=part, use_cache=False).loss / len(halves)).backward()
        for master, weight in zip(masters, weights, strict=True):
            assert weight.grad is not None
            master.grad = weight.grad.float()
            weight.grad = None
        torch.nn.utils.clip_grad_norm_(masters, 5.0)
        optimizer.step()
        with torch.no_grad():
            for master, weight in zip(masters, weights, strict=True):
                weight.copy_(master)

    for _ in range(2):
        step()
    start = bench.now()
    for _ in range(steps):
        step()
    return (bench.now() - start) / steps


def zero(bench: Bench) -> None:
    """Steps of the config's model at ZeRO 1 to 3 at world size 1: equal losses, and nothing left after `close`."""
    config, _ = bench.model_of_corpus()
    world = distributed.start()
    with quick_weights(on_gpu=bench.on_gpu):
        module = Emu(config)
    rng = np.random.default_rng(0)
    seq_len, side = bench.size(2048, 64), config.encoder.image_size
    packs = [[_image_sequence(rng, seq_len, config)] for _ in range(4)]
    images = [torch.from_numpy(rng.integers(0, 256, (3, side, side), np.uint8)) for _ in packs]
    micros = [_micro(packs[:2], images[:2]), _micro(packs[2:], images[2:])]
    totals = _totals(micros)
    bench.memory_gb()
    losses = {}
    for stage in (1, 2, 3):
        before = bench.memory_gb()
        own = copy.deepcopy(module)
        engine = _engine(bench, own, config, world, packs=4, micro=2, stage=stage)
        del own
        guard = SpikeGuard(NO_GUARD)
        losses[stage] = [engine.step(micros, totals, _RATES, guard).loss for _ in range(3)]
        start = bench.now()
        engine.step(micros, totals, _RATES, guard)
        bench.add(f"a step at ZeRO {stage}", 1000 * (bench.now() - start), "ms")
        engine.close()
        del engine
        bench.add(f"memory left after close, ZeRO {stage}", bench.memory_gb() - before, "GiB")
    for stage in (2, 3):
        apart = max(abs(a - b) / abs(a) for a, b in zip(losses[1], losses[stage], strict=True))
        bench.add(f"losses of ZeRO {stage} to those of 1: largest difference", 100 * apart, "%")


def _image_sequence(rng: np.random.Generator, seq_len: int, config: EmuConfig) -> Sequence:
    """Return an image, then text."""
    slots = np.zeros(seq_len, bool)
    slots[2 : 2 + config.bridge.image_slots] = True
    targets = np.where(slots, 2, 1).astype(np.uint8)
    ids = rng.integers(3, 250, seq_len).astype(np.int32)
    return Sequence(ids, targets, slots, (0,), (False,), (config.bridge.image_slots,))
