"""Tests of whole runs: they learn, and can be killed at any time and resumed with any number of processes."""

import contextlib
import hashlib
import io
import json
import os
import signal
import time

import fsspec
import pytest

from tests.trainer.conftest import run_findings
from tests.trainer.ranks import in_ranks
from tests.trainer.trial_runs import consumed, killed, losses, run
from trainer.engine.metrics import read_metrics
from trainer.loop import FINISHED, STOPPED, Training
from trainer.plan.mixture import load_phases
from trainer.plan.steps import max_state_bytes
from trainer.reading.reader import SequenceReader
from trainer.tasks import step_data
from trainer.tasks.table import TASKS


def run_with_signal(world, config, corpus, out, at):
    training = Training(TASKS["pretrain"][0], config, corpus, str(out), world)
    train = training._train

    def train_and_signal(batch, *counts):
        if batch.read.step.number == at and world.rank == world.size - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return train(batch, *counts)

    training._train = train_and_signal
    return training.run()


@pytest.mark.slow
def test_a_run_learns_and_leaves_what_it_promises(training_corpus, config, tmp_path):
    chosen = config(steps=40, **{"held_out.every": 20, "log.tensorboard": True, "checkpoints.every": 16})
    assert in_ranks(1, run, "pretrain", chosen, training_corpus, tmp_path) == [FINISHED]
    rows = read_metrics(str(tmp_path / "metrics.jsonl"))
    assert [row["step"] for row in rows] == list(range(40))
    assert rows[-1]["loss"] < 0.8 * rows[0]["loss"]
    assert {"lr", "grad_norm", "tokens_per_second", "data_wait_fraction", "mfu", "ce/pairs", "regression/videos"} < {
        key for row in rows for key in row
    }
    assert rows[-1]["held_out_ce/texts"] < rows[19]["held_out_ce/texts"]
    assert run_findings(str(tmp_path), training_corpus) == []
    assert sum(row["num_tokens"] for row in consumed(tmp_path)) == rows[-1]["tokens"]
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["step-00000032", "step-00000040"]
    state = tmp_path / "checkpoints" / kept[-1] / "data_state.json"
    assert state.stat().st_size < max_state_bytes(5)
    assert {path.name for path in (tmp_path / "model").iterdir()} == {
        "config.json",
        "layout.json",
        "model.safetensors",
        "tokenizer.json",
        "trained.json",
    }
    assert len(load_phases(str(tmp_path / "mixture.jsonl"))) == 1
    assert list((tmp_path / "tensorboard").iterdir())


@pytest.mark.slow
def test_a_killed_run_resumes_as_if_it_had_not_been_killed(training_corpus, config, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    in_ranks(1, run, "pretrain", config(), training_corpus, whole)
    killed(1, "pretrain", config(), training_corpus, cut, 2)
    killed(1, "pretrain", config(), training_corpus, cut, 7)
    killed(1, "pretrain", config(), training_corpus, cut, 11)
    in_ranks(1, run, "pretrain", config(), training_corpus, cut)
    assert consumed(cut) == consumed(whole)
    assert losses(cut) == losses(whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "sizes"),
    [
        pytest.param(0, (1, 2, 1), marks=pytest.mark.nightly),
        pytest.param(1, (2, 1, 2), marks=pytest.mark.nightly),
        pytest.param(2, (2, 4, 1), marks=pytest.mark.nightly),
        (3, (1, 2, 1)),
    ],
)
@pytest.mark.nightly
def test_a_run_resumes_at_another_world_size(training_corpus, config, tmp_path, stage, sizes):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    held_out = {"every": 5, "packs": 1, "samples": 1}
    layers = {"encoder": {"layers": 1}, "language_model": {"layers": 1}}
    engine = {"engine.zero_stage": stage, "engine.micro_batch_size": 1}
    chosen = config(steps=10, held_out=held_out, **engine, **{"model.changes": layers})
    in_ranks(1, run, "pretrain", chosen, training_corpus, whole)
    killed(sizes[0], "pretrain", chosen, training_corpus, cut, 5)
    assert in_ranks(sizes[1], run_with_signal, chosen, training_corpus, cut, 7) == [STOPPED] * sizes[1]
    assert in_ranks(sizes[2], run, "pretrain", chosen, training_corpus, cut) == [FINISHED] * sizes[2]
    assert run_findings(str(cut), training_corpus) == []
    assert consumed(cut) == consumed(whole)
    assert losses(cut) == pytest.approx(losses(whole), rel=1e-3)


