"""Tests of placing weights: built by one process, equal in all, or sharded over them."""

import numpy as np
import pytest
import torch

from model.config import SIZES, LoraConfig
from model.emu import Emu
from model.lora import add_adapters
from model.weights import save_emu
from tests.trainer.ranks import in_ranks
from trainer.config import WeightsSettings
from trainer.engine.placement import filled_once, place
from trainer.tasks.build import build_model


def config():
    """Return the debug size with buffers of every kind, and tied tables."""
    debug = SIZES["debug"]
    changes = {"encoder": "sub_norm", "bridge": "standardize", "language_model": "tie_embeddings"}
    parts = {part: getattr(debug, part).model_copy(update={name: True}) for part, name in changes.items()}
    return debug.model_copy(update=parts)


def make(weights, folder):
    """Build a model with every change that is made to one before training."""
    torch.manual_seed(7)
    model = build_model(config(), weights, folder)
    add_adapters(model.language_model, LoraConfig())
    if not model.bridge.feature_mean.is_meta:
        model.bridge.feature_mean.fill_(0.5)
    return model


def values(tensors):
    return {name: tensor.detach().float().numpy().copy() for name, tensor in tensors}


def placed(world, weights, folder, split):
    """Return the number of parameters of a process after building and placing, then all buffers and parameters."""
    with filled_once(world):
        model = make(weights, folder)
    built = sum(p.numel() for p in model.parameters() if not p.is_meta)
    place(model, world, torch.bfloat16, split=split)
    buffers = values(model.named_buffers())
    if not split:
        return built, sum(p.numel() for p in model.parameters()), buffers, values(model.named_parameters())
    import deepspeed

    held = sum(p.numel() + p.ds_tensor.numel() for p in model.parameters())
    with deepspeed.zero.GatheredParameters(list(model.parameters())):
        return built, held, buffers, values(model.named_parameters())


@pytest.mark.slow
@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("begun", [False, True])
def test_processes_hold_what_the_first_one_built(tmp_path, begun, split):
    torch.manual_seed(1)
    save_emu(Emu(config()), tmp_path / "model")
    weights = (WeightsSettings(path="model"),) if begun else ()
    expected = make(weights, str(tmp_path))
    buffers, parameters = values(expected.named_buffers()), values(expected.bfloat16().named_parameters())
    total = sum(value.size for value in parameters.values())
    ranks = in_ranks(2, placed, weights, str(tmp_path), split)
    assert [built for built, *_ in ranks] == [total, 0]
    for rank, (_, held, its_buffers, its_parameters) in enumerate(ranks):
        assert held == (pytest.approx(total / 2, rel=0.01) if split else total)
        np.testing.assert_equal(its_buffers, buffers)
        if split or rank == 0:  # DeepSpeed's engine sends whole parameters to the others
            np.testing.assert_equal(its_parameters, parameters)
