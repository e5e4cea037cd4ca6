"""Tests of FP8 in the language model: which layers, under which names, and a loss that falls as without."""

import sys

import pytest
import torch

from model.config import named_size
from model.emu import Emu
from model.language_model import backbone
from pipelines.errors import UserError
from trainer.engine.fp8 import use_fp8

CPU = torch.device("cpu")


def test_without_torchao_it_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao", None)
    monkeypatch.setitem(sys.modules, "torchao.float8", None)
    with pytest.raises(UserError, match="needs the torchao package"):
        use_fp8(torch.nn.Linear(16, 16), CPU)


@pytest.mark.slow
def test_the_loss_falls_as_without(monkeypatch):
    pytest.importorskip("torchao")
    curves = {}
    for fp8 in (False, True):
        torch.manual_seed(0)
        model = Emu(named_size("debug")).language_model
        names = {name: p.shape for name, p in model.named_parameters()}
        if fp8:
            layers = 7 * model.config.num_hidden_layers
            assert use_fp8(backbone(model), CPU) == layers
        assert {name: p.shape for name, p in model.named_parameters()} == names
        ids = torch.randint(0, 400, (4, 32), generator=torch.Generator().manual_seed(1))
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        curves[fp8] = []
        for _ in range(20):
            loss = model(input_ids=ids, labels=ids).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            curves[fp8].append(float(loss.detach()))
    assert curves[True] != curves[False], "FP8 rounds"
    assert curves[True] == pytest.approx(curves[False], rel=0.02)
    assert curves[True][-1] < 0.8 * curves[True][0]
