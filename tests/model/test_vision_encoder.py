import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from model.config import CLIP_MEAN, CLIP_STD, EncoderConfig
from model.vision_encoder import Encoder, resize_positions

TINY = {"image_size": 16, "patch_size": 4, "width": 24, "layers": 2, "heads": 2, "mlp_hidden": 40, "position_grid": 4}
VARIANTS = {
    "eva01": EncoderConfig(**TINY),
    "eva02-e": EncoderConfig(**TINY, post_norm=True),
    "eva02-l": EncoderConfig(**TINY, sub_norm=True),
    "clip": EncoderConfig(**TINY, kind="clip"),
}


def _pixels(count: int = 2, side: int = 16) -> Tensor:
    made = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, side, side), generator=made, dtype=torch.uint8)


@pytest.mark.parametrize("name", VARIANTS)
def test_gives_cls_and_every_patch(name: str) -> None:
    assert Encoder(VARIANTS[name])(_pixels()).shape == (2, 17, 24)


@pytest.mark.parametrize("name", VARIANTS)
def test_checkpointing_changes_no_gradient(name: str) -> None:
    encoder = Encoder(VARIANTS[name]).train()
    gradients = []
    for enabled in (False, True):
        encoder.set_gradient_checkpointing(enabled)
        encoder.zero_grad()
        encoder(_pixels()).square().sum().backward()
        gradients.append(next(encoder.parameters()).grad.clone())
    assert torch.equal(*gradients)


def test_uint8_pixels_are_normalised_as_clip_does() -> None:
    pixels = _pixels()
    mean, std = torch.tensor(CLIP_MEAN).view(3, 1, 1), torch.tensor(CLIP_STD).view(3, 1, 1)
    encoder = Encoder(VARIANTS["eva01"])
    torch.testing.assert_close(encoder.normalize(pixels), (pixels / 255 - mean) / std)
    assert torch.equal(encoder(pixels), encoder(encoder.normalize(pixels)))


@pytest.mark.parametrize("post_norm", [False, True])
def test_eva_blocks_written_out(post_norm: bool) -> None:
    encoder = Encoder(VARIANTS["eva02-e" if post_norm else "eva01"]).eval()
    weights = {name: torch.randn_like(value) * 0.1 for name, value in encoder.tower.state_dict().items()}
    encoder.tower.load_state_dict(weights)
    images = encoder.normalize(_pixels())

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (24,), weights[f"{name}.weight"], weights[f"{name}.bias"], eps=1e-6)

    x = F.conv2d(images, weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"], stride=4)
    x = torch.cat([weights["cls_token"].expand(2, -1, -1), x.flatten(2).mT], dim=1) + weights["pos_embed"]
    for i in range(2):
        at = f"blocks.{i}"

        def attend(x: Tensor, at: str = at) -> Tensor:
            bias = torch.cat([weights[f"{at}.attn.q_bias"], torch.zeros(24), weights[f"{at}.attn.v_bias"]])
            q, k, v = F.linear(x, weights[f"{at}.attn.qkv.weight"], bias).chunk(3, dim=-1)
            q, k, v = (y.unflatten(-1, (2, 12)).transpose(1, 2) for y in (q, k, v))
            y = ((q @ k.mT) / 12**0.5).softmax(-1) @ v
            return F.linear(
                y.transpose(1, 2).flatten(2), weights[f"{at}.attn.proj.weight"], weights[f"{at}.attn.proj.bias"]
            )

        def think(x: Tensor, at: str = at) -> Tensor:
            y = F.gelu(F.linear(x, weights[f"{at}.mlp.fc1.weight"], weights[f"{at}.mlp.fc1.bias"]))
            return F.linear(y, weights[f"{at}.mlp.fc2.weight"], weights[f"{at}.mlp.fc2.bias"])

        if post_norm:
            x = x + norm(attend(x), f"{at}.norm1")
            x = x + norm(think(x), f"{at}.norm2")
        else:
            x = x + attend(norm(x, f"{at}.norm1"))
            x = x + think(norm(x, f"{at}.norm2"))
    torch.testing.assert_close(encoder(_pixels()), x)


def test_positions_are_resized_with_cls_apart() -> None:
    positions = torch.randn(1, 17, 8)
    resized = resize_positions(positions, 8)
    assert resized.shape == (1, 65, 8)
    assert torch.equal(resized[:, 0], positions[:, 0])
    image = positions[0, 1:].unflatten(0, (4, 4)).permute(2, 0, 1)[None]
    twice = F.interpolate(image, size=(8, 8), mode="bicubic").permute(0, 2, 3, 1).flatten(1, 2)
    torch.testing.assert_close(resized[:, 1:], twice)
    assert resize_positions(positions[0], 8).shape == (65, 8)
    assert resize_positions(positions, 4) is positions
