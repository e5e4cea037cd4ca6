"""DeepSpeed around the model: one step over micro-batches, the same at every ZeRO stage and number of processes."""

import contextlib
import io
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from model.emu import Emu
from pipelines.errors import RunError, UserError
from trainer.batch import MicroBatch
from trainer.config import ModuleName, Stage, TrainConfig
from trainer.deepspeed_config import clips_itself, deepspeed_config
from trainer.distributed import World
from trainer.optimizer import GuardedAdamW, SpikeGuard, parameter_groups

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True, slots=True)
class SourceSums:
    """Sums over targets, by source.

    Attributes:
        text: Cross-entropy in nats.
        num_text: Text targets.
        visual: Squared error.
        num_visual: Regression targets.
    """

    text: list[float]
    num_text: list[int]
    visual: list[float]
    num_visual: list[int]

    def means(self, names: Sequence[str], prefix: str = "") -> dict[str, float]:
        """`ce/<source>` and `regression/<source>` of the sources that have targets."""
        rows = (("ce", self.text, self.num_text), ("regression", self.visual, self.num_visual))
        return {
            f"{prefix}{kind}/{name}": total / count
            for kind, totals, counts in rows
            for name, total, count in zip(names, totals, counts, strict=True)
            if count
        }


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
        model: On the CPU, with the weights to begin with.
        stage: What of it is trained.
        config: The run's.
        world: Its processes.
        num_sources: Sources that losses are told apart by.
    """

    def __init__(self, model: Emu, stage: Stage, config: TrainConfig, world: World, num_sources: int) -> None:
        self.world, self.stage, self.config = world, stage, config
        self._num_sources = num_sources
        packs = config.data.plan.packs_per_step
        if packs % world.size:
            raise UserError(f"data.plan.packs_per_step is {packs}, which {world.size} processes cannot share alike")
        micro = config.engine.micro_packs or packs // world.size
        if packs // world.size % micro:
            raise UserError(
                f"engine.micro_packs is {micro}, of which {packs // world.size} packs of a process are no multiple"
            )
        self.micro_packs, self.num_micro = micro, packs // world.size // micro
        deepspeed = import_deepspeed()
        settings = config.engine
        if stage.objective is not None:
            model.config = model.config.model_copy(update={"objective": stage.objective})
        groups = parameter_groups(model, stage, config.optimizer)
        chosen = settings.gradient_checkpointing
        model.set_gradient_checkpointing(
            encoder="encoder" in chosen and "encoder" in stage.lr,
            bridge="bridge" in chosen,
            language_model="language_model" in chosen,
        )
        if settings.compile:
            for block in model.blocks():
                block.compile()
        self.optimizer = GuardedAdamW(groups, config.optimizer, fused=world.device.type == "cuda")
        self.settings = deepspeed_config(
            settings, config.optimizer, micro_packs=micro, num_micro=self.num_micro, world_size=world.size
        )
        for part in (model.encoder, model.bridge):  # DeepSpeed casts parameters only; rotary tables stay fp32
            for buffer in part.buffers():
                buffer.data = buffer.data.to(self.dtype) if buffer.is_floating_point() else buffer.data
        model.train()
        with _quiet():
            self.deepspeed, *_ = deepspeed.initialize(
                model=model, optimizer=self.optimizer, config=self.settings, dist_init_required=False
            )
        if not clips_itself(settings):
            self.optimizer.read_norm = lambda: float(self.deepspeed.optimizer._global_grad_norm)

    @property
    def model(self) -> Emu:
        """The model, for forward passes without gradients."""
        return self.deepspeed.module  # type: ignore[no-any-return]

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and activations."""
        return DTYPES[self.config.engine.precision]

    def step(
        self,
        micros: Sequence[MicroBatch],
        num_text: int,
        num_visual: int,
        rates: dict[ModuleName, float],
        guard: SpikeGuard,
    ) -> StepResult:
        """Train on a step's micro-batches of this rank.

        Args:
            micros: As many on every rank.
            num_text: Text targets of all ranks: the loss is a mean over them, however they are dealt out.
            num_visual: Regression targets of all ranks.
            rates: Learning rate of each module.
            guard: Says when not to move.
        """
        # DeepSpeed takes the mean over ranks and micro-batches; our losses are shares of a sum.
        share = self.world.size * self.num_micro
        sums = torch.zeros(4 * self._num_sources + 1, dtype=torch.float64, device=self.world.device)
        for micro in micros:
            here = micro.to(self.world.device)
            losses = self.deepspeed(here.batch, num_text, num_visual)
            self.deepspeed.backward(losses.loss * share)
            self._add(sums, here, losses.text, losses.visual)
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
        model = self.model
        model.eval()
        sums = torch.zeros(4 * self._num_sources + 1, dtype=torch.float64, device=self.world.device)
        for micro in micros:
            here = (micro or filler).to(self.world.device)
            losses = model(here.batch)
            if micro is not None:
                self._add(sums, here, losses.text, losses.visual)
        model.train()
        return self._named(self._over_ranks(sums)[:-1])

    def weights(self) -> dict[str, Tensor]:
        """The model's weights on the CPU, whole, at the first process; all must ask."""
        if self.config.engine.zero_stage == 3:
            state = self.deepspeed._zero3_consolidated_16bit_state_dict()
            return state if state is not None else {}
        return {name: tensor.detach().cpu().clone() for name, tensor in self.model.state_dict().items()}

    def save(self, folder: str, tag: str) -> None:
        """Write weights, masters and moments below `folder`/`tag`; all processes together.

        Raises:
            RunError: If they cannot be written.
        """
        state = {"universal_checkpoint_info": {"universal_checkpoint_version": 0.2}}
        try:
            with _quiet():
                self.deepspeed.save_checkpoint(folder, tag=tag, client_state=state, save_latest=False)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            raise RunError(f"{folder}: the checkpoint cannot be written: {_first_line(error)}") from error

    def load(self, folder: str, tag: str, *, universal: bool) -> None:
        """Go on from what `save` wrote, or from its universal form.

        Raises:
            UserError: If it is of another model.
        """
        # From ZeRO-3's universal form every group comes back with the first one's name, rate and decay, and all count
        # their steps in one tensor, which then runs ahead (DeepSpeed 0.19.8).
        groups = [{k: v for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups]
        try:
            self.deepspeed._config.load_universal_checkpoint = universal
            with _quiet():
                path, _ = self.deepspeed.load_checkpoint(folder, tag=tag)
        except (RuntimeError, ValueError, KeyError, AssertionError) as error:
            raise UserError(
                f"{folder}/{tag}: a checkpoint of another architecture, or of another optimizer's groups: "
                f"{_first_line(error)}"
            ) from error
        finally:
            self.deepspeed._config.load_universal_checkpoint = False  # what is saved with it on lacks parts
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

    def _add(self, sums: Tensor, micro: MicroBatch, text: Tensor, visual: Tensor) -> None:
        """Add each source's losses and counts without waiting for the device."""
        size = self._num_sources
        ones = torch.ones((), dtype=sums.dtype, device=sums.device)
        for row, (sources, values) in enumerate(((micro.text_sources, text), (micro.visual_sources, visual))):
            at = 2 * row * size
            sums[at : at + size].index_add_(0, sources, values.to(sums.dtype))
            sums[at + size : at + 2 * size].index_add_(0, sources, ones.expand(len(sources)))

    def _over_ranks(self, sums: Tensor) -> list[float]:
        if self.world.size > 1:
            torch.distributed.all_reduce(sums)
        return sums.tolist()  # type: ignore[no-any-return]

    def _named(self, found: list[float]) -> SourceSums:
        size = self._num_sources
        text, num_text, visual, num_visual = (found[i * size : (i + 1) * size] for i in range(4))
        return SourceSums(text, [int(n) for n in num_text], visual, [int(n) for n in num_visual])


def import_deepspeed() -> Any:
    """DeepSpeed, told not to compile the shared-memory operator for CPUs: gloo does without it and a compiler."""
    with _quiet(), _no_compiler_errors():
        import deepspeed
        import deepspeed.ops

    deepspeed.utils.logger.setLevel(logging.ERROR)
    if os.environ.get("DS_ACCELERATOR") == "cpu":
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Swallow what libraries print to standard output."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


@contextlib.contextmanager
def _no_compiler_errors() -> Iterator[None]:
    """Swallow what programs started from here say: DeepSpeed tries a linker for operators that are not needed."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:300] or type(error).__name__
