"""Modules with the shapes of their parameters alone, to be filled with weights later."""

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook


@contextlib.contextmanager
def shapes_only() -> Iterator[None]:
    """Context in which modules get parameters without values, on the meta device, but buffers as always.

    Unlike under `torch.device("meta")`, tables that no checkpoint holds, as those of rotary positions, are computed.
    """

    def without_values(module: nn.Module, name: str, parameter: nn.Parameter | None) -> Any:
        if parameter is None or parameter.is_meta:  # the second time it is tied to another layer
            return parameter
        return nn.Parameter(parameter.to("meta"), parameter.requires_grad)

    hook = register_module_parameter_registration_hook(without_values)
    try:
        yield
    finally:
        hook.remove()
