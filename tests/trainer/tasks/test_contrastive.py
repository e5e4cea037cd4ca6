"""Tests of the contrastive loss: it is that of all pairs of a step, however these are cut into micro-batches."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from tests.trainer.ranks import in_ranks
from tests.trainer.small_corpus import take
from tests.trainer.tasks.test_encoder import config
from tests.trainer.trial_runs import consumed, killed, losses, run
from trainer.config import GuardSettings
from trainer.engine.engine import Engine
from trainer.engine.metrics import read_metrics
from trainer.engine.optimizer import SpikeGuard
from trainer.engine.placement import filled_once
from trainer.loop import FINISHED
from trainer.reading.micro_batches import Group
from trainer.reading.reader import Loader
from trainer.tasks.contrastive import CachedPairs, PairBatch, pair_losses, shifted
from trainer.tasks.encoder import EncoderTask
from trainer.tasks.held_out import HeldOut

RATES = {"clip": 1e-3}


def settings(micro=None, stage=0, precision="fp32", **changes):
    """Return a config whose held-out loss is computed at the last step."""
    engine = {"precision": precision, "zero_stage": stage, "micro_batch_size": micro, "peak_flops": 1e12, "threads": 1}
    return config(**{"engine": engine, "held_out": {"every": 6}, "max_shift": 0.1, **changes})


class Dropping(nn.Module):
    """A model of contrastive pairs whose features lose random parts."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.clip, self._module, self._dropout = module.clip, module, nn.Dropout(0.3)

    def forward(self, *args):
        seen, read, scale = self._module(*args)
        return self._dropout(seen), read, scale


def engine_of(world, chosen, corpus, wrap=lambda module: module):
    """Return task, engine, and the micro-batches of a rank's first step."""
    task = EncoderTask(chosen.model, chosen.encoder, corpus, "/nowhere", world)
    torch.manual_seed(1)
    with filled_once(world):
        module = wrap(task.build())
    engine = Engine(module, task.run.stages[0], task.modules, task.run, world, task.objectives, len(task.data.names))
    (step,) = take(Loader(task.data.plan(task.costs()), task.data.reader(), None, world.rank, world.size), 1)
    size = engine.micro_batch_size
    micros = [task.collate(step.packs[i : i + size]) for i in range(0, len(step.packs), size)]
    return task, engine, micros


def trained(world, chosen, corpus, num_steps):
    """Return losses and norms of steps on one batch, the weights after them, and the held-out losses."""
    task, engine, micros = engine_of(world, chosen, corpus)
    guard = SpikeGuard(GuardSettings(sigmas=None))
    results = [engine.step(micros, [8], RATES, guard) for _ in range(num_steps)]
    held_out = HeldOut(task, engine.micro_batch_size, world).losses(engine, {"pairs": 0.5, "groundeds": 0.5})
    weights = {name: tensor.float().numpy() for name, tensor in engine.weights().items()}
    assert all(result.skipped is None for result in results)
    return [r.loss for r in results], [r.grad_norm for r in results], weights, held_out, results[0].sums.totals


@pytest.fixture(scope="module")
def whole(training_corpus):
    """What a run learns in whose steps one process has a single micro-batch, by precision and ZeRO or none."""
    chosen = [(precision, zero) for precision in ("fp32", "bf16") for zero in (0, 1)]
    return {key: in_ranks(1, trained, settings(None, key[1], key[0]), training_corpus, 3)[0] for key in chosen}


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.nightly)])
@pytest.mark.parametrize(
    ("size", "stage", "micro"),
    [(1, 0, 1), (2, 1, 4), (2, 3, 2)]
    + [pytest.param(*case, marks=pytest.mark.nightly) for case in [(1, 0, 4), (1, 1, 2), (2, 2, 1)]],
)
def test_steps_are_equal_for_every_micro_batch(training_corpus, whole, precision, size, stage, micro):
    found = in_ranks(size, trained, settings(micro, stage, precision), training_corpus, 3)
    tolerance = 1e-4 if precision == "fp32" else 3e-2
    steps, norms, weights, held_out, totals = whole[precision, min(stage, 1)]
    assert steps[0] > 1.0, "eight pairs are not told apart at first"
    for other in found:
        assert other[0] == pytest.approx(steps, rel=tolerance)
        assert other[1] == pytest.approx(norms, rel=5 * tolerance)
        assert other[3] == pytest.approx(held_out, rel=tolerance)
        assert [sum(row) for row in other[4]] == pytest.approx([sum(row) for row in totals], rel=tolerance)
    if precision == "fp32":  # AdamW's first steps are as large as the rate, whatever the gradient's size
        for name, tensor in found[0][2].items():
            assert np.allclose(tensor, weights[name], atol=2e-4), name


def gradients(world, chosen, corpus, wrap):
    """Return the gradients of a step over micro-batches, and those of a loss over their features at once."""
    _, engine, micros = engine_of(world, chosen, corpus, wrap)
    module = engine.module
    torch.manual_seed(5)
    found = [micro.features(module) for micro in micros]
    seen, read = (torch.cat(parts) for parts in list(zip(*found, strict=True))[:2])
    (pair_losses((seen, read, found[0][2]), gather=True).sum() / 8).backward()
    expected = {name: parameter.grad.clone().numpy() for name, parameter in module.named_parameters()}
    module.zero_grad()
    torch.manual_seed(5)
    for micro in PairBatch.joined(module, micros, [8], world.device):
        micro.losses(module, [8]).loss.backward()
    return expected, {name: parameter.grad.numpy() for name, parameter in module.named_parameters()}


def unchanged(module):
    return module


