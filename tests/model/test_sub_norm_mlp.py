"""Tests of EVA-02's MLP on padded widths: the same outputs, gradients and parameters."""

import pytest
import torch
from timm.layers.mlp import SwiGLU
from torch import nn

from model.config import EncoderConfig
from model.sub_norm_mlp import SubNormMlp, padded_norm
from model.vision_encoder import Encoder

ENCODER = EncoderConfig(
    image_size=16, patch_size=4, width=24, layers=2, heads=2, mlp_hidden=27, position_grid=4, sub_norm=True
)


@pytest.fixture
def plain() -> SwiGLU:
    torch.manual_seed(0)
    mlp = SwiGLU(8, 11, norm_layer=nn.LayerNorm)
    for parameter in mlp.parameters():
        nn.init.normal_(parameter)
    return mlp


@pytest.mark.parametrize("compiled", [False, True])
def test_padding_changes_neither_outputs_nor_gradients(plain, compiled):
    padded = SubNormMlp.of(plain)
    padded.multiple = 8
    call = torch.compile(padded, backend="aot_eager") if compiled else padded
    x = torch.randn(3, 5, 8)
    results = []
    for mlp in (plain, call):
        plain.zero_grad()
        own = x.clone().requires_grad_()
        out = mlp(own)
        out.square().sum().backward()
        results.append([out, own.grad, *(p.grad.clone() for p in plain.parameters())])
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6 * float(expected.detach().abs().max()))


def test_the_norm_of_padded_channels_is_that_of_the_others():
    torch.manual_seed(0)
    norm = nn.LayerNorm(11)
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(4, 11) + 3
    found = padded_norm(nn.functional.pad(x, (0, 5)), norm, 5)
    torch.testing.assert_close(found[:, :11], norm(x), rtol=1e-5, atol=1e-6)
    assert not found[:, 11:].any()


def test_an_encoder_keeps_the_shapes_of_its_checkpoint():
    torch.manual_seed(0)
    encoder = Encoder(ENCODER).eval()
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    before, shapes = encoder(images), {name: t.shape for name, t in encoder.state_dict().items()}
    encoder.pad_mlps(16)
    torch.testing.assert_close(encoder(images), before, rtol=1e-5, atol=1e-6)
    assert {name: t.shape for name, t in encoder.state_dict().items()} == shapes
    assert shapes["tower.blocks.0.mlp.fc1_g.weight"] == (27, 24)
