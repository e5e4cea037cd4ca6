import copy
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import EMAModel
from pydantic import ValidationError
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from model.compiling import compile_blocks
from model.config import SIZES, AutoencoderConfig, ImageDecoderConfig
from model.image_decoder import (
    ImageDecoder,
    WeightAverage,
    autoencoder_loss,
    build_autoencoder,
    build_unet,
    from_uint8,
    to_uint8,
)

# diffusers 0.42's Euler scheduler passes a tensor to NumPy 2 in a way that causes a warning.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

TINY = SIZES["debug"].image_decoder
PLAIN = {"conditioning_dropout": 0.0, "noise_offset": 0.0}


def _decoder(**changes: Any) -> ImageDecoder:
    torch.manual_seed(0)
    config = ImageDecoderConfig(**(TINY.model_dump() | changes))
    return ImageDecoder(config, visual_width=24, num_slots=4).eval()


def _images(count: int = 2) -> Tensor:
    return torch.randint(0, 256, (count, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def _conditioning(count: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(count, 4, 24, generator=torch.Generator().manual_seed(seed))


def _seed(value: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(value)


def test_a_part_of_a_batch_has_the_random_numbers_of_its_rows() -> None:
    decoder, images, conditioning = _decoder(), _images(5), _conditioning(5)
    whole = decoder(images, conditioning, generator=_seed()).per_image
    parts = [
        decoder(images[i : i + 2], conditioning[i : i + 2], generator=_seed(), rows=(i, 5)).per_image for i in (0, 2, 4)
    ]
    torch.testing.assert_close(torch.cat(parts), whole)
    autoencoder = build_autoencoder(TINY.autoencoder)
    nn.init.normal_(autoencoder.decoder.conv_out.weight)
    whole = autoencoder_loss(autoencoder, images, TINY.autoencoder, generator=_seed()).per_image
    alone = [
        autoencoder_loss(autoencoder, images[i : i + 1], TINY.autoencoder, generator=_seed(), rows=(i, 5)).per_image
        for i in range(5)
    ]
    torch.testing.assert_close(torch.cat(alone), whole)
    other = autoencoder_loss(autoencoder, images, TINY.autoencoder, generator=_seed(1)).per_image
    assert not torch.equal(other, whole)


@pytest.mark.slow
def test_unets_have_the_released_shapes() -> None:
    with torch.device("meta"):
        sdxl = build_unet(SIZES["emu2-37b"].image_decoder, 1792, 64)
        sd15 = build_unet(SIZES["emu-14b"].image_decoder, 5120, 32)
        vae = build_autoencoder(SIZES["emu2-37b"].image_decoder.autoencoder)
    assert sdxl.config.cross_attention_dim == 1792
    assert sdxl.config.projection_class_embeddings_input_dim == 3328
    assert sum(p.numel() for p in sdxl.parameters()) * 2 / 1e9 == pytest.approx(5.05, abs=0.01)  # GB in bf16
    assert sd15.config.cross_attention_dim == 5120
    assert sd15.down_blocks[0].attentions[0].transformer_blocks[0].attn2.to_k.weight.shape == (320, 5120)
    # Stable Diffusion 1.5 has 859.5 M; its 32 key and value projections read 5120 instead of 768 channels.
    assert sum(p.numel() for p in sd15.parameters()) == pytest.approx(859.5e6 + 2 * (5120 - 768) * 12_480, rel=1e-3)
    assert sum(p.numel() for p in vae.parameters()) / 1e6 == pytest.approx(83.65, abs=0.01)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_the_objective_written_out(prediction: str) -> None:
    decoder = _decoder(prediction=prediction, **PLAIN)
    latents, conditioning = torch.randn(2, 4, 8, 8), _conditioning()
    losses = decoder(latents, conditioning, generator=_seed())

    made = _seed()
    noise = torch.randn(2, 4, 8, 8, generator=made)
    times = (torch.rand(2, generator=made) * 1000).long()
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    alpha = (1 - betas).cumprod(0)[times].view(2, 1, 1, 1)
    noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
    micro = torch.tensor([[16.0, 16, 0, 0, 16, 16]]).expand(2, 6)
    added = {"text_embeds": conditioning.mean(1), "time_ids": micro}
    guess = decoder.unet(noisy, times, encoder_hidden_states=conditioning, added_cond_kwargs=added).sample
    targets = {"epsilon": noise, "sample": latents, "v_prediction": alpha.sqrt() * noise - (1 - alpha).sqrt() * latents}
    expected = (guess - targets[prediction]).square().mean((1, 2, 3))
    torch.testing.assert_close(losses.per_image, expected.detach(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(losses.loss, expected.mean(), rtol=1e-4, atol=1e-6)


def test_without_values_it_still_knows_its_schedule() -> None:
    with torch.device("meta"):
        decoder = _decoder()
    assert torch.equal(decoder.schedule.alphas_cumprod, _decoder().schedule.alphas_cumprod)


def test_pixels_are_encoded_on_the_fly() -> None:
    decoder = _decoder(**PLAIN)
    pixels = decoder(_images(), _conditioning(), generator=_seed())
    latents = decoder(decoder.encode(_images()), _conditioning(), generator=_seed())
    assert torch.equal(pixels.per_image, latents.per_image)
    assert all(p.grad is None for p in decoder.autoencoder.parameters())


def test_dropped_conditions_are_zeros() -> None:
    latents = torch.randn(2, 4, 8, 8)
    dropped = _decoder(conditioning_dropout=1.0, noise_offset=0.0)(latents, _conditioning(), generator=_seed())
    zeros = _decoder(**PLAIN)(latents, torch.zeros(2, 4, 24), generator=_seed())
    kept = _decoder(**PLAIN)(latents, _conditioning(), generator=_seed())
    assert torch.equal(dropped.per_image, zeros.per_image)
    assert not torch.equal(dropped.per_image, kept.per_image)


def test_noise_offset_shifts_channels_and_micro_conditions_count() -> None:
    latents, conditioning = torch.zeros(64, 4, 8, 8), _conditioning(64)
    seen = {}

    def spy(name: str) -> Any:
        def keep(module: Any, args: tuple, kwargs: dict) -> None:
            seen[name] = args[0]

        return keep

    for offset in (0.0, 0.5):
        decoder = _decoder(noise_offset=offset, conditioning_dropout=0.0)
        decoder.unet.register_forward_pre_hook(spy(str(offset)), with_kwargs=True)
        with torch.no_grad():
            decoder(latents, conditioning, generator=_seed())
    spread = {name: float(noisy.mean((2, 3)).std()) for name, noisy in seen.items()}
    assert spread["0.5"] > 3 * spread["0.0"]

    decoder = _decoder(**PLAIN)
    cropped = torch.tensor([[32.0, 64, 0, 24, 16, 16]] * 2)
    plain = decoder(latents[:2], conditioning[:2], generator=_seed())
    shifted = decoder(latents[:2], conditioning[:2], micro=cropped, generator=_seed())
    assert not torch.equal(plain.per_image, shifted.per_image)


def test_times_may_lean_to_high_noise() -> None:
    drawn = {}
    for lean in (False, True):
        decoder = _decoder(high_noise=lean, **PLAIN)
        decoder.unet.register_forward_pre_hook(lambda m, args, lean=lean: drawn.__setitem__(lean, args[1]))
        with torch.no_grad():
            decoder(torch.randn(256, 4, 8, 8), _conditioning(256), generator=_seed())
    assert drawn[False].float().mean() == pytest.approx(500, abs=50)
    assert drawn[True].float().mean() == pytest.approx(667, abs=50)
    assert drawn[True].max() < 1000


def test_foreground_and_what_is_next_to_it_may_weigh_more() -> None:
    latents = 0.05 * torch.randn(2, 4, 8, 8, generator=_seed())
    latents[0, :, 2:4, 2:4] += 4.0
    foreground, beside, background = torch.zeros(3, 2, 1, 8, 8)
    foreground[0, :, 2:4, 2:4] = 1.0
    beside[0, :, 4, 1:5] = 1.0
    background[0, :, 6:, 6:] = 1.0

    def error(wrong: Tensor, weight: float) -> Tensor:
        decoder = _decoder(prediction="sample", foreground_weight=weight, **PLAIN)
        decoder._predict = lambda *_: latents + wrong
        return decoder(latents, _conditioning(), generator=_seed()).per_image

    plain = torch.tensor([4 / 64, 0.0])
    torch.testing.assert_close(error(foreground, 0.0), plain)
    torch.testing.assert_close(error(background, 0.0), plain)
    torch.testing.assert_close(error(foreground, 3.0), 4 * plain)
    torch.testing.assert_close(error(beside, 3.0), 4 * plain)
    torch.testing.assert_close(error(background, 3.0), plain)


def test_a_fresh_autoencoder_begins_without_its_residual_branches() -> None:
    autoencoder = _decoder().autoencoder
    x = torch.randn(1, 8, 4, 4)
    torch.testing.assert_close(autoencoder.encoder.mid_block(x), x)
    torch.testing.assert_close(autoencoder.decoder.mid_block(x), x)


def test_a_fresh_autoencoder_begins_with_little_noise_in_its_latents() -> None:
    latents = _decoder().autoencoder.encode(torch.randn(2, 3, 16, 16, generator=_seed())).latent_dist
    torch.testing.assert_close(latents.std, torch.full_like(latents.mean, 0.0498), rtol=0.01, atol=0.0)


def test_an_autoencoder_may_be_without_attention() -> None:
    config = AutoencoderConfig(channels=(8, 8), layers_per_block=0, norm_groups=4, attention=False)
    names = build_autoencoder(config).state_dict()
    assert not any("attentions" in name for name in names)
    assert any(
        "attentions" in name for name in build_autoencoder(config.model_copy(update={"attention": True})).state_dict()
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"pooled": "flat", "conditioning_positions": True, "coordinates": True, "canvas": 2, "foreground_weight": 5.0},
        {"micro_conditions": False},
        {"sampler": "euler"},
        {"sampler": "pndm"},
        {"prediction": "sample", "sampler": "euler"},
        {"prediction": "v_prediction"},
    ],
)
def test_every_variant_trains_and_samples(changes: dict) -> None:
    decoder = _decoder(**changes)
    decoder(_images(), _conditioning(), generator=_seed()).loss.backward()
    missing = [n for n, p in decoder.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []
    images = decoder.sample(_conditioning(), steps=3, generator=_seed())
    assert images.shape == (2, 3, 16, 16)
    assert images.dtype == torch.uint8
    assert torch.equal(images, decoder.sample(_conditioning(), steps=3, generator=_seed()))


# PNDM, as in Stable Diffusion, stops at the schedule's first level, where noise of 0.03 is left.
@pytest.mark.parametrize(
    ("sampler", "prediction", "tolerance"),
    [
        *((sampler, p, 1) for sampler in ("ddim", "euler") for p in ("epsilon", "v_prediction", "sample")),
        ("pndm", "epsilon", 16),
        ("pndm", "v_prediction", 16),
    ],
)
def test_samplers_walk_the_training_schedule_back(sampler: str, prediction: str, tolerance: int) -> None:
    """With a U-Net that predicts the truth, sampling ends at the clean latents."""
    decoder = _decoder(sampler=sampler, prediction=prediction, steps=20)
    clean = torch.randn(1, 4, 8, 8) * 0.5
    schedule: DDPMScheduler = decoder.schedule

    class Knows(torch.nn.Module):
        dtype = torch.float32

        def forward(self, noisy: Tensor, time: Tensor, **kwargs: Any) -> Any:
            alpha = schedule.alphas_cumprod[int(time)]
            noise = (noisy - alpha.sqrt() * clean) / (1 - alpha).sqrt()
            velocity = alpha.sqrt() * noise - (1 - alpha).sqrt() * clean
            truth = {"epsilon": noise, "v_prediction": velocity, "sample": clean}
            return type("Output", (), {"sample": truth[prediction]})

    decoder.unet = Knows()
    decoder.decode = lambda latents: latents
    found = decoder.sample(_conditioning(1), guidance=1.0, generator=_seed())
    assert (found.int() - to_uint8(clean).int()).abs().max() <= tolerance


def test_guidance_leads_from_null_to_condition() -> None:
    decoder = _decoder()
    seen = []

    class Linear(torch.nn.Module):
        dtype = torch.float32

        def forward(self, noisy: Tensor, time: Tensor, encoder_hidden_states: Tensor, **kwargs: Any) -> Any:
            seen.append(encoder_hidden_states)
            level = encoder_hidden_states.mean((1, 2)).view(-1, 1, 1, 1)
            return type("Output", (), {"sample": level.expand_as(noisy)})

    decoder.unet = Linear()
    decoder.decode = lambda latents: latents
    null, condition = torch.full((1, 4, 24), 0.1), torch.full((1, 4, 24), 0.3)
    guided = decoder.sample(condition, null=null, guidance=3.0, steps=1, generator=_seed())
    direct = decoder.sample(torch.full((1, 4, 24), 0.7), guidance=1.0, steps=1, generator=_seed())  # 0.1 + 3 * 0.2
    assert torch.equal(guided, direct)
    assert torch.equal(seen[0], torch.cat([null, condition]))


@pytest.mark.slow
def test_one_batch_overfits() -> None:
    decoder = _decoder(**PLAIN).train()
    latents, conditioning = torch.randn(2, 4, 8, 8), _conditioning()
    optimizer = torch.optim.AdamW(decoder.unet.parameters(), lr=5e-3)

    def loss() -> Tensor:
        repeated = decoder(latents.repeat(4, 1, 1, 1), conditioning.repeat(4, 1, 1), generator=_seed())
        return repeated.loss

    first = loss().item()
    for _ in range(40):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert loss().item() < 0.3 * first


@pytest.mark.slow
def test_autoencoder_learns_and_its_scale_is_fitted() -> None:
    decoder = _decoder()
    autoencoder, config = decoder.autoencoder.requires_grad_(True).train(), TINY.autoencoder
    x = torch.linspace(0, 255, 16).view(1, 1, 1, 16).expand(4, 3, 16, 16)
    images = torch.cat([x[:2], x[:2].mT]).to(torch.uint8)
    optimizer = torch.optim.AdamW(autoencoder.parameters(), lr=5e-3)
    torch.manual_seed(0)
    first = autoencoder_loss(autoencoder, images, config)
    assert first.per_image.shape == (4,)
    for _ in range(50):
        optimizer.zero_grad()
        autoencoder_loss(autoencoder, images, config).loss.backward()
        optimizer.step()
    assert autoencoder_loss(autoencoder, images, config).loss < 0.2 * first.loss
    decoder.fit_latent_scale([images])
    assert decoder.encode(images).std() == pytest.approx(1.0, abs=1e-4)
    round_trip = to_uint8(decoder.decode(decoder.encode(images)))
    assert (round_trip.float() - images.float()).square().mean() < 127.5**2 * 0.5
    assert "latent_scale" in decoder.state_dict()


def test_kl_term_is_the_gaussian_one() -> None:
    autoencoder = _decoder().autoencoder
    latents = autoencoder.encode(from_uint8(_images())).latent_dist
    kl = 0.5 * (latents.mean**2 + latents.var - 1 - latents.logvar).sum((1, 2, 3)) / (3 * 16 * 16)
    torch.manual_seed(1)
    without = autoencoder_loss(autoencoder, _images(), AutoencoderConfig(kl_weight=0.0))
    torch.manual_seed(1)
    with_ = autoencoder_loss(autoencoder, _images(), AutoencoderConfig(kl_weight=2.0))
    torch.testing.assert_close(with_.per_image - without.per_image, 2.0 * kl.detach(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("decay", [0.5, 0.9999])
def test_average_is_that_of_torch_and_diffusers(decay: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.Linear(32, 4)).to(dtype)
    model[1].bias.requires_grad_(False)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    average = WeightAverage(model, decay)
    in_float = copy.deepcopy(model).float()
    torchs = AveragedModel(in_float, multi_avg_fn=get_ema_multi_avg_fn(decay))
    torchs.update_parameters(in_float)  # takes the weights as they are; ours has them from the beginning
    # Neither its warm-up nor its first steps, which only copy.
    diffusers = EMAModel([p.float() for p in trained.values()], decay=decay, min_decay=decay, update_after_step=-1)
    for _ in range(200):
        with torch.no_grad():
            for parameter in trained.values():
                parameter += 0.01 * torch.randn_like(parameter)
            in_float.load_state_dict(model.state_dict())
        average.update(model)
        torchs.update_parameters(in_float)
        diffusers.step(trained.values())
    assert average.weights().keys() == trained.keys()
    for (name, ours), other in zip(average.weights().items(), diffusers.shadow_params, strict=True):
        assert ours.dtype == torch.float32
        assert torch.equal(ours, torchs.module.get_parameter(name).detach()), name
        torch.testing.assert_close(ours, other, rtol=0, atol=1e-6)


def test_average_is_kept_in_the_state() -> None:
    decoder = _decoder()
    average = WeightAverage(decoder, decay=0.9)
    assert not any(name.startswith("autoencoder") for name in average.weights())
    name, weight = next((n, p) for n, p in decoder.named_parameters() if p.requires_grad)
    start = weight.detach().clone()
    with torch.no_grad():
        weight.add_(1.0)
    average.update(decoder)
    fresh = WeightAverage(decoder, decay=0.9)
    fresh.load_state_dict(average.state_dict())
    torch.testing.assert_close(fresh.weights()[name], start + 0.1)


def test_pixels_survive_the_round_trip() -> None:
    assert torch.equal(to_uint8(from_uint8(_images())), _images())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": (1, 2, 4)}, "one entry per resolution"),
        ({"image_size": 18}, "not a multiple of the U-Net"),
        ({"sampler": "pndm", "prediction": "sample"}, "pndm sampler does not support prediction"),
        ({"autoencoder": {"channels": (8, 16), "layers_per_block": 0}}, "layers_per_block 0 needs equal channels"),
    ],
)
def test_settings_are_checked(change: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ImageDecoderConfig(**(TINY.model_dump() | change))


def test_channels_last_change_neither_losses_nor_images() -> None:
    plain, other = _decoder(), _decoder()
    other.use_channels_last()
    images, conditioning = _images(), _conditioning()
    for decoder in (plain, other):
        decoder(images, conditioning, generator=_seed()).loss.backward()
    assert other.encode(images).is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(other.encode(images), plain.encode(images), rtol=1e-5, atol=1e-6)
    gradients = ([p.grad for p in decoder.unet.parameters() if p.grad is not None] for decoder in (plain, other))
    for expected, found in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    drawn = [decoder.sample(conditioning, generator=_seed()).int() for decoder in (plain, other)]
    assert (drawn[0] - drawn[1]).abs().max() <= 1


@pytest.mark.nightly
def test_compiled_blocks_give_the_same_losses_gradients_and_images() -> None:
    torch.compiler.reset()
    plain, other = _decoder(), _decoder()
    compile_blocks(other.blocks(), varying=False, backend="aot_eager")
    images, conditioning = _images(), _conditioning()
    losses = [decoder.train()(images, conditioning, generator=_seed()).loss for decoder in (plain, other)]
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-6, atol=1e-6)
    for loss in losses:
        loss.backward()
    gradients = ([p.grad for p in decoder.unet.parameters() if p.grad is not None] for decoder in (plain, other))
    for expected, found in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    drawn = [decoder.eval().sample(conditioning, generator=_seed()).int() for decoder in (plain, other)]
    assert (drawn[0] - drawn[1]).abs().max() <= 1
    torch.compiler.reset()
