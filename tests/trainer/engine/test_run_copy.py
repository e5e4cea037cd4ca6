"""Tests of the copy of a run in a store: what is there is complete, and a run continues from it."""

from pathlib import Path

import pytest
import torch

from pipelines import storage
from pipelines.errors import UserError
from tests.trainer.engine.test_checkpoint import Saved, weights
from tests.trainer.ranks import ALONE
from trainer.config import CheckpointSettings
from trainer.engine import run_copy
from trainer.engine.checkpoint import Checkpoints, RunState
from trainer.engine.distributed import World

REMOTE = "memory://copied-runs/run"
SETTINGS = CheckpointSettings(keep=2, copy_to=REMOTE)


@pytest.fixture(autouse=True)
def _empty_store():
    yield
    if storage.exists(REMOTE):
        storage.remove(REMOTE)


def save(run: Path, *steps: int) -> None:
    """Save checkpoints as a training does, which has also written a log before each."""
    run.mkdir(exist_ok=True)
    with Checkpoints(str(run), SETTINGS, ALONE) as checkpoints:
        for step in steps:
            (run / "log.jsonl").write_text(f"up to {step}")
            checkpoints.save(Saved(), RunState(step, 0, 4, 1, "bf16", {}, {}), Saved())


def copied() -> list[str]:
    """Return the checkpoints in the copy."""
    found = storage.list_files(f"{REMOTE}/pretrain/checkpoints", "run_state.json")
    return [path.split("/")[-2] for path in found]


def test_a_run_continues_from_its_copy_on_a_machine_that_has_nothing_of_it(tmp_path: Path):
    save(tmp_path / "here", 4, 8, 12)
    assert copied() == ["step-00000008", "step-00000012"], "the newest, as many as are kept"
    with Checkpoints(str(tmp_path / "there"), SETTINGS, ALONE) as checkpoints:
        found = checkpoints.latest()
    assert found is not None
    assert found.run.step == 12
    assert (tmp_path / "there" / "log.jsonl").read_text() == "up to 12"
    for number in range(4):
        there = weights(tmp_path / "there", 12, number)
        assert there.read_bytes() == weights(tmp_path / "here", 12, number).read_bytes()


def test_a_run_that_has_a_checkpoint_continues_from_that(tmp_path: Path):
    save(tmp_path / "here", 12)
    save(tmp_path / "there", 4)
    found = Checkpoints(str(tmp_path / "there"), SETTINGS, ALONE).latest()
    assert found is not None
    assert found.run.step == 4


def test_a_checkpoint_whose_copy_was_cut_is_none(tmp_path: Path):
    save(tmp_path / "here", 4, 8)
    storage.remove(f"{REMOTE}/pretrain/checkpoints/step-00000008/run_state.json")
    found = Checkpoints(str(tmp_path / "there"), SETTINGS, ALONE).latest()
    assert found is not None
    assert found.run.step == 4


def test_what_ends_a_run_is_raised_after_its_copy_is_complete(tmp_path: Path):
    with pytest.raises(KeyboardInterrupt), Checkpoints(str(tmp_path), SETTINGS, ALONE) as checkpoints:
        checkpoints.save(Saved(), RunState(4, 0, 4, 1, "bf16", {}, {}), Saved())
        raise KeyboardInterrupt
    assert copied() == ["step-00000004"]


def test_files_that_have_not_changed_are_copied_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "old.jsonl").write_text("old")
    copied, copy_file = [], run_copy._copy_file
    monkeypatch.setattr(run_copy, "_copy_file", lambda a, b: (copied.append(Path(a).name), copy_file(a, b)))
    save(tmp_path, 4, 8)
    assert copied.count("old.jsonl") == 1
    assert storage.read_bytes(f"{REMOTE}/pretrain/log.jsonl") == b"up to 8"


def test_a_copy_that_fails_ends_the_run_at_the_next_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(source: str, target: str) -> None:
        raise PermissionError("denied")

    monkeypatch.setattr(run_copy, "_copy_file", fail)
    with Checkpoints(str(tmp_path), SETTINGS, ALONE) as checkpoints:
        checkpoints.save(Saved(), RunState(4, 0, 4, 1, "bf16", {}, {}), Saved())
        with pytest.raises(
            UserError, match=f"{REMOTE}/pretrain: the run cannot be copied there: PermissionError: denied"
        ):
            checkpoints.save(Saved(), RunState(8, 0, 4, 1, "bf16", {}, {}), Saved())
    assert (tmp_path / "checkpoints" / "step-00000004").is_dir(), "what is on the disk stays"


def test_only_the_first_process_copies(tmp_path: Path):
    second = World(1, 2, 0, torch.device("cpu"), None)
    with Checkpoints(str(tmp_path), SETTINGS, second):
        (tmp_path / "log.jsonl").touch()
    assert not storage.exists(REMOTE)
