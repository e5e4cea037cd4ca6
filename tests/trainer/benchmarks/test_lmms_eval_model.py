"""Test of the model for lmms-eval by that harness's own command, where it is installed."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.trainer.benchmarks.small_sets import write_images
from tests.trainer.finished_runs import write_run

TASK = """
task: tiny
dataset_path: json
dataset_kwargs: {data_files: {test: rows.jsonl}}
test_split: test
output_type: generate_until
doc_to_messages: !function tiny.doc_to_messages
doc_to_visual: !function tiny.doc_to_visual
doc_to_text: !function tiny.doc_to_text
doc_to_target: answer
process_results: !function tiny.process_results
generation_kwargs: {max_new_tokens: 8, until: ["\\n"], do_sample: false}
metric_list:
  - {metric: answered, aggregation: mean, higher_is_better: true}
"""
FUNCTIONS = """
def doc_to_messages(doc, *_, **__):
    parts = [{"type": "image", "url": doc["image"]}, {"type": "text", "text": doc["question"]}]
    return [{"role": "user", "content": parts}]


def doc_to_visual(doc):
    return [doc["image"]]


def doc_to_text(doc, *_, **__):
    return doc["question"]


def process_results(doc, results):
    return {"answered": float(isinstance(results[0], str))}
"""


@pytest.mark.nightly
@pytest.mark.skipif(importlib.util.find_spec("lmms_eval") is None, reason="needs lmms-eval")
def test_its_own_command_evaluates_a_run(training_corpus: str, tmp_path: Path):
    write_run(tmp_path / "run", training_corpus)
    write_images(tmp_path, ["a.png", "b.png"])
    rows = [{"image": str(tmp_path / name), "question": "What is this?", "answer": "x"} for name in ("a.png", "b.png")]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "tiny.yaml").write_text(TASK)
    (tmp_path / "tiny.py").write_text(FUNCTIONS)
    command = [Path(sys.executable).with_name("lmms-eval"), "--model", "dromaius", "--model_args", "run=run"]
    command += ["--include_path", str(tmp_path), "--tasks", "tiny", "--batch_size", "2", "--output_path", "out"]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr
    [path] = (tmp_path / "out").rglob("*results.json")
    assert json.loads(path.read_text())["results"]["tiny"]["answered,none"] == 1.0
