"""Attention over packed sequences: each token attends to itself and to earlier tokens of its own sequence.

One function for every Hugging Face language model, with three kernels: SDPA with a block mask (CPUs), FlexAttention
with a sparse block mask, and variable-length Flash attention with the sequences' boundaries (GPUs, half precision).

B packed sequences, L tokens, H heads, C channels per head
"""

import functools
import importlib.util
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import flex_attention as flex
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from model.batch import Batch

NAME = "packed"  # name under which `use_packed_attention` registers it in transformers
Kernel = Literal["sdpa", "flex", "varlen"]


def use_packed_attention(language_model: PreTrainedModel) -> None:
    """Make a Hugging Face model attend through `attend`, with no masks but those it is called with."""
    AttentionInterface.register(NAME, attend)
    language_model.set_attn_implementation(NAME)


def choose_kernel(wanted: Literal["auto", "sdpa", "flex", "varlen"], hidden: Tensor) -> Kernel:
    """Return `wanted`, or for `auto` the fastest kernel that runs on the device of `hidden`."""
    if wanted != "auto":
        return wanted
    if not hidden.is_cuda:
        return "sdpa"
    half = hidden.dtype in (torch.bfloat16, torch.float16)
    return "varlen" if half and importlib.util.find_spec("torch.nn.attention.varlen") else "flex"


def packed_arguments(batch: Batch, kernel: Kernel) -> dict[str, Any]:
    """Return the arguments that keep the attention of a Hugging Face model within each packed sequence."""
    if kernel == "varlen":
        return {"cu_seq_lens_q": batch.boundaries, "max_length_q": batch.longest}
    documents = batch.documents
    if kernel == "flex":
        size, length = documents.shape

        def visible(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            return (q >= k) & (documents[b, q] == documents[b, k])

        mask = flex.create_block_mask(visible, size, None, length, length, device=documents.device)
        return {"attention_mask": mask}
    same = documents[:, None, :, None] == documents[:, None, None, :]  # (B, 1, L, L)
    return {"attention_mask": same.tril()}


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | flex.BlockMask | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Compute the attention of one layer, with the signature that transformers expects.

    Args:
        module: The layer that attends.
        query: (B, H, L, C)
        key: (B, H or fewer, L', C)
        value: As `key`.
        attention_mask: (B, 1, L, L') bool, a block mask, or None: then causal, or within `cu_seq_lens_q`.
        scaling: Factor of the dot products.
        dropout: Fraction of attention weights dropped.
        cu_seq_lens_q: (sequences + 1,) int32: boundaries in flat order.
        max_length_q: Tokens of the longest sequence.
        **kwargs: Further arguments of the model; unused.

    Returns:
        (B, L, H, C), and None for the weights.
    """
    if cu_seq_lens_q is not None:
        from torch.nn.attention.varlen import varlen_attn  # torch >= 2.9, CUDA only

        assert max_length_q is not None
        q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (query, key, value))  # (B * L, H, C)
        out = varlen_attn(
            q, k, v, cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q,
            scale=scaling, window_size=(-1, 0), enable_gqa=q.shape[1] != k.shape[1],
        )  # fmt: skip
        assert isinstance(out, Tensor)  # a pair only with `return_aux`
        return out.unflatten(0, (query.shape[0], query.shape[2])), None
    if isinstance(attention_mask, flex.BlockMask):
        run = _compiled_flex() if query.is_cuda else flex.flex_attention
        out = run(
            query, key, value, block_mask=attention_mask, scale=scaling, enable_gqa=query.shape[1] != key.shape[1]
        )
        return out.transpose(1, 2).contiguous(), None
    return sdpa_attention_forward(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling)


@functools.cache
def _compiled_flex() -> Any:
    return torch.compile(flex.flex_attention)
