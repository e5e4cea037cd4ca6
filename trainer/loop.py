"""The training loop of every run: plan, read, step, record; written so that it can be killed at any time."""

import json
import resource
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from model.compiling import compile_blocks
from pipelines import storage
from pipelines.errors import RunError, UserError
from pipelines.settings import dump_yaml
from trainer.config import TrainConfig
from trainer.engine.checkpoint import Checkpoint, Checkpoints, DataState, RunState, check_resumable
from trainer.engine.distributed import World
from trainer.engine.engine import DTYPES, Engine, StepResult, own_precision
from trainer.engine.flops import peak_flops
from trainer.engine.metrics import MetricsLog, Totals
from trainer.engine.optimizer import SpikeGuard
from trainer.engine.placement import filled_once
from trainer.engine.progress import Interval, Progress
from trainer.engine.rates import jump
from trainer.engine.signals import Signals
from trainer.plan.mixture import MixtureSettings, append_phase, cut_phases
from trainer.plan.order import key_of
from trainer.reading.consumed import ConsumedLog, ConsumedRow, QuarantineRow, append_quarantine
from trainer.reading.micro_batches import Batches, Collated, RankBatch
from trainer.reading.reader import RankStep
from trainer.reading.reading_process import ReadingProcess
from trainer.reading.streaming import StreamStep
from trainer.tasks.data import ResumedFrom
from trainer.tasks.detached import reading_process
from trainer.tasks.held_out import HeldOut
from trainer.tasks.step_data import StepData
from trainer.tasks.table import TASKS, TaskRun

TRAINED = "trained.json"  # written last into a model's folder: the number of its steps
STOPPED = "stopped"
FINISHED = "finished"


def train(
    command: str,
    config: TrainConfig,
    corpus: str,
    out: str,
    world: World,
    read_config: Callable[[], TrainConfig] | None = None,
) -> str:
    """Train the runs of a command one after another, each from its last checkpoint.

    Args:
        command: One of `TASKS`.
        config, corpus, out, world, read_config: See `Training`.

    Returns:
        `FINISHED` or `STOPPED`.
    """
    for trained in TASKS[command]:
        if trained.settings(config) is None:
            continue
        if Training(trained, config, corpus, out, world, read_config).run() == STOPPED:
            return STOPPED
    return FINISHED


def is_finished(trained: TaskRun, config: TrainConfig, out: str) -> bool:
    """Return whether a run has taken all its steps and written its model."""
    path, settings = storage.join(trained.folder(out), "model", TRAINED), trained.settings(config)
    if settings is None or not storage.exists(path):
        return False
    try:
        return bool(json.loads(storage.read_bytes(path))["steps"] >= settings.steps)
    except (ValueError, KeyError, TypeError):  # damaged: the last checkpoint writes it again
        return False


