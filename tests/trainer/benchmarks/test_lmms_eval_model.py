"""Test of the model for lmms-eval by that harness's own command, on the task that the documentation runs."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sources import ROOT
from tests.trainer.finished_runs import write_run
from tools.demo_web.few_shot import write_few_shot_tasks
from trainer.benchmarks.lmms_eval.shapes import named

TASKS = ROOT / "trainer/benchmarks/lmms_eval"


def test_a_shape_is_named_by_its_colour_whatever_the_article():
    row = {"answer": "a red circle"}
    said = ("A large red circle at the top.", "A red ring and a circle.", "")
    assert [named(row, [text])["named"] for text in said] == [1.0, 0.0, 0.0]


@pytest.mark.nightly
@pytest.mark.skipif(
    importlib.util.find_spec("lmms_eval") is None,
    reason="lmms-eval is not installed: it is no requirement of this project's, see docs/evaluation.md",
)
def test_its_own_command_evaluates_a_run(training_corpus: str, tmp_path: Path):
    write_run(tmp_path / "run", training_corpus)
    write_few_shot_tasks(str(tmp_path / "build/few_shot"))
    command = [Path(sys.executable).with_name("lmms-eval"), "--model", "dromaius", "--model_args", "run=run"]
    command += ["--include_path", TASKS, "--tasks", "dromaius_demo", "--batch_size", "2", "--limit", "3"]
    done = subprocess.run(
        [*command, "--output_path", "out"],
        cwd=tmp_path,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    [path] = (tmp_path / "out").rglob("*results.json")
    found = json.loads(path.read_text())
    assert 0.0 <= found["results"]["dromaius_demo"]["named,none"] <= 1.0
    assert found["n-samples"]["dromaius_demo"]["effective"] == 3
