"""Placement of a model's weights before the first step: filled in by one process, then sent to the others.

A model of 37 billion parameters takes 148 GB in fp32, and 1.2 TB if each of a machine's eight processes fills it in.
Therefore only the first process of the run builds it with weights, as on a single device; the others build only its
shapes. Building it under `deepspeed.zero.Init` would save that memory in the first process too, but it shards each
layer as soon as it is built, and what the models set afterwards (initial values, rows of tokens, adapters) would find
no weights.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from trainer.engine.distributed import World


@contextlib.contextmanager
def filled_once(world: World) -> Iterator[None]:
    """Context in which models are built with weights only in the first process; elsewhere `place` adds them."""
    with contextlib.nullcontext() if world.is_first else torch.device("meta"):
        yield


def place(module: nn.Module, world: World, dtype: torch.dtype, *, split: bool) -> None:
    """Move a model to the device on which it is trained, parameter by parameter.

    Args:
        module: The model, with weights at least in the first process.
        world: Processes of the run; all must call.
        dtype: Data type of parameters; buffers keep theirs.
        split: Whether each process keeps only its part of each parameter (ZeRO 3), as sent by the first process. If
            not, parameters without weights are left for `deepspeed.initialize` to send.
    """
    for buffer in module.buffers():
        _bring(buffer, world.device, buffer.dtype)
        if world.size > 1:
            torch.distributed.broadcast(buffer.data.flatten().view(torch.uint8), 0)
    for parameter in module.parameters():
        _bring(parameter, world.device, dtype)
        if split:
            import deepspeed

            deepspeed.zero.Init(module=nn.ParameterList([parameter]))  # sends it from the first process, and shards it


def _bring(tensor: Tensor, device: torch.device, dtype: torch.dtype) -> None:
    """Move a tensor without changing its identity, by which optimizers and tied layers refer to it."""
    if not tensor.is_meta:
        tensor.data = tensor.data.to(device, dtype)
        return
    empty = torch.empty(tensor.shape, dtype=dtype, device=device)
    if isinstance(tensor, nn.Parameter):
        empty = nn.Parameter(empty, tensor.requires_grad)
    torch.utils.swap_tensors(tensor, empty)
