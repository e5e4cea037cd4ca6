import json
from pathlib import Path

from trainer.loop import TRAINED
from trainer.tasks.runs import is_finished


def test_a_run_is_finished_by_the_model_of_its_last_step(config, tmp_path: Path):
    settings = config(steps=12).pretrain
    assert not is_finished(str(tmp_path), settings)
    (tmp_path / "model").mkdir()
    for steps, finished in ((6, False), (12, True), (20, True)):  # a stage's, its own, one that was to be longer
        (tmp_path / "model" / TRAINED).write_text(json.dumps({"steps": steps}))
        assert is_finished(str(tmp_path), settings) is finished
