"""Tests of what a run was trained on, as a sample's page shows it: steps and the losses nearest to them."""

import json
import random
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from pipelines.errors import UserError
from pipelines.shards.manifest import load_manifest
from pipelines.shards.sidecar import read_sidecar
from tests.pipelines.corpus_builder import build
from tools.browse import training
from tools.browse.app import Browser, make_app
from tools.browse.training import LoggedSteps, RunRecord
from trainer.reading.consumed import ConsumedLog, ConsumedRow


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("corpus"))
    build(folder, ("pair", "interleaved"))
    return folder


def write_metrics(path: Path, steps: list[int]) -> None:
    rows = [{"step": s, "ce/pairs": s / 10, "ce/interleaveds": 9.0, "loss": None, "pad": "x" * (s % 97)} for s in steps]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def run(tmp_path: Path, corpus: str) -> Path:
    """Return a run of 30 steps, each of which reads two samples, the first one in every step."""
    shard = load_manifest(corpus).shards_of("pairs", "train")[0]
    keys = [row["key"] for row in read_sidecar(f"{corpus}/{shard.sidecar}")]
    log = ConsumedLog(str(tmp_path / "run"))
    rows = [
        ConsumedRow(n // 2, n, "pairs", "train", shard.path, keys[0 if n % 2 else n // 2 % 5 + 1], 0, n // 7, 40, 1)
        for n in range(60)
    ]
    log.add(rows)
    log.write()
    write_metrics(tmp_path / "run" / "metrics.jsonl", [0, 9, 19, 29])
    (tmp_path / "run" / "skipped").mkdir()
    (tmp_path / "run" / "skipped" / "step-00000003.json").write_text("{}")
    return tmp_path / "run"


@pytest.mark.parametrize("block", [7, 64, 1 << 16])
def test_the_nearest_logged_step_is_found_without_reading_all(tmp_path, monkeypatch, block):
    monkeypatch.setattr(training, "_BLOCK", block)
    steps = sorted(random.Random(1).sample(range(1000), 60))
    path = tmp_path / "metrics.jsonl"
    write_metrics(path, steps)
    with path.open("a") as file:
        file.write('{"step": 1001, "ce/pa')  # a killed run left it unfinished
    for step in (*range(0, 1100, 13), steps[0], steps[-1]):
        expected = min(steps, key=lambda logged: (abs(logged - step), -logged))
        assert LoggedSteps(str(path)).nearest(step)["step"] == expected


def test_a_run_that_has_logged_nothing_has_no_losses(tmp_path):
    assert LoggedSteps(str(tmp_path / "metrics.jsonl")).nearest(3) is None
    (tmp_path / "metrics.jsonl").write_text('{"step":')
    assert LoggedSteps(str(tmp_path / "metrics.jsonl")).nearest(3) is None


@pytest.mark.slow
def test_a_sample_says_in_which_steps_it_was_and_the_loss_there(corpus, run):
    manifest = load_manifest(corpus)
    record = RunRecord(str(run), corpus, manifest)
    shard = manifest.shards_of("pairs", "train")[0]
    keys = [row["key"] for row in read_sidecar(f"{corpus}/{shard.sidecar}")]
    record.sorted.get(None)
    uses = record.uses(keys[2], "pairs")
    assert [use.step for use in uses.first] == [1, 6, 11, 16, 21, 26]
    assert [use.logged for use in uses.first] == [0, 9, 9, 19, 19, 29]
    assert uses.first[1].loss == {"ce": 0.9}
    assert (uses.num_uses, uses.num_steps) == (6, 6)
    assert [use.step for use in record.uses(keys[0], "pairs").first if use.is_skipped] == [3]
    assert record.uses(keys[0], "interleaveds").num_uses == 0

    browser = Browser(corpus, manifest, record)
    client = TestClient(make_app(browser, None))
    text = client.get(f"/sample?key={keys[2]}").text
    assert "6 times in 6 steps" in text
    assert "ce 0.9 <span" in text
    assert "at step 9" in text
    assert "Not yet, in this run" in client.get(f"/sample?key={shard_key(corpus, 'interleaveds')}").text
    browser.close()


def shard_key(corpus: str, source: str) -> str:
    shard = load_manifest(corpus).shards_of(source)[0]
    return next(row["key"] for row in read_sidecar(f"{corpus}/{shard.sidecar}"))


def test_a_run_of_another_corpus_is_refused(run, tmp_path):
    build(str(tmp_path / "other"), ("video",))
    with pytest.raises(UserError, match="a run of another corpus"):
        RunRecord(str(run), str(tmp_path / "other"), load_manifest(str(tmp_path / "other")))