@pytest.mark.nightly
@pytest.mark.slow
def test_a_run_resumes_at_other_zero_stages_but_0(training_corpus, config, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    at = {
        stage: config(steps=8, **{"engine.zero_stage": stage, "engine.micro_batch_size": 2, "checkpoints.every": 3})
        for stage in range(4)
    }
    in_ranks(1, run, "pretrain", at[1], training_corpus, whole)
    killed(1, "pretrain", at[1], training_corpus, cut, 3)
    with pytest.raises(RuntimeError, match=r"UserError.*now 0 in fp32: only stages 1 to 3 can be converted into"):
        in_ranks(1, run, "pretrain", at[0], training_corpus, cut)
    killed(2, "pretrain", at[3], training_corpus, cut, 6)
    assert in_ranks(1, run, "pretrain", at[2], training_corpus, cut) == [FINISHED]
    assert losses(cut) == pytest.approx(losses(whole), rel=1e-3)


@pytest.mark.slow
def test_a_stage_that_freezes_continues_with_the_weights(training_corpus, config, tmp_path):
    lr = {"encoder": 1e-3, "bridge": 3e-3, "language_model": 3e-3}
    stages = [
        {"lr": lr, "objective": {"regression": False}},
        {"step": 4, "name": "unified", "lr": {"bridge": 1e-3, "language_model": 1e-3}},
        {"step": 8, "name": "slow", "lr": {"bridge": 1e-4, "language_model": 1e-4}},
    ]
    chosen = config(stages=stages, **{"engine.zero_stage": 1})
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    in_ranks(1, run, "pretrain", chosen, training_corpus, whole)
    for after in (4, 6, 9):
        killed(1, "pretrain", chosen, training_corpus, cut, after)
    in_ranks(1, run, "pretrain", chosen, training_corpus, cut)
    assert losses(cut) == losses(whole)
    assert [row["stage"] for row in read_metrics(str(cut / "metrics.jsonl"))][::4] == ["all", "unified", "slow"]


@pytest.mark.slow
def test_a_mixture_changed_in_the_config_is_logged(training_corpus, config, tmp_path):
    killed(1, "pretrain", config(), training_corpus, tmp_path, 5)
    phases = [{"weights": {"pairs": 1.0}}]
    in_ranks(1, run, "pretrain", config(**{"mixture.phases": phases}), training_corpus, tmp_path)
    _, second = load_phases(str(tmp_path / "mixture.jsonl"))
    assert second.weights == {"pairs": 1.0}
    after = [row for row in consumed(tmp_path) if row["position"] >= second.position]
    assert after
    assert {row["source"] for row in after} == {"pairs"}
    assert run_findings(str(tmp_path), training_corpus) == []


def run_edited(world, config, corpus, out, edits):
    """Return the output of a run whose config is replaced at some steps, each with a SIGHUP to its last process."""
    now = config
    training = Training(TASKS["pretrain"][0], config, corpus, str(out), world, lambda: now)
    train = training._train

    def train_and_signal(batch, *counts):
        nonlocal now
        if (edited := edits.get(batch.read.step.number)) is not None:
            now = edited
            if world.rank == world.size - 1:
                os.kill(os.getpid(), signal.SIGHUP)
        return train(batch, *counts)

    training._train = train_and_signal
    with contextlib.redirect_stdout(io.StringIO()) as said:
        training.run()
    return said.getvalue()


@pytest.mark.slow
def test_a_running_mixture_is_changed_by_its_config(training_corpus, config, tmp_path):
    def mixed(weights):
        return config(steps=40, **{"mixture.phases": [{"weights": weights, "reason": str(len(weights))}]})

    first, second, wrong = {"pairs": 0.5, "videos": 0.5}, {"texts": 1.0}, {"pears": 1.0}
    file = tmp_path / "weights.yaml"
    file.write_text("mixture: {phases: [{weights: {texts: 1.0}, reason: fewer sources}]}\n")
    edits = {3: mixed(wrong), 9: config(steps=40, mixture=str(file))}
    said, _ = in_ranks(2, run_edited, mixed(first), training_corpus, tmp_path, edits)
    before, after = load_phases(str(tmp_path / "mixture.jsonl"))
    assert (before.weights, after.weights) == (first, second)
    assert after.reason.startswith("fewer sources; ")
    assert hashlib.sha256(file.read_bytes()).hexdigest()[:12] in after.reason
    assert 9 < after.step < 40
    rows = consumed(tmp_path)
    assert {row["source"] for row in rows if row["position"] < after.position} == set(first)
    assert {row["source"] for row in rows if row["position"] >= after.position} == set(second)
    assert run_findings(str(tmp_path), training_corpus) == []
    assert "mixture: unchanged: mixture: no source 'pears' in the corpus" in said
    assert f"mixture: read again, used from step {after.step} on" in said


@pytest.mark.slow
def test_a_checkpoint_of_another_model_is_refused(training_corpus, config, tmp_path):
    in_ranks(1, run, "pretrain", config(steps=4), training_corpus, tmp_path)
    other = config(**{"model.changes": {"language_model": {"layers": 3}}})
    with pytest.raises(RuntimeError, match=r"UserError: .*another architecture: language_model\.layers was 2, now 3"):
        in_ranks(1, run, "pretrain", other, training_corpus, tmp_path)


@pytest.mark.slow
def test_a_save_that_fails_leaves_the_one_before(training_corpus, config, tmp_path):
    killed(1, "pretrain", config(), training_corpus, tmp_path, 5)
    with pytest.raises(RuntimeError, match=r"UserError: .*cannot be written"):
        in_ranks(1, run_on_full_disk, config(), training_corpus, tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000004"]
    assert in_ranks(1, run, "pretrain", config(), training_corpus, tmp_path) == [FINISHED]
    assert run_findings(str(tmp_path), training_corpus) == []


def run_on_full_disk(world, config, corpus, out):
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    training = Training(TASKS["pretrain"][0], config, corpus, str(out), world)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
    return training.run()


def test_too_many_skipped_steps_end_the_run_and_name_the_samples(training_corpus, config, tmp_path):
    with pytest.raises(RuntimeError, match=r"RunError: 3 steps in a row were skipped"):
        in_ranks(1, run_to_infinity, config(**{"guard.max_in_a_row": 3}), training_corpus, tmp_path)
    (first, *_) = sorted((tmp_path / "skipped").iterdir())
    record = json.loads(first.read_text())
    assert record["why"].startswith("non-finite")
    assert all(sample["key"] for sample in record["samples"])
    rows = read_metrics(str(tmp_path / "metrics.jsonl"))
    assert rows[-1]["loss"] is None
    assert rows[-1]["skipped"] == record["why"]


def run_to_infinity(world, config, corpus, out):
    training = Training(TASKS["pretrain"][0], config, corpus, str(out), world)
    training.engine.module.bridge.project_up.weight.data.fill_(float("inf"))
    return training.run()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mixture.phases": [{"weights": {"pears": 1.0}}]}, "no source 'pears' in the corpus"),
        ({"mixture.max_epochs": {"pairs": 0.5}}, "pairs is exhausted"),
        ({"data.plan": {"seq_len": 9999}}, "data.plan.seq_len is 9999, the language model has 256 positions"),
        ({"data.tokens": "other"}, "other"),
        ({"model.weights": [{"path": "/nowhere", "layout": "emu2"}]}, "model.weights: /nowhere: no checkpoint"),
    ],
)
def test_a_mistake_is_one_line(training_corpus, config, tmp_path, changes, message):
    with pytest.raises(RuntimeError, match=r"^UserError: .*" + message):
        in_ranks(1, run, "pretrain", config(**changes), training_corpus, tmp_path)


