"""EVA-02's MLP (arXiv:2303.11331): SwiGLU with a norm over its hidden units, for widths that fit no matrix unit.

Four times two thirds of the tower's width gives 2,730 hidden units in EVA-02-L: rows of 5,460 bytes, for which cuBLAS
has only slow kernels. Here products may be computed on a wider matrix whose further columns are zeros. Parameters keep
their shapes, so that checkpoints, optimizers and shards do not know of it; what is copied per forward pass is small
beside the products. The layers are timm's (Apache-2.0).

B images, T tokens, D width of the tower, H hidden units, P hidden units with padding
"""

from typing import Self

import torch
import torch.nn.functional as F  # noqa: N812
from timm.layers.mlp import SwiGLU
from torch import Tensor, nn


class SubNormMlp(SwiGLU):
    """timm's SwiGLU with a norm, with products on a multiple of columns.

    Attributes:
        multiple: Hidden units are padded with zeros to a multiple of this number; 1: not at all.
    """

    multiple: int

    @classmethod
    def of(cls, mlp: SwiGLU) -> Self:
        """Return the same layers as one of these; the parameters are shared."""
        made = cls.__new__(cls)
        nn.Module.__init__(made)
        for name, part in mlp.named_children():
            setattr(made, name, part)
        made.multiple = 1
        return made

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)"""
        padding = -self.fc1_g.out_features % self.multiple
        if not padding:
            plain: Tensor = super().forward(x)  # type: ignore[no-untyped-call] # timm's
            return plain
        gate = _padded_rows(self.fc1_g, x, padding)  # (B, T, P)
        hidden = F.silu(gate) * _padded_rows(self.fc1_x, x, padding)  # zeros in the padding
        norm = self.norm
        assert isinstance(norm, nn.LayerNorm)
        if torch.compiler.is_compiling():
            hidden = padded_norm(hidden, norm, padding)
        else:  # one kernel instead of many
            width = self.fc1_g.out_features
            own = F.layer_norm(hidden[..., :width], (width,), norm.weight, norm.bias, norm.eps)
            hidden = F.pad(own, (0, padding))
        return F.linear(hidden, F.pad(self.fc2.weight, (0, padding)), self.fc2.bias)


def padded_norm(hidden: Tensor, norm: nn.LayerNorm, padding: int) -> Tensor:
    """Apply a norm to all but the last `padding` channels, which are zeros before and after: (..., P) -> (..., P).

    Compiled, this and the SwiGLU before it are one kernel; a slice would be a copy.
    """
    assert norm.weight is not None
    num = hidden.shape[-1] - padding
    x = hidden.float()
    mean = x.sum(-1, keepdim=True) / num  # the padding adds nothing
    x = x - mean
    variance = (x.square().sum(-1, keepdim=True) - padding * mean.square()) / num  # in the padding, x is minus the mean
    x = x * torch.rsqrt(variance + norm.eps) * F.pad(norm.weight, (0, padding)).float()
    if norm.bias is not None:
        x = x + F.pad(norm.bias, (0, padding)).float()
    return x.to(hidden.dtype)


def _padded_rows(layer: nn.Linear, x: Tensor, padding: int) -> Tensor:
    bias = layer.bias if layer.bias is None else F.pad(layer.bias, (0, padding))
    return F.linear(x, F.pad(layer.weight, (0, 0, 0, padding)), bias)
