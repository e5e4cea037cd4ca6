"""Damaged files of a run: a checkpoint names itself and offers the one before; caches are made again."""

import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import pytest
import yaml

from pipelines.command_line import run_commands
from pipelines.running.runner import Runner
from pipelines.shards.token_sidecar import token_sidecar_path
from pipelines.tokenize import run_tokenize
from tests.trainer.conftest import TREE, changed, run_findings
from tests.trainer.ranks import in_ranks
from tests.trainer.small_corpus import Opened
from tests.trainer.test_ends import checkpoints, command
from tests.trainer.trial_runs import consumed, killed, losses, run
from trainer.config import TrainConfig
from trainer.engine.checkpoint import Damaged, RunState
from trainer.engine.metrics import read_metrics
from trainer.loop import FINISHED, TRAINED
from trainer.reading.byte_store import CacheSettings
from trainer.reading.shared_arrays import Arrays, shared_arrays

CHANGES = {"checkpoints.keep": 3, "engine.micro_batch_size": 1, "engine.zero_stage": 1}
SKIP = ("--set", "pretrain.checkpoints.skip_damaged=true")
STATES = "deepspeed/mp_rank_00_model_states.pt"
OPTIMIZER = "deepspeed/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"


def arguments(folder: Path, corpus: str, out: Path) -> list[str]:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(changed(TREE, {f"pretrain.{key}": value for key, value in CHANGES.items()})))
    return ["pretrain", "--config", str(path), "--corpus", corpus, "--out", str(out)]


def settings() -> TrainConfig:
    return TrainConfig.model_validate(changed(TREE, {f"pretrain.{key}": value for key, value in CHANGES.items()}))


@pytest.fixture(scope="module")
def whole_run(training_corpus, tmp_path_factory) -> Path:
    """A run that was never disturbed."""
    out = tmp_path_factory.mktemp("whole")
    assert in_ranks(1, run, "pretrain", settings(), training_corpus, out) == [FINISHED]
    return out


@pytest.fixture(scope="module")
def killed_run(training_corpus, tmp_path_factory) -> Path:
    """A run with two checkpoints, killed in its tenth step."""
    out = tmp_path_factory.mktemp("killed")
    killed(1, "pretrain", settings(), training_corpus, out, 10)
    assert checkpoints(out) == [4, 8]
    return out


def empty(path: Path) -> str:
    size = path.stat().st_size
    path.write_bytes(b"")
    return "is empty" if path.name == "run_state.json" else f"has 0 bytes, not {size:,}"


def cut(path: Path) -> str:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return "is not JSON: .*" if path.name == "run_state.json" else f"has {len(data) // 2:,} bytes, not {len(data):,}"


def lose(path: Path) -> str:
    path.unlink()
    return "is missing"


