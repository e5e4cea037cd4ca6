"""Vision encoder: EVA-CLIP's vision tower, or open_clip's own, up to its last block.

EVA-01 (arXiv:2211.07636), EVA-02 (arXiv:2303.11331), EVA-CLIP (arXiv:2303.15389). The towers are timm's (Apache-2.0)
and open_clip's (MIT); what Emu and Emu2 do not use (the final norm, the projection into CLIP's space) is left out.

B images, S pixels per side, P patches, D width
"""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from open_clip.transformer import VisionTransformer
from timm.layers.mlp import SwiGLU
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models.eva import Eva
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from model.config import EncoderConfig
from model.sub_norm_mlp import SubNormMlp

# In the order of their speed on whole images; cuDNN's takes 0.34 + 1.07 ms a layer of EVA-02-L on an H200 where Flash
# takes 0.43 + 1.69 (forward + backward).
_KERNELS = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]
_HOPPER = 9  # compute capability from which cuDNN's attention is the fastest


class Encoder(nn.Module):
    """Vision encoder that returns the raw tokens of its last block: CLS first, then patches row by row."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.tower = build_tower(config)

    def forward(self, images: Tensor) -> Tensor:
        """Return the tokens of each image.

        Args:
            images: (B, 3, S, S); uint8 pixels, or floats from `normalize`.

        Returns:
            (B, 1 + P, D)
        """
        x = self.normalize(images) if images.dtype == torch.uint8 else images
        with _fastest_attention(images.device):
            tokens: Tensor = self.tower(x.to(next(self.tower.parameters()).dtype))
        return tokens

    def normalize(self, images: Tensor) -> Tensor:
        """Normalise uint8 pixels as in the encoder's training: float32, by mean and deviation."""
        return normalize(images, self.config)

    def blocks(self) -> Iterator[nn.Module]:
        """Return the transformer blocks, for compiling and checkpointing one by one."""
        blocks = "blocks" if self.config.kind == "eva" else "transformer.resblocks"
        yield from self.tower.get_submodule(blocks).children()

    def pad_mlps(self, multiple: int) -> None:
        """Compute MLPs whose width is no multiple of a number on padded widths; parameters stay as they are."""
        for part in self.tower.modules():
            if isinstance(part, SubNormMlp):
                part.multiple = multiple

    def set_gradient_checkpointing(self, enabled: bool) -> None:
        """Recompute each block in the backward pass instead of keeping its activations."""
        self.tower.set_grad_checkpointing(enabled)


def _fastest_attention(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Context in which attention over whole images takes the fastest kernel of a GPU."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device)[0] < _HOPPER:
        return contextlib.nullcontext()
    return sdpa_kernel(_KERNELS, set_priority=True)


def normalize(images: Tensor, config: EncoderConfig) -> Tensor:
    """Normalise uint8 pixels (B, 3, S, S) as in an encoder's training: float32, by mean and deviation."""
    # Python numbers rather than buffers: they survive casts to bf16 and models built on the meta device.
    channels = [
        (images[:, c].float() / 255 - mean) / std
        for c, (mean, std) in enumerate(zip(config.mean, config.std, strict=True))
    ]
    return torch.stack(channels, dim=1)


def resize_positions(positions: Tensor, grid: int) -> Tensor:
    """Interpolate learned positions to another grid: bicubic, CLS kept apart (224 -> 448 pixels is 16 -> 32).

    Args:
        positions: (1, 1 + P, D), or (1 + P, D) as open_clip keeps them.
        grid: Target number of patches per side.

    Returns:
        The same with 1 + grid * grid rows; unchanged if it has them already, or if its grid is not square.
    """
    patches = positions.shape[-2] - 1
    if patches == grid * grid or patches != math.isqrt(patches) ** 2:
        return positions
    batched = positions if positions.ndim == 3 else positions[None]
    resized: Tensor = resample_abs_pos_embed(batched, new_size=[grid, grid], num_prefix_tokens=1, antialias=False)
    return resized if positions.ndim == 3 else resized[0]


class _EvaTower(Eva):
    """timm's EVA, up to the tokens."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override] # timm's takes attention masks too
        return self.forward_features(x)  # (B, 1 + P, D)


class _ClipTower(VisionTransformer):
    """open_clip's vision transformer, up to the tokens."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(output_dim=1, **arguments)
        self.ln_post = nn.Identity()
        self.proj = None

    def forward(self, x: Tensor) -> Tensor:
        last = self.forward_intermediates(
            x, indices=1, intermediates_only=True, output_fmt="NLC", output_extra_tokens=True
        )
        parts = (last["image_intermediates_prefix"][-1], last["image_intermediates"][-1])  # (B, 1, D), (B, P, D)
        return torch.cat(parts, dim=1)  # (B, 1 + P, D)


def build_tower(config: EncoderConfig) -> Eva | VisionTransformer:
    """Build the vision transformer of an encoder, with random weights."""
    if config.kind == "clip":
        return _ClipTower(
            image_size=config.image_size,
            patch_size=config.patch_size,
            width=config.width,
            layers=config.layers,
            heads=config.heads,
            mlp_ratio=config.mlp_hidden / config.width,
        )
    sub_norm = config.sub_norm
    tower = _EvaTower(
        img_size=config.image_size,
        patch_size=config.patch_size,
        num_classes=0,
        global_pool="token",
        embed_dim=config.width,
        depth=config.layers,
        num_heads=config.heads,
        mlp_ratio=(config.mlp_hidden + 0.5) / config.width,  # timm rounds the product down; the half keeps it exact
        qkv_fused=not sub_norm,
        swiglu_mlp=sub_norm,
        scale_mlp=sub_norm,
        scale_attn_inner=sub_norm,
        use_rot_pos_emb=sub_norm,
        ref_feat_shape=(config.position_grid, config.position_grid) if sub_norm else None,
        use_post_norm=config.post_norm,
        use_post_transformer_norm=False,  # raw tokens: neither model uses the tower's own final norm
        use_fc_norm=False,
    )
    for block in tower.blocks:
        if isinstance(block.mlp, SwiGLU):
            block.mlp = SubNormMlp.of(block.mlp)
    return tower
