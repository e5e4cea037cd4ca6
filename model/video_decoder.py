"""The video decoder: the image decoder's U-Net over all frames of a film, from the visual embeddings of the frames.

As in Emu2 (arXiv:2312.13286): a temporal convolution after each spatial one, and self-attention over all frames
instead of one. Both begin as if they were not there, so that a trained image decoder goes on where it was: each film
is then what it makes of the frames one by one. Layers and their checkpoints are diffusers' (Apache-2.0).

B films, F frames, S pixels per side, N visual embeddings per frame, E their width, C channels, s latents per side
"""

from typing import Any, Self

import torch
import torch.nn.functional as F  # noqa: N812
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from model.config import EmuConfig, ImageDecoderConfig, VideoDecoderConfig
from model.image_decoder import DiffusionLosses, ImageDecoder


class NumFrames:
    """Number of frames of the films that a U-Net is working on, which its layers over time share."""

    def __init__(self) -> None:
        self.value = 1


class TemporalConv2d(nn.Conv2d):
    """A spatial convolution, and after it one over three frames that is added to its result, at first zero.

    The spatial weights keep their names, so that those of an image decoder fit.
    """

    def __init__(self, spatial: nn.Conv2d, num_frames: NumFrames) -> None:
        sizes: Any = (spatial.kernel_size, spatial.stride, spatial.padding)
        super().__init__(
            spatial.in_channels,
            spatial.out_channels,
            **dict(zip(("kernel_size", "stride", "padding"), sizes, strict=True)),
            bias=spatial.bias is not None,
        )
        # Time is its height, and all places are its width: on CPUs in 0.6 of a Conv3d's time.
        self.temporal = nn.Conv2d(self.out_channels, self.out_channels, (3, 1), padding=(1, 0))
        nn.init.zeros_(self.temporal.weight)
        assert self.temporal.bias is not None
        nn.init.zeros_(self.temporal.bias)
        self._num_frames = num_frames

    def forward(self, x: Tensor) -> Tensor:
        """Convolve frames: (B * F, C, s, s)."""
        x = super().forward(x)
        film = x.flatten(2).unflatten(0, (-1, self._num_frames.value)).transpose(1, 2)  # (B, C, F, s * s)
        over_time: Tensor = self.temporal(film)
        return x + over_time.transpose(1, 2).reshape(x.shape)


class FilmAttention(nn.Module):
    """Self-attention over all frames of a film, as a processor of diffusers' `Attention`.

    A gate per head leads from attention within each frame, at 0, to attention over all of them, at 1, with the same
    queries, keys and values.
    """

    def __init__(self, num_heads: int, num_frames: NumFrames) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(num_heads))
        self._num_frames = num_frames

    def forward(self, attention: Attention, x: Tensor, *_: Any, **named: Any) -> Tensor:
        """Attend from each place of each frame: (B * F, s * s, C)."""
        assert not any(part is not None for part in named.values())  # neither a mask nor another input
        layers = (attention.to_q, attention.to_k, attention.to_v)
        q, k, v = (layer(x).unflatten(-1, (attention.heads, -1)).transpose(1, 2) for layer in layers)
        of_frame = F.scaled_dot_product_attention(q, k, v)  # (B * F, heads, s * s, C / heads)
        whole = F.scaled_dot_product_attention(self._film(q), self._film(k), self._film(v))
        of_film = self._frames(whole, x.shape[1])
        x = torch.lerp(of_frame, of_film, self.gate[:, None, None].to(of_film.dtype).expand_as(of_film))
        found: Tensor = attention.to_out[1](attention.to_out[0](x.transpose(1, 2).flatten(2)))
        return found

    def _film(self, x: Tensor) -> Tensor:
        """Join the places of all frames: (B * F, heads, s * s, D) -> (B, heads, F * s * s, D)."""
        joined: Tensor = x.unflatten(0, (-1, self._num_frames.value)).transpose(1, 2).flatten(2, 3)
        return joined

    def _frames(self, x: Tensor, num_places: int) -> Tensor:
        """Undo `_film`."""
        frames: Tensor = x.unflatten(2, (-1, num_places)).transpose(1, 2).flatten(0, 1)
        return frames


