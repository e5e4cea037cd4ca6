"""Bridge between images and language model: Emu's causal former, Emu2's pooling and two linear layers.

Emu (arXiv:2307.05222), Emu2 (arXiv:2312.13286); the causal former is a T5 decoder (arXiv:1910.10683) whose parameters
have the names of the released checkpoints. Both bridges have the same four operations:

* `reduce`: encoder tokens -> features; has no parameters, so that features of a frozen encoder may be kept and reused
* `encode`: features -> visual embeddings, the regression targets and the image decoder's conditioning
* `project_up`: visual embeddings -> inputs of the language model
* `project_down`: hidden states -> predicted visual embeddings

B images, P patches, N visual embeddings per image, V encoder width, E width of visual embeddings,
D width of the language model, H heads, C width of the causal former
"""

import math
from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own convention)
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from model.config import BridgeConfig, EmuConfig


class FormerBridge(nn.Module):
    """Emu: LayerNorm and causal former; a visual embedding is an input of the language model as it is (E = D)."""

    def __init__(self, config: EmuConfig) -> None:
        super().__init__()
        width = config.language_model.width
        self.ln_visual = nn.LayerNorm(config.encoder.width)
        self.cformer = CausalFormer(config.bridge, config.encoder.width, width)
        self.stu_regress_head = nn.Linear(width, width, bias=False)

    def reduce(self, tokens: Tensor, num_slots: int) -> Tensor:
        """(B, 1 + P, V) -> (B, 1 + P, V): unchanged, since the causal former reads all tokens, CLS too."""
        assert num_slots == self.cformer.causal_tokens.shape[1]
        return tokens

    def encode(self, features: Tensor) -> Tensor:
        """(B, 1 + P, V) -> (B, N, E)"""
        embeddings: Tensor = self.cformer(self.ln_visual(features))
        return embeddings

    def project_up(self, embeddings: Tensor) -> Tensor:
        """(..., E) -> (..., D), unchanged."""
        return embeddings

    def project_down(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., E)"""
        embeddings: Tensor = self.stu_regress_head(hidden)
        return embeddings

    def blocks(self) -> Iterator[nn.Module]:
        """Return the transformer blocks, for compiling one by one."""
        yield from self.cformer.cformer.block

    def set_gradient_checkpointing(self, enabled: bool) -> None:
        """Recompute each block in the backward pass instead of keeping its activations."""
        self.cformer.gradient_checkpointing = enabled


class PoolBridge(nn.Module):
    """Emu2: patches averaged over a square grid; `project_up` and `project_down` are linear layers (E = V)."""

    feature_mean: Tensor
    feature_std: Tensor

    def __init__(self, config: EmuConfig) -> None:
        super().__init__()
        self.project_up = nn.Linear(config.encoder.width, config.language_model.width, bias=False)
        self.project_down = nn.Linear(config.language_model.width, config.encoder.width, bias=False)
        self.standardize = config.bridge.standardize
        if self.standardize:
            self.register_buffer("feature_mean", torch.zeros(config.encoder.width))
            self.register_buffer("feature_std", torch.ones(config.encoder.width))

    def reduce(self, tokens: Tensor, num_slots: int) -> Tensor:
        """(B, 1 + P, V) -> (B, N, V). CLS is dropped."""
        return pool(tokens, num_slots)

    def encode(self, features: Tensor) -> Tensor:
        """(B, N, V) -> (B, N, E)"""
        return (features - self.feature_mean) / self.feature_std if self.standardize else features

    @torch.no_grad()
    def fit_standardization(self, features: Iterable[Tensor]) -> None:
        """Set mean and deviation of each dimension from pooled features of a sample of images.

        Whitening (also across dimensions) was tried and collapses the images generated from text; this does not.

        Args:
            features: (B, N, V) tensors, as returned by `reduce`.
        """
        rows = torch.cat([part.flatten(0, -2).double() for part in features])
        self.feature_mean.copy_(rows.mean(0))
        self.feature_std.copy_(rows.std(0).clamp(min=1e-6))

    def blocks(self) -> Iterator[nn.Module]:
        """Return nothing: there is nothing worth compiling."""
        return iter(())

    def set_gradient_checkpointing(self, enabled: bool) -> None:
        """Do nothing: there is nothing to recompute."""


Bridge = FormerBridge | PoolBridge


def build_bridge(config: EmuConfig) -> Bridge:
    """Build the bridge of the model's family."""
    return FormerBridge(config) if config.family == "emu" else PoolBridge(config)


