"""Compilation of a model block by block: equal blocks share their graphs, and varying sizes need no further ones."""

from collections.abc import Iterable

import torch
from torch import nn

_MOST_GRAPHS = 64  # of one function, for blocks of different widths; an image decoder has some twenty


def compile_blocks(blocks: Iterable[nn.Module], *, varying: bool, backend: str = "inductor") -> None:
    """Compile each block in place, at its first call.

    Args:
        blocks: The blocks.
        varying: Whether the sizes of their inputs vary from call to call, as the number of images does. They are then
            compiled for any size at once, and not for one size first.
        backend: The compiler of torch that is used; tests take one that only counts.
    """
    torch.compiler.config.recompile_limit = max(torch.compiler.config.recompile_limit, _MOST_GRAPHS)
    for block in blocks:
        block.compile(dynamic=varying, backend=backend)
