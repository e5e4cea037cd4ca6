"""Checkpoints: one folder per save, which appears under its name only when complete, and resumes at any world size.

checkpoints/step-00000100/data_state.json   position in the data: small, equal on every rank
                          stream_cursors.json   places of many ranks in streams, if they take more than that
                          run_state.json    what else a resume needs, in readable form
                          deepspeed/        weights, master weights and moments
"""

import contextlib
import errno
import json
import os
import re
import shutil
import zipfile
import zlib
from collections.abc import Iterable
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
from trainer.engine.run_copy import RunCopy
from trainer.plan.steps import STATE_FILE

_TAG = "deepspeed"
_RUN_STATE = "run_state.json"
_PREFIX = "step-"
_DAMAGED = "damaged-"
_OF_RANK = re.compile(r"zero_pp_rank_(\d+)_")  # in the names of DeepSpeed's files that only one process loads
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
        layout: How samples were written as sequences; None in checkpoints of older versions.
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
    layout: dict[str, Any] | None = None
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
        settings: How many to keep, and whether damaged ones are skipped. These are set aside under another name, and
            removed once `settings.keep` whole ones have been saved at their step or later steps.
        world: The processes.
        section: The run's section of the config, for messages.
    """

    def __init__(self, run: str, settings: CheckpointSettings, world: World, section: str = "pretrain") -> None:
        self._folder = Path(run) / "checkpoints"
        self._settings, self._world, self._section = settings, world, section
        self._copy: RunCopy | None = None
        if settings.copy_to is not None and world.is_first:
            self._copy = RunCopy(Path(run), storage.join(settings.copy_to, section), settings.keep)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Finish the copy of the run; whatever ends it, what has begun is copied."""
        if self._copy is not None:
            with contextlib.nullcontext() if kind is None else contextlib.suppress(UserError):
                self._copy.finish()

    def latest(self) -> Checkpoint | None:
        """Return the newest finished checkpoint; damaged ones are set aside if the settings say so.

        Of a run that has none here, but a copy, it is fetched first.

        Raises:
            UserError: If it is damaged, or the copy cannot be read.
        """
        if self._copy is not None and not self._finished() and (name := self._copy.restore()) is not None:
            self._world.say(f"{name}: fetched from {self._settings.copy_to}")
        self._world.barrier()
        damaged: dict[Path, str] = {}  # with the reasons, from the newest on
        while True:
            # The first process decides for all: what it finds may not be what another would see a moment later.
            found, damaged, error = self._world.broadcast(self._newest(damaged) if self._world.is_first else None)
            if error is not None:
                raise UserError(error)
            checkpoint: Checkpoint | None = found
            if checkpoint is None or not self._settings.skip_damaged:
                return checkpoint
            if (why := self._changed(Path(checkpoint.folder))) is None:
                break
            damaged[Path(checkpoint.folder)] = why
        if self._world.is_first:
            self._set_aside(damaged, Path(checkpoint.folder).name)
        self._world.barrier()
        return checkpoint

    def _newest(self, damaged: dict[Path, str]) -> tuple[Checkpoint | None, dict[Path, str], str | None]:
        """Return the newest checkpoint whose files have their sizes.

        Args:
            damaged: Checkpoints that are known to be damaged, with the reasons.

        Returns:
            The checkpoint, or None; the damaged ones with those that were found; why there is none to resume from.
        """
        damaged = dict(damaged)
        for folder in reversed(self._finished()):
            if folder in damaged:
                continue
            try:
                return _read(folder), damaged, None
            except Damaged as why:
                damaged[folder] = str(why)
                if not self._settings.skip_damaged:
                    return None, damaged, self._refusal(folder, str(why))
            except OSError as error:
                return None, damaged, _unreadable(folder, error)
        if damaged:
            folder, reason = next(iter(damaged.items()))
            no_other = "No checkpoint is whole: restore one, or choose another --out"
            return None, damaged, f"{folder}: damaged: {reason}. {no_other}"
        return None, damaged, None

    def _changed(self, folder: Path) -> str | None:
        """Return which bytes of a checkpoint's weights have changed, or None; each process reads a part of them.

        Raises:
            UserError: If they cannot be read.
        """
        why: str | None = None
        unreadable: str | None = None
        paths: list[Path] = []
        if self._world.is_first:  # it lists for all: what a file system shows another may be old
            try:
                paths = _weights(folder)
            except OSError as error:
                unreadable = _unreadable(folder, error)
        paths = self._world.broadcast(paths)
        try:
            _check_files(folder, paths[self._world.rank :: self._world.size])
        except Damaged as error:
            why = str(error)
        except OSError as error:
            unreadable = _unreadable(folder, error)
        reasons = self._world.broadcast(self._world.gather((why, unreadable)))
        found: str | None = next((why for why, _ in reasons if why is not None), None)
        if found is None and any(unreadable for _, unreadable in reasons):
            raise UserError(next(unreadable for _, unreadable in reasons if unreadable is not None))
        return found

    def _set_aside(self, damaged: dict[Path, str], resumed: str) -> None:
        """Rename damaged checkpoints, so that nobody takes them for whole ones."""
        for folder, reason in damaged.items():
            aside = folder.with_name(f"{_DAMAGED}{folder.name}")
            shutil.rmtree(aside, ignore_errors=True)
            os.replace(folder, aside)
            self._world.say(f"{folder}: damaged: {reason}; set aside as {aside.name}, resuming from {resumed}")

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
        if self._copy is not None:
            self._copy.begin(target)
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
            folder = Path(checkpoint.folder)
            try:  # whatever the error says: bytes that have changed inside a file lead to any of them
                _read(folder)
                _check_files(folder, [path for path in _weights(folder) if self._loads(path)])
            except Damaged as why:
                raise UserError(self._refusal(folder, str(why))) from error
            except OSError as why:
                raise UserError(_unreadable(folder, why)) from error
            raise

    def _loads(self, path: Path) -> bool:
        """Return whether this process has loaded a file of weights: the first may have converted all of them."""
        of_rank = _OF_RANK.search(path.name)
        return self._world.is_first or of_rank is None or int(of_rank[1]) == self._world.rank

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
        finished, keep = self._finished(), self._settings.keep
        for old in finished[:-keep]:
            shutil.rmtree(old, ignore_errors=True)
        for aside in sorted(self._folder.glob(f"{_DAMAGED}{_PREFIX}*")):
            if len(finished) >= keep and aside.name.removeprefix(_DAMAGED) <= finished[-keep].name:
                shutil.rmtree(aside, ignore_errors=True)
                if not aside.exists():
                    self._world.say(f"{aside}: removed: {keep} whole checkpoints of its step or later steps are there")

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


