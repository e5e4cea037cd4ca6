"""Tests of reading in another process: the same batches, mixtures and errors as in the training's own."""

import os
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor

from pipelines.errors import RunError, UserError
from tests.trainer import small_corpus, trial_runs
from tests.trainer.conftest import TREE, changed
from tests.trainer.ranks import ALONE
from trainer.plan.mixture import Phase
from trainer.reading.micro_batches import Collated
from trainer.tasks.detached import reading_process
from trainer.tasks.pretrain import PretrainTask

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
OWN = {"data.reader.own_process": True}


@pytest.fixture
def both(training_corpus, config):
    """A task, a process that reads its data, and the same reader here."""
    chosen = config(**OWN)
    task = PretrainTask(chosen.model, chosen.pretrain, training_corpus, "/nowhere", ALONE)
    process = reading_process(task, ALONE, None)
    assert process is not None
    loader = task.data.loader(task.costs(), ALONE, None)
    yield process, loader, Collated(loader, micro_batch_size=2, collate=task.collate)
    process.close()


def parts(batch):
    """Return all that a batch has, as tensors and records."""
    found = []
    for micro in batch.micros:
        for holder in (micro, micro.batch):
            found += [getattr(holder, field.name) for field in fields(holder) if field.name != "batch"]
    return found


def assert_equal(here, there):
    assert here.read.rows == there.read.rows
    assert here.read.step.state == there.read.step.state
    assert here.num_targets == there.num_targets
    for a, b in zip(parts(here), parts(there), strict=True):
        assert torch.equal(a, b) if isinstance(a, Tensor) else a == b


@pytest.mark.nightly
def test_steps_and_a_changed_mixture_are_the_same_in_another_process(both):
    process, loader, read = both
    for _ in range(3):
        assert_equal(read(), process.read(2))
    phases = [Phase(weights=small_corpus.WEIGHTS), Phase(step=3, weights={"pairs": 1.0})]
    assert loader.change(phases) == process.change(phases)
    for _ in range(12):
        here, there = read(), process.read(2)
        assert_equal(here, there)
    assert {row.source for row in there.read.rows} == {"pairs"}


@pytest.mark.nightly
def test_errors_of_the_loader_are_raised_here_and_it_may_be_asked_again(both):
    process, _, read = both
    with pytest.raises(UserError, match="nowhere"):
        process.change([Phase(weights={"nowhere": 1.0})])
    assert_equal(read(), process.read(2))


@pytest.mark.nightly
def test_a_process_that_is_gone_is_named_and_signals_to_the_run_do_not_end_it(both):
    process, _, read = both
    child = process._process.pid
    assert_equal(read(), process.read(2))
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
        os.kill(child, number)
    assert_equal(read(), process.read(2))
    os.kill(child, signal.SIGKILL)
    with pytest.raises(RunError, match="exit code -9"):
        process.read(2)


@pytest.mark.nightly
def test_nothing_is_left_after_close(both):
    process, _, _ = both
    process.close()
    assert not process._process.is_alive()


def test_kept_features_and_streams_are_read_in_the_trainings_own_process(training_corpus, config):
    chosen = config(**OWN, **{"engine.keep_features": True, "stages": [{"lr": {"bridge": 1e-3}}]})
    task = PretrainTask(chosen.model, chosen.pretrain, training_corpus, "/nowhere", ALONE)
    assert reading_process(task, ALONE, None) is None


@pytest.mark.nightly
def test_a_run_that_reads_beside_itself_trains_the_same(training_corpus, tmp_path):
    chosen = {"steps": 6, "stages": [{"lr": {"bridge": 1e-3, "language_model": 1e-3}}]}
    for own in (False, True):  # as a command: the test's own processes may have no children
        tree = changed(
            TREE, {f"pretrain.{key}": value for key, value in {**chosen, "data.reader.own_process": own}.items()}
        )
        path = tmp_path / f"{own}.yaml"
        path.write_text(yaml.safe_dump(tree))
        given = ["--config", str(path), "--corpus", training_corpus, "--out", str(tmp_path / str(own))]
        subprocess.run([sys.executable, "-m", "trainer", "pretrain", *given], cwd=ROOT, check=True)
    assert trial_runs.losses(tmp_path / "True") == trial_runs.losses(tmp_path / "False")
    assert trial_runs.consumed(tmp_path / "True") == trial_runs.consumed(tmp_path / "False")
