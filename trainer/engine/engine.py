"""DeepSpeed around the model: one step over micro-batches, the same at every ZeRO stage and number of processes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from pipelines.errors import UserError
from trainer.config import Precision, RunSettings, Stage
from trainer.engine.deepspeed_config import clips_itself, deepspeed_config
from trainer.engine.deepspeed_internals import (
    UNIVERSAL_STATE,
    gradient_norm,
    import_deepspeed,
    load_untrained,
    loading_universal,
    quiet,
    whole_weights,
)
from trainer.engine.distributed import World, lost_another
from trainer.engine.optimizer import GuardedAdamW, SpikeGuard, parameter_groups
from trainer.engine.placement import place
from trainer.reading.micro_batches import Losses, MicroBatch

DTYPES: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True, slots=True)
class SourceSums:
    """Sums over targets, by objective and source.

    Attributes:
        objectives: Their names.
        totals: Of each objective, each source's sum of losses.
        counts: Of each objective, each source's number of targets.
    """

    objectives: tuple[str, ...]
    totals: list[list[float]]
    counts: list[list[int]]

    def means(self, names: Sequence[str], prefix: str = "") -> dict[str, float]:
        """`<objective>` over all targets, and `<objective>/<source>` of the sources that have any."""
        found: dict[str, float] = {}
        for objective, totals, counts in zip(self.objectives, self.totals, self.counts, strict=True):
            rows = zip(
                ["", *(f"/{name}" for name in names)], [sum(totals), *totals], [sum(counts), *counts], strict=True
            )
            found |= {f"{prefix}{objective}{name}": total / count for name, total, count in rows if count}
        return found


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step gave. `skipped` says why the optimizer did not move; null where it did."""

    loss: float
    grad_norm: float
    sums: SourceSums
    skipped: str | None


