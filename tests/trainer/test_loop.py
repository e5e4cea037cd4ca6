"""Tests of the loop: a run is finished when the model of its last step is written."""

import json
from pathlib import Path

from trainer.loop import TRAINED, is_finished
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
