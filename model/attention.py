"""Attention over packed sequences: each token attends to itself and to earlier tokens of its own sequence.

Three kernels for every Hugging Face language model: transformers' own attention with masks (CPUs, and whatever the
others cannot do), FlexAttention with sparse block masks, and variable-length Flash attention with the sequences'
boundaries (GPUs, half precision). Masks are transformers', which know a family's sliding windows and chunks, within
each packed sequence.

B packed sequences, L tokens, H heads, C channels per head
"""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, Literal

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, bfloat16, float16, nn
from torch.nn.attention import flex_attention as flex
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.masking_utils import and_masks, causal_mask_function, eager_mask, sdpa_mask

from model.batch import Batch

Kernel = Literal["sdpa", "flex", "varlen"]
_FLEX, _VARLEN = "packed_flex", "packed_varlen"  # names under which they are registered in transformers
_HEAD_MULTIPLE, _WIDEST_HEAD = 8, 256  # Flash attention takes only such channels per head, as many of q, k and v
_documents: ContextVar[Tensor | None] = ContextVar("documents", default=None)  # (B, L), equal within a sequence


def choose_kernel(wanted: Literal["auto", "sdpa", "flex", "varlen"], hidden: Tensor, *, varlen: bool = True) -> Kernel:
    """Return `wanted`, or for `auto` the fastest kernel that runs on the device of `hidden`.

    Args:
        wanted: The configured kernel.
        hidden: Input of the language model.
        varlen: Whether Flash attention can compute all that the model's attention does.
    """
    if wanted != "auto":
        return wanted
    if not hidden.is_cuda:
        return "sdpa"
    return "varlen" if varlen and hidden.dtype in (bfloat16, float16) else "flex"


def use_kernel(language_model: PreTrainedModel, kernel: Kernel, masked: str = "sdpa") -> None:
    """Make a Hugging Face model attend with a kernel from now on.

    Args:
        language_model: The model.
        kernel: The kernel.
        masked: transformers' name of its attention with masks, for `sdpa`.
    """
    _register()
    language_model.set_attn_implementation({"sdpa": masked, "flex": _FLEX, "varlen": _VARLEN}[kernel])


@contextlib.contextmanager
def packed(batch: Batch, kernel: Kernel) -> Iterator[dict[str, Any]]:
    """Context in which a Hugging Face model attends within each packed sequence, if it is given these arguments."""
    token = _documents.set(None if kernel == "varlen" else batch.documents)
    boundaries = {"cu_seq_lens_q": batch.boundaries, "max_length_q": batch.longest} if kernel == "varlen" else {}
    try:
        yield {"position_ids": batch.positions, "attention_mask": None, **boundaries}
    finally:
        _documents.reset(token)


@functools.cache
def _register() -> None:
    """Register the kernels in transformers, and masks that heed `packed`; outside it these are transformers' own."""
    AttentionInterface.register(_FLEX, attend_flex)
    AttentionInterface.register(_VARLEN, attend_varlen)  # without a function for masks, transformers makes none
    for name, stock in (("sdpa", sdpa_mask), ("eager", eager_mask), (_FLEX, _block_mask)):
        AttentionMaskInterface.register(name, functools.partial(_mask, stock))


