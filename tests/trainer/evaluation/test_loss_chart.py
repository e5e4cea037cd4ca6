import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainer.evaluation.loss_chart import smooth, stage_borders, write_loss_chart


def write(folder: Path, rows: list[dict]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_chart_has_a_panel_for_each_objective_of_each_run(tmp_path: Path):
    rows = [
        {"step": i, "stage": "a" if i < 5 else "b", "ce/pairs": 5 - i / 2, "regression/pairs": 1.0} for i in range(9)
    ]
    write(tmp_path, [*rows, {"step": 9, "stage": "b", "loss": None, "ce/pairs": None, "held_out_ce/pairs": 2.0}])
    write_loss_chart(str(tmp_path))
    assert Image.open(tmp_path / "loss.png").size == (1200, 360)
    write(tmp_path / "encoder", [{"step": 0, "contrastive/pairs": 4.0}, {"step": 5, "contrastive/pairs": 2.0}])
    write_loss_chart(str(tmp_path))
    assert Image.open(tmp_path / "loss.png").size == (1200, 720)


def test_a_run_without_logged_steps_has_no_chart(tmp_path: Path):
    write_loss_chart(str(tmp_path))
    assert not (tmp_path / "loss.png").exists()


def test_stages_are_marked_where_they_begin_if_there_are_several():
    rows = [{"step": 0, "stage": "a"}, {"step": 5, "stage": "a"}, {"step": 10, "stage": "b"}]
    assert stage_borders(rows) == [(0, "a"), (10, "b")]
    assert stage_borders(rows[:2]) == []


def test_smoothing_keeps_a_line_and_damps_noise():
    steps = list(range(0, 2000, 10))
    assert smooth(steps, [2.0] * 200) == pytest.approx([2.0] * 200)
    noise = np.random.default_rng(0).normal(size=200)
    assert np.std(smooth(steps, list(noise))) < 0.5 * np.std(noise)
    assert smooth([3], [1.5]) == [1.5]
