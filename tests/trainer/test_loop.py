"""Tests of the loop: a run is finished when the model of its last step is written."""

import contextlib
import io
import json
from pathlib import Path

import pytest

from tests.trainer.ranks import in_ranks
from trainer.engine.metrics import read_metrics
from trainer.loop import FINISHED, TRAINED, is_finished, train
from trainer.tasks.table import TASKS


def test_a_run_is_finished_by_the_model_of_its_last_step(config, tmp_path: Path):
    (pretrain,), chosen = TASKS["pretrain"], config(steps=12)
    assert not is_finished(pretrain, chosen, str(tmp_path))
    (tmp_path / "model").mkdir()
    for steps, finished in ((6, False), (12, True), (20, True)):  # the end of a stage, of the run, of a longer run
        (tmp_path / "model" / TRAINED).write_text(json.dumps({"steps": steps}))
        assert is_finished(pretrain, chosen, str(tmp_path)) is finished


def test_every_section_of_the_table_is_one_of_the_config(config):
    chosen = config()
    for command, runs in TASKS.items():
        assert all(run.section.partition(".")[0] == command for run in runs)
        assert hasattr(chosen, command)
    assert TASKS["pretrain"][0].settings(chosen) is chosen.pretrain
    assert TASKS["decoder"][0].settings(chosen) is None
    assert [run.folder("out/") for run in TASKS["decoder"]] == ["out/autoencoder", "out/decoder"]
    assert TASKS["pretrain"][0].folder("out/") == "out"


def captured(world, chosen, corpus, out):
    """Run `pretrain`; return how it ended and what it said."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        end = train("pretrain", chosen, corpus, str(out), world)
    return end, said.getvalue()


@pytest.mark.nightly
def test_a_run_made_longer_says_how_its_rate_jumps_or_keeps_its_curve(training_corpus, config, tmp_path):
    stage = {"lr": {"language_model": 1e-3}, "schedule": {"warmup": 0}}
    for folder in ("jumps", "keeps"):
        ((end, said),) = in_ranks(
            1, captured, config(steps=12, stages=[stage]), training_corpus, tmp_path / folder, timeout=300
        )
        assert (end, "jumps at step" in said) == (FINISHED, False)
    longer = config(steps=18, stages=[stage])
    ((_, said),) = in_ranks(1, captured, longer, training_corpus, tmp_path / "jumps")
    rates = [row["lr/language_model"] for row in read_metrics(str(tmp_path / "jumps" / "metrics.jsonl"))]
    assert len(rates) == 18
    assert rates[12] > 14 * rates[11]
    line = f"the learning rate of language_model jumps at step 12 from {rates[11]:.3g} to {rates[12]:.3g}, "
    assert line + f"{rates[12] / rates[11]:.3g} times what it was: the run was to have 12 steps" in said
    assert "set stages.0.schedule.steps to 12" in said
    kept = config(steps=18, stages=[{**stage, "schedule": {"warmup": 0, "steps": 12}}])
    ((_, said),) = in_ranks(1, captured, kept, training_corpus, tmp_path / "keeps")
    assert "jumps at step" not in said
    rates = [row["lr/language_model"] for row in read_metrics(str(tmp_path / "keeps" / "metrics.jsonl"))]
    assert rates[12:] == [rates[11]] * 6
