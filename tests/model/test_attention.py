import inspect
import itertools
import sys
import types
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.nn.attention import flex_attention as flex

from model.attention import attend_flex, attend_varlen, choose_kernel, packed, use_kernel, varlen_runs
from model.batch import Batch, collate
from model.config import LanguageModelConfig
from model.language_model import build_language_model
from model.sequence import Sequence

HEADS, KV_HEADS, CHANNELS = 4, 2, 8


def _batch(lengths: list[list[int]], seq_len: int = 24) -> Batch:
    packs = [[Sequence(*_tokens(n), (), (), ()) for n in pack] for pack in lengths]
    return collate(packs, [], seq_len=seq_len, pad_id=0)


def _tokens(count: int) -> tuple[Any, Any, Any]:
    return torch.ones(count).int().numpy(), torch.ones(count).byte().numpy(), torch.zeros(count).bool().numpy()


def _qkv(size: int, num_channels: int = CHANNELS) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    q = torch.randn(size, HEADS, 24, num_channels)
    k, v = (torch.randn(size, KV_HEADS, 24, num_channels) for _ in range(2))
    return q, k, v


class _Layer(torch.nn.Module):
    num_key_value_groups = HEADS // KV_HEADS
    is_causal = True


def _each_alone(q: Tensor, k: Tensor, v: Tensor, ends: list[int], scale: float = 0.3) -> Tensor:
    """Compute the causal attention of each sequence by itself, in flat order: (B * L, H, C)."""
    q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (q, k, v))
    parts = []
    for start, end in itertools.pairwise(ends):
        a, b, c = (x[start:end].transpose(0, 1)[None] for x in (q, k, v))
        parts.append(F.scaled_dot_product_attention(a, b, c, is_causal=True, scale=scale, enable_gqa=True)[0])
    return torch.cat(parts, dim=1).transpose(0, 1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("softcap", [None, 0.4, 30.0])
def test_flex_attends_within_each_sequence(softcap: float | None) -> None:
    batch = _batch([[5, 9, 10], [24], [7, 1]])
    documents = batch.documents
    mask = flex.create_block_mask(
        lambda b, h, q, k: (q >= k) & (documents[b, q] == documents[b, k]), 3, None, 24, 24, device="cpu"
    )
    q, k, v = _qkv(3)
    out, _ = attend_flex(_Layer(), q, k, v, mask, scaling=0.3, softcap=softcap)
    if softcap is None:
        expected = _each_alone(q, k, v, batch.boundaries.tolist())
    else:
        scores = softcap * torch.tanh(0.3 / softcap * q @ k.repeat_interleave(2, 1).mT)
        seen = (documents[:, :, None] == documents[:, None, :]).tril()[:, None]
        weights = scores.masked_fill(~seen, float("-inf")).softmax(-1)
        expected = (weights @ v.repeat_interleave(2, 1)).transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(out.flatten(0, 1), expected)


def test_sinks_on_a_cpu_are_refused_by_flex() -> None:
    with pytest.raises(ValueError, match="flex has no attention sinks on a CPU; choose auto"):
        attend_flex(_Layer(), *_qkv(1), None, s_aux=torch.zeros(HEADS))  # type: ignore[arg-type]


def _windowed(q: Tensor, k: Tensor, v: Tensor, ends: list[int], scale: float, left: int) -> Tensor:
    """Causal attention of each sequence by itself, to at most `left` earlier tokens (-1: to all): (B * L, H, C).

    It takes only the shapes that Flash attention takes.
    """
    assert q.shape[1] == k.shape[1]
    assert q.shape[2] == k.shape[2] == v.shape[2] <= 256
    assert q.shape[2] % 8 == 0
    parts = []
    for start, end in itertools.pairwise(ends):
        a, b, c = (x[start:end].transpose(0, 1)[None] for x in (q, k, v))
        steps = torch.arange(end - start)
        back = steps[:, None] - steps
        mask = (back >= 0) & ((back <= left) | (left < 0))
        parts.append(F.scaled_dot_product_attention(a, b, c, attn_mask=mask, scale=scale)[0])
    return torch.cat(parts, dim=1).transpose(0, 1).contiguous()


def _of_torch_2_9(q: Tensor, k: Tensor, v: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor, max_q: int, max_k: int,
                  is_causal: bool = False, return_aux: Any = None) -> Tensor:  # fmt: skip
    assert is_causal
    return _windowed(q, k, v, cu_seq_q.tolist(), q.shape[-1] ** -0.5, -1)


def _of_torch_2_11(q: Tensor, k: Tensor, v: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor, max_q: int, max_k: int, *,
                   return_aux: Any = None, scale: float | None = None,
                   window_size: tuple[int, int] = (-1, -1)) -> Tensor:  # fmt: skip
    assert scale is not None
    assert window_size[1] == 0  # causal
    return _windowed(q, k, v, cu_seq_q.tolist(), scale, window_size[0])


def _of_torch_2_12(q: Tensor, k: Tensor, v: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor, max_q: int, max_k: int, *,
                   return_aux: Any = None, scale: float | None = None, window_size: tuple[int, int] = (-1, -1),
                   enable_gqa: bool = False, seqused_k: Any = None, block_table: Any = None,
                   num_splits: Any = None) -> Tensor:  # fmt: skip
    assert enable_gqa == (q.shape[1] != k.shape[1])
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
    return _of_torch_2_11(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, scale=scale, window_size=window_size)


SIGNATURES = (_of_torch_2_9, _of_torch_2_11, _of_torch_2_12)


def stand_in(monkeypatch: pytest.MonkeyPatch, varlen_attn: Any) -> None:
    """Substitute a function for torch's, which runs only on GPUs; None for a torch without it."""
    module = types.ModuleType("torch.nn.attention.varlen")
    if varlen_attn is not None:
        module.varlen_attn = varlen_attn  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", module)


@pytest.mark.parametrize("varlen_attn", SIGNATURES)
def test_varlen_is_called_with_what_its_signature_has(monkeypatch: pytest.MonkeyPatch, varlen_attn: Any) -> None:
    stand_in(monkeypatch, varlen_attn)
    batch = _batch([[5, 9, 10], [24], [7, 1]])
    q, k, v = _qkv(3)
    with packed(batch, "varlen") as arguments:
        boundaries = {name: arguments[name] for name in ("cu_seq_lens_q", "max_length_q")}
    assert boundaries["cu_seq_lens_q"].dtype == torch.int32
    assert boundaries["max_length_q"] == 24
    out, _ = attend_varlen(_Layer(), q, k, v, None, scaling=0.3, **boundaries)
    torch.testing.assert_close(out.flatten(0, 1), _each_alone(q, k, v, batch.boundaries.tolist()))
    if varlen_attn is _of_torch_2_9:
        return
    k, v = (x.repeat_interleave(HEADS // KV_HEADS, dim=1) for x in (k, v))
    out, _ = attend_varlen(_Layer(), q, k, v, None, scaling=0.3, sliding_window=3, **boundaries)
    flat = (x.transpose(1, 2).flatten(0, 1) for x in (q, k, v))
    torch.testing.assert_close(out.flatten(0, 1), _windowed(*flat, batch.boundaries.tolist(), 0.3, 2))


@pytest.mark.parametrize(
    ("varlen_attn", "without_windows", "with_windows"),
    [(None, False, False), (_of_torch_2_9, True, False), (_of_torch_2_11, True, True), (_of_torch_2_12, True, True)],
)
def test_what_a_torch_lacks_is_left_to_flex(
    monkeypatch: pytest.MonkeyPatch, varlen_attn: Any, without_windows: bool, with_windows: bool
) -> None:
    stand_in(monkeypatch, varlen_attn)
    assert varlen_runs(windows=False, num_channels=256) == without_windows
    assert varlen_runs(windows=True, num_channels=64) == with_windows
    assert not varlen_runs(windows=False, num_channels=257)


@pytest.mark.parametrize("varlen_attn", SIGNATURES)
@pytest.mark.parametrize(("keys", "values"), [(12, 8), (8, 12), (20, 20), (24, 16), (192, 128)])
def test_varlen_takes_heads_of_any_channels(
    monkeypatch: pytest.MonkeyPatch, varlen_attn: Any, keys: int, values: int
) -> None:
    """Flash attention wants a multiple of 8, and as many in values as in keys, unlike latent attention."""
    stand_in(monkeypatch, varlen_attn)
    batch = _batch([[5, 9, 10], [24], [7, 1]])
    (q, k, _), (_, _, v) = _qkv(3, keys), _qkv(3, values)
    with packed(batch, "varlen") as arguments:
        boundaries = {name: arguments[name] for name in ("cu_seq_lens_q", "max_length_q")}
    for scaling in (None, 0.3):
        out, _ = attend_varlen(_Layer(), q, k, v, None, scaling=scaling, **boundaries)
        factor = keys**-0.5 if scaling is None else scaling
        expected = _each_alone(q, k, v, batch.boundaries.tolist(), factor)
        torch.testing.assert_close(out.flatten(0, 1), expected)


def test_this_torch_has_a_signature_that_is_known() -> None:
    parameters = {frozenset(inspect.signature(known).parameters) for known in SIGNATURES}
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return
    names = frozenset(inspect.signature(varlen_attn).parameters) - {"query", "key", "value"} | {"q", "k", "v"}
    assert any(known <= names for known in parameters)


def test_kernel_follows_the_device() -> None:
    assert choose_kernel("auto", torch.zeros(1)) == "sdpa"
    assert choose_kernel("flex", torch.zeros(1)) == "flex"
    assert choose_kernel("auto", _OnGpu(torch.bfloat16)) == "varlen"  # type: ignore[arg-type]
    assert choose_kernel("auto", _OnGpu(torch.float32)) == "flex"  # type: ignore[arg-type]
    assert choose_kernel("auto", _OnGpu(torch.bfloat16), varlen=False) == "flex"  # type: ignore[arg-type]


@dataclass
class _OnGpu:
    """What is asked of a tensor."""

    dtype: torch.dtype
    is_cuda: bool = True


@pytest.mark.gpu
@pytest.mark.parametrize("kernel", ["sdpa", "flex", "varlen"])
def test_gpu_kernels_attend_within_each_sequence(kernel: Any) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    settings = LanguageModelConfig(width=256, layers=2, heads=4, kv_heads=2, mlp_hidden=64, max_positions=256)
    model = build_language_model(settings, 64).to("cuda", torch.bfloat16)
    batch = _batch([[50, 90, 116], [256], [70, 1]], seq_len=256).to("cuda")
    ids = torch.randint(0, 64, (3, 256), device="cuda")
    x = model.get_input_embeddings()(ids).detach().requires_grad_()
    use_kernel(model, kernel)
    with packed(batch, kernel) as arguments:
        out = model.base_model(inputs_embeds=x, use_cache=False, **arguments).last_hidden_state.flatten(0, 1)
    use_kernel(model, "sdpa", "eager")
    model.float()
    for start, end in itertools.pairwise(batch.boundaries.tolist()):
        alone = model.base_model(inputs_embeds=x.flatten(0, 1)[None, start:end].float()).last_hidden_state[0]
        torch.testing.assert_close(out[start:end].float(), alone, rtol=0.05, atol=0.05)
    out.sum().backward()
    assert x.grad is not None