def pool(tokens: Tensor, num_slots: int) -> Tensor:
    """Average patches over equal squares, without CLS.

    Args:
        tokens: (B, 1 + P, V), patches row by row.
        num_slots: A square number N.

    Returns:
        (B, N, V), row by row.
    """
    patches = tokens[:, 1:]
    grid, side = math.isqrt(patches.shape[1]), math.isqrt(num_slots)
    x = patches.unflatten(1, (side, grid // side, side, grid // side))  # (B, s, g/s, s, g/s, V)
    pooled: Tensor = x.mean(dim=(2, 4)).flatten(1, 2)
    return pooled


class CausalFormer(nn.Module):
    """Learned queries that read an image, each attending only to earlier ones: 2-D in, a causal sequence out."""

    def __init__(self, config: BridgeConfig, encoder_width: int, output_width: int) -> None:
        super().__init__()
        self.causal_tokens = nn.Parameter(torch.empty(1, config.image_slots, config.former_width))
        self.cformer = _Stack(config, encoder_width)
        self.projection = nn.Linear(config.former_width, output_width)
        self.gradient_checkpointing = False
        nn.init.normal_(self.causal_tokens, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, 1 + P, V) -> (B, N, D)"""
        x = self.causal_tokens.expand(len(tokens), -1, -1)  # (B, N, C)
        bias = self.cformer.position_bias(x.shape[1])  # (1, H, N, N), -inf ahead of the query
        for block in self.cformer.block:
            if self.gradient_checkpointing and self.training:
                x = checkpoint(block, x, tokens, bias, use_reentrant=False)
            else:
                x = block(x, tokens, bias)
        embeddings: Tensor = self.projection(self.cformer.dropout(self.cformer.final_layer_norm(x)))
        return embeddings


class _Stack(nn.Module):
    def __init__(self, config: BridgeConfig, encoder_width: int) -> None:
        super().__init__()
        self.block = nn.ModuleList(_Block(config, encoder_width, first=i == 0) for i in range(config.former_layers))
        self.final_layer_norm = nn.RMSNorm(config.former_width, eps=1e-6)
        self.dropout = nn.Dropout(config.former_dropout)
        self.max_distance = config.former_max_distance

    def position_bias(self, length: int) -> Tensor:
        """Return T5's relative position bias with the causal mask: (1, H, N, N). All layers share the first one's."""
        table = self.block.get_submodule("0.layer.0.SelfAttention.relative_attention_bias")
        assert isinstance(table, nn.Embedding)
        steps = torch.arange(length, device=table.weight.device)
        distance = steps[:, None] - steps[None, :]  # (N, N): how far back the key is
        bias: Tensor = table(_bucket(distance.clamp(min=0), table.num_embeddings, self.max_distance))  # (N, N, H)
        bias = bias.masked_fill((distance < 0)[:, :, None], float("-inf"))
        return bias.permute(2, 0, 1)[None]


class _Block(nn.Module):
    def __init__(self, config: BridgeConfig, encoder_width: int, *, first: bool) -> None:
        super().__init__()
        self.layer = nn.ModuleList(
            [
                _Layer(config, "SelfAttention", _Attention(config, config.former_width, relative=first)),
                _Layer(config, "EncDecAttention", _Attention(config, encoder_width)),
                _Layer(config, "DenseReluDense", _Mlp(config)),
            ]
        )

    def forward(self, x: Tensor, tokens: Tensor, bias: Tensor) -> Tensor:
        attend, read, think = self.layer
        x = attend(x, None, bias)
        x = read(x, tokens, None)
        out: Tensor = think(x)
        return out


class _Layer(nn.Module):
    """A layer x + f(norm(x)), with `f` under its name in checkpoints."""

    def __init__(self, config: BridgeConfig, name: str, inner: nn.Module) -> None:
        super().__init__()
        self.name = name
        self.add_module(name, inner)
        self.layer_norm = nn.RMSNorm(config.former_width, eps=1e-6)
        self.dropout = nn.Dropout(config.former_dropout)

    def forward(self, x: Tensor, *args: Tensor | None) -> Tensor:
        added: Tensor = self.dropout(self.get_submodule(self.name)(self.layer_norm(x), *args))
        return x + added


class _Attention(nn.Module):
    """T5's attention: no biases, and no scaling of the dot products (the initialisation accounts for it)."""

    def __init__(self, config: BridgeConfig, source_width: int, *, relative: bool = False) -> None:
        super().__init__()
        width = config.former_width
        self.heads = config.former_heads
        self.attention_dropout = config.former_dropout
        self.q = nn.Linear(width, width, bias=False)
        self.k = nn.Linear(source_width, width, bias=False)
        self.v = nn.Linear(source_width, width, bias=False)
        self.o = nn.Linear(width, width, bias=False)
        nn.init.normal_(self.q.weight, std=(width * width / self.heads) ** -0.5)
        for linear in (self.k, self.v):
            nn.init.normal_(linear.weight, std=source_width**-0.5)
        nn.init.normal_(self.o.weight, std=width**-0.5)
        if relative:
            self.relative_attention_bias = nn.Embedding(config.former_buckets, self.heads)
            nn.init.normal_(self.relative_attention_bias.weight, std=width**-0.5)

    def forward(self, x: Tensor, source: Tensor | None, bias: Tensor | None) -> Tensor:
        source = x if source is None else source
        q, k, v = (
            linear(y).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, H, length, C / H)
            for linear, y in ((self.q, x), (self.k, source), (self.v, source))
        )
        dropout = self.attention_dropout if self.training else 0.0
        mask = None if bias is None else bias.to(q.dtype)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, scale=1.0)
        out: Tensor = self.o(x.transpose(1, 2).flatten(2))  # (B, N, C)
        return out


class _Mlp(nn.Module):
    def __init__(self, config: BridgeConfig) -> None:
        super().__init__()
        self.wi = nn.Linear(config.former_width, config.former_mlp_hidden, bias=False)
        self.wo = nn.Linear(config.former_mlp_hidden, config.former_width, bias=False)
        self.dropout = nn.Dropout(config.former_dropout)
        nn.init.normal_(self.wi.weight, std=config.former_width**-0.5)
        nn.init.normal_(self.wo.weight, std=config.former_mlp_hidden**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.wo(self.dropout(F.relu(self.wi(x))))
        return out


def _bucket(distance: Tensor, num_buckets: int, max_distance: int) -> Tensor:
    """Return the bucket of each distance: one per distance in the first half, geometrically growing ranges after."""
    exact = num_buckets // 2
    ratio = torch.log(distance.clamp(min=1) / exact) / math.log(max_distance / exact)
    coarse = (exact + ratio * (num_buckets - exact)).long().clamp(max=num_buckets - 1)
    return torch.where(distance < exact, distance, coarse)
