"""Checkpoints: one folder per save, which appears under its name only when complete, and resumes at any world size.

checkpoints/step-00000100/data_state.json   position in the data: small, equal on every rank
                          stream_cursors.json   places of many ranks in streams, if they take more than that
                          run_state.json    what else a resume needs, in readable form
                          deepspeed/        weights, master weights and moments
"""

import contextlib
import json
import os
import shutil
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, Protocol, Self

from pipelines import storage
from pipelines.errors import UserError
from trainer.config import CheckpointSettings
from trainer.engine.deepspeed_internals import to_universal
from trainer.engine.distributed import World, lost_another
from trainer.engine.engine import Engine
from trainer.plan.steps import STATE_FILE

_TAG = "deepspeed"
_RUN_STATE = "run_state.json"
_PREFIX = "step-"
_DAMAGED = "damaged-"
_READERS = 8  # threads that compare checksums, which Python computes in parallel


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
        files: Bytes of each other file of the checkpoint; empty if they were not written down.
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
    files: dict[str, int] = field(default_factory=dict)
    steps: int | None = None
    rates: dict[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the state from a checkpoint's folder.

        Raises:
            Damaged: If it is.
        """
        record = _read_json(folder / _RUN_STATE)
        known = {each.name for each in fields(cls)}
        try:
            found = cls(**{name: value for name, value in record.items() if name in known})  # newer versions write more
        except TypeError as error:
            raise Damaged(f"{_RUN_STATE} is not the state of a run: {error}") from error
        for name in ("architecture", "totals", "guard", "files", "rates"):
            if not isinstance(getattr(found, name), dict):
                raise Damaged(f"{_RUN_STATE} is not the state of a run: {name} is no record")
        return found


class Damaged(Exception):  # noqa: N818 - a fact about a checkpoint, before which there may be a whole one
    """A checkpoint that lacks something; the message names the file."""


class DataState(Protocol):
    """Position in the data after a step."""

    def files(self) -> dict[str, str]:
        """Return the contents of its files, by their names; the first is `data_state.json`."""


@dataclass(frozen=True)
class Checkpoint:
    """A finished checkpoint; `data` has the contents of the files of `DataState`, by their names."""

    folder: str
    run: RunState
    data: dict[str, str]


class Checkpoints:
    """The checkpoints of a run; every method is called by all processes.

    Args:
        run: The run's folder, on a file system shared by all processes.
        settings: How many to keep, and whether damaged ones are skipped.
        world: The processes.
        section: The run's section of the config, for messages.
    """

    def __init__(self, run: str, settings: CheckpointSettings, world: World, section: str = "pretrain") -> None:
        self._folder = Path(run) / "checkpoints"
        self._settings, self._world, self._section = settings, world, section

    def latest(self) -> Checkpoint | None:
        """Return the newest finished checkpoint; damaged ones are set aside if the settings say so.

        Raises:
            UserError: If it is damaged.
        """
        # The first process decides for all: what it finds may not be what another would see a moment later.
        found, error = self._world.broadcast(self._newest() if self._world.is_first else None)
        if error is not None:
            raise UserError(error)
        checkpoint: Checkpoint | None = found
        return checkpoint

    def _newest(self) -> tuple[Checkpoint | None, str | None]:
        """Return the checkpoint to resume from, if there is any, or why there is none."""
        skipped: list[tuple[Path, str]] = []
        for folder in reversed(self._finished()):
            try:
                found = _read(folder, thoroughly=self._settings.skip_damaged)
            except Damaged as why:
                skipped.append((folder, str(why)))
                if not self._settings.skip_damaged:
                    return None, self._refusal(folder, str(why))
                continue
            except OSError as error:
                return None, f"{error.filename or folder}: cannot be read: {error.strerror or error}"
            for damaged, reason in skipped:
                aside = damaged.with_name(f"{_DAMAGED}{damaged.name}")
                shutil.rmtree(aside, ignore_errors=True)
                os.replace(damaged, aside)
                self._world.say(f"{damaged}: damaged: {reason}; set aside as {aside.name}, resuming from {folder.name}")
            return found, None
        if skipped:
            folder, reason = skipped[0]
            return None, f"{folder}: damaged: {reason}. No checkpoint is whole: restore one, or choose another --out"
        return None, None

    def _refusal(self, damaged: Path, why: str) -> str:
        """Return the message for a damaged checkpoint, which offers the one before if it is whole."""
        for folder in reversed([path for path in self._finished() if path.name < damaged.name]):
            with contextlib.suppress(Damaged):
                _read(folder)
                return (
                    f"{damaged}: damaged: {why}. To resume from {folder.name}, the last whole one, add "
                    f"--set {self._section}.checkpoints.skip_damaged=true"
                )
        return f"{damaged}: damaged: {why}. No earlier one is whole: restore it, or choose another --out for a new run"

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
            UserError: If it belongs to another model, or is damaged.
        """
        try:
            self._load(checkpoint, engine)
        except Exception as error:
            if lost_another(error):
                raise
            try:  # whatever the error says: bytes that have changed inside a file lead to any of them
                _read(Path(checkpoint.folder), thoroughly=True)
            except Damaged as why:
                raise UserError(self._refusal(Path(checkpoint.folder), str(why))) from error
            raise

    def _load(self, checkpoint: Checkpoint, engine: Engine) -> None:
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
        for name, text in data.files().items():
            storage.write_bytes(str(temporary / name), text.encode())
        paths = sorted(path for path in temporary.rglob("*") if path.is_file())
        files = {path.relative_to(temporary).as_posix(): path.stat().st_size for path in paths}
        record = asdict(run) | {"files": files}
        storage.write_bytes(str(temporary / _RUN_STATE), (json.dumps(record, indent=1) + "\n").encode())
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
        return sorted(path for path in self._folder.glob(f"{_PREFIX}*") if path.is_dir())


def _read(folder: Path, *, thoroughly: bool = False) -> Checkpoint:
    """Read a checkpoint without its weights.

    Args:
        folder: Its folder.
        thoroughly: Whether to read the weights too, and compare them with their checksums.

    Raises:
        Damaged: If a file is missing, empty, cut or, if read, has changed.
    """
    run = RunState.read(folder)
    for name, size in run.files.items():
        path = folder / name
        if not path.is_file():
            raise Damaged(f"{name} is missing")
        if (found := path.stat().st_size) != size:
            raise Damaged(f"{name} has {found:,} bytes, not {size:,}")
    if not (folder / _TAG).is_dir():
        raise Damaged(f"{_TAG} is missing")
    if thoroughly:
        with ThreadPoolExecutor(_READERS) as pool:
            for _ in pool.map(partial(_check_bytes, folder), sorted((folder / _TAG).rglob("*.pt"))):
                pass
    _read_json(folder / STATE_FILE)
    paths = (path for path in folder.glob("*.json") if path.name != _RUN_STATE)
    return Checkpoint(str(folder), run, {path.name: path.read_text("utf-8", "replace") for path in paths})


def _check_bytes(folder: Path, path: Path) -> None:
    """Compare the contents of a file of weights with their checksums.

    Raises:
        Damaged: If they have changed.
    """
    name = path.relative_to(folder).as_posix()
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except (zipfile.BadZipFile, EOFError, NotImplementedError, zlib.error, ValueError) as error:
        raise Damaged(f"{name} cannot be read: {error}") from error
    if bad is not None:
        raise Damaged(f"{name} has changed: {bad} does not have its checksum")


def _read_json(path: Path) -> dict[str, Any]:
    """Read a small file of a checkpoint.

    Raises:
        Damaged: If it is missing, or holds no record.
    """
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise Damaged(f"{path.name} is missing") from error
    except ValueError as error:
        raise Damaged(
            f"{path.name} is not JSON: {error}" if path.stat().st_size else f"{path.name} is empty"
        ) from error
    if not isinstance(found, dict):
        raise Damaged(f"{path.name} is not a record")
    return found


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
