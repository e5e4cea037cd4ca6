import itertools
import sys
import types
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from model.attention import attend, choose_kernel, packed_arguments
from model.batch import Batch, collate
from model.sequence import Sequence

HEADS, KV_HEADS, CHANNELS = 4, 2, 8


def _batch(lengths: list[list[int]], seq_len: int = 24) -> Batch:
    packs = [[Sequence(*_tokens(n), (), (), ()) for n in pack] for pack in lengths]
    return collate(packs, [], seq_len=seq_len, pad_id=0)


def _tokens(count: int) -> tuple[Any, Any, Any]:
    return torch.ones(count).int().numpy(), torch.ones(count).byte().numpy(), torch.zeros(count).bool().numpy()


def _qkv(size: int, seq_len: int = 24, **where: Any) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    q = torch.randn(size, HEADS, seq_len, CHANNELS, **where)
    k, v = (torch.randn(size, KV_HEADS, seq_len, CHANNELS, **where) for _ in range(2))
    return q, k, v


class _Layer(torch.nn.Module):
    num_key_value_groups = HEADS // KV_HEADS
    is_causal = True


def _each_alone(q: Tensor, k: Tensor, v: Tensor, ends: list[int]) -> Tensor:
    """Compute the causal attention of each sequence by itself, in flat order: (B * L, H, C)."""
    q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (q, k, v))
    parts = []
    for start, end in itertools.pairwise(ends):
        a, b, c = (x[start:end].transpose(0, 1)[None] for x in (q, k, v))
        parts.append(F.scaled_dot_product_attention(a, b, c, is_causal=True, scale=0.3, enable_gqa=True)[0])
    return torch.cat(parts, dim=1).transpose(0, 1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("kernel", ["sdpa", "flex"])
def test_kernels_attend_within_each_sequence(kernel: Any) -> None:
    batch = _batch([[5, 9, 10], [24], [7, 1]])
    q, k, v = _qkv(3)
    out, _ = attend(_Layer(), q, k, v, scaling=0.3, **({"attention_mask": None} | packed_arguments(batch, kernel)))
    torch.testing.assert_close(out.flatten(0, 1), _each_alone(q, k, v, batch.boundaries.tolist()))


def test_varlen_gets_sequences_in_flat_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel itself runs only on GPUs; a substitute with its signature checks the arguments."""
    batch = _batch([[5, 9, 10], [24], [7, 1]])
    q, k, v = _qkv(3)

    def varlen_attn(
        q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int, *,
        scale: float, window_size: tuple[int, int], enable_gqa: bool,
    ) -> Tensor:  # fmt: skip
        assert cu_q is cu_k
        assert max_q == max_k == 24
        assert cu_q.dtype == torch.int32
        assert window_size == (-1, 0)  # causal
        assert enable_gqa
        q, k, v = (x[None].transpose(1, 2) for x in (q, k, v))
        return _each_alone(q, k, v, cu_q.tolist()) * (scale / 0.3)

    stand_in = types.ModuleType("torch.nn.attention.varlen")
    stand_in.varlen_attn = varlen_attn
    monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", stand_in)
    arguments = packed_arguments(batch, "varlen")
    out, _ = attend(_Layer(), q, k, v, attention_mask=None, scaling=0.3, **arguments)
    torch.testing.assert_close(out.flatten(0, 1), _each_alone(q, k, v, batch.boundaries.tolist()))


def test_kernel_follows_the_device() -> None:
    assert choose_kernel("auto", torch.zeros(1)) == "sdpa"
    assert choose_kernel("flex", torch.zeros(1)) == "flex"


@pytest.mark.gpu
@pytest.mark.parametrize("kernel", ["sdpa", "flex", "varlen"])
def test_gpu_kernels_attend_within_each_sequence(kernel: Any) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    batch = _batch([[50, 90, 116], [256], [70, 1]], seq_len=256).to("cuda")
    torch.manual_seed(0)
    q = torch.randn(3, HEADS, 256, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    k, v = (torch.randn(3, KV_HEADS, 256, 64, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    out, _ = attend(_Layer(), q, k, v, scaling=0.3, **({"attention_mask": None} | packed_arguments(batch, kernel)))
    expected = _each_alone(q.float(), k.float(), v.float(), batch.boundaries.tolist())
    torch.testing.assert_close(out.flatten(0, 1).float(), expected, rtol=0.02, atol=0.02)
    out.sum().backward()
    assert q.grad is not None
