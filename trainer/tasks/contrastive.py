"""Contrastive loss of pairs of image and caption (CLIP, arXiv:2103.00020), with open_clip's model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812
from open_clip import ClipLoss
from open_clip.model import CLIP
from torch import Tensor, nn

from model.config import EncoderConfig
from model.vision_encoder import normalize
from trainer.reading.micro_batches import ImageBatch, Losses

_MAX_SCALE = 100.0  # of the logits: CLIP's own limit


class Contrastive(nn.Module):
    """open_clip's model and loss.

    Args:
        clip: The model.
        config: Settings of the encoder, for normalising pixels.
        max_shift: Largest random shift of images in training, as a fraction of a side.
    """

    def __init__(self, clip: CLIP, config: EncoderConfig, max_shift: float) -> None:
        super().__init__()
        self.clip = clip
        self._config = config
        self._max_shift = round(max_shift * config.image_size)

    def forward(self, images: Tensor, texts: Tensor, *, gather: bool) -> Tensor:
        """Compute the loss of each pair.

        Args:
            images: (B, 3, S, S) uint8.
            texts: (B, context) ids.
            gather: Whether the pairs of other ranks serve as negatives too; all ranks then have equally many.

        Returns:
            (B,) mean of both directions' cross-entropies, in nats.
        """
        if self.training and self._max_shift:
            images = shifted(images, self._max_shift)
        pixels = normalize(images, self._config).to(self.clip.text_projection.dtype)
        seen = self.clip.encode_image(pixels, normalize=True)
        read = self.clip.encode_text(texts, normalize=True)
        rank, size = (dist.get_rank(), dist.get_world_size()) if gather else (0, 1)
        loss = ClipLoss(local_loss=True, gather_with_grad=True, rank=rank, world_size=size)
        logits = loss.get_logits(seen, read, self.clip.logit_scale.exp().clamp(max=_MAX_SCALE))
        right = loss.get_ground_truth(images.device, len(images))
        both = [F.cross_entropy(part.float(), right, reduction="none") for part in logits]
        return (both[0] + both[1]) / 2


def shifted(images: Tensor, limit: int) -> Tensor:
    """Shift each image at random by up to `limit` pixels each way, repeating its edges: (B, C, S, S) of its dtype."""
    size, side = len(images), images.shape[-1]
    padded = F.pad(images.float(), (limit,) * 4, mode="replicate").to(images.dtype)
    rows, columns = (torch.randint(0, 2 * limit + 1, (size, 1), device=images.device) for _ in range(2))
    line = torch.arange(side, device=images.device)
    at = torch.arange(size, device=images.device)[:, None, None]
    moved = padded.permute(0, 2, 3, 1)[at, (rows + line)[:, :, None], (columns + line)[:, None, :]]  # (B, S, S, C)
    return moved.permute(0, 3, 1, 2)


@dataclass(frozen=True, slots=True)
class PairBatch(ImageBatch):
    """A batch of images and captions.

    Attributes:
        texts: (B, context) int64.
    """

    texts: Tensor

    def losses(self, module: Any, totals: Sequence[int] | None) -> Losses:
        """Return the loss of each pair within its batch; in training within the batches of all ranks."""
        pairs = module(self.images, self.texts, gather=totals is not None)
        return Losses(pairs.sum() / (totals[0] if totals else len(pairs)), (pairs.detach(),))
