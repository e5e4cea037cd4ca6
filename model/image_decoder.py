"""The image decoder: a latent diffusion U-Net that turns visual embeddings back into pixels.

Latent diffusion (arXiv:2112.10752), SDXL (arXiv:2307.01952), as Emu and Emu2 condition them: the embeddings of one
image stand where a text encoder's states stood. U-Net, autoencoder and schedulers are diffusers' (Apache-2.0).

B images, S pixels a side, N visual embeddings an image, E their width, C latent channels, s latents a side
"""

import contextlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from diffusers.models.attention_processor import Attention
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from diffusers.schedulers.scheduling_pndm import PNDMScheduler
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from model.config import AutoencoderConfig, EmuConfig, ImageDecoderConfig

# How far pixels (-1..1) and latents (of unit variance) of the foreground lie from the background. Finds 94 % of the
# latents of the demo's shapes; 38 % of what it finds lies beside them.
_PIXELS_APART, _LATENTS_APART = 0.22, 0.4
_TIME_WIDTH = 256  # SDXL: channels of each of the six micro-conditions
# Stable Diffusion's noise schedule, which both papers keep.
_SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
}


class DiffusionLosses(NamedTuple):
    """The mean over the batch, and each image's own (B,), detached."""

    loss: Tensor
    per_image: Tensor


