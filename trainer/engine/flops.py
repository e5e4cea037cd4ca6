"""Arithmetic of a step: for balancing packed sequences, and for the MFU.

Only useful work counts: matrix products of real tokens (no padding, no dummy image, no recomputation by gradient
checkpointing), attention within each sequence's causal half, and the vocabulary only where a token is predicted.
Forward is 2 FLOPs per weight and token; backward is twice that, or once if a module is frozen but passes gradients
on, or none if nothing before it is trained.
"""

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from model.config import EmuConfig
from model.emu import Emu
from trainer.plan.steps import Costs

Built = TypeVar("Built", bound=nn.Module)

# Dense bf16 FLOPs per second of one device, from NVIDIA's data sheets, without sparsity.
PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "H800": 989e12, "A100": 312e12, "A800": 312e12, "B200": 2250e12}


@dataclass(frozen=True)
class ModelFlops:
    """FLOPs of one forward pass.

    Attributes:
        per_token: FLOPs of the language model per token of a sequence.
        per_pair: FLOPs of attention per pair of a token and one that it attends to.
        per_target: FLOPs of the output over the vocabulary per text target.
        per_image: FLOPs of the encoder per image.
        per_image_bridge: FLOPs of the bridge per image.
    """

    per_token: float
    per_pair: float
    per_target: float
    per_image: float
    per_image_bridge: float

    @classmethod
    def of(cls, model: Emu) -> "ModelFlops":
        """Count the FLOPs of a model from its parameters' shapes; it may be on the meta device."""
        config = model.config
        language_model = model.language_model
        tables = (language_model.get_input_embeddings(), language_model.get_output_embeddings())
        excluded = {id(p) for table in tables for p in table.parameters()}
        inner = sum(p.numel() for p in language_model.parameters() if p.ndim > 1 and id(p) not in excluded)
        settings = language_model.config
        num_tokens = 1 + config.encoder.grid**2
        patch = 3 * config.encoder.patch_size**2 * config.encoder.width
        tower = sum(p.numel() for b in model.encoder.blocks() for p in b.parameters() if p.ndim > 1)
        tower_pairs = 4 * config.encoder.width * config.encoder.layers
        return cls(
            per_token=2.0 * inner,
            per_pair=4.0 * settings.hidden_size * settings.num_hidden_layers,
            per_target=2.0 * settings.hidden_size * config.vocab_size,
            per_image=2.0 * num_tokens * tower + 2.0 * (num_tokens - 1) * patch + tower_pairs * float(num_tokens) ** 2,
            per_image_bridge=_bridge(config, model, num_tokens),
        )

    def costs(self) -> Costs:
        """Return the costs by which packed sequences are balanced: all modules trained, in units of one token."""
        per_image = self.per_image + self.per_image_bridge
        return Costs(1.0, round(self.per_pair / 2 / self.per_token, 9), round(per_image / self.per_token, 6))

    def step(self, num_tokens: float, pairs: float, targets: float, images: float, trained: Collection[str]) -> float:
        """Return the FLOPs of a step.

        Args:
            num_tokens: Tokens of all sequences, including slots.
            pairs: Sum of the squared lengths of all sequences, halved: the pairs of causal attention.
            targets: Text targets.
            images: Images and frames.
            trained: Modules that are trained.
        """
        before = {"encoder": "encoder" in trained, "bridge": bool({"encoder", "bridge"} & set(trained))}
        encoder = 3.0 if before["encoder"] else 1.0
        bridge = 3.0 if "bridge" in trained else (2.0 if before["encoder"] else 1.0)
        language_model = 3.0 if "language_model" in trained else (2.0 if before["bridge"] else 1.0)
        of_language_model = self.per_token * num_tokens + self.per_pair * pairs + self.per_target * targets
        return (
            encoder * self.per_image * images
            + bridge * self.per_image_bridge * images
            + language_model * of_language_model
        )


def measured_flops(build: Callable[[], Built], run: Callable[[Built], object]) -> float:
    """Return the FLOPs of a forward pass, counted operation by operation on the meta device.

    Args:
        build: Builds the module.
        run: Calls it, with arguments on the meta device.
    """
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        run(build())
    return float(counter.get_total_flops())


def _bridge(config: EmuConfig, model: Emu, num_tokens: int) -> float:
    slots = config.bridge.image_slots
    if config.family == "emu2":
        return 2.0 * 2 * slots * config.encoder.width * config.language_model.width
    read = 2.0 * 2 * config.encoder.width * config.bridge.former_width * num_tokens * config.bridge.former_layers
    rest = sum(p.numel() for n, p in model.bridge.named_parameters() if p.ndim > 1 and "EncDecAttention" not in n)
    return read + 2.0 * slots * rest


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Return the FLOPs per second of a device: from the table, or as measured on a large matrix product."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        found = next((peak for key, peak in PEAK_FLOPS.items() if key in name), None)
        if found is not None:
            return found if dtype != torch.float32 else found / 2
    return _measured(device, dtype)


def _measured(device: torch.device, dtype: torch.dtype, size: int = 768) -> float:
    a = torch.randn(size, size, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(4):
        start = time.perf_counter()
        float((a @ a)[0, 0])  # waits for the result
        best = min(best, time.perf_counter() - start)
    return 2.0 * size**3 / best
