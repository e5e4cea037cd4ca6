"""Tests of finding a run's newest whole checkpoint, on folders with small files in place of a model's."""

import errno
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pipelines.errors import UserError
from tests.trainer.ranks import ALONE, in_ranks
from trainer.config import CheckpointSettings
from trainer.engine import checkpoint
from trainer.engine.checkpoint import Checkpoints, RunState, check_resumable
from trainer.engine.distributed import World

SAME = SimpleNamespace(zero_stage=1, precision="bf16")  # settings of the engine that saved
SKIP = CheckpointSettings(skip_damaged=True, keep=2)


class Saved:
    """What is saved of an engine and of the data."""

    def save(self, folder: str, tag: str) -> None:
        for number in range(4):
            path = Path(folder) / tag / f"bf16_zero_pp_rank_{number}_mp_rank_00_optim_states.pt"
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(torch.full((100 + number,), float(number)), path)

    def files(self) -> dict[str, str]:
        return {"data_state.json": "{}"}


def save(run: Path, step: int, settings: CheckpointSettings = SKIP) -> None:
    state = RunState(step, 0, 4, 1, "bf16", {}, {})
    Checkpoints(str(run), settings, ALONE).save(Saved(), state, Saved())


def weights(run: Path, step: int, number: int) -> Path:
    return run / f"checkpoints/step-{step:08d}/deepspeed/bf16_zero_pp_rank_{number}_mp_rank_00_optim_states.pt"


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with checkpoints at the steps 4 and 8."""
    for step in (4, 8):
        save(tmp_path, step)
    return tmp_path


def latest(world: World, run: Path) -> tuple[str | None, list[str]]:
    """Return the step that is taken, and the files of weights that this process has read."""
    read: list[str] = []
    check = checkpoint._check_bytes

    def checked(folder: Path, path: Path) -> None:
        read.append(path.relative_to(run / "checkpoints").as_posix())
        check(folder, path)

    checkpoint._check_bytes = checked
    try:
        found = Checkpoints(str(run), SKIP, world).latest()
    finally:
        checkpoint._check_bytes = check
    return (Path(found.folder).name if found else None), sorted(read)


@pytest.mark.slow
def test_processes_divide_the_bytes_and_agree(run: Path):
    flip(weights(run, 8, 2))
    found = in_ranks(2, latest, run)
    assert [name for name, _ in found] == ["step-00000004"] * 2
    first, second = ({name for name in read if name.startswith("step-00000004")} for _, read in found)
    assert len(first) == len(second) == 2
    assert not first & second
    assert names(run) == ["damaged-step-00000008", "step-00000004"]


@pytest.mark.parametrize("at", range(0, 46, 2))
def test_any_change_at_the_end_of_a_file_is_damage(run: Path, at: int):
    path = weights(run, 8, 1)
    data = bytearray(path.read_bytes())
    data[data.rindex(b"PK\x01\x02") + at] ^= 1  # an entry of the table of contents, at the end of the file
    path.write_bytes(data)
    assert latest(ALONE, run)[0] in ("step-00000004", "step-00000008")  # some bytes mean nothing


def test_bytes_are_read_only_of_what_has_its_sizes(run: Path):
    weights(run, 8, 1).write_bytes(b"")
    name, read = latest(ALONE, run)
    assert name == "step-00000004"
    assert {path.split("/")[0] for path in read} == {"step-00000004"}


def test_what_was_set_aside_is_removed_when_as_many_whole_ones_are_newer(run: Path, capsys: pytest.CaptureFixture[str]):
    flip(weights(run, 8, 0))
    assert latest(ALONE, run)[0] == "step-00000004"
    save(run, 8)
    assert names(run) == ["damaged-step-00000008", "step-00000004", "step-00000008"]
    assert "removed" not in capsys.readouterr().out
    save(run, 12)
    assert names(run) == ["step-00000008", "step-00000012"]
    assert "damaged-step-00000008: removed: 2 whole checkpoints of its step or later steps" in capsys.readouterr().out


def test_nothing_is_moved_if_no_checkpoint_is_whole(run: Path):
    flip(weights(run, 8, 0))
    flip(weights(run, 4, 3))
    with pytest.raises(UserError, match=r"step-00000008: damaged: .* No checkpoint is whole"):
        latest(ALONE, run)
    assert names(run) == ["step-00000004", "step-00000008"]


def fail(*arguments: object, **named: object) -> None:
    raise RuntimeError("unexpected EOF")


@pytest.mark.parametrize(("number", "is_named"), [(1, True), (2, False)])
def test_a_process_that_cannot_load_looks_at_what_it_loads(run: Path, number: int, is_named: bool):
    flip(weights(run, 8, number))
    second = World(1, 4, 1, torch.device("cpu"), None)
    checkpoints = Checkpoints(str(run), CheckpointSettings(), second)
    found = checkpoint._read(run / "checkpoints/step-00000008")
    with pytest.raises(UserError if is_named else RuntimeError, match="step-00000004" if is_named else "unexpected"):
        checkpoints.load(found, SimpleNamespace(run=SimpleNamespace(engine=SAME), load=fail))


@pytest.mark.parametrize("is_first_damaged", [False, True])
def test_a_file_that_cannot_be_read_is_no_damage(run: Path, monkeypatch: pytest.MonkeyPatch, is_first_damaged: bool):
    """It may be there again a moment later: nothing is set aside for it alone."""
    largest, *_ = checkpoint._weights(run / "checkpoints/step-00000008")
    check = checkpoint._check_bytes

    def failing(folder: Path, path: Path) -> None:
        if path.name == largest.name:
            raise OSError(errno.EIO, "Input/output error", str(path))
        check(folder, path)

    monkeypatch.setattr(checkpoint, "_check_bytes", failing)
    if is_first_damaged:
        flip(weights(run, 4, 0))
    with pytest.raises(UserError, match="cannot be read: Input/output error"):
        Checkpoints(str(run), SKIP, ALONE).latest()
    assert names(run) == ["step-00000004", "step-00000008"]


def latest_without_list(world: World, run: Path) -> str:
    """Return why no checkpoint is taken where the first process cannot list the weights."""

    def fail(folder: Path) -> list[Path]:
        raise OSError(errno.ESTALE, "Stale file handle", str(folder))

    if world.is_first:
        checkpoint._weights = fail
    with pytest.raises(UserError) as refused:
        Checkpoints(str(run), SKIP, world).latest()
    return str(refused.value)


@pytest.mark.slow
def test_processes_end_together_if_the_first_cannot_list_the_weights(run: Path):
    first, second = in_ranks(2, latest_without_list, run, timeout=60)
    assert first == second == f"{run}/checkpoints/step-00000008: cannot be read: Stale file handle"


def test_samples_are_written_as_before(run: Path):
    found = checkpoint._read(run / "checkpoints/step-00000008")
    found = replace(found, run=replace(found.run, architecture={"width": 8}, layout={"frame_times": False}))
    check_resumable(found, {"width": 8}, {"frame_times": False})
    check_resumable(replace(found, run=replace(found.run, layout=None)), {"width": 8}, {"frame_times": True})
    with pytest.raises(UserError, match=r"data\.layout\.frame_times was False, now True\. Set it as it was"):
        check_resumable(found, {"width": 8}, {"frame_times": True})