def flip(path: Path) -> str:
    """Change one bit in the middle of a tensor."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    return r"(has changed: .* does not have its checksum|cannot be read: .*)"


KEPT = {("run_state.json", empty), ("data_state.json", lose), (STATES, cut), (OPTIMIZER, lose)}
CASES = [
    pytest.param(
        name,
        spoil,
        id=f"{Path(name).name[:12]}-{spoil.__name__}",
        marks=() if (name, spoil) in KEPT else pytest.mark.nightly,
    )
    for name in ("run_state.json", "data_state.json", STATES, OPTIMIZER)
    for spoil in (empty, cut, lose)
]


def find(folder: Path, name: str) -> Path:
    """Return a file of a checkpoint; DeepSpeed names that of the optimizer after its precision."""
    if name != OPTIMIZER:
        return folder / name
    (path,) = folder.glob("deepspeed/*_optim_states.pt")
    return path


@pytest.mark.slow
@pytest.mark.parametrize(("name", "spoil"), CASES)
def test_a_damaged_checkpoint_names_itself_and_the_one_before_is_taken_by_a_setting(
    training_corpus, killed_run, whole_run, tmp_path, name, spoil
):
    out = Path(shutil.copytree(killed_run, tmp_path / "out"))
    path = find(out / "checkpoints/step-00000008", name)
    why = spoil(path)
    named = re.escape(path.relative_to(out / "checkpoints/step-00000008").as_posix())
    given = arguments(tmp_path, training_corpus, out)
    ((code, _, err),) = in_ranks(1, command, *given)
    assert code == 2
    assert "Traceback" not in err
    offer = "To resume from step-00000004, the last whole one, add --set pretrain.checkpoints.skip_damaged=true"
    assert re.fullmatch(
        rf"error: {out}/checkpoints/step-00000008: damaged: {named} {why}\. {offer}", err.splitlines()[-1]
    )
    assert checkpoints(out) == [4, 8]
    ((code, said, _),) = in_ranks(1, command, *given, *SKIP)
    assert code == 0
    line = (
        rf"{out}/checkpoints/step-00000008: damaged: {named} {why}; set aside as damaged-step-00000008, resuming from "
    )
    assert re.search(f"^{line}step-00000004$", said, re.M)
    assert (out / "checkpoints/damaged-step-00000008").is_dir()
    assert checkpoints(out) == [4, 8, 12]
    assert [row["step"] for row in read_metrics(str(out / "metrics.jsonl"))] == list(range(12))
    assert run_findings(str(out), training_corpus) == []
    assert consumed(out) == consumed(whole_run)
    assert losses(out) == losses(whole_run)


@pytest.mark.slow
@pytest.mark.parametrize("name", [STATES, OPTIMIZER])
def test_changed_bytes_are_found_if_damaged_checkpoints_are_skipped(
    training_corpus, killed_run, whole_run, tmp_path, name
):
    """Without the setting, weights are not read twice at each resume."""
    out = Path(shutil.copytree(killed_run, tmp_path / "out"))
    why = flip(find(out / "checkpoints/step-00000008", name))
    ((code, said, _),) = in_ranks(1, command, *arguments(tmp_path, training_corpus, out), *SKIP)
    assert code == 0
    assert re.search(rf"step-00000008: damaged: deepspeed/\S+ {why}; set aside", said)
    assert losses(out) == losses(whole_run)


@pytest.mark.slow
@pytest.mark.parametrize("written_down", [True, pytest.param(False, marks=pytest.mark.nightly)])
def test_processes_agree_on_a_damaged_checkpoint(training_corpus, killed_run, tmp_path, written_down):
    """Also when it is found only while the checkpoint is converted for another number of them."""
    out = Path(shutil.copytree(killed_run, tmp_path / "out"))
    if not written_down:
        forget_files(out)
    cut(find(out / "checkpoints/step-00000008", OPTIMIZER))
    given = arguments(tmp_path, training_corpus, out)
    found = in_ranks(2, command, *given)
    assert 2 in [code for code, *_ in found]
    assert all("Traceback" not in err for _, _, err in found)
    assert "step-00000008: damaged: deepspeed/" in "".join(err for _, _, err in found)
    assert [code for code, *_ in in_ranks(2, command, *given, *SKIP)] == [0, 0]
    assert run_findings(str(out), training_corpus) == []


def forget_files(out: Path) -> None:
    """Make a run's checkpoints as they were before the sizes of their files were written down."""
    for path in out.glob("checkpoints/*/run_state.json"):
        record = json.loads(path.read_text())
        del record["files"], record["totals"]["names"]
        path.write_text(json.dumps(record))


@pytest.mark.slow
def test_without_a_whole_checkpoint_nothing_is_offered(training_corpus, killed_run, tmp_path):
    out = Path(shutil.copytree(killed_run, tmp_path / "out"))
    for step in (4, 8):
        (out / f"checkpoints/step-{step:08d}/data_state.json").write_text("[]")
    given = arguments(tmp_path, training_corpus, out)
    for more, message in (((), "No earlier one is whole"), (SKIP, "No checkpoint is whole")):
        ((code, _, err),) = in_ranks(1, command, *given, *more)
        assert code == 2
        assert re.search(rf"step-00000008: damaged: data_state.json .*\. {message}: restore", err)
    assert checkpoints(out) == [4, 8]


@pytest.mark.slow
def test_a_checkpoint_that_is_whole_is_taken_whatever_the_setting(training_corpus, killed_run, whole_run, tmp_path):
    out = Path(shutil.copytree(killed_run, tmp_path / "out"))
    ((code, said, _),) = in_ranks(1, command, *arguments(tmp_path, training_corpus, out), *SKIP)
    assert (code, "damaged" in said) == (0, False)
    assert losses(out) == losses(whole_run)


@pytest.mark.slow
def test_a_checkpoint_of_before_its_files_were_written_down_is_read(training_corpus, killed_run, whole_run, tmp_path):
    out = Path(shutil.copytree(killed_run, tmp_path / "out"))
    forget_files(out)
    given = arguments(tmp_path, training_corpus, out)
    cut(find(out / "checkpoints/step-00000008", OPTIMIZER))
    ((code, _, err),) = in_ranks(1, command, *given)
    assert code == 2
    assert "step-00000008: damaged: deepspeed/" in err
    ((code, *_),) = in_ranks(1, command, *given, *SKIP)
    assert code == 0
    assert losses(out) == losses(whole_run)


