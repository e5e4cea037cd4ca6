"""The main model's training: plan, read, lay out, step; and all that makes a run that can be killed at any time."""

import json
import resource
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from model.emu import Emu
from model.weights import load_emu
from pipelines import storage
from pipelines.errors import RunError
from pipelines.settings import dump_yaml
from trainer.batch import Batches, RankBatch, as_tensor, pixels
from trainer.build import build_model, fit_features, save_model
from trainer.checkpoint import Checkpoint, Checkpoints, RunState, check_model
from trainer.config import TrainConfig
from trainer.consumed import ConsumedLog, ConsumedRow, QuarantineRow, append_quarantine
from trainer.data import TrainingData
from trainer.distributed import World
from trainer.engine import Engine, StepResult
from trainer.flops import ModelFlops, peak_flops
from trainer.held_out import HeldOut
from trainer.metrics import MetricsLog, Totals
from trainer.mixture import append_phase, cut_phases
from trainer.optimizer import SpikeGuard
from trainer.order import key_of
from trainer.reader import Loader, ReadPiece
from trainer.steps import Step

STOPPED = "stopped"
FINISHED = "finished"


class Pretraining:
    """A run, from its beginning or its last checkpoint.

    Args:
        config: All that decides it.
        corpus: The corpus's folder.
        out: The run's folder.
        world: Its processes.
    """

    def __init__(self, config: TrainConfig, corpus: str, out: str, world: World) -> None:
        self.config, self.out, self.world = config, out.rstrip("/"), world
        if config.engine.threads is not None:
            torch.set_num_threads(config.engine.threads)
        if world.is_first:  # works out the tables of windows, which the others then read
            self.data = TrainingData.open(corpus, config)
        world.barrier()
        if not world.is_first:
            self.data = TrainingData.open(corpus, config)
        self.checkpoints = Checkpoints(self.out, config.checkpoints, world)
        self.guard = SpikeGuard(config.guard)
        self.totals = Totals()
        self._features = _Features() if config.engine.keep_features else None
        self._stop = False
        self._rows: list[ConsumedRow] = []
        self._bad: list[QuarantineRow] = []

        found = self.checkpoints.latest()
        if found is not None:
            check_model(found, self.data.model)
        self.stage = found.run.stage if found else 0
        self.first_step = found.run.step if found else 0
        model = build_model(self.data.model, config, self.out)
        self.flops = ModelFlops.of(model)
        self.plan = self.data.plan(self.flops.costs(), found.plan if found else None)
        self.reader = self.data.reader()
        if found is None:
            fit_features(model, self.plan, self.reader, world.device)
        self.engine = self._engine(model)
        if found is not None:
            self._resume(found)
        self._state = self.plan.state  # after the last step that was trained on
        self._write_beginning()
        self.held_out = HeldOut(corpus, config, self.data.names, world) if config.held_out.every else None

    # --- the loop ---

    def run(self) -> str:
        """Train until the last step or a signal; says which."""
        handlers = {s: signal.signal(s, self._on_signal) for s in (signal.SIGTERM, signal.SIGUSR1)}
        loader = Loader(self.plan, self.reader, self.config.data.reader, self.world.rank, self.world.size)
        batches = Batches(
            loader,
            micro_packs=self.engine.micro_packs,
            length=self.config.data.plan.length,
            pad_id=self.data.tokenizer.pad_id,
            pin=self.world.device.type == "cuda",
            pictures=self._features or pixels,
        )
        log = MetricsLog(self.out, self.config.log, self.first_step) if self.world.is_first else None
        interval = _Interval()
        step = self.first_step
        stream = iter(batches)
        try:
            while step < self.config.steps:
                waiting = time.perf_counter()
                batch = next(stream)
                interval.waited += time.perf_counter() - waiting
                counts = self.world.sum([batch.num_text, batch.num_visual, self._stop])
                if counts[2]:
                    if step > self.first_step:
                        self._save(step)
                    return STOPPED
                self._enter_stage(step)
                result = self._train(batch, int(counts[0]), int(counts[1]))
                step += 1
                self._after(batch, result, step, int(counts[0]), interval, log)
        except RunError:
            append_quarantine(self.out, self._bad)
            raise
        finally:
            batches.close()
            loader.close()
            for number, handler in handlers.items():
                signal.signal(number, handler)
            if log is not None:
                log.close()
        if step > self.first_step:
            self._save(step)
        self._export()
        return FINISHED

    def _train(self, batch: RankBatch, num_text: int, num_visual: int) -> StepResult:
        number = batch.read.step.number
        # Noise and dropout as a function of the step, so that a resume draws the same.
        torch.manual_seed(key_of("step", self.config.data.plan.seed, number, self.world.rank))
        stage = self.config.stages[self.stage]
        factor = stage.schedule.factor(number - stage.step, self.config.stage_steps(self.stage))
        rates = {name: peak * factor for name, peak in stage.lr.items()}
        return self.engine.step(batch.micros, num_text, num_visual, rates, self.guard)

    def _after(
        self,
        batch: RankBatch,
        result: StepResult,
        step: int,
        num_text: int,
        interval: "_Interval",
        log: MetricsLog | None,
    ) -> None:
        """What follows a step: records, and at their times held-out loss, metrics and a checkpoint."""
        read, config = batch.read, self.config
        self._state = read.step.state
        self._rows += read.rows
        self._bad += read.bad
        counts = Totals.of(read.step, len(self.data.sources))
        self.totals += counts
        stage = config.stages[self.stage]
        flops = self.flops.step(counts.tokens, counts.pairs, num_text, counts.images, stage.lr)
        interval.add(counts, flops)
        if self.world.is_first and read.step.phase is not None:
            append_phase(storage.join(self.out, "mixture.jsonl"), read.step.phase)
        self._judge(read.step, read.rows, result)
        last = step == config.steps
        held_out: dict[str, float] = {}
        if self.held_out is not None and (step % (config.held_out.every or 1) == 0 or last):
            held_out = interval.outside(partial(self.held_out.losses, self.engine))
        if log is not None and (step == 1 or step % config.log.every == 0 or last or result.skipped or held_out):
            log.write(self._row(read.step, result, interval) | held_out)
        if step % config.checkpoints.every == 0 and not last:
            interval.outside(lambda: self._save(step))

    def _judge(self, step: Step, rows: list[ConsumedRow], result: StepResult) -> None:
        """Remember the step's loss and norm, or write down what a skipped one was made of."""
        if result.skipped is None:
            self.guard.took(result.loss, result.grad_norm)
            return
        found = self.world.gather(rows)
        if self.world.is_first:
            record = {"step": step.number, "why": result.skipped, "loss": repr(result.loss)}
            samples = [row.record() for part in found for row in part]
            path = storage.join(self.out, "skipped", f"step-{step.number:08d}.json")
            storage.write_bytes(path, (json.dumps(record | {"samples": samples}, indent=1) + "\n").encode())
        if self.guard.skipped():
            raise RunError(
                f"{self.guard.skipped_in_a_row} steps in a row were skipped, the last for {result.skipped}: see "
                f"{self.out}/skipped. Lower the learning rate, or resume from an earlier checkpoint"
            )

    def _row(self, step: Step, result: StepResult, interval: "_Interval") -> dict[str, Any]:
        stage = self.config.stages[self.stage]
        rates = {group["name"].removesuffix("_1d"): group["lr"] for group in self.engine.optimizer.param_groups}
        sizes = [max(1, source.num_samples) for source in self.data.sources]
        seconds = interval.seconds
        row: dict[str, Any] = {
            "step": step.number,
            "stage": stage.name,
            **self.totals.columns(self.data.names, sizes),
            "loss": result.loss if result.skipped is None else None,
            "lr": max(rates.values()),
            **{f"lr/{name}": rate for name, rate in rates.items()},
            "grad_norm": result.grad_norm,
            "tokens_per_second": interval.tokens / seconds,
            "images_per_second": interval.images / seconds,
            "data_wait_fraction": min(1.0, interval.waited / seconds),
            "step_seconds": seconds / interval.steps,
            "mfu": interval.flops / seconds / (self._peak * self.world.size),
            "memory_gb": _memory_gb(self.world.device),
            **result.sums.means(self.data.names),
        }
        if result.skipped is not None:
            row["skipped"] = result.skipped
        self._print(row)
        interval.reset()
        return row

    def _print(self, row: dict[str, Any]) -> None:
        loss = "skipped" if row["loss"] is None else f"loss {row['loss']:.4f}"
        print(
            f"step {row['step'] + 1}/{self.config.steps} {row['stage']}: {loss}  lr {row['lr']:.2e}  "
            f"{row['tokens_per_second']:,.0f} tokens/s  wait {row['data_wait_fraction']:.1%}  mfu {row['mfu']:.1%}",
            file=sys.stderr,
            flush=True,
        )

    # --- beginning, saving, resuming ---

    def _engine(self, model: Emu) -> Engine:
        if self._features is not None:
            self._features.model = model
        return Engine(model, self.config.stages[self.stage], self.config, self.world, len(self.data.sources))

    def _resume(self, found: Checkpoint) -> None:
        self.checkpoints.load(found, self.engine)
        self.guard.load(found.run.guard)
        self.totals = Totals.from_record(found.run.totals)

    def _write_beginning(self) -> None:
        """Files that say what the run is, cut back to where it goes on."""
        self._peak = self.config.engine.peak_flops or peak_flops(self.world.device, self.engine.dtype)
        if self.world.is_first:
            storage.write_bytes(storage.join(self.out, "config.resolved.yaml"), dump_yaml(self.config).encode())
            cut_phases(storage.join(self.out, "mixture.jsonl"), self.first_step)
            append_quarantine(self.out, self.data.refused)
            ConsumedLog(self.out).cut(self.first_step)
        self.world.barrier()

    def _enter_stage(self, step: int) -> None:
        """Begin the next stage where its first step is reached."""
        number = self.config.stage_at(step)
        if number == self.stage:
            return
        before, stage = self.config.stages[self.stage], self.config.stages[number]
        self.guard.forget()
        self.stage = number
        if set(before.lr) == set(stage.lr):  # the same parameters learn on: Adam keeps its moments
            self.engine.stage = stage
            objective = stage.objective or self.data.model.objective
            self.engine.model.config = self.data.model.model_copy(update={"objective": objective})
            return
        self._export()
        self.world.barrier()
        self.engine.close()
        model = load_emu(storage.join(self.out, "model"))
        model.config = self.data.model
        self.engine = self._engine(model)

    def _save(self, step: int) -> None:
        """A checkpoint, and all records up to it."""
        rows, bad = self.world.gather(self._rows), self.world.gather(self._bad)
        if self.world.is_first:
            log = ConsumedLog(self.out)
            log.add(row for part in rows for row in part)
            log.write()
            append_quarantine(self.out, [row for part in bad for row in part])
        self._rows, self._bad = [], []
        engine = self.config.engine
        run = RunState(
            step=step,
            stage=self.stage,
            world_size=self.world.size,
            zero_stage=engine.zero_stage,
            precision=engine.precision,
            model=json.loads(self.data.model.model_dump_json()),
            totals=self.totals.to_record(),
            guard=self.guard.state(),
        )
        self.checkpoints.save(self.engine, run, self._state)

    def _export(self) -> None:
        """The model's weights by themselves, for what comes after training."""
        state = self.engine.weights()
        if self.world.is_first:
            save_model(state, self.data.model, self.data, storage.join(self.out, "model"))

    def _on_signal(self, number: int, frame: object) -> None:
        self._stop = True


