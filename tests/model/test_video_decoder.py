"""Tests of the video decoder: what its layers over time change, and what they do not."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model.config import SIZES, EmuConfig, ImageDecoderConfig, VideoDecoderConfig
from model.image_decoder import ImageDecoder
from model.video_decoder import FilmAttention, TemporalConv2d, VideoDecoder, begin_from, is_temporal

FRAMES = 3


def _config(**image: Any) -> EmuConfig:
    config = SIZES["debug"]
    changed = config.image_decoder.model_copy(update=image)
    return config.model_copy(update={"image_decoder": changed, "video_decoder": VideoDecoderConfig(frames=FRAMES)})


def _both(**image: Any) -> tuple[VideoDecoder, ImageDecoder]:
    """Return a fresh video decoder, and the image decoder from which it begins."""
    torch.manual_seed(0)
    config = _config(**image)
    frames = ImageDecoder.for_model(config).eval()
    nn.init.normal_(frames.autoencoder.decoder.conv_out.weight)
    film = VideoDecoder.for_model(config).eval()
    begin_from(film, frames)
    return film, frames


def _trained(decoder: VideoDecoder, conv: float = 0.05, gate: float = 0.5) -> VideoDecoder:
    """Return a decoder whose layers over time do something."""
    torch.manual_seed(1)
    for module in decoder.modules():
        if isinstance(module, TemporalConv2d):
            nn.init.normal_(module.temporal.weight, std=conv)
        elif isinstance(module, FilmAttention):
            nn.init.constant_(module.gate, gate)
    return decoder


def _latents(num: int = 2) -> Tensor:
    return torch.randn(num, FRAMES, 4, 8, 8, generator=_seed())


def _conditioning(num: int = 2, frames: int = FRAMES) -> Tensor:
    return torch.randn(num, frames, 4, 24, generator=_seed(5))


def _seed(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@torch.no_grad()
def _denoised(decoder: VideoDecoder, latents: Tensor, conditioning: Tensor) -> Tensor:
    """Return what the U-Net makes of films at one time: (B, F, C, s, s)."""
    decoder._num_frames.value = latents.shape[1]
    times = torch.full((latents.shape[0] * latents.shape[1],), 500)
    return decoder._predict(latents.flatten(0, 1), times, conditioning.flatten(0, 1), None).view_as(latents)


@pytest.mark.parametrize("image", [{}, {"micro_conditions": False, "noise_offset": 0.0}, {"linear_projection": False}])
def test_with_fresh_layers_a_film_is_what_the_image_decoder_makes_of_its_frames(image: dict[str, Any]) -> None:
    film, frames = _both(**image)
    latents, conditioning = _latents(), _conditioning()
    times = torch.full((2 * FRAMES,), 500)
    with torch.no_grad():
        expected = frames._predict(latents.flatten(0, 1), times, conditioning.flatten(0, 1), None)
    torch.testing.assert_close(_denoised(film, latents, conditioning).flatten(0, 1), expected, rtol=0, atol=1e-5)
    drawn = film.sample(conditioning, steps=3, generator=_seed())
    alone = frames.sample(conditioning.flatten(0, 1), steps=3, generator=_seed())
    assert drawn.shape == (2, FRAMES, 3, 16, 16)
    assert (drawn.flatten(0, 1).int() - alone.int()).abs().max() <= 1


def test_the_order_of_frames_counts_only_through_convolutions_over_time() -> None:
    latents, conditioning, order = _latents(), _conditioning(), [2, 0, 1]

    def moved(decoder: VideoDecoder) -> float:
        direct = _denoised(decoder, latents, conditioning)[:, order]
        return float((_denoised(decoder, latents[:, order], conditioning[:, order]) - direct).abs().max())

    fresh, _ = _both()
    assert moved(fresh) < 1e-5
    assert moved(_trained(fresh, conv=0.0)) < 1e-5  # attention over all frames knows no order
    assert moved(_trained(fresh)) > 1e-3


@pytest.mark.parametrize(("conv", "gate"), [(0.05, 0.0), (0.0, 1.0)])
def test_each_kind_of_layer_reads_the_other_frames_of_its_film_alone(conv: float, gate: float) -> None:
    decoder = _trained(_both()[0], conv, gate)
    latents, conditioning = _latents(), _conditioning()
    before = _denoised(decoder, latents, conditioning)
    latents[0, 1] += 1.0
    change = (_denoised(decoder, latents, conditioning) - before).abs().amax((2, 3, 4))
    assert (change[0] > 1e-4).all()
    assert change[1].max() < 1e-5


def test_a_closed_gate_is_attention_within_frames_and_an_open_one_over_all() -> None:
    torch.manual_seed(0)
    decoder = _both()[0]
    attention = next(m for m in decoder.modules() if isinstance(getattr(m, "processor", None), FilmAttention))
    decoder._num_frames.value = FRAMES
    x = torch.randn(2 * FRAMES, 5, attention.to_q.in_features)

    def plainly(x: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(-1, (attention.heads, -1)).transpose(1, 2) for layer in (
            attention.to_q, attention.to_k, attention.to_v))  # fmt: skip
        found = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v
        return attention.to_out[0](found.transpose(1, 2).flatten(2))

    torch.testing.assert_close(attention(x), plainly(x), rtol=0, atol=1e-5)
    nn.init.ones_(attention.processor.gate)
    joined = plainly(x.reshape(2, FRAMES * 5, -1)).reshape(x.shape)
    torch.testing.assert_close(attention(x), joined, rtol=0, atol=1e-5)


def test_the_loss_of_a_fresh_decoder_is_the_image_decoders_with_one_time_per_film() -> None:
    film, frames = _both(conditioning_dropout=0.4)
    latents, conditioning = _latents(8), _conditioning(8)
    found = film(latents, conditioning, generator=_seed())

    def of_films(num: int, **draw: Any) -> Tensor:
        return torch.rand(num // FRAMES, **draw).repeat_interleave(FRAMES)

    frames._chances = of_films  # type: ignore[method-assign]
    expected = frames(latents.flatten(0, 1), conditioning.flatten(0, 1), generator=_seed()).per_image
    torch.testing.assert_close(found.per_image, expected.view(8, FRAMES).mean(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.loss, expected.mean(), rtol=1e-4, atol=1e-5)


def test_a_film_has_its_own_noise_whatever_batch_it_is_in() -> None:
    decoder = _trained(_both()[0])
    latents, conditioning = _latents(4), _conditioning(4)
    micro = torch.tensor([[16.0, 16, 0, 0, 16, 16]]).expand(4, 6)
    whole = decoder(latents, conditioning, micro=micro, generator=_seed()).per_image
    alone = [
        decoder(latents[i : i + 1], conditioning[i : i + 1], generator=_seed(), rows=(i, 4)).per_image for i in range(4)
    ]
    torch.testing.assert_close(torch.cat(alone), whole, rtol=1e-4, atol=1e-5)


def test_all_layers_learn_and_films_of_any_length_are_drawn() -> None:
    decoder = _both(conditioning_dropout=0.0)[0].train()
    pixels = torch.randint(0, 256, (2, FRAMES, 3, 16, 16), dtype=torch.uint8)
    assert decoder.encode(pixels).shape == (2, FRAMES, 4, 8, 8)
    decoder(pixels, _conditioning()).loss.backward()
    temporal = {name: p for name, p in decoder.named_parameters() if is_temporal(name)}
    assert any(name.endswith("gate") for name in temporal)
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in temporal.values())
    for frames in (1, 2, 5):
        assert decoder.sample(_conditioning(1, frames), steps=1).shape == (1, frames, 3, 16, 16)


def test_a_convolution_over_time_follows_each_spatial_one() -> None:
    film, frames = _both()
    spatial = {n for n, m in frames.unet.named_modules() if isinstance(m, nn.Conv2d) and m.kernel_size != (1, 1)}
    assert {n for n, m in film.unet.named_modules() if isinstance(m, TemporalConv2d)} == spatial
    assert {"conv_in", "conv_out", "down_blocks.0.resnets.0.conv1"} < spatial


@pytest.mark.slow
def test_stable_diffusion_2_1_has_its_released_shape() -> None:
    config = ImageDecoderConfig(
        image_size=512, channels=(320, 640, 1280, 1280), transformer_layers=(1, 1, 1, 0), heads=(5, 10, 20, 20),
        micro_conditions=False,
    )  # fmt: skip
    with torch.device("meta"):
        unet = ImageDecoder(config, 1024, 77).unet
    assert sum(p.numel() for p in unet.parameters()) == 865_910_724  # as of stabilityai/stable-diffusion-2-1-base