class ImageDecoder(nn.Module):
    """U-Net, and the autoencoder whose latents it denoises."""

    latent_scale: Tensor

    def __init__(self, config: ImageDecoderConfig, visual_width: int, num_slots: int) -> None:
        super().__init__()
        self.config = config
        self.unet = build_unet(config, visual_width, num_slots)
        self.autoencoder = build_autoencoder(config.autoencoder).requires_grad_(False)
        self.register_buffer("latent_scale", torch.tensor(config.autoencoder.scaling_factor))
        if config.conditioning_positions:
            # As large as the embeddings: with std 0.02 the position of a shape was not learned (18 % against 98 %).
            self.positions = nn.Parameter(torch.randn(1, num_slots, visual_width))
        if config.canvas:
            # Attention alone takes long to learn where things lie (after 300 steps of 16 images 42 % against 99 %).
            self.canvas = nn.Linear(num_slots * visual_width, config.canvas * config.latent_side**2)
        with torch.device("cpu"):  # no module: built on the meta device it would stay without values
            self.schedule = DDPMScheduler(**_SCHEDULE, prediction_type=config.prediction, clip_sample=False)

    @classmethod
    def for_model(cls, config: EmuConfig) -> "ImageDecoder":
        """The decoder that belongs to a model."""
        return cls(config.image_decoder, config.visual_width, config.bridge.image_slots)

    def forward(
        self,
        images: Tensor,
        conditioning: Tensor,
        *,
        micro: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> DiffusionLosses:
        """Denoise images at random times.

        Args:
            images: (B, 3, S, S) uint8 pixels; or (B, C, s, s) latents as `encode` gives them.
            conditioning: (B, N, E) visual embeddings: encoded ones (Emu2) or the model's own rollouts (Emu).
            micro: (B, 6) original height and width, crop top and left, target height and width, in pixels. Null means
                whole images of the decoder's size.
            generator: Of all that is drawn.
        """
        latents = images if images.shape[1] == self.config.autoencoder.latent_channels else self.encode(images)
        latents = latents.to(self.unet.dtype)
        draw: dict[str, Any] = {"generator": generator, "device": latents.device}
        noise = torch.randn(latents.shape, dtype=latents.dtype, **draw)
        if self.config.noise_offset:
            offset = torch.randn(*latents.shape[:2], 1, 1, dtype=latents.dtype, **draw)
            noise = noise + self.config.noise_offset * offset
        chance = torch.rand(len(latents), **draw)
        chance = chance.sqrt() if self.config.high_noise else chance
        times = (chance * self.schedule.config.num_train_timesteps).long()  # (B,)
        kept = torch.rand(len(latents), 1, 1, **draw) >= self.config.conditioning_dropout
        conditioning = conditioning.to(latents.dtype) * kept

        guess = self._predict(self.schedule.add_noise(latents, noise, times), times, conditioning, micro)
        target = {"epsilon": noise, "sample": latents}.get(self.config.prediction)
        if target is None:
            target = self.schedule.get_velocity(latents, noise, times)
        errors = (guess.float() - target.float()).square()  # (B, C, s, s)
        per_image = (errors * _weights(latents, _LATENTS_APART, self.config.foreground_weight)).mean((1, 2, 3))
        return DiffusionLosses(per_image.mean(), per_image.detach())

    @torch.no_grad()
    def sample(
        self,
        conditioning: Tensor,
        *,
        null: Tensor | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Images from visual embeddings.

        Args:
            conditioning: (B, N, E)
            null: (1 or B, N, E), the condition to lead away from; null means zeros, as in training here. The released
                models take what they draw for an empty prompt, or when autoencoding the features of a grey image.
            steps: Sampling steps; null means the configured number.
            guidance: Strength of classifier-free guidance; 1 turns it off. Null means the configured one.
            generator: Of the initial noise (and of the sampler's, where it draws any).

        Returns:
            (B, 3, S, S) uint8.
        """
        size = len(conditioning)
        guidance = self.config.guidance if guidance is None else guidance
        dtype, device = self.unet.dtype, conditioning.device
        conditioning = conditioning.to(dtype)
        if guidance != 1.0:
            null = torch.zeros_like(conditioning) if null is None else null.to(conditioning)
            conditioning = torch.cat([null.expand_as(conditioning), conditioning])  # (2 B, N, E)
        sampler = build_sampler(self.config)
        sampler.set_timesteps(steps or self.config.steps, device=device)
        shape = (size, self.config.autoencoder.latent_channels, *2 * (self.config.latent_side,))
        x = torch.randn(shape, generator=generator, device=device, dtype=dtype) * sampler.init_noise_sigma
        assert sampler.timesteps is not None  # `set_timesteps` makes them
        for time in sampler.timesteps:
            scaled = sampler.scale_model_input(x, time)
            if guidance != 1.0:
                without, with_ = self._predict(torch.cat([scaled, scaled]), time, conditioning, None).chunk(2)
                guess = without + guidance * (with_ - without)
            else:
                guess = self._predict(scaled, time, conditioning, None)
            x = sampler.step(guess, time, x, return_dict=False)[0]
        return to_uint8(self.decode(x))

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Latents of images, scaled to about unit variance: (B, 3, S, S) uint8 -> (B, C, s, s)."""
        pixels = from_uint8(images).to(self.autoencoder.dtype)
        latents: Tensor = self.autoencoder.encode(pixels).latent_dist.mode()
        return latents * self.latent_scale

    def decode(self, latents: Tensor) -> Tensor:
        """Images of latents: (B, C, s, s) -> (B, 3, S, S) in -1..1."""
        images: Tensor = self.autoencoder.decode(latents.to(self.autoencoder.dtype) / self.latent_scale).sample
        return images

    @torch.no_grad()
    def fit_latent_scale(self, images: Iterable[Tensor]) -> None:
        """Set the latents' scale from a sample of images, after the autoencoder was trained here.

        Args:
            images: (B, 3, S, S) uint8 tensors.
        """
        self.latent_scale.fill_(1.0)
        latents = torch.cat([self.encode(part).float().flatten() for part in images])
        self.latent_scale.copy_(1.0 / latents.std())

    def _predict(self, noisy: Tensor, times: Tensor, conditioning: Tensor, micro: Tensor | None) -> Tensor:
        extra: dict[str, Any] = {}
        if self.config.micro_conditions:
            pooled = conditioning.mean(1) if self.config.pooled == "mean" else conditioning.flatten(1)
            if micro is None:
                side = float(self.config.image_size)
                micro = conditioning.new_tensor([side, side, 0.0, 0.0, side, side]).expand(len(conditioning), 6)
            extra["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": micro}
        parts = [noisy]
        if self.config.coordinates:
            parts.append(_coordinates(noisy).expand(len(noisy), -1, -1, -1))
        if self.config.canvas:
            parts.append(self.canvas(conditioning.flatten(1)).view(len(noisy), self.config.canvas, *noisy.shape[2:]))
        noisy = torch.cat(parts, dim=1)
        if self.config.conditioning_positions:
            conditioning = conditioning + self.positions
        guess: Tensor = self.unet(noisy, times, encoder_hidden_states=conditioning, **extra).sample
        return guess


def build_unet(config: ImageDecoderConfig, visual_width: int, num_slots: int) -> UNet2DConditionModel:
    """A U-Net of SD 1.5's or SDXL's build, its cross-attention reading visual embeddings."""
    attends = [layers > 0 for layers in config.transformer_layers]
    extra: dict[str, Any] = {}
    if config.micro_conditions:
        pooled_width = visual_width * (num_slots if config.pooled == "flat" else 1)
        extra = {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": _TIME_WIDTH,
            "projection_class_embeddings_input_dim": pooled_width + 6 * _TIME_WIDTH,
        }
    latent_channels = config.autoencoder.latent_channels
    unet: UNet2DConditionModel = UNet2DConditionModel(
        sample_size=config.latent_side,
        in_channels=latent_channels + 4 * config.coordinates + config.canvas,
        out_channels=latent_channels,
        down_block_types=tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends),
        up_block_types=tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)),
        block_out_channels=config.channels,
        layers_per_block=config.layers_per_block,
        transformer_layers_per_block=tuple(max(1, layers) for layers in config.transformer_layers),
        attention_head_dim=config.heads,  # diffusers calls the number of heads by this name
        norm_num_groups=config.norm_groups,
        cross_attention_dim=visual_width,
        use_linear_projection=config.linear_projection,
        **extra,
    )
    return unet