class Training:
    """Training of a run, from its beginning or its last checkpoint.

    Args:
        trained: The task; the config must have its section.
        config: The whole config, which is written into the run's folder as the task has completed it.
        corpus: The corpus's folder.
        out: Folder of the main model's run.
        world: The run's processes.
        read_config: Reads the config again for a new mixture after SIGHUP; None keeps the mixture.
    """

    def __init__(
        self,
        trained: TaskRun,
        config: TrainConfig,
        corpus: str,
        out: str,
        world: World,
        read_config: Callable[[], TrainConfig] | None = None,
    ) -> None:
        self.out, self.world = trained.folder(out), world
        self._trained, self._read_config = trained, read_config or (lambda: config)
        make_task = partial(trained.task, config.model, trained.settings(config), corpus, out, world)
        self.task = world.first_then_others(make_task)  # the first computes the tables of windows, which the others map
        self.data, run = self.task.data, self.task.run
        self.config = trained.replaced(config, run)
        engine = run.engine.model_copy(update={"precision": run.engine.precision or own_precision(world.device)})
        settings = self.settings = run.model_copy(update={"engine": engine})
        if settings.engine.threads is not None:
            torch.set_num_threads(settings.engine.threads)
        # On CPUs, PyTorch's fused attention is many times slower in bf16 than the plain one, and no faster in fp32.
        torch.backends.cuda.enable_flash_sdp(world.device.type == "cuda")
        self.checkpoints = Checkpoints(self.out, settings.checkpoints, world, trained.section)
        self.guard = SpikeGuard(settings.guard)
        self.totals = Totals()
        self._signals = Signals(speaks=world.is_first)
        self._state: DataState | None = None  # after the last training step
        self._rows: list[ConsumedRow] = []
        self._bad: list[QuarantineRow] = []

        found = self.checkpoints.latest()
        if found is not None:
            check_resumable(found, self.task.architecture(), self._layout())
        self.stage = found.run.stage if found else 0
        self.first_step = self._saved = found.run.step if found else 0
        torch.manual_seed(key_of("weights", settings.data.plan.seed))
        with filled_once(world):
            module = self.task.build()
        resumed = self._resumed_data(found) if found else None
        self.loader = reading_process(self.task, world, resumed) or self.data.loader(self.task.costs(), world, resumed)
        if found is None and world.is_first:
            self.task.begin(module, self.data.first_images(self.task.costs()), world.device)
        self.engine = self._engine(module)
        if found is not None:
            self._resume(found)
        self._write_beginning()
        self.held_out = HeldOut(self.task, self.engine.micro_batch_size, world) if settings.held_out.every else None
        if self.held_out is not None and world.is_first:
            append_quarantine(self.out, self.held_out.bad)

    # --- the loop ---

    def run(self) -> str:
        """Train until the last step or a signal; return `FINISHED` or `STOPPED`.

        Raises:
            UserError: If a source has reached its most epochs, after a save.
            RunError: If data cannot be read any further, after a save, or the steps were skipped too often.
            KeyboardInterrupt: After Ctrl-C and a save; at once after another one.
        """
        with self._signals, self.checkpoints:
            return self._run()

    def _run(self) -> str:
        on_gpu = self.world.device.type == "cuda"
        batches = Batches(self._read(), pin=on_gpu)
        data = StepData(
            self.task, self.loader, batches, self.world, self._signals, self._save_new, self._mixture_wanted
        )
        log = MetricsLog(self.out, self.settings.log, self.first_step) if self.world.is_first else None
        interval = Interval()
        self._progress = Progress(self.settings.steps, self.first_step, shown=self.world.is_first)
        step = self.first_step
        try:
            while step < self.settings.steps:
                found = data.next(step, interval)
                if found is None:
                    return STOPPED
                batch, targets = found
                self._enter_stage(step)
                result = self._train(batch, targets)
                step += 1
                self._after(batch, result, step, targets, interval, log)
            self._save_new(step)
            self._export(step)
            # All processes end together: a launcher may end the first one, which exports, when the others are gone.
            stop, interrupted = self.world.sum([self._signals.stop, self._signals.interrupted])
            if interrupted:
                raise KeyboardInterrupt
            return STOPPED if stop else FINISHED
        except RunError:
            append_quarantine(self.out, self._bad)
            raise
        finally:
            self._progress.close()
            self.loader.close()  # first, since it ends reads that wait
            batches.close()
            if log is not None:
                log.close()

    def _read(self) -> Callable[[], RankBatch]:
        """Return what reads the next step."""
        size = self.engine.micro_batch_size
        if isinstance(self.loader, ReadingProcess):
            return partial(self.loader.read, size)
        return Collated(self.loader, micro_batch_size=size, collate=self.task.collate)

    def _train(self, batch: RankBatch, targets: list[int]) -> StepResult:
        number = batch.read.step.number
        # Noise and dropout are a function of the step, so that a resumed run has the same.
        torch.manual_seed(key_of("step", self.settings.data.plan.seed, number, self.world.rank))
        result = self.engine.step(batch.micros, targets, self.settings.rates(number), self.guard)
        if result.skipped is None:
            self.task.stepped(self.engine.module)
        return result

    def _after(
        self,
        batch: RankBatch,
        result: StepResult,
        step: int,
        targets: list[int],
        interval: Interval,
        log: MetricsLog | None,
    ) -> None:
        """Record a step, and at their intervals compute held-out loss, log metrics and save a checkpoint."""
        read, config = batch.read, self.settings
        self._state = read.step.state
        self._rows += read.rows
        self._bad += read.bad
        counts = self.data.totals(read, self.world)
        self.totals += counts
        stage = config.stages[self.stage]
        interval.add(counts, self.task.flops(counts, targets, stage.lr))
        if self.world.is_first and (phase := read.step.phase) is not None:
            append_phase(storage.join(self.out, "mixture.jsonl"), phase)
            if phase.step:
                self.world.say(f"mixture: from step {phase.step} on: {phase.reason}")
        self._judge(read.step.number, read.rows, result)
        last = step == config.steps
        held_out: dict[str, float] = {}
        if self.held_out is not None and (step % (config.held_out.every or 1) == 0 or last):
            held_out = interval.outside(partial(self._hold_out, self.held_out, read, step))
        if log is not None and (step == 1 or step % config.log.every == 0 or last or result.skipped or held_out):
            log.write(self._row(read.step.number, result, interval) | held_out)
        if step % config.checkpoints.every == 0 and not last:
            interval.outside(lambda: self._save(step))

    def _hold_out(self, held_out: HeldOut, read: RankStep | StreamStep, step: int) -> dict[str, float]:
        """Return held-out losses, and write the model's output for held-out samples."""
        assert isinstance(read, RankStep)  # the config refuses held-out loss of streams
        found = held_out.losses(self.engine, read.step.weights)
        samples = held_out.samples(self.engine)
        if samples and self.world.is_first:
            lines = "".join(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples)
            storage.write_bytes(storage.join(self.out, "samples", f"step-{step:08d}.jsonl"), lines.encode())
        return found

    def _judge(self, step: int, rows: list[ConsumedRow], result: StepResult) -> None:
        """Record the step's loss and norm or, if it was skipped, write down its samples."""
        if result.skipped is None:
            self.guard.record_step(result.loss, result.grad_norm)
            return
        found = self.world.gather(rows)
        if self.world.is_first:
            record = {"step": step, "why": result.skipped, "loss": repr(result.loss)}
            samples = [row.record() for part in found for row in part]
            path = storage.join(self.out, "skipped", f"step-{step:08d}.json")
            storage.write_bytes(path, (json.dumps(record | {"samples": samples}, indent=1) + "\n").encode())
        if self.guard.skipped():
            raise RunError(
                f"{self.guard.skipped_in_a_row} steps in a row were skipped, the last for {result.skipped}: see "
                f"{self.out}/skipped. Lower the learning rate, or resume from an earlier checkpoint"
            )

    def _row(self, step: int, result: StepResult, interval: Interval) -> dict[str, Any]:
        stage = self.settings.stages[self.stage]
        rates = {group["name"].removesuffix("_1d"): group["lr"] for group in self.engine.optimizer.param_groups}
        seconds = interval.seconds
        row: dict[str, Any] = {
            "step": step,
            "stage": stage.name,
            **self.totals.columns(self.data.names, self.data.sizes),
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
        self._progress.show(row)
        interval.reset()
        return row

    # --- beginning, saving, resuming ---

    def _engine(self, module: nn.Module) -> Engine:
        settings, stage = self.settings, self.settings.stages[self.stage]
        self.task.prepare(module, stage, DTYPES[settings.engine.resolved_precision])
        if settings.engine.compile:
            compile_blocks(self.task.blocks(module), varying=self.task.sizes_vary)
        task = self.task
        return Engine(module, stage, task.modules, settings, self.world, task.objectives, len(self.data.names))

    def _resumed_data(self, found: Checkpoint) -> Mapping[str, str]:
        """Return the files of the data of a checkpoint; what the first process finds holds for all."""
        names = found.run.totals.get("names", self.data.names)
        resumed = ResumedFrom(found.data, self.out, self._trained.section, names)
        costs = self.task.costs()
        files: Mapping[str, str] | None = None
        why: str | None = None
        if self.world.is_first:
            try:
                files = self.data.resumed(resumed, costs)
            except UserError as error:
                why = str(error)
        files, why = self.world.broadcast((files, why))
        if files is None:
            raise UserError(why)
        return files

    def _resume(self, found: Checkpoint) -> None:
        self.checkpoints.load(found, self.engine)
        self.guard.load(found.run.guard)
        self.totals = Totals.from_record(found.run.totals, self.data.names)
        if (line := jump(found.run.step, found.run.steps, found.run.rates, self.settings)) is not None:
            self.world.say(line)

    def _write_beginning(self) -> None:
        """Write the files that describe the run, and cut its records back to the step from which it resumes."""
        self._peak = self.settings.engine.peak_flops or peak_flops(self.world.device, self.engine.dtype)
        if self.world.is_first:
            storage.write_bytes(storage.join(self.out, "config.resolved.yaml"), dump_yaml(self.config).encode())
            cut_phases(storage.join(self.out, "mixture.jsonl"), self.first_step)
            append_quarantine(self.out, self.data.refused)
            ConsumedLog(self.out).cut(self.first_step)
        self.world.barrier()

    def _enter_stage(self, step: int) -> None:
        """Begin the next stage if its first step is reached."""
        number = self.settings.stage_at(step)
        if number == self.stage:
            return
        before, stage = self.settings.stages[self.stage], self.settings.stages[number]
        self.guard.forget()
        self.stage = number
        if set(before.lr) == set(stage.lr):  # the same parameters are trained: Adam keeps its moments
            self.task.change(self.engine.module, stage)
            return
        self._export(step)
        self.world.barrier()
        self.engine.close()
        with filled_once(self.world):
            module = self.task.load(storage.join(self.out, "model"))
        if self.world.is_first:
            self.task.begin(module, self.data.first_images(self.task.costs()), self.world.device)
        self.engine = self._engine(module)

    def _save_new(self, step: int) -> bool:
        """Save a checkpoint if there is anything new since the last one; return whether there are new steps at all."""
        if step > self._saved:
            self._save(step)
        return step > self.first_step

    def _save(self, step: int) -> None:
        """Save a checkpoint, and all records up to it."""
        rows, bad = self.world.gather(self._rows), self.world.gather(self._bad)
        if self.world.is_first:
            log = ConsumedLog(self.out, self.data.order)
            log.add(row for part in rows for row in part)
            log.write()
            append_quarantine(self.out, [row for part in bad for row in part])
        self._rows, self._bad, self._saved = [], [], step
        engine = self.settings.engine
        run = RunState(
            step=step,
            stage=self.stage,
            world_size=self.world.size,
            zero_stage=engine.zero_stage,
            precision=engine.resolved_precision,
            architecture=self.task.architecture(),
            layout=self._layout(),
            totals=self.totals.to_record(self.data.names),
            guard=self.guard.state(),
            steps=self.settings.steps,
            rates=self.settings.rates(min(step, self.settings.steps - 1)),
        )
        self.checkpoints.save(self.engine, run, self.data.gathered(self._state, self.world))

    def _layout(self) -> dict[str, Any]:
        return self.settings.data.layout.model_dump(mode="json")

    def _export(self, step: int) -> None:
        """Write the model's weights alone, for use after training."""
        weights = self.engine.weights()
        if self.world.is_first:
            folder = storage.join(self.out, "model")
            self.task.export(weights, folder)
            storage.write_bytes(storage.join(folder, TRAINED), (json.dumps({"steps": step}) + "\n").encode())

    def _mixture_wanted(self) -> tuple[MixtureSettings | None, str]:
        """Return the mixture that the config has now; or None, and the reason, if it cannot be read."""
        try:
            now = self._trained.settings(self._read_config())
        except UserError as error:
            return None, str(error)
        return (
            (now.mixture, "")
            if now is not None
            else (None, f"the config no longer has a section `{self._trained.section}:`")
        )


def _memory_gb(device: torch.device) -> float:
    """Return the peak memory of this process so far, on the GPU if there is one, in GiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