class Engine:
    """A model under DeepSpeed, for one stage of training.

    Args:
        module: On the CPU, with the weights to begin with, at the first process at least (see placement.py).
        stage: What of it is trained.
        modules: The names of its parts that learning rates are given for.
        run: The run's settings.
        world: Its processes.
        objectives: Names of what its micro-batches give losses of.
        num_sources: Sources that losses are told apart by.
    """

    def __init__(
        self,
        module: nn.Module,
        stage: Stage,
        modules: Sequence[str],
        run: RunSettings,
        world: World,
        objectives: tuple[str, ...],
        num_sources: int,
    ) -> None:
        self.world, self.run = world, run
        self._objectives, self._num_sources = objectives, num_sources
        packs = run.data.plan.global_batch_size
        if packs % world.size:
            raise UserError(f"data.plan.global_batch_size is {packs}, which {world.size} processes cannot share alike")
        micro = run.engine.micro_batch_size or packs // world.size
        if packs // world.size % micro:
            raise UserError(
                f"engine.micro_batch_size is {micro}, of which {packs // world.size} packs of a process are no multiple"
            )
        self.micro_batch_size, self.num_micro = micro, packs // world.size // micro
        deepspeed = import_deepspeed()
        settings = run.engine
        groups = parameter_groups(module, stage, modules, run.optimizer)
        place(module, world, self.dtype, split=settings.zero_stage == 3)  # parts have no shapes to group them by
        self.optimizer = GuardedAdamW(groups, run.optimizer, fused=world.device.type == "cuda")
        self.settings = deepspeed_config(
            settings, run.optimizer, micro_batch_size=micro, num_micro=self.num_micro, world_size=world.size
        )
        module.train()
        with quiet():
            self.deepspeed, *_ = deepspeed.initialize(
                model=module, optimizer=self.optimizer, config=self.settings, dist_init_required=False
            )
        if not clips_itself(settings):
            self.optimizer.read_norm = lambda: gradient_norm(self.deepspeed)

    @property
    def module(self) -> nn.Module:
        """The model, for forward passes without gradients."""
        module: nn.Module = self.deepspeed.module
        return module

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and activations."""
        return DTYPES[self.run.engine.resolved_precision]

    def step(
        self,
        micros: Sequence[MicroBatch],
        totals: Sequence[int],
        rates: dict[str, float],
        guard: SpikeGuard,
    ) -> StepResult:
        """Train on a step's micro-batches of this rank.

        Args:
            micros: As many on every rank.
            totals: Targets of each objective on all ranks: losses are means over them, however they are dealt out.
            rates: Learning rate of each module.
            guard: Says when not to move.
        """
        # DeepSpeed takes the mean over ranks and micro-batches; our losses are shares of a sum.
        share = self.world.size * self.num_micro
        sums = self._no_sums()
        for micro in micros:
            here = micro.to(self.world.device)
            losses = here.losses(self.deepspeed, totals)
            self.deepspeed.backward(losses.loss * share)
            self._add(sums, here, losses)
            sums[-1] += losses.loss.detach()
            if micro is not micros[-1]:
                self.deepspeed.step()  # counts micro-batches; the optimizer moves at the last
        found = self._over_ranks(sums)
        loss = found.pop()
        self.optimizer.set_lr(rates)
        self.optimizer.skip = guard.judge_loss(loss)
        self.optimizer.max_norm = guard.max_norm
        before = self.deepspeed.skipped_steps
        self.deepspeed.step()
        skipped = self.optimizer.skip
        if skipped is None and self.deepspeed.skipped_steps > before:
            skipped = "non-finite gradient"
        norm = self.optimizer.norm if skipped is None or "norm" in skipped else float("inf")
        return StepResult(loss, norm, self._named(found), skipped)

    @torch.no_grad()
    def losses(self, micros: Sequence[MicroBatch | None], filler: MicroBatch) -> SourceSums:
        """Losses by source without training.

        Args:
            micros: Of this rank, as many on every rank; null where it has less than the others.
            filler: What is run through the model in their place and not counted.
        """
        module = self.module
        module.eval()
        sums = self._no_sums()
        for micro in micros:
            here = (micro or filler).to(self.world.device)
            losses = here.losses(module, None)
            if micro is not None:
                self._add(sums, here, losses)
        module.train()
        return self._named(self._over_ranks(sums)[:-1])

    def weights(self) -> dict[str, Tensor]:
        """The model's weights on the CPU, whole, at the first process; all must ask."""
        if self.run.engine.zero_stage == 3:
            return whole_weights(self.deepspeed)
        return {name: tensor.detach().cpu().clone() for name, tensor in self.module.state_dict().items()}

    def save(self, folder: str, tag: str) -> None:
        """Write weights, masters and moments below `folder`/`tag`; all processes together.

        Raises:
            UserError: If they cannot be written.
        """
        try:
            with quiet():
                self.deepspeed.save_checkpoint(folder, tag=tag, client_state=UNIVERSAL_STATE, save_latest=False)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            if lost_another(error):
                raise
            raise UserError(
                f"{folder}: the checkpoint cannot be written: {_first_line(error)}; free some space and rerun, those "
                "before are kept"
            ) from error

    def load(self, folder: str, tag: str, *, universal: bool) -> None:
        """Go on from what `save` wrote, or from its universal form.

        Raises:
            UserError: If it is of another model.
        """
        # From ZeRO-3's universal form every group comes back with the first one's name, rate and decay, and all count
        # their steps in one tensor, which then runs ahead (DeepSpeed 0.19.8).
        groups = [{k: v for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups]
        try:
            with quiet(), loading_universal(self.deepspeed, universal):
                path, _ = self.deepspeed.load_checkpoint(folder, tag=tag)
                if universal:
                    load_untrained(self.module, Path(folder) / tag)
        except (RuntimeError, ValueError, KeyError, AssertionError) as error:
            raise UserError(
                f"{folder}/{tag}: a checkpoint of another architecture, or of another optimizer's groups: "
                f"{_first_line(error)}"
            ) from error
        if path is None:
            raise UserError(f"{folder}/{tag}: holds no checkpoint that DeepSpeed knows")
        for group, ours in zip(self.optimizer.param_groups, groups, strict=True):
            group.update(ours)
        for state in self.optimizer.state.values():
            if isinstance(state.get("step"), Tensor):
                state["step"] = state["step"].clone()

    def close(self) -> None:
        """Let go of what DeepSpeed holds."""
        self.deepspeed.destroy()

    def _no_sums(self) -> Tensor:
        num = 2 * len(self._objectives) * self._num_sources + 1
        return torch.zeros(num, dtype=torch.float64, device=self.world.device)

    def _add(self, sums: Tensor, micro: MicroBatch, losses: Losses) -> None:
        """Add each source's losses and counts without waiting for the device."""
        size = self._num_sources
        ones = torch.ones((), dtype=sums.dtype, device=sums.device)
        for row, (sources, values) in enumerate(zip(micro.sources, losses.values, strict=True)):
            at = 2 * row * size
            sums[at : at + size].index_add_(0, sources, values.to(sums.dtype))
            sums[at + size : at + 2 * size].index_add_(0, sources, ones.expand(len(sources)))

    def _over_ranks(self, sums: Tensor) -> list[float]:
        if self.world.size > 1:
            torch.distributed.all_reduce(sums)
        return sums.tolist()

    def _named(self, found: list[float]) -> SourceSums:
        size, num = self._num_sources, len(self._objectives)
        parts = [found[i * size : (i + 1) * size] for i in range(2 * num)]
        return SourceSums(self._objectives, parts[::2], [[int(n) for n in part] for part in parts[1::2]])


def own_precision(device: torch.device) -> Precision:
    """`bf16` where a device computes in it, else `fp32`."""
    if device.type == "cuda":
        return "bf16"
    features = torch.cpu.get_capabilities()
    return "bf16" if features.get("amx_tile") or features.get("avx512_bf16") else "fp32"


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:300] or type(error).__name__