@pytest.mark.slow
def test_a_run_whose_last_mark_is_damaged_writes_its_model_again(training_corpus, whole_run, tmp_path):
    out = Path(shutil.copytree(whole_run, tmp_path / "out"))
    weights = (out / "model/model.safetensors").read_bytes()
    (out / "model" / TRAINED).write_bytes(b"")
    (out / "model/model.safetensors").write_bytes(weights[:100])
    given = arguments(tmp_path, training_corpus, out)
    ((code, *_),) = in_ranks(1, command, "all", *given[1:])
    assert code == 0
    assert (out / "model/model.safetensors").read_bytes() == weights


# --- the end of a file is no Ctrl-C ---------------------------------------------------------------------------------


def test_the_end_of_a_file_is_not_reported_as_ctrl_c(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["trainer"])

    @click.command()
    def failing() -> None:
        raise EOFError("x.parquet: expected 8 bytes at offset 4, found 0")

    with pytest.raises(EOFError, match=r"x\.parquet: expected 8 bytes"):
        run_commands(failing)


# --- caches ---------------------------------------------------------------------------------------------------------


def read_arrays(path: Path) -> Arrays:
    return shared_arrays(str(path), "", dict, is_whole=lambda arrays: True, cache=CacheSettings())


def write_arrays(path: Path, arrays: Arrays) -> None:
    path.unlink()
    shared_arrays(str(path), "", lambda: arrays, is_whole=lambda arrays: True, cache=CacheSettings())


def swap(path: Path) -> None:
    """Put another table in its place, which is whole but does not fit."""
    write_arrays(path, {name: np.arange(3) for name in ("first", "tokens", "images", "numbers", "refused")})


def change(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(read_arrays(path)["first"].tobytes())] ^= 4
    path.write_bytes(data)


def forget(path: Path) -> None:
    arrays = read_arrays(path)
    arrays.pop("first")
    write_arrays(path, arrays)


def clear(path: Path) -> None:
    path.write_bytes(b"")


def halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("spoil", [clear, halve, change, swap, forget, lambda path: path.write_bytes(b"x" * 5000)])
def test_a_damaged_table_of_windows_is_made_again(training_corpus, tmp_path, spoil: Callable[[Path], object]):
    corpus = str(shutil.copytree(training_corpus, tmp_path / "corpus"))
    names = ("first", "tokens", "images", "refused_json")  # copied: they are mapped from what is spoilt
    expected = [replace(t, **{name: getattr(t, name).copy() for name in names}) for t in Opened(corpus).sources]
    paths = sorted(Path(corpus).glob("tokens/*/windows/*/*.arrow"))
    assert len(paths) >= len(expected)
    before = {path: path.read_bytes() for path in paths}
    for path in paths:
        spoil(path)
    for again, table in zip(Opened(corpus).sources, expected, strict=True):
        for name in ("first", "tokens", "images"):
            assert np.array_equal(getattr(again, name), getattr(table, name))
        assert (again.refused, again.num_samples) == (table.refused, table.num_samples)
    made = [path for path in paths if path.read_bytes() == before[path]]
    assert len(made) >= len(expected)


@pytest.mark.parametrize("spoil", [clear, halve, lambda path: path.write_bytes(b"x" * 5000)])
def test_a_damaged_token_sidecar_is_made_again(training_corpus, tmp_path, spoil: Callable[[Path], object]):
    corpus = str(shutil.copytree(training_corpus, tmp_path / "corpus"))
    path = Path(token_sidecar_path(f"{corpus}/tokens/bpe-300", "pairs/train/pairs-000001.tar"))
    before = path.read_bytes()
    spoil(path)
    run_tokenize(corpus, None, Runner(), train_bpe=300)
    assert path.read_bytes() == before


def test_a_state_of_a_newer_version_is_read_and_one_of_wrong_types_is_damaged(tmp_path):
    record = {"step": 4, "stage": 0, "world_size": 1, "zero_stage": 1, "precision": "bf16", "architecture": {}}
    path = tmp_path / "run_state.json"
    path.write_text(json.dumps(record | {"totals": {}, "written_by_a_newer_version": 1}))
    assert RunState.read(tmp_path).step == 4
    for wrong in ({"files": []}, {"totals": None}, {"guard": 1}, {"rates": "x"}, {"architecture": []}, {}):
        path.write_text(json.dumps(record | wrong | ({} if "totals" in wrong or not wrong else {"totals": {}})))
        with pytest.raises(Damaged, match=r"run_state\.json is not the state of a run"):
            RunState.read(tmp_path)