def _read(folder: Path) -> Checkpoint:
    """Read a checkpoint without its weights.

    Raises:
        Damaged: If a file is missing, empty or cut.
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
    _read_json(folder / STATE_FILE)
    paths = (path for path in folder.glob("*.json") if path.name != _RUN_STATE)
    return Checkpoint(str(folder), run, {path.name: path.read_text("utf-8", "replace") for path in paths})


def _weights(folder: Path) -> list[Path]:
    """Return a checkpoint's files of weights, the largest first: dealt in turn, all processes get about as much."""
    return sorted((folder / _TAG).rglob("*.pt"), key=lambda path: (-path.stat().st_size, path))


def _check_files(folder: Path, paths: Iterable[Path]) -> None:
    """Compare the contents of files of weights with their checksums.

    Raises:
        Damaged: If one has changed.
    """
    with ThreadPoolExecutor(_READERS) as pool:
        for _ in pool.map(partial(_check_bytes, folder), paths):
            pass


def _unreadable(folder: Path, error: OSError) -> str:
    return f"{error.filename or folder}: cannot be read: {error.strerror or error}"


def _check_bytes(folder: Path, path: Path) -> None:
    """Compare the contents of a file of weights with their checksums.

    Raises:
        Damaged: If they have changed.
    """
    name = path.relative_to(folder).as_posix()
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, zlib.error, ValueError) as error:
        raise Damaged(f"{name} cannot be read: {error}") from error
    except OSError as error:
        if error.errno != errno.EINVAL:  # which an offset before the file gives
            raise
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


def check_resumable(checkpoint: Checkpoint, architecture: dict[str, Any], layout: dict[str, Any]) -> None:
    """Refuse to resume with another model, or with samples that are written in another way.

    Raises:
        UserError: If architecture or layout is another than the checkpoint's; the message names the settings.
    """
    if checkpoint.run.layout is not None and (different := _differences(checkpoint.run.layout, layout, "data.layout")):
        raise UserError(
            f"{checkpoint.folder}: samples were written otherwise: {different}. Set it as it was, or choose another "
            "--out for a new run"
        )
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