def build_autoencoder(config: AutoencoderConfig) -> AutoencoderKL:
    """Pixels to latents and back."""
    count = len(config.channels)
    autoencoder: AutoencoderKL = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * count,
        up_block_types=("UpDecoderBlock2D",) * count,
        block_out_channels=config.channels,
        layers_per_block=config.layers_per_block,
        latent_channels=config.latent_channels,
        norm_num_groups=config.norm_groups,
        scaling_factor=config.scaling_factor,
    )
    # Residual branches begin at nothing: after 200 steps from scratch the demo's squared error is half of what it was.
    for part in autoencoder.modules():
        if isinstance(part, ResnetBlock2D | Attention):
            last = part.conv2 if isinstance(part, ResnetBlock2D) else part.to_out[0]
            for parameter in last.parameters():
                nn.init.zeros_(parameter)
    return autoencoder


def build_sampler(config: ImageDecoderConfig) -> PNDMScheduler | EulerDiscreteScheduler | DDIMScheduler:
    """The configured sampler, on the training schedule."""
    common = {**_SCHEDULE, "prediction_type": config.prediction, "timestep_spacing": "leading", "steps_offset": 1}
    sampler: PNDMScheduler | EulerDiscreteScheduler | DDIMScheduler
    if config.sampler == "pndm":
        sampler = PNDMScheduler(**common, skip_prk_steps=True)
    elif config.sampler == "euler":
        sampler = EulerDiscreteScheduler(**common)
    else:
        sampler = DDIMScheduler(**common, clip_sample=False)
    return sampler


def autoencoder_loss(autoencoder: AutoencoderKL, images: Tensor, config: AutoencoderConfig) -> DiffusionLosses:
    """Squared error of reconstructed images, and the KL term that keeps latents near a unit Gaussian.

    Args:
        autoencoder: To be trained.
        images: (B, 3, S, S) uint8.
        config: Weighs the two, both being means over an image's pixels.
    """
    pixels = from_uint8(images).to(autoencoder.dtype)
    latents = autoencoder.encode(pixels).latent_dist
    errors = F.mse_loss(autoencoder.decode(latents.sample()).sample.float(), pixels.float(), reduction="none")
    squared = (errors * _weights(pixels, _PIXELS_APART, config.foreground_weight)).mean((1, 2, 3))
    per_image = squared + config.kl_weight * latents.kl() / pixels[0].numel()
    return DiffusionLosses(per_image.mean(), per_image.detach())


class WeightAverage(nn.Module):
    """Exponential moving average of a module's trained parameters, in float32.

    The step is torch's; only where the averages are kept is not. DeepSpeed saves buffers whole and in their own dtype.
    The parameters of torch's `AveragedModel` it would split at ZeRO-3, and cast to bfloat16, which rounds the steps of
    a decay of 0.9999 away; the list of diffusers' `EMAModel` it would not save.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        super().__init__()
        self._step = get_ema_multi_avg_fn(decay)
        self._names = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
        parameters = dict(module.named_parameters())
        for name in self._names:
            self.register_buffer(_buffer_name(name), parameters[name].detach().float().clone())

    def weights(self) -> dict[str, Tensor]:
        """The averages by the names of their parameters."""
        return {name: self.get_buffer(_buffer_name(name)) for name in self._names}

    def update(
        self,
        module: nn.Module,
        gathered: Callable[[nn.Parameter], contextlib.AbstractContextManager[object]] = contextlib.nullcontext,
    ) -> None:
        """Take one step towards the module's weights.

        Args:
            module: As at first, with other weights.
            gathered: Makes a parameter whole for as long as its context lasts, where processes hold parts of it.
        """
        parameters = dict(module.named_parameters())
        for name, average in self.weights().items():
            with gathered(parameters[name]):
                self._step([average], [parameters[name].detach().float()], 0)


def _buffer_name(parameter: str) -> str:
    return parameter.replace(".", "/")  # buffers' names hold no dots


def from_uint8(images: Tensor) -> Tensor:
    """Pixels 0..255 to -1..1, float32."""
    return images.float() / 127.5 - 1.0


def to_uint8(images: Tensor) -> Tensor:
    """Pixels -1..1 to 0..255, rounded."""
    return ((images.float().clamp(-1, 1) + 1.0) * 127.5).round().to(torch.uint8)


def _weights(x: Tensor, apart: float, foreground: float) -> Tensor:
    """Weights of errors: (B, C, s, s) pixels or latents -> (B, 1, s, s).

    What lies further than `apart` from an image's median weighs 1 + `foreground`, all else 1: small shapes on an even
    background would else count for next to nothing.
    """
    x = x.float()
    median = x.flatten(2).median(-1).values[:, :, None, None]
    distance = (x - median).square().mean(1, keepdim=True).sqrt()
    return 1.0 + foreground * (distance > apart)


def _coordinates(x: Tensor) -> Tensor:
    """Where each latent lies: (1, 4, s, s): both coordinates in -1..1, and their distance from the middle."""
    line = torch.linspace(-1, 1, x.shape[-1], device=x.device, dtype=x.dtype)
    across, down = line.expand(x.shape[-2], -1), line[:, None].expand(-1, x.shape[-1])
    return torch.stack([across, down, across.abs(), down.abs()])[None]