class _Features:
    """Keeps the features of pictures that a frozen encoder has seen.

    Attributes:
        model: Whose encoder it is.
    """

    def __init__(self) -> None:
        self.model: Emu | None = None
        self._kept: dict[tuple[str, str, int], Tensor] = {}

    def __call__(self, piece: ReadPiece) -> list[Tensor]:
        """The features of a piece's pictures."""
        assert self.model is not None
        sequence, row = piece.sequence, piece.row
        keys = [(row.shard, row.key, media) for media in sequence.images]
        if missing := [i for i, key in enumerate(keys) if key not in self._kept]:
            device = next(self.model.parameters()).device
            images = torch.stack([as_tensor(piece.images[i]) for i in missing]).to(device)
            with torch.no_grad():
                found = self.model.picture_features(images).cpu()
            self._kept |= {keys[i]: tensor for i, tensor in zip(missing, found, strict=True)}
        return [self._kept[key] for key in keys]


class _Interval:
    """What happened since the last logged step."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        self._start = time.perf_counter()
        self.waited = self.flops = 0.0
        self.steps = self.tokens = self.images = 0

    def add(self, counts: Totals, flops: float) -> None:
        """Count a step."""
        self.steps += 1
        self.tokens += counts.tokens
        self.images += counts.images
        self.flops += flops

    def outside(self, work: Callable[[], Any]) -> Any:
        """Do what is no training, and leave its time out."""
        begun = time.perf_counter()
        result = work()
        self._start += time.perf_counter() - begun
        return result

    @property
    def seconds(self) -> float:
        """Time of training."""
        return max(1e-9, time.perf_counter() - self._start)


def _memory_gb(device: torch.device) -> float:
    """The most that this process has held so far: of the GPU's memory, or of the machine's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def pretrain(config: TrainConfig, corpus: str, out: str, world: World) -> str:
    """Train, or go on where a run was; `FINISHED` or `STOPPED`."""
    return Pretraining(config, corpus, out, world).run()
