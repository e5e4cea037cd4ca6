"""DeepSpeed around the model: one step over micro-batches, the same for every ZeRO stage and number of processes."""

import gc
from collections.abc import Mapping, Sequence
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
    release,
    whole_weights,
)
from trainer.engine.distributed import World, lost_another
from trainer.engine.optimizer import GuardedAdamW, SpikeGuard, parameter_groups
from trainer.engine.placement import place
from trainer.reading.micro_batches import Losses, MicroBatch, joined

DTYPES: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True, slots=True)
class SourceSums:
    """Sums over targets, by objective and source.

    Attributes:
        objectives: Names of the objectives.
        totals: Sum of losses, by objective and source.
        counts: Number of targets, by objective and source.
    """

    objectives: tuple[str, ...]
    totals: list[list[float]]
    counts: list[list[int]]

    def means(
        self, names: Sequence[str], prefix: str = "", weights: Mapping[str, float] | None = None
    ) -> dict[str, float]:
        """Return `<objective>/<source>` for each source that has targets, and `<objective>` over the sources.

        Args:
            names: Names of the sources.
            prefix: Put before each name.
            weights: Weights of the sources, by which `<objective>` is a mean of theirs; those without a weight do not
                count in it. None: it is the mean over all targets.
        """
        found: dict[str, float] = {}
        for objective, totals, counts in zip(self.objectives, self.totals, self.counts, strict=True):
            rows = zip(names, totals, counts, strict=True)
            by_source = {name: total / count for name, total, count in rows if count}
            if weights is None:
                total, whole = sum(totals), float(sum(counts))
            else:
                shares = {name: weights.get(name, 0.0) for name in by_source}
                total, whole = sum(shares[name] * loss for name, loss in by_source.items()), sum(shares.values())
            if whole:
                found[f"{prefix}{objective}"] = total / whole
            found |= {f"{prefix}{objective}/{name}": loss for name, loss in by_source.items()}
        return found


@dataclass(frozen=True, slots=True)
class StepResult:
    """Result of a step. `skipped` is the reason why the optimizer did not move, or None if it did."""

    loss: float
    grad_norm: float
    sums: SourceSums
    skipped: str | None


class Engine:
    """A model under DeepSpeed, for one stage of training.

    Args:
        module: The model on the CPU, with its initial weights at least in the first process (see placement.py).
        stage: Settings of the stage, with the modules that are trained.
        modules: Names of the parts that have learning rates.
        run: Settings of the run.
        world: Processes of the run.
        objectives: Names of the losses of its micro-batches.
        num_sources: Number of sources, by which losses are separated.
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
            raise UserError(f"data.plan.global_batch_size is {packs}, not a multiple of the {world.size} processes")
        micro = run.engine.micro_batch_size or packs // world.size
        if packs // world.size % micro:
            raise UserError(
                f"engine.micro_batch_size is {micro}, not a divisor of {packs // world.size} sequences per process"
            )
        self.micro_batch_size, self.num_micro = micro, packs // world.size // micro
        deepspeed = import_deepspeed()
        settings = run.engine
        groups = parameter_groups(module, stage, modules, run.optimizer)
        place(module, world, self.dtype, split=settings.zero_stage == 3)  # shards have no shapes to group them by
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
        """Data type of weights and activations."""
        return DTYPES[self.run.engine.resolved_precision]

    def step(
        self,
        micros: Sequence[MicroBatch],
        totals: Sequence[int],
        rates: dict[str, float],
        guard: SpikeGuard,
    ) -> StepResult:
        """Train on this rank's micro-batches of a step.

        Args:
            micros: Micro-batches, equally many on every rank.
            totals: Targets of each objective on all ranks: losses are means over them, for any distribution.
            rates: Learning rate by module.
            guard: Decides which steps are skipped.
        """
        # DeepSpeed takes the mean over ranks and micro-batches; our losses are parts of a sum.
        share = self.world.size * self.num_micro
        sums = self._no_sums()
        micros = joined(self.module, micros, totals, self.world.device)
        for micro in micros:
            here = micro.to(self.world.device)
            losses = here.losses(self.deepspeed, totals)
            self.deepspeed.backward(losses.loss * share)
            self._add(sums, here, losses)
            sums[-1] += losses.loss.detach()
            if micro is not micros[-1]:
                self.deepspeed.step()  # counts micro-batches; the optimizer moves after the last
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
        """Compute losses by source without training.

        Args:
            micros: Micro-batches of this rank, equally many on every rank; None where it has fewer.
            filler: Micro-batch that is run in place of None and not counted.
        """
        module = self.module
        module.eval()
        sums = self._no_sums()
        run = joined(module, [micro or filler for micro in micros], None, self.world.device)
        for micro, chosen in zip(micros, run, strict=True):
            here = chosen.to(self.world.device)
            losses = here.losses(module, None)
            if micro is not None:
                self._add(sums, here, losses)
        module.train()
        return self._named(self._over_ranks(sums)[:-1])

    def weights(self) -> dict[str, Tensor]:
        """Return the model's whole weights on the CPU in the first process; all processes must call."""
        if self.run.engine.zero_stage == 3:
            return whole_weights(self.deepspeed)
        return {name: tensor.detach().cpu().clone() for name, tensor in self.module.state_dict().items()}

    def save(self, folder: str, tag: str) -> None:
        """Write weights, master weights and moments below `folder`/`tag`; all processes together.

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
                f"{folder}: the checkpoint cannot be written: {_first_line(error)}; free some space and rerun; "
                "earlier ones are kept"
            ) from error

    def load(self, folder: str, tag: str, *, universal: bool) -> None:
        """Resume from what `save` wrote, or from its universal format.

        Raises:
            UserError: If it belongs to another model.
        """
        # From ZeRO-3's universal format every group comes back with the name, rate and decay of the first, and all
        # count their steps in one shared tensor, which therefore counts too many (DeepSpeed 0.19.8).
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
            raise UserError(f"{folder}/{tag}: not a checkpoint that DeepSpeed can read")
        for group, ours in zip(self.optimizer.param_groups, groups, strict=True):
            group.update(ours)
        for parameter, state in self.optimizer.state.items():  # fused AdamW needs the count beside the weights
            if isinstance(state.get("step"), Tensor):
                state["step"] = state["step"].to(parameter.device, copy=True)

    def close(self) -> None:
        """Release what DeepSpeed holds, and the model; nothing else of this object may be used afterwards."""
        self.deepspeed.destroy()
        if self.run.engine.zero_stage == 3:
            release(self.deepspeed)
        self.optimizer.read_norm = None
        del self.deepspeed, self.optimizer
        gc.collect()  # they refer to each other, and on a GPU to more than half of its memory

    def _no_sums(self) -> Tensor:
        num = 2 * len(self._objectives) * self._num_sources + 1
        return torch.zeros(num, dtype=torch.float64, device=self.world.device)

    def _add(self, sums: Tensor, micro: MicroBatch, losses: Losses) -> None:
        """Add each source's losses and counts without waiting for the device."""
        size = self._num_sources
        ones = torch.ones((), dtype=sums.dtype, device=sums.device)
        for row, (sources, values) in enumerate(zip(micro.sources, losses.values, strict=True)):
            if not len(values):  # no targets, or an objective of weight 0
                continue
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
    """Return `bf16` if a device computes in it, else `fp32`."""
    if device.type == "cuda":
        return "bf16"
    features = torch.cpu.get_capabilities()
    return "bf16" if features.get("amx_tile") or features.get("avx512_bf16") else "fp32"


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:300] or type(error).__name__
