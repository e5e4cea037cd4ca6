"""Low-rank adapters of a frozen language model (LoRA, arXiv:2106.09685), named as PEFT names them.

Two matrices beside a linear layer, whose own keys are unchanged: an adapted model's checkpoint is the base's with
`lora_A` and `lora_B` added, so that the base can be checked to be untouched, and ZeRO shards both alike.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from model.config import LoraConfig

_A, _B = ".lora_A.weight", ".lora_B.weight"


class AdaptedLinear(nn.Linear):
    """A linear layer with an adapter, whose output is zero at first.

    Args:
        linear: The layer whose parameters this one takes over.
        config: The adapter's settings.
    """

    def __init__(self, linear: nn.Linear, config: LoraConfig) -> None:
        inputs, outputs = linear.in_features, linear.out_features
        super().__init__(inputs, outputs, linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        dtype, device = linear.weight.dtype, linear.weight.device
        self.lora_A = nn.Linear(inputs, config.rank, bias=False, dtype=dtype, device=device)
        self.lora_B = nn.Linear(config.rank, outputs, bias=False, dtype=dtype, device=device)
        nn.init.zeros_(self.lora_B.weight)
        self.lora_dropout = nn.Dropout(config.dropout)
        self.scale = config.scale

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the layer plus that of the adapter."""
        added: Tensor = self.lora_B(self.lora_A(self.lora_dropout(x)))
        return super().forward(x) + self.scale * added


def add_adapters(language_model: nn.Module, config: LoraConfig) -> None:
    """Freeze a language model and add adapters, the only parts that are trained.

    Raises:
        ValueError: If it has no layer with one of the configured names.
    """
    language_model.requires_grad_(False)
    found = {
        name: module
        for name, module in language_model.named_modules()
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in config.targets
    }
    if missing := sorted(set(config.targets) - {name.rpartition(".")[2] for name in found}):
        raise ValueError(f"the language model has no linear layer {missing[0]!r} to adapt")
    for name, module in found.items():
        language_model.set_submodule(name, AdaptedLinear(module, config))


def merged(tensors: Mapping[str, Tensor], config: LoraConfig) -> dict[str, Tensor]:
    """Return the weights of a model without adapters that computes the same as an adapted one.

    Args:
        tensors: Weights of the adapted model.
        config: Settings of its adapters.
    """
    out = {name: tensor for name, tensor in tensors.items() if not name.endswith((_A, _B))}
    for name, lora_a in tensors.items():
        if name.endswith(_A):
            layer = name.removesuffix(_A)
            base = out[f"{layer}.weight"]
            added = config.scale * (tensors[layer + _B].float() @ lora_a.float())
            out[f"{layer}.weight"] = (base.float() + added).to(base.dtype)
    return out


def peft_adapter(tensors: Mapping[str, Tensor], config: LoraConfig) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return only the adapters, in the format in which PEFT reads them beside the language model.

    Args:
        tensors: Weights of the adapted model.
        config: Settings of its adapters.

    Returns:
        The contents of `adapter_model.safetensors` and `adapter_config.json`.
    """
    prefix = "language_model."
    adapters = {
        f"base_model.model.{name.removeprefix(prefix)}": tensor
        for name, tensor in tensors.items()
        if name.endswith((_A, _B))
    }
    record = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "target_modules": list(config.targets),
        "bias": "none",
        "base_model_name_or_path": None,
    }
    return adapters, record