def _mask(stock: Callable[..., Any], *, mask_function: Any = causal_mask_function, **kwargs: Any) -> Any:
    """Make a mask as `stock` does, within packed sequences if there are any."""
    documents = _documents.get()
    if documents is None:
        return stock(mask_function=mask_function, **kwargs)

    def same(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return documents[b, q] == documents[b, k]

    kwargs["allow_is_causal_skip"] = False
    return stock(mask_function=and_masks(mask_function, same), **kwargs)


def _block_mask(
    *, batch_size: int, q_length: int, kv_length: int, mask_function: Any, device: Any, **kwargs: Any
) -> flex.BlockMask:
    """Make a sparse mask. transformers' own function would compile this anew for each batch."""
    return flex.create_block_mask(mask_function, batch_size, None, q_length, kv_length, device=device)


def attend_flex(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: flex.BlockMask,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Compute the attention of one layer by FlexAttention, which has no dropout. Arguments as for `attend_varlen`."""
    if query.is_cuda:
        found: tuple[Tensor, Tensor | None] = flex_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, softcap=softcap, **kwargs
        )
        return found
    if kwargs.get("s_aux") is not None:
        raise ValueError("language_model.attention: flex has no attention sinks on a CPU; choose auto")

    cap = None if softcap is None else query.new_tensor(softcap)  # dynamo fails on a second float that differs

    def capped(score: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return score if cap is None else cap * (score / cap).tanh()

    grouped = query.shape[1] != key.shape[1]  # compiled, as transformers has it, it is wrong on CPUs (torch 2.15)
    out = flex.flex_attention(query, key, value, capped, attention_mask, scale=scaling, enable_gqa=grouped)
    assert isinstance(out, Tensor)  # a pair only with `return_lse`
    return out.transpose(1, 2).contiguous(), None


def attend_varlen(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Compute the attention of one layer by Flash attention, with the signature that transformers expects.

    Args:
        module: The layer that attends.
        query: (B, H, L, C)
        key: (B, H or fewer, L, C)
        value: (B, as many as keys, L, V); of latent attention, values are narrower than keys.
        attention_mask: Unused; there is none.
        scaling: Factor of the dot products.
        dropout: Unused; the kernel has none.
        sliding_window: Tokens that each token sees, itself included; None: all earlier ones.
        cu_seq_lens_q: (sequences + 1,) int32: boundaries in flat order.
        max_length_q: Tokens of the longest sequence.
        **kwargs: Further arguments of the model; unused.

    Returns:
        (B, L, H, V), and None for the weights.
    """
    assert cu_seq_lens_q is not None
    assert max_length_q is not None
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    num_channels = max(query.shape[-1], value.shape[-1])
    num_channels += -num_channels % _HEAD_MULTIPLE
    q, k, v = (  # (B * L, H, C); channels of zeros change no dot product
        F.pad(x.transpose(1, 2).flatten(0, 1), (0, num_channels - x.shape[-1])) for x in (query, key, value)
    )
    out = _varlen(q, k, v, cu_seq_lens_q, max_length_q, scaling, sliding_window)
    return out[..., : value.shape[-1]].unflatten(0, (query.shape[0], query.shape[2])), None


def varlen_runs(*, windows: bool, num_channels: int) -> bool:
    """Return whether this torch has a varlen_attn that can do what is needed, by its signature.

    Args:
        windows: Whether the model has sliding windows.
        num_channels: Channels per head, of queries or values, whichever has more.
    """
    parameters = _varlen_parameters()
    can = "window_size" in parameters or ("is_causal" in parameters and not windows)
    return can and num_channels <= _WIDEST_HEAD


def _varlen(
    q: Tensor, k: Tensor, v: Tensor, boundaries: Tensor, longest: int, scaling: float, window: int | None
) -> Tensor:
    """Call varlen_attn with what its signature has, which grew: torch 2.9 `is_causal`, later `scale`, `window_size`
    and last, in 2.12, `enable_gqa`."""
    from torch.nn.attention.varlen import varlen_attn  # torch >= 2.9, CUDA only

    parameters = _varlen_parameters()
    extra: dict[str, Any] = {}
    if "window_size" in parameters:
        extra["window_size"] = (-1 if window is None else window - 1, 0)
    else:
        extra["is_causal"] = True
    if "scale" in parameters:
        extra["scale"] = scaling
    else:
        q = q * (scaling * q.shape[-1] ** 0.5)  # the kernel's own factor is one over this root
    if "enable_gqa" in parameters:
        extra["enable_gqa"] = q.shape[1] != k.shape[1]
    elif q.shape[1] != k.shape[1]:
        k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
    out = varlen_attn(q, k, v, boundaries, boundaries, longest, longest, **extra)
    assert isinstance(out, Tensor)  # a pair only with `return_aux`
    return out


def _varlen_parameters() -> frozenset[str]:
    """Return the names of varlen_attn's parameters; none if this torch does not have it."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return frozenset()
    call: Callable[..., Any] = varlen_attn
    return frozenset(inspect.signature(call).parameters)
