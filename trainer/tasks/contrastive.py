"""Contrastive loss of pairs of image and caption (CLIP, arXiv:2103.00020), with open_clip's model.

Every pair is told from all others of its step: those of other processes, and those of other micro-batches. All that a
micro-batch needs of the others is their features. So these are computed first, without gradients; then each micro-batch
is run again, with the gradients of the whole step's loss by its features (GradCache, arXiv:2101.06983; open_clip's
`--accum-freq`). That costs a second forward pass, which a step of a single micro-batch does without.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812
from open_clip import ClipLoss
from open_clip.model import CLIP
from torch import Tensor, nn

from model.batch import Tensors
from model.config import EncoderConfig
from model.vision_encoder import normalize
from trainer.reading.micro_batches import Group, ImageBatch, JointBatch, Losses

_MAX_SCALE = 100.0  # of the logits: CLIP's own limit

Features = tuple[Tensor, Tensor, Tensor]
"""(B, E) features of images and of captions, each of length 1, and the (1,) factor of the logits."""


class Contrastive(nn.Module):
    """open_clip's model, from pairs to their features.

    Args:
        clip: The model.
        config: Settings of the encoder, for normalising pixels.
    """

    def __init__(self, clip: CLIP, config: EncoderConfig) -> None:
        super().__init__()
        self.clip = clip
        self._config = config

    def forward(self, images: Tensor, texts: Tensor) -> Features:
        """Compute the features of pairs.

        Args:
            images: (B, 3, S, S) uint8.
            texts: (B, context) ids.
        """
        pixels = normalize(images, self._config).to(self.clip.text_projection.dtype)
        seen = self.clip.encode_image(pixels, normalize=True)
        read = self.clip.encode_text(texts, normalize=True)
        return seen, read, self.clip.logit_scale.exp().clamp(max=_MAX_SCALE)


def pair_losses(features: Features, *, gather: bool) -> Tensor:
    """Compute the loss of each pair.

    Args:
        features: Features of the pairs.
        gather: Whether the pairs of other ranks serve as negatives too; all ranks then have equally many.

    Returns:
        (B,) mean of both directions' cross-entropies, in nats.
    """
    seen, read, scale = features
    rank, size = (dist.get_rank(), dist.get_world_size()) if gather else (0, 1)
    loss = ClipLoss(local_loss=True, gather_with_grad=True, rank=rank, world_size=size)
    logits = loss.get_logits(seen, read, scale)
    right = loss.get_ground_truth(seen.device, len(seen))
    both = [F.cross_entropy(part.float(), right, reduction="none") for part in logits]
    return (both[0] + both[1]) / 2


def shifted(images: Tensor, offsets: Tensor) -> Tensor:
    """Shift each image, repeating its edges.

    Args:
        images: (B, C, S, S) of any dtype.
        offsets: (B, 2) pixels down and to the right; negative ones up and to the left.

    Returns:
        (B, C, S, S) of the same dtype.
    """
    side = images.shape[-1]
    line = torch.arange(side, device=images.device)
    rows, columns = ((line - offset[:, None]).clamp(0, side - 1) for offset in offsets.T)  # (B, S) each
    at = torch.arange(len(images), device=images.device)[:, None, None]
    moved = images.permute(0, 2, 3, 1)[at, rows[:, :, None], columns[:, None, :]]  # (B, S, S, C)
    return moved.permute(0, 3, 1, 2)


@dataclass(frozen=True, slots=True)
class PairBatch(ImageBatch, JointBatch):
    """A batch of images and captions.

    Attributes:
        texts: (B, context) int64.
        offsets: (B, 2) pixels by which each image is shifted in training; None: by none.
        group: Which of the held-out pairs these are; None in training.
    """

    texts: Tensor
    offsets: Tensor | None = None
    group: Group | None = None

    def of_group(self, group: Group) -> Self:
        """Return the batch as a part of the held-out pairs."""
        return replace(self, group=group)

    def features(self, module: Any) -> Features:
        """Run a module on the batch."""
        images = self.images
        if self.offsets is not None and module.training:
            images = shifted(images, self.offsets)
        found: Features = module(images, self.texts)
        return found

    def losses(self, module: Any, totals: Sequence[int] | None) -> Losses:
        """Return the loss of each pair within its batch; in training within the batches of all ranks."""
        pairs = pair_losses(self.features(module), gather=totals is not None)
        return Losses(pairs.sum() / (totals[0] if totals else len(pairs)), (pairs.detach(),))

    @classmethod
    def joined(
        cls, module: Any, micros: Sequence[Self], totals: Sequence[int] | None, device: torch.device
    ) -> Sequence["PairBatch | CachedPairs"]:
        """Return micro-batches that know the loss over all of them, on all ranks, and its gradients in training."""
        if totals is None:
            return _held_out(module, micros, device)
        if len(micros) == 1:
            return micros
        states, found = [], []
        with torch.no_grad():
            for micro in micros:
                states.append(RandomState.now(device))
                found.append(micro.to(device).features(module))
        seen, read = (torch.cat(parts).requires_grad_() for parts in list(zip(*found, strict=True))[:2])
        features = seen, read, found[0][2].detach().clone().requires_grad_()
        with torch.enable_grad():
            pairs = pair_losses(features, gather=True)
            gradients = torch.autograd.grad(pairs.sum() / totals[0], features)
        sizes = [len(micro.source) for micro in micros]
        values, by_seen, by_read = (part.split(sizes) for part in (pairs.detach(), *gradients[:2]))
        by_scale = gradients[2] / len(micros)  # every micro-batch moves the scale, so that none has an unused weight
        return [
            CachedPairs(micro, value, (*by_features, by_scale), state)
            for micro, value, *by_features, state in zip(micros, values, by_seen, by_read, states, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class RandomState:
    """State of the random numbers of the CPU and a device, with which a forward pass is repeated."""

    device: torch.device
    states: tuple[Tensor, ...]

    @classmethod
    def now(cls, device: torch.device) -> Self:
        """Return the present state."""
        more = (torch.cuda.get_rng_state(device),) if device.type == "cuda" else ()
        return cls(device, (torch.get_rng_state(), *more))

    def restore(self) -> None:
        """Draw the same random numbers again."""
        cpu, *more = self.states
        torch.set_rng_state(cpu)
        for state in more:
            torch.cuda.set_rng_state(state, self.device)


@dataclass(frozen=True, slots=True)
class CachedPairs(Tensors):
    """Pairs whose losses are known, and in training also the gradients by their features.

    Attributes:
        pairs: The pairs.
        values: (B,) loss of each pair.
        gradients: Gradients of the whole step's loss by the pairs' features; None outside training.
        random: State of the random numbers at their first forward pass.
    """

    pairs: PairBatch
    values: Tensor
    gradients: tuple[Tensor, ...] | None = None
    random: RandomState | None = None

    @property
    def sources(self) -> tuple[Tensor, ...]:
        """Sources of the pairs."""
        return self.pairs.sources

    def losses(self, module: Any, totals: Sequence[int] | None) -> Losses:
        """Return the known losses; in training, with the gradients that belong to them."""
        loss = self.values.sum() / (totals[0] if totals else len(self.values))
        if self.gradients is not None and self.random is not None:
            self.random.restore()
            features = self.pairs.features(module)
            parts = zip(features, self.gradients, strict=True)
            product = sum(((part.float() * gradient.float()).sum() for part, gradient in parts), loss.new_zeros(()))
            loss = loss + (product - product.detach())  # the loss's value, with the product's gradients
        return Losses(loss, (self.values,))


def _held_out(module: Any, micros: Sequence[PairBatch], device: torch.device) -> list[CachedPairs]:
    """Return held-out pairs with their losses, each told from all pairs of its group, whichever rank has those."""
    groups = [micro.group for micro in micros if micro.group is not None]
    assert len(groups) == len(micros), "held-out pairs know their group"
    sizes = groups[0].sizes
    found = [micro.to(device).features(module) for micro in micros]
    seen, read = (found[0][0].new_zeros(sum(sizes), found[0][0].shape[1]) for _ in range(2))
    for group, (images, texts, _) in zip(groups, found, strict=True):
        if group.first is not None:
            seen[group.span(len(images))], read[group.span(len(texts))] = images, texts
    if dist.get_world_size() > 1:
        for features in (seen, read):  # a pair is on one rank, and zero on the others
            dist.all_reduce(features)
    parts = zip(seen.split(sizes), read.split(sizes), strict=True)
    values = torch.cat([pair_losses((images, texts, found[0][2]), gather=False) for images, texts in parts])
    return [
        CachedPairs(micro, values[group.span(len(micro.source))]) for micro, group in zip(micros, groups, strict=True)
    ]