class VideoDecoder(ImageDecoder):
    """U-Net over the frames of a film, with the autoencoder of single frames. The loss is the image decoder's.

    All frames of a film have the same time and, together, their conditioning or none.
    """

    def __init__(self, config: ImageDecoderConfig, visual_width: int, num_slots: int, film: VideoDecoderConfig) -> None:
        super().__init__(config, visual_width, num_slots)
        self.film = film
        self._num_frames = NumFrames()
        _add_temporal_layers(self.unet, self._num_frames)

    @classmethod
    def for_model(cls, config: EmuConfig) -> Self:
        """Build the decoder that belongs to a model."""
        return cls(config.frame_decoder, config.visual_width, config.bridge.image_slots, config.video_decoder)

    def forward(
        self,
        images: Tensor,
        conditioning: Tensor,
        *,
        micro: Tensor | None = None,
        generator: torch.Generator | None = None,
        rows: tuple[int, int] | None = None,
    ) -> DiffusionLosses:
        """Compute the loss of denoising films, each at a random time.

        Args:
            images: (B, F, 3, S, S) uint8 frames; or (B, F, C, s, s) latents from `encode`.
            conditioning: (B, F, N, E) visual embeddings of the frames.
            micro: (B, 6), as in `ImageDecoder.forward`, for all frames of a film.
            generator: Source of all random numbers.
            rows: As in `ImageDecoder.forward`, counted in films.
        """
        num = self._num_frames.value = images.shape[1]
        found = super().forward(
            images.flatten(0, 1),
            conditioning.flatten(0, 1),
            micro=None if micro is None else micro.repeat_interleave(num, 0),
            generator=generator,
            rows=None if rows is None else (rows[0] * num, rows[1] * num),
        )
        return DiffusionLosses(found.loss, found.per_image.unflatten(0, (-1, num)).mean(1))

    def sample(self, conditioning: Tensor, **named: Any) -> Tensor:
        """Generate films from the visual embeddings of their frames.

        Args:
            conditioning: (B, F, N, E), of any number of frames.
            **named: As in `ImageDecoder.sample`; what guidance leads away from is (1, N, E), for each frame.

        Returns:
            (B, F, 3, S, S) uint8.
        """
        num = self._num_frames.value = conditioning.shape[1]
        films: Tensor = super().sample(conditioning.flatten(0, 1), **named).unflatten(0, (-1, num))
        return films

    def encode(self, images: Tensor) -> Tensor:
        """Return latents of frames, as `ImageDecoder.encode`; also of films: (B, F, 3, S, S) -> (B, F, C, s, s)."""
        found: Tensor = super().encode(images.flatten(0, -4)).unflatten(0, images.shape[:-3])
        return found

    def _chances(self, num: int, **draw: Any) -> Tensor:
        """Draw a number in 0..1 for each film, the same for its frames."""
        of_films = super()._chances(num // self._num_frames.value, **draw)
        return of_films.repeat_interleave(self._num_frames.value)


def begin_from(decoder: VideoDecoder, frames: ImageDecoder) -> None:
    """Give a video decoder the weights of an image decoder of the same shape; its layers over time stay as they are."""
    missing, unexpected = decoder.load_state_dict(frames.state_dict(), strict=False)
    assert not unexpected
    assert all(is_temporal(name) for name in missing)


def is_temporal(name: str) -> bool:
    """Return whether a tensor of a video decoder, by its name, belongs to a layer over time."""
    return ".temporal." in name or name.endswith(".processor.gate")


def _add_temporal_layers(unet: nn.Module, num_frames: NumFrames) -> None:
    """Replace spatial convolutions and self-attention, in place."""
    for module in [*unet.modules()]:
        for name, part in [*module.named_children()]:
            if type(part) is nn.Conv2d and max(part.kernel_size) > 1:
                setattr(module, name, TemporalConv2d(part, num_frames))
        if isinstance(module, BasicTransformerBlock):
            processor: Any = FilmAttention(module.attn1.heads, num_frames)
            module.attn1.set_processor(processor)
