"""A run killed five times at random moments, each time resumed with another number of processes."""

import os
import random
import signal
import threading

import pytest

from tests.trainer.conftest import run_findings
from tests.trainer.ranks import in_ranks
from tests.trainer.trial_runs import consumed, killed, losses, run
from trainer.engine.metrics import read_metrics
from trainer.loop import FINISHED, Training
from trainer.tasks.table import TASKS

pytestmark = pytest.mark.slow

STEPS = 28
SIZES = (1, 2, 1, 2, 1, 2)


def run_killed(world, config, corpus, out, rank, steps, seconds):
    """Run the command, and kill one process after some steps and a moment."""
    training = Training(TASKS["pretrain"][0], config, corpus, str(out), world)
    train = training._train

    def train_and_die(batch, *rest):
        done = batch.read.step.number - training.first_step
        if world.rank == rank and done == steps:
            threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()
        if world.rank == rank and done == steps + 2:  # faster than the timer
            os.kill(os.getpid(), signal.SIGKILL)
        return train(batch, *rest)

    training._train = train_and_die
    return training.run()


@pytest.mark.nightly
def test_five_kills_and_other_world_sizes_change_nothing(training_corpus, config, tmp_path, pytestconfig):
    chosen = config(steps=STEPS, **{"engine.zero_stage": 1, "engine.micro_batch_size": 1})
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert in_ranks(1, run, "pretrain", chosen, training_corpus, whole) == [FINISHED]
    moments = random.Random(pytestconfig.getoption("seed"))
    for size in SIZES[:-1]:
        moment = moments.randrange(size), moments.randint(1, 4), moments.random() / 4
        with pytest.raises((EOFError, RuntimeError)):  # its own end, or the other process's error about it
            in_ranks(size, run_killed, chosen, training_corpus, cut, *moment)
    size = SIZES[-1]
    assert in_ranks(size, run, "pretrain", chosen, training_corpus, cut) == [FINISHED] * size
    assert run_findings(str(cut), training_corpus) == []
    assert consumed(cut) == consumed(whole)
    rows, expected = (read_metrics(str(folder / "metrics.jsonl")) for folder in (cut, whole))
    assert [row["step"] for row in rows] == list(range(STEPS))
    assert [row["loss"] for row in rows] == pytest.approx([row["loss"] for row in expected], rel=1e-2)
    for name in ("samples", "tokens", "images"):
        assert [row[name] for row in rows] == [row[name] for row in expected]


@pytest.mark.nightly
@pytest.mark.parametrize(("before", "after"), [((2, 1), (1, 3)), ((2, 3), (1, 2))])
def test_what_a_stage_has_frozen_is_resumed_elsewhere(training_corpus, config, tmp_path, before, after):
    """What was learned before, and the scale of regression targets, which is measured once."""
    stages = [{"lr": {"encoder": 3e-3, "bridge": 3e-3, "language_model": 3e-3}}, {"lr": {"bridge": 1e-3}, "step": 3}]
    whole, cut = tmp_path / "whole", tmp_path / "cut"

    def chosen(zero_stage):
        changes = {"steps": 6, "stages": stages, "engine.zero_stage": zero_stage, "engine.micro_batch_size": 1}
        return config(**changes, **{"model.changes": {"bridge": {"standardize": True}}, "checkpoints.every": 2})

    (size, zero_stage), (other_size, other_stage) = before, after
    assert in_ranks(size, run, "pretrain", chosen(zero_stage), training_corpus, whole) == [FINISHED] * size
    killed(size, "pretrain", chosen(zero_stage), training_corpus, cut, 5)
    assert in_ranks(other_size, run, "pretrain", chosen(other_stage), training_corpus, cut) == [FINISHED] * other_size
    assert losses(cut) == pytest.approx(losses(whole), rel=1e-3)
