"""Tests of steps under DeepSpeed: they are equal at every ZeRO stage and number of processes, and never hang."""

import gc
import math
import shutil

import pytest
import torch
from pydantic import ValidationError

from tests.trainer import trial_runs
from tests.trainer.ranks import in_ranks
from trainer.config import MODULES, GuardSettings
from trainer.engine import deepspeed_config
from trainer.engine.engine import Engine
from trainer.engine.metrics import read_metrics
from trainer.engine.optimizer import SpikeGuard
from trainer.engine.placement import filled_once
from trainer.reading.reader import Loader
from trainer.tasks.pretrain import PretrainTask, SequenceBatch

pytestmark = pytest.mark.slow

RATES = {"encoder": 1e-3, "bridge": 3e-3, "language_model": 3e-3}
NO_GUARD = GuardSettings(sigmas=None)
ONE_LAYER = {"model.changes": {"encoder": {"layers": 1}, "language_model": {"layers": 1}}}


def make(world, corpus, config):
    """Return an engine, and the micro-batches of a rank's first step."""
    run = config.pretrain
    task = PretrainTask(config.model, run, corpus, "/nowhere", world)
    torch.manual_seed(3)
    with filled_once(world):
        module = task.build()
    task.prepare(module, run.stages[0], torch.float32 if run.engine.precision == "fp32" else torch.bfloat16)
    engine = Engine(module, run.stages[0], task.modules, run, world, task.objectives, len(task.data.sources))
    plan = task.data.plan(task.costs())
    step = next(iter(Loader(plan, task.data.reader(), run.data.reader, world.rank, world.size)))
    size = engine.micro_batch_size
    return engine, [task.collate(step.packs[i : i + size]) for i in range(0, len(step.packs), size)]


def targets(world, micros):
    counts = [sum(map(len, parts)) for parts in zip(*(micro.sources for micro in micros), strict=True)]
    return [int(n) for n in world.sum(counts)]


def overfit(world, corpus, config, num_steps):
    engine, micros = make(world, corpus, config)
    guard = SpikeGuard(NO_GUARD)
    results = [engine.step(micros, targets(world, micros), RATES, guard) for _ in range(num_steps)]
    return [r.loss for r in results], [r.grad_norm for r in results]


def test_one_batch_overfits(training_corpus, config):
    ((losses, _),) = in_ranks(1, overfit, training_corpus, config(**ONE_LAYER), 60)
    assert losses[-1] < 0.25 * losses[0]


@pytest.mark.parametrize(
    ("precision", "others"),
    [
        ("fp32", [(2, 0), (1, 1), (2, 1), (2, 2), (2, 3)]),
        pytest.param("bf16", [(1, 1), (2, 2), (2, 3)], marks=pytest.mark.nightly),
    ],
)
def test_a_step_is_the_same_at_every_stage_and_number_of_processes(training_corpus, config, precision, others):
    def losses(size, stage):
        chosen = config(**{"engine.zero_stage": stage, "engine.precision": precision, "engine.micro_batch_size": 1})
        found = in_ranks(size, overfit, training_corpus, chosen, 3)
        assert all(other == found[0] for other in found)
        return found[0]

    expected, norms = losses(1, 0)
    tolerance = 1e-4 if precision == "fp32" else 3e-2
    for size, stage in others:
        here, here_norms = losses(size, stage)
        assert here == pytest.approx(expected, rel=tolerance), (size, stage)
        assert here_norms == pytest.approx(norms, rel=5 * tolerance), (size, stage)


@pytest.mark.parametrize(("size", "stage"), [("debug", 2), pytest.param("debug-emu", 3, marks=pytest.mark.nightly)])
def test_computing_activations_again_changes_nothing(training_corpus, config, size, stage):
    chosen = {"model.size": size, "engine.zero_stage": stage, "engine.micro_batch_size": 1}
    again = config(**chosen, **{"engine.gradient_checkpointing": MODULES})
    assert in_ranks(2, overfit, training_corpus, again, 3) == in_ranks(2, overfit, training_corpus, config(**chosen), 3)


@pytest.mark.nightly  # minutes of a compiler
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a compiler")
def test_compiled_blocks_give_the_same_loss_and_gradient(training_corpus, config, tmp_path):
    engine = {"engine.zero_stage": 2, "engine.micro_batch_size": 4}  # one shape, which is compiled once

    def first_step(compiled):
        chosen = config(**ONE_LAYER, steps=1, **engine, **{"engine.compile": compiled})
        out = tmp_path / str(compiled)
        in_ranks(1, trial_runs.run, "pretrain", chosen, training_corpus, out, timeout=400)
        [row] = read_metrics(str(out / "metrics.jsonl"))
        return row["loss"], row["grad_norm"]

    assert first_step(True) == pytest.approx(first_step(False), rel=1e-3)


def test_blocks_whose_weights_are_split_are_not_compiled(config):
    with pytest.raises(ValidationError, match="compile works with zero_stage 0 to 2"):
        config(**{"engine.zero_stage": 3, "engine.compile": True})


def left_after_close(world, corpus, config):
    """Return the elements of all tensors before an engine, with it, and after its `close`."""

    def live():
        gc.collect()
        return sum(it.numel() for it in gc.get_objects() if isinstance(it, torch.Tensor) and not it.is_meta)

    before = live()
    engine, micros = make(world, corpus, config)
    engine.step(micros, targets(world, micros), RATES, SpikeGuard(NO_GUARD))
    during = live()
    engine.close()
    del micros
    return before, during, live()


