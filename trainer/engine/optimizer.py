"""AdamW with one group per module, and the guard that skips bad steps."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trainer.config import GuardSettings, OptimizerSettings, Stage

_MIN_HISTORY = 32  # steps before which a deviation means little


def parameter_groups(
    model: nn.Module, stage: Stage, modules: Sequence[str], settings: OptimizerSettings
) -> list[dict[str, Any]]:
    """Group the parameters that a stage trains, by module, with and without weight decay; freeze the others.

    They are frozen before the optimizer is built: DeepSpeed does not support it afterwards. What a module has frozen
    itself stays frozen.
    """
    groups = []
    for name in modules:
        module = model.get_submodule(name)
        if name not in stage.lr:
            module.requires_grad_(False)
            continue
        decayed = [p for p in module.parameters() if p.requires_grad and p.ndim > 1]
        others = [p for p in module.parameters() if p.requires_grad and p.ndim <= 1]
        for suffix, parameters, decay in (("", decayed, settings.weight_decay), ("_1d", others, 0.0)):
            if parameters:
                groups.append(
                    {"name": name + suffix, "params": parameters, "weight_decay": decay, "lr": stage.lr[name]}
                )
    return groups


class GuardedAdamW(torch.optim.AdamW):
    """AdamW that checks the gradient's norm before it moves, whatever DeepSpeed has wrapped around it.

    Attributes:
        skip: Reason to skip the next step, or None.
        max_norm: Norm above which a step is skipped.
        read_norm: Returns the norm if DeepSpeed has already clipped; None if this optimizer clips.

    Args:
        groups: Groups of parameters.
        settings: Settings of AdamW.
    """

    def __init__(self, groups: list[dict[str, Any]], settings: OptimizerSettings, *, fused: bool = False) -> None:
        super().__init__(groups, lr=0.0, betas=settings.betas, eps=settings.eps, weight_decay=0.0, fused=fused)
        self.clip = settings.clip
        self.skip: str | None = None
        self.max_norm = math.inf
        self.read_norm: Callable[[], float] | None = None
        self.norm = 0.0

    def set_lr(self, rates: dict[str, float]) -> None:
        """Set the learning rate of each module for the next step."""
        for group in self.param_groups:
            group["lr"] = rates[group["name"].removesuffix("_1d")]

    def step(self, closure: Any = None) -> Any:
        """Move, unless the step is to be skipped."""
        self.norm = self.read_norm() if self.read_norm is not None else self._clip_own()
        if self.skip is None and not math.isfinite(self.norm):
            self.skip = "non-finite gradient"
        elif self.skip is None and self.norm > self.max_norm:
            self.skip = f"gradient norm {self.norm:.4g} above {self.max_norm:.4g}"
        return super().step(closure) if self.skip is None else None

    def _clip_own(self) -> float:
        parameters = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        return clip_norm(parameters, self.clip)


def clip_norm(parameters: Iterable[Tensor], limit: float | None) -> float:
    """Scale all gradients down if their total norm is above the limit; return the norm before that."""
    return float(torch.nn.utils.clip_grad_norm_(list(parameters), limit if limit is not None else math.inf))


class SpikeGuard:
    """Remembers the losses and norms of recent steps, to recognise outliers.

    A skipped step is not remembered, so one outlier does not widen the bounds for the next.
    """

    def __init__(self, settings: GuardSettings) -> None:
        self._settings = settings
        self._losses: deque[float] = deque(maxlen=settings.window)
        self._norms: deque[float] = deque(maxlen=settings.window)
        self.skipped_in_a_row = 0

    def judge_loss(self, loss: float) -> str | None:
        """Return the reason to skip a step with this loss, or None."""
        if not math.isfinite(loss):
            return f"non-finite loss {loss}"
        limit = self._limit(self._losses)
        return f"loss {loss:.4g} above {limit:.4g}" if loss > limit else None

    @property
    def max_norm(self) -> float:
        """Return the norm above which a step is skipped."""
        return self._limit(self._norms)

    def record_step(self, loss: float, norm: float) -> None:
        """Record a step that was taken."""
        self._losses.append(loss)
        self._norms.append(norm)
        self.skipped_in_a_row = 0

    def skipped(self) -> bool:
        """Record a skipped step; return whether too many were skipped."""
        self.skipped_in_a_row += 1
        return self.skipped_in_a_row >= self._settings.max_in_a_row

    def forget(self) -> None:
        """Forget everything: the next steps have another objective."""
        self._losses.clear()
        self._norms.clear()

    def state(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return {"losses": list(self._losses), "norms": list(self._norms), "skipped_in_a_row": self.skipped_in_a_row}

    def load(self, state: dict[str, Any]) -> None:
        """Restore the state from a checkpoint."""
        self.forget()
        self._losses.extend(state["losses"])
        self._norms.extend(state["norms"])
        self.skipped_in_a_row = state["skipped_in_a_row"]

    def _limit(self, values: deque[float]) -> float:
        sigmas = self._settings.sigmas
        if sigmas is None or len(values) < min(_MIN_HISTORY, self._settings.window):
            return math.inf
        mean = math.fsum(values) / len(values)
        deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))
        # Early in training losses fall so evenly that six deviations are almost nothing.
        return mean + max(sigmas * deviation, 0.5 * abs(mean))