def test_too_few_packs_for_the_processes_are_refused(training_corpus, config, tmp_path):
    chosen = config(**{"data.plan": {"seq_len": 96, "global_batch_size": 3}, "engine.micro_batch_size": None})
    with pytest.raises(
        RuntimeError, match=r"UserError: data\.plan\.global_batch_size is 3, not a multiple of the 2 processes"
    ):
        in_ranks(2, run, "pretrain", chosen, training_corpus, tmp_path)


def run_edited_while_late(world, config, corpus, out, edits, late):
    """Call `run_edited` while the last process waits for the data of some steps."""
    read = SequenceReader.read

    def read_slowly(self, chunk, step):
        if step in late and world.rank == world.size - 1:
            time.sleep(0.02)
        return read(self, chunk, step)

    SequenceReader.read, step_data._PATIENCE = read_slowly, 0.05
    return run_edited(world, config, corpus, out, edits)


@pytest.mark.nightly
def test_all_processes_change_their_mixture_at_one_step_while_one_is_late(training_corpus, config, tmp_path):
    first, second = ({name: 1.0} for name in ("pairs", "texts"))
    chosen, edited = (config(steps=24, **{"mixture.phases": [{"weights": weights}]}) for weights in (first, second))
    in_ranks(2, run_edited_while_late, chosen, training_corpus, tmp_path, {2: edited}, range(3, 20))
    _, after = load_phases(str(tmp_path / "mixture.jsonl"))
    rows = consumed(tmp_path)
    assert {row["source"] for row in rows if row["position"] >= after.position} == {"texts"}
    assert {row["source"] for row in rows if row["position"] < after.position} == {"pairs"}
    assert run_findings(str(tmp_path), training_corpus) == []


def run_from_memory(world, config, corpus, out):
    """Run on a copy of a corpus in fsspec's memory, which is that of this process."""
    fsspec.filesystem("memory").put(corpus, "/corpus", recursive=True)
    return run(world, "pretrain", config, "memory://corpus", out)


@pytest.mark.slow
def test_a_corpus_in_a_store_gives_the_run_of_one_on_a_disk(training_corpus, config, tmp_path):
    store, disk = tmp_path / "store", tmp_path / "disk"
    chosen = config(steps=3, **{"held_out.every": 3, "data.cache": {"folder": str(tmp_path / "cache")}})
    assert in_ranks(1, run_from_memory, chosen, training_corpus, store) == [FINISHED]
    assert in_ranks(1, run, "pretrain", chosen, training_corpus, disk) == [FINISHED]
    assert losses(store) == losses(disk)
    assert consumed(store) == consumed(disk)
