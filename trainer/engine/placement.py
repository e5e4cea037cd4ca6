"""Where a model's weights are before the first step: filled in by one process, then at every process what it holds.

A model of 37 billion parameters takes 148 GB in fp32, and 1.2 TB if each of a machine's eight processes fills it in. So
the first process of the run builds it alone, as on a single device, and the others know its shapes only. Building it
under `deepspeed.zero.Init` instead would save the first process that memory too, but it cuts up each layer as soon as
it is made, and what the models set afterwards (initial values, rows of tokens, adapters) would find nothing there.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from trainer.engine.distributed import World


@contextlib.contextmanager
def filled_once(world: World) -> Iterator[None]:
    """Models that are built in here have weights at the first process, and elsewhere none until `place`."""
    with contextlib.nullcontext() if world.is_first else torch.device("meta"):
        yield


def place(module: nn.Module, world: World, dtype: torch.dtype, *, split: bool) -> None:
    """Bring a model to the device that it is trained on, parameter by parameter.

    Args:
        module: With weights at the first process at least.
        world: Its processes, which all call.
        dtype: Of parameters; buffers keep theirs.
        split: Whether each process keeps but its part of each parameter (ZeRO 3), as of the first process. If not, what
            had none is left to `deepspeed.initialize` to send.
    """
    for buffer in module.buffers():
        _bring(buffer, world.device, buffer.dtype)
        if world.size > 1:
            torch.distributed.broadcast(buffer.data.flatten().view(torch.uint8), 0)
    for parameter in module.parameters():
        _bring(parameter, world.device, dtype)
        if split:
            import deepspeed

            deepspeed.zero.Init(module=nn.ParameterList([parameter]))  # sends it from the first process, and cuts it up


def _bring(tensor: Tensor, device: torch.device, dtype: torch.dtype) -> None:
    """Move a tensor without changing its identity, by which optimizers and tied layers know it."""
    if not tensor.is_meta:
        tensor.data = tensor.data.to(device, dtype)
        return
    empty = torch.empty(tensor.shape, dtype=dtype, device=device)
    if isinstance(tensor, nn.Parameter):
        empty = nn.Parameter(empty, tensor.requires_grad)
    torch.utils.swap_tensors(tensor, empty)
