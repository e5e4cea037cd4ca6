"""The language model's matrix products in FP8, by torchao."""

import torch
from torch import nn

from pipelines.errors import UserError

_MULTIPLE = 16  # of both widths of a layer, for the products on GPUs
_CAPABILITY = (8, 9)  # of the first GPUs that multiply FP8


def use_fp8(blocks: nn.Module, device: torch.device) -> int:
    """Let linear layers multiply in FP8, in place; return how many.

    Inputs, weights and gradients are scaled by their largest value, tensor by tensor, each time. Parameters stay as
    they are, and keep their names. On a CPU the rounding alone is computed, for tests.

    Args:
        blocks: A module whose linear layers are taken, as the transformer blocks of a language model.
        device: Where it is trained.

    Raises:
        UserError: If torchao is not installed, or the GPU has no FP8.
    """
    try:
        from torchao.float8 import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
            Float8LinearConfig,
            convert_to_float8_training,
        )
    except ImportError as error:
        raise UserError("engine.fp8: needs the torchao package, which is not installed") from error
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < _CAPABILITY:
        raise UserError(f"engine.fp8: {torch.cuda.get_device_name(device)} does not multiply FP8: set it to false")
    chosen: list[str] = []

    def is_chosen(layer: nn.Module, name: str) -> bool:
        fits = isinstance(layer, nn.Linear) and not (layer.in_features | layer.out_features) % _MULTIPLE
        chosen.extend([name] if fits else [])
        return fits

    settings = Float8LinearConfig(emulate=device.type != "cuda")
    convert_to_float8_training(blocks, module_filter_fn=is_chosen, config=settings)
    return len(chosen)