@pytest.mark.slow
@pytest.mark.parametrize("wrap", [unchanged, Dropping])
def test_gradients_are_those_of_the_whole_batch(training_corpus, wrap):
    ((expected, found),) = in_ranks(1, gradients, settings(2), training_corpus, wrap)
    assert expected.keys() == found.keys()
    assert abs(expected["clip.logit_scale"][0]) > 0
    for name, gradient in expected.items():
        assert np.allclose(found[name], gradient, rtol=1e-4, atol=1e-6), name


@pytest.mark.slow
def test_a_single_micro_batch_is_run_once(training_corpus):
    (kinds,) = in_ranks(1, kinds_of_micros, settings(None), training_corpus)
    assert kinds == ["PairBatch"]
    (kinds,) = in_ranks(1, kinds_of_micros, settings(4), training_corpus)
    assert kinds == ["CachedPairs", "CachedPairs"]


def kinds_of_micros(world, chosen, corpus):
    _, engine, micros = engine_of(world, chosen, corpus)
    return [type(micro).__name__ for micro in PairBatch.joined(engine.module, micros, [8], world.device)]


@pytest.mark.slow
def test_a_run_of_single_pairs_learns_and_resumes(training_corpus, tmp_path):
    chosen = settings(1, 1, steps=16, checkpoints={"every": 4, "keep": 2}, log={"every": 1, "tensorboard": False})
    assert in_ranks(1, run, "encoder", chosen, training_corpus, tmp_path / "a") == [FINISHED]
    killed(1, "encoder", chosen, training_corpus, tmp_path / "b", 10)
    assert in_ranks(1, run, "encoder", chosen, training_corpus, tmp_path / "b") == [FINISHED]
    first, second = (tmp_path / name / "encoder" for name in "ab")
    assert losses(first) == losses(second)
    assert consumed(first) == consumed(second)
    rows = read_metrics(str(first / "metrics.jsonl"))
    assert rows[0]["loss"] > 1.0
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert rows[-1]["held_out_contrastive"] > 0.1, "each of two pairs is told from the other"


# --- held-out pairs ---


class Given(nn.Module):
    """A module whose features are its inputs."""

    def forward(self, images, texts):
        return images, texts, torch.tensor([5.0])


def batches(sizes, micro):
    """Return pairs in groups of some sizes, cut into micro-batches, and the expected loss of each."""
    torch.manual_seed(0)
    found, expected = [], []
    for number, size in enumerate(sizes):
        images, texts = (nn.functional.normalize(torch.randn(size, 6)) for _ in range(2))
        expected.append(pair_losses((images, texts, torch.tensor([5.0])), gather=False))
        for i in range(0, size, micro):
            part = slice(i, i + micro)
            batch = PairBatch(images[part], torch.zeros(len(images[part]), dtype=torch.long), texts[part])
            found.append(batch.of_group(Group(number, i, sizes)))
    return found, torch.cat(expected)


def held_out_values(world, sizes, micro):
    micros, _ = batches(sizes, micro)
    mine = micros[world.rank :: world.size]
    filler = micros[0].of_group(Group(0, None, sizes))
    mine += [filler] * (-(-len(micros) // world.size) - len(mine))
    joined = PairBatch.joined(Given(), mine, None, world.device)
    assert all(isinstance(pairs, CachedPairs) for pairs in joined)
    values = torch.zeros(sum(sizes))
    for pairs in joined:
        if pairs.pairs.group.first is not None:
            values[pairs.pairs.group.span(len(pairs.values))] = pairs.losses(None, None).values[0]
    return values.tolist()


@pytest.mark.parametrize(("size", "micro"), [(1, 8), (1, 3), (1, 1), (2, 4), (2, 2), (3, 1), (4, 8)])
def test_held_out_pairs_are_told_from_their_whole_group(size, micro):
    sizes = (8, 5, 2)
    found = torch.tensor(in_ranks(size, held_out_values, sizes, micro)).sum(0)
    assert torch.allclose(found, batches(sizes, micro)[1], rtol=1e-6)


# --- shifts ---


def test_a_batch_of_one_pair_is_refused():
    with pytest.raises(ValidationError, match="at least 2: a pair is told from the other pairs of its step"):
        settings(data={"plan": {"seq_len": 1, "global_batch_size": 1}})


def test_an_image_is_shifted_as_wanted_repeating_its_edges():
    image = torch.arange(9).view(1, 1, 3, 3)
    moved = shifted(image.expand(3, 1, 3, 3), torch.tensor([[1, 0], [0, -1], [5, 5]]))
    assert moved[:, 0].tolist() == [
        [[0, 1, 2], [0, 1, 2], [3, 4, 5]],
        [[1, 2, 2], [4, 5, 5], [7, 8, 8]],
        [[0, 0, 0], [0, 0, 0], [0, 0, 0]],
    ]


def offsets(world, chosen, corpus):
    _, _, micros = engine_of(world, chosen, corpus)
    return torch.cat([micro.offsets for micro in micros]).tolist()


@pytest.mark.slow
def test_shifts_depend_on_the_pair_alone(training_corpus):
    chosen = settings(8, max_shift=0.4)
    (whole,) = in_ranks(1, offsets, chosen, training_corpus)
    assert len({tuple(offset) for offset in whole}) > 4
    assert all(abs(way) <= 6 for offset in whole for way in offset)
    (cut,) = in_ranks(1, offsets, settings(2, max_shift=0.4), training_corpus)
    first, second = in_ranks(2, offsets, settings(2, max_shift=0.4), training_corpus)
    assert cut == whole
    assert sorted(first + second) == sorted(whole)
