"""Checkpoints: one folder per save, which appears under its name only when complete, and resumes at any world size.

checkpoints/step-00000100/data_state.json   position in the data: small, equal on every rank
                          run_state.json    what else a resume needs, in readable form
                          deepspeed/        weights, master weights and moments
"""

import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

from pipelines import storage
from pipelines.errors import UserError
from trainer.config import CheckpointSettings
from trainer.engine.deepspeed_internals import to_universal
from trainer.engine.distributed import World
from trainer.engine.engine import Engine

_TAG = "deepspeed"
_PREFIX = "step-"


@dataclass(frozen=True)
class RunState:
    """Contents of a checkpoint besides weights and the data's state.

    Attributes:
        step: Number of finished steps.
        stage: The stage whose modules were trained last.
        world_size: Number of processes that saved it.
        zero_stage: ZeRO stage, which decides what was sharded over them.
        precision: Precision of the weights.
        architecture: All settings that determine the weights' shapes.
        totals: Samples, tokens and images so far.
        guard: The spike guard's memory.
        steps: Number of steps that the run was to have; None in checkpoints of older versions.
        rates: Learning rate of each module at the next step, as it was to be; of a finished run, at its last step.
    """

    step: int
    stage: int
    world_size: int
    zero_stage: int
    precision: str
    architecture: dict[str, Any]
    totals: dict[str, Any]
    guard: dict[str, Any] = field(default_factory=dict)
    steps: int | None = None
    rates: dict[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: str) -> Self:
        """Read the state from a checkpoint's folder.

        Raises:
            UserError: If it is damaged.
        """
        path = storage.join(folder, "run_state.json")
        try:
            return cls(**json.loads(storage.read_bytes(path)))
        except (OSError, ValueError, TypeError) as error:
            raise UserError(
                f"{path}: not the state of a run: {error}. Remove this checkpoint to resume from the previous one"
            ) from error


class DataState(Protocol):
    """Position in the data after a step."""

    def to_json(self) -> str:
        """Return the contents of `data_state.json`."""


@dataclass(frozen=True)
class Checkpoint:
    """A finished checkpoint; `data` is its `data_state.json`."""

    folder: str
    run: RunState
    data: str


class Checkpoints:
    """The checkpoints of a run; every method is called by all processes.

    Args:
        run: The run's folder, on a file system shared by all processes.
        settings: How many to keep.
        world: The processes.
    """

    def __init__(self, run: str, settings: CheckpointSettings, world: World) -> None:
        self._folder = Path(run) / "checkpoints"
        self._settings, self._world = settings, world

    def latest(self) -> Checkpoint | None:
        """Return the newest finished checkpoint.

        Raises:
            UserError: If it is damaged.
        """
        newest = self._world.broadcast(str(found[-1]) if (found := self._finished()) else None)
        if newest is None:
            return None
        data = storage.read_bytes(storage.join(newest, "data_state.json")).decode(errors="replace")
        return Checkpoint(newest, RunState.read(newest), data)

    def save(self, engine: Engine, run: RunState, data: DataState) -> str:
        """Write a checkpoint, then remove the oldest beyond those to keep; return its folder.

        Raises:
            UserError: If it cannot be written, as on a full disk; earlier ones are kept.
        """
        target = self._folder / f"{_PREFIX}{run.step:08d}"
        temporary = self._folder / f"{storage.TEMPORARY}{target.name}"
        if self._world.is_first:
            shutil.rmtree(temporary, ignore_errors=True)
            self._try(lambda: temporary.mkdir(parents=True))
        self._world.barrier()
        try:
            engine.save(str(temporary), _TAG)
            self._world.barrier()
            if self._world.is_first:
                self._try(lambda: self._finish(temporary, target, run, data))
        except UserError:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        self._world.barrier()
        return str(target)

    def load(self, checkpoint: Checkpoint, engine: Engine) -> None:
        """Load a checkpoint's weights, master weights and moments into an engine.

        Raises:
            UserError: If it belongs to another model.
        """
        saved, settings = checkpoint.run, engine.run.engine
        same = saved.zero_stage == settings.zero_stage and saved.precision == settings.precision
        if same and (saved.world_size == self._world.size or settings.zero_stage == 0):
            engine.load(checkpoint.folder, _TAG, universal=False)
            return
        if 0 in (saved.zero_stage, settings.zero_stage):
            raise UserError(
                f"{checkpoint.folder}: saved with zero_stage {saved.zero_stage} in {saved.precision}, now "
                f"{settings.zero_stage} in {settings.precision}: only stages 1 to 3 can be converted into each other"
            )
        self._load_universal(checkpoint, engine)

    def _load_universal(self, checkpoint: Checkpoint, engine: Engine) -> None:
        """Load through DeepSpeed's universal format, which stores parameters instead of one slice per process."""
        converted = self._folder / f"{storage.TEMPORARY}universal"
        if self._world.is_first:
            shutil.rmtree(converted, ignore_errors=True)
            to_universal(Path(checkpoint.folder) / _TAG, converted / _TAG, engine.run.engine.zero_stage)
        self._world.barrier()
        engine.load(str(converted), _TAG, universal=True)
        self._world.barrier()
        if self._world.is_first:
            shutil.rmtree(converted, ignore_errors=True)

    def _finish(self, temporary: Path, target: Path, run: RunState, data: DataState) -> None:
        storage.write_bytes(str(temporary / "data_state.json"), data.to_json().encode())
        storage.write_bytes(str(temporary / "run_state.json"), (json.dumps(asdict(run), indent=1) + "\n").encode())
        for path in temporary.rglob("*"):
            _sync(path)
        if target.exists():  # a resumed run that reached the same step again
            shutil.rmtree(target)
        os.replace(temporary, target)
        _sync(self._folder)
        for old in self._finished()[: -self._settings.keep]:
            shutil.rmtree(old, ignore_errors=True)

    def _try(self, work: Any) -> None:
        try:
            work()
        except OSError as error:
            raise UserError(
                f"{self._folder}: the checkpoint cannot be written: {error.strerror or error}; free some space and "
                "rerun; earlier ones are kept"
            ) from error

    def _finished(self) -> list[Path]:
        return sorted(p for p in self._folder.glob(f"{_PREFIX}*") if (p / "data_state.json").is_file())


def check_architecture(checkpoint: Checkpoint, architecture: dict[str, Any]) -> None:
    """Refuse to resume with another model.

    Raises:
        UserError: If the checkpoint belongs to another architecture; the message names the settings.
    """
    if different := _differences(checkpoint.run.architecture, architecture):
        raise UserError(
            f"{checkpoint.folder}: a checkpoint of another architecture: {different}. Restore it, or choose another "
            "--out for a new run"
        )


def _differences(saved: Any, here: Any, path: str = "") -> str:
    """Return the first settings in which two models differ."""
    if isinstance(saved, dict) and isinstance(here, dict):
        parts = (_differences(saved.get(n), here.get(n), f"{path}.{n}" if path else n) for n in {**saved, **here})
        return "; ".join([part for part in parts if part][:3])
    return "" if saved == here else f"{path} was {saved}, now {here}"


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