@pytest.mark.parametrize(
    ("stage", "precision"),
    [(1, "bf16"), (3, "fp32"), *(pytest.param(s, "bf16", marks=pytest.mark.nightly) for s in (2, 3))],
)
def test_nothing_is_left_after_close(training_corpus, config, stage, precision):
    chosen = config(**ONE_LAYER, **{"engine.zero_stage": stage, "engine.precision": precision})
    ((before, during, after),) = in_ranks(1, left_after_close, training_corpus, chosen)
    assert during > before + 50_000
    assert after < before + 1_000


def with_gradients_added(world, corpus, config, at_once):
    """Return the losses of some steps, with gradients added to those in fp32 as they come, or after each pass."""
    made = deepspeed_config.deepspeed_config

    def changed(*args, **named):
        tree = made(*args, **named)
        assert tree["bf16"]["immediate_grad_update"]
        tree["bf16"]["immediate_grad_update"] = at_once
        return tree

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainer.engine.engine.deepspeed_config", changed)
        return overfit(world, corpus, config, 3)


def test_gradients_that_are_added_as_they_come_are_the_same(training_corpus, config):
    chosen = config(**ONE_LAYER, **{"engine.zero_stage": 1, "engine.precision": "bf16", "engine.micro_batch_size": 2})
    at_once, after = (in_ranks(1, with_gradients_added, training_corpus, chosen, at_once) for at_once in (True, False))
    assert at_once == after


def one_rank_without_images(world, corpus, config):
    engine, micros = make(world, corpus, config)
    if world.rank == 1:
        micros = [_text_only(micro) for micro in micros]
    result = engine.step(micros, targets(world, micros), RATES, SpikeGuard(NO_GUARD))
    return result.loss, result.grad_norm


def _text_only(micro):
    batch = micro.batch
    nothing = torch.zeros(0, dtype=torch.long)
    values = {name: getattr(batch, name) for name in batch.__dataclass_fields__}
    values |= {"images": None, "num_frames": 0, "slots": nothing, "visual_at": nothing, "visual_rows": nothing}
    return SequenceBatch(type(batch)(**values), micro.text_sources, nothing)


@pytest.mark.parametrize(
    ("stage", "frozen"),
    [
        (0, True),
        (3, False),
        *(
            pytest.param(*case, marks=pytest.mark.nightly)
            for case in [(0, False), (1, False), (1, True), (2, False), (2, True), (3, True)]
        ),
    ],
)
def test_a_rank_without_images_does_not_hang(training_corpus, config, stage, frozen):
    lr = {"language_model": 1e-3} | ({} if frozen else {"encoder": 1e-3, "bridge": 1e-3})
    chosen = config(**{"engine.zero_stage": stage, "stages": [{"lr": lr}]})
    first, second = in_ranks(2, one_rank_without_images, training_corpus, chosen)
    assert first == second
    assert math.isfinite(first[0])


def frozen_parts(world, corpus, config):
    engine, micros = make(world, corpus, config)
    before = {name: p.detach().clone() for name, p in engine.module.named_parameters()}
    engine.step(micros, targets(world, micros), RATES, SpikeGuard(NO_GUARD))
    return {name.partition(".")[0] for name, p in engine.module.named_parameters() if not torch.equal(p, before[name])}


def test_a_module_without_a_learning_rate_is_frozen(training_corpus, config):
    (moved,) = in_ranks(1, frozen_parts, training_corpus, config(stages=[{"lr": {"bridge": 1e-3}}]))
    assert moved == {"bridge"}


def spoiled(world, corpus, config, how):
    engine, micros = make(world, corpus, config)
    guard = SpikeGuard(GuardSettings(sigmas=6, window=8))
    counts = targets(world, micros)
    if how == "spike":
        for number in range(8):
            guard.record_step(0.01 + number * 1e-4, 1e6)
    elif how == "norm":
        for number in range(8):
            guard.record_step(100.0, 1e-6 * (1 + number))
    elif world.rank == world.size - 1:
        with torch.no_grad():
            engine.module.bridge.project_up.weight.mul_(float("nan"))
    before = [p.detach().clone() for p in engine.module.language_model.parameters()]
    result = engine.step(micros, counts, RATES, guard)
    same = all(torch.equal(a, b) for a, b in zip(before, engine.module.language_model.parameters(), strict=True))
    guard.forget()
    after = None
    if how != "nan":
        after = [engine.step(micros, counts, RATES, guard).loss for _ in range(2)]
    return result.skipped, same, after


@pytest.mark.parametrize(
    ("stage", "precision"),
    [
        (0, "fp32"),
        pytest.param(1, "fp32", marks=pytest.mark.nightly),
        (1, "bf16"),
        pytest.param(2, "bf16", marks=pytest.mark.nightly),
    ],
)
@pytest.mark.parametrize(("how", "why"), [("spike", "loss"), ("norm", "gradient norm"), ("nan", "non-finite")])
def test_a_bad_step_moves_nothing(training_corpus, config, how, why, stage, precision):
    chosen = config(**{"engine.zero_stage": stage, "engine.precision": precision})
    for skipped, same, after in in_ranks(1, spoiled, training_corpus, chosen, how):
        assert skipped is not None
        assert skipped.startswith(why)
        assert same
        assert after is None or after[1] < after[0]
