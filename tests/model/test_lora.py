from collections.abc import Callable
from typing import Any

import pytest
import torch

from model.config import LoraConfig
from model.lora import add_adapters, merged, peft_adapter
from model.segment import ImageSegment

CONFIG = LoraConfig(rank=4, alpha=8, dropout=0.0)


def _adapted(small: Callable[..., Any], config: LoraConfig = CONFIG) -> Any:
    it = small("emu")
    add_adapters(it.model.language_model, config)
    return it


def _with_random_adapters(small: Callable[..., Any]) -> Any:
    it = _adapted(small)
    made = torch.Generator().manual_seed(1)
    for name, parameter in it.model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.3, generator=made)
    return it


def _losses(it: Any) -> torch.Tensor:
    batch = it.batch([[it.sequence(ImageSegment(0), "a red boat")]], it.images(1))
    return it.model(batch).text  # type: ignore[no-any-return]


def test_new_adapters_change_nothing(small: Callable[..., Any]) -> None:
    torch.testing.assert_close(_losses(_adapted(small)), _losses(small("emu")))


def test_adapters_alone_are_trained(small: Callable[..., Any]) -> None:
    it = _with_random_adapters(small)
    it.model.encoder.requires_grad_(False)
    it.model.bridge.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in it.model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in it.model.parameters() if p.requires_grad], lr=1.0)
    it.model(it.batch([[it.sequence(ImageSegment(0), "a red boat")]], it.images(1))).loss.backward()
    optimizer.step()
    changed = {name for name, tensor in it.model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in before if "lora_" in name}
    assert len(changed) == 2 * 4 * it.config.language_model.layers


def test_merged_weights_compute_the_same(small: Callable[..., Any]) -> None:
    it = _with_random_adapters(small)
    plain = small("emu")
    assert not torch.allclose(_losses(it), _losses(plain))
    plain.model.load_state_dict(merged(it.model.state_dict(), CONFIG))
    torch.testing.assert_close(_losses(plain), _losses(it))


def test_adapters_are_named_as_peft_names_them(small: Callable[..., Any]) -> None:
    adapters, record = peft_adapter(_adapted(small).model.state_dict(), CONFIG)
    name = "base_model.model.model.layers.1.self_attn.o_proj.lora_A.weight"
    assert adapters[name].shape == (4, 32)
    assert len(adapters) == 16
    assert (record["peft_type"], record["r"], record["lora_alpha"]) == ("LORA", 4, 8)


def test_a_layer_that_is_not_there_is_named(small: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="no linear layer 'w_proj' to adapt"):
        _adapted(small, LoraConfig(targets=("q_proj", "w_proj")))
