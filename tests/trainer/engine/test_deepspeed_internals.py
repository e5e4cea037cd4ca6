"""Tests that the private parts of DeepSpeed still work as needed; each failure names what a release has broken."""

import logging
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.trainer.ranks import in_ranks
from trainer.engine.deepspeed_internals import (
    UNIVERSAL_STATE,
    gradient_norm,
    import_deepspeed,
    load_untrained,
    loading_universal,
    quiet,
    to_universal,
    whole_weights,
)

NORM_LOST = "spikes in the gradient norm would go unseen: DeepSpeed's optimizer no longer knows it when it steps"
WEIGHTS_LOST = "weights under ZeRO-3 could not be exported or evaluated"
UNIVERSAL_LOST = "a run could not continue with another number of processes or ZeRO stage"
UNTRAINED_LOST = (
    "a run that continues with another number of processes would begin with other frozen weights or buffers"
)


class _Watching(torch.optim.AdamW):
    """An optimizer that reads the norm inside its step, as the trainer's does."""

    def step(self, closure=None):
        self.norm = gradient_norm(self.engine)
        return super().step(closure)


def start(stage, module=None):
    torch.manual_seed(0)
    module = module or nn.Linear(3, 2)
    config = {
        "train_batch_size": torch.distributed.get_world_size(),
        "zero_optimization": {"stage": stage},
        "zero_allow_untested_optimizer": True,
        "gradient_clipping": 0.5,
    }
    with quiet():
        engine, *_ = import_deepspeed().initialize(
            model=module,
            optimizer=_Watching([p for p in module.parameters() if p.requires_grad], lr=0.1),
            config=config,
            dist_init_required=False,
        )
    engine.basic_optimizer.engine = engine
    return engine


def step(engine):
    loss = engine(torch.ones(1, 3)).square().sum() * 100
    engine.backward(loss)
    engine.step()


def expected_norm():
    torch.manual_seed(0)
    module = nn.Linear(3, 2)
    (module(torch.ones(1, 3)).square().sum() * 100).backward()
    return torch.cat([p.grad.flatten() for p in module.parameters()]).norm().item()


def norms(world, stage):
    engine = start(stage)
    step(engine)
    return engine.basic_optimizer.norm


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_the_norm_before_clipping_is_known_inside_the_step(stage):
    assert in_ranks(1, norms, stage) == [pytest.approx(expected_norm(), rel=1e-5)], NORM_LOST


def gathered(world):
    return {name: weight.tolist() for name, weight in whole_weights(start(3)).items()}


@pytest.mark.slow
def test_split_weights_are_whole_at_the_first_process_alone():
    torch.manual_seed(0)
    whole = {name: weight.tolist() for name, weight in nn.Linear(3, 2).state_dict().items()}
    assert in_ranks(2, gathered) == [whole, {}], WEIGHTS_LOST


def saved(world, folder):
    engine = start(1)
    step(engine)
    with quiet():
        engine.save_checkpoint(folder, tag="plain", client_state=UNIVERSAL_STATE, save_latest=False)
    return engine.module.weight.tolist()


def loaded(world, folder):
    engine = start(3)
    with quiet(), loading_universal(engine, True):
        path, _ = engine.load_checkpoint(folder, tag="universal")
    assert path is not None
    assert not engine.load_universal_checkpoint()  # otherwise later checkpoints are incomplete
    return whole_weights(engine)["weight"].tolist() if world.is_first else whole_weights(engine)


@pytest.mark.slow
def test_a_checkpoint_is_resumed_at_another_stage_and_size_in_its_universal_form(tmp_path):
    weight, _ = in_ranks(2, saved, str(tmp_path))
    to_universal(tmp_path / "plain", tmp_path / "universal", 3)
    assert in_ranks(1, loaded, str(tmp_path)) == [weight], UNIVERSAL_LOST


class _PartlyTrained(nn.Module):
    """With a buffer, and a frozen part of more elements than ZeRO-3 keeps whole, of an odd number that it pads."""

    def __init__(self, value):
        super().__init__()
        torch.manual_seed(0)
        self.trained = nn.Linear(3, 7)
        self.frozen = nn.Linear(333, 333).requires_grad_(False)
        self.small = nn.Linear(3, 3).requires_grad_(False)
        self.register_buffer("measured", torch.zeros(3))
        self.register_buffer("worked_out", torch.zeros(1), persistent=False)
        for number, tensor in enumerate([*self.frozen.parameters(), *self.small.parameters(), self.measured]):
            tensor.data.copy_(value * (1 + number + torch.arange(tensor.numel()).view(tensor.shape) % 7))

    def forward(self, x):
        return self.trained(self.small(x) + self.measured)


def continued(engine):
    """All values after two more steps."""
    step(engine)
    step(engine)
    with import_deepspeed().zero.GatheredParameters(list(engine.module.parameters())):
        found = {name: p.flatten().tolist() for name, p in engine.module.named_parameters()}
    return found | {"measured": engine.module.measured.tolist()}


def save_partly_trained(world, folder, stage):
    engine = start(stage, _PartlyTrained(0.01))
    step(engine)
    step(engine)
    with quiet():
        engine.save_checkpoint(folder, tag="plain", client_state=UNIVERSAL_STATE, save_latest=False)
    return continued(engine)


def load_partly_trained(world, folder, stage):
    engine = start(stage, _PartlyTrained(-0.02))
    with quiet(), loading_universal(engine, True):
        engine.load_checkpoint(folder, tag="universal")
        load_untrained(engine.module, Path(folder) / "universal")
    return continued(engine)


@pytest.mark.slow
@pytest.mark.parametrize("stages", [(1, 3), (2, 1), (3, 1), (3, 3)])
def test_any_stage_and_number_of_processes_continues_with_all_there_was(tmp_path, stages):
    before, after = stages
    whole, *_ = in_ranks(2, save_partly_trained, str(tmp_path), before)
    to_universal(tmp_path / "plain", tmp_path / "universal", after)
    for size in (1, 3):
        for resumed in in_ranks(size, load_partly_trained, str(tmp_path), after):
            for name, values in whole.items():
                trained = name.startswith("trained")
                assert resumed[name] == (pytest.approx(values, rel=1e-5) if trained else values), UNTRAINED_LOST


def test_the_shared_memory_operator_is_not_compiled_and_nothing_is_logged():
    assert os.environ["DS_ACCELERATOR"] == "cpu"
    deepspeed = import_deepspeed()
    said = "importing DeepSpeed on a CPU would need a C++ compiler"
    assert deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] is False, said
    assert deepspeed.utils.logger.level == logging.ERROR
