"""Tests of `--processes`: how many fit, and a run of two that is started, ended and continued by one command."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from pipelines.settings import load_settings
from tests.trainer.conftest import TREE, changed
from trainer import __main__ as command_line
from trainer.config import TrainConfig
from trainer.engine.metrics import read_metrics

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("gpus", "cores", "number"), [(0, 1, 1), (0, 3, 2), (0, 6, 4), (0, 64, 8), (4, 64, 4)])
def test_as_many_processes_as_divide_all_batches(monkeypatch, gpus, cores, number):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(command_line, "num_cores", lambda: cores)
    config = load_settings(TrainConfig, str(ROOT / "trainer/configs/demo.yaml"), ())
    runs = [config.encoder, config.pretrain, config.decoder]  # 128, 8, 16; the autoencoder 8
    assert command_line._fitting_processes(runs) == number


@pytest.mark.nightly
def test_one_command_starts_ends_and_continues_two_processes(training_corpus, tmp_path, monkeypatch):
    for name in ("RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    path, out = tmp_path / "run.yaml", tmp_path / "out"
    tree = changed(TREE, {"pretrain.engine.zero_stage": 1, "pretrain.steps": 400})
    path.write_text(yaml.safe_dump(tree))
    given = [sys.executable, "-m", "trainer", "pretrain", "--config", str(path), "--corpus", training_corpus]
    given += ["--out", str(out), "--processes", "2"]

    first = subprocess.Popen(given, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while first.poll() is None and not (out / "metrics.jsonl").exists():
        time.sleep(0.2)
    first.send_signal(signal.SIGTERM)
    _, stderr = first.communicate(timeout=120)
    assert first.returncode == 75, stderr
    (checkpoint,) = (out / "checkpoints").glob("step-*")
    assert len([*checkpoint.rglob("zero_pp_rank_*_optim_states.pt")]) == 2

    saved = int(checkpoint.name.removeprefix("step-"))
    then = subprocess.run(
        [*given, f"--set=pretrain.steps={saved + 3}"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert f"pretrain: finished, {saved + 3} steps" in then.stdout
    assert [row["step"] for row in read_metrics(str(out / "metrics.jsonl"))] == [*range(saved + 3)]
