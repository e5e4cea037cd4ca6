"""Tests of `simulate`: it draws exactly what the trainer's plan draws."""

import pytest
import torch

from pipelines.settings import load_settings
from tests.tools.mixture.conftest import done, failure, mistake
from tests.trainer.small_corpus import NUM_SAMPLES
from trainer.config import TrainConfig
from trainer.engine.distributed import World
from trainer.engine.metrics import Totals
from trainer.tasks.data import TrainingData
from trainer.tasks.pretrain import PretrainTask


def test_it_draws_what_a_run_draws(corpus, found, write_config, tmp_path):
    phases = [
        {"weights": {"pairs": 0.4, "texts": 0.6}},
        {"step": 7, "weights": {"videos": 0.3, "texts": 0.7}, "unit": "tokens"},
    ]
    stages = [
        {"lr": {"bridge": 1e-3, "language_model": 1e-3}},
        {"step": 10, "lr": {"encoder": 1e-3, "bridge": 1e-3, "language_model": 1e-3}},
    ]
    path = write_config(steps=30, **{"mixture.phases": phases, "stages": stages})
    record = found("simulate", "--corpus", corpus, "--config", path)
    config = load_settings(TrainConfig, path)
    assert config.pretrain is not None
    task = PretrainTask(config.model, config.pretrain, corpus, str(tmp_path), World(0, 1, 0, torch.device("cpu"), None))
    assert isinstance(task.data, TrainingData)
    plan, total, flops = task.data.plan(task.costs()), Totals(), 0.0
    steps = [step for step, _ in zip(plan, range(30), strict=False)]
    slots = {source.name: task.data.layout.slots[source.kind == "video"] for source in task.data.sources}
    for step in steps:
        counts = Totals.of(step, len(task.data.sources))
        total += counts
        rows = zip(slots, counts.by_source, strict=True)
        targets = sum(tokens - slots[name] * images for name, (_, tokens, images) in rows)
        flops += task.flops(counts, [targets], config.pretrain.stages[config.pretrain.stage_at(step.number)].lr)
    drawn = [(source["samples"], source["tokens"], source["images"]) for source in record["sources"]]
    assert tuple(drawn) == total.by_source
    assert sum(source["flops"] for source in record["sources"]) == pytest.approx(flops)
    reached = [sum((Totals.of(step, len(slots)) for step in steps[:n]), Totals()).by_source for n in range(1, 31)]
    for number, source in enumerate(record["sources"]):
        ends = source["first_epoch_ends"]
        assert (ends is None) == (source["epochs"] < 1)
        if ends is not None:
            assert (reached[ends - 1][number][0] if ends else 0) < NUM_SAMPLES <= reached[ends][number][0]
    assert any(source["first_epoch_ends"] for source in record["sources"])
    assert [(phase["step"], phase["num_steps"], phase["unit"]) for phase in record["phases"]] == [
        (0, 7, "samples"),
        (7, 23, "tokens"),
    ]
    first = sum((Totals.of(step, len(slots)) for step in steps[:7]), Totals())
    of_first = {name: samples / first.samples for name, (samples, _, _) in zip(slots, first.by_source, strict=True)}
    assert record["phases"][0]["shares"] == pytest.approx(of_first)


def test_shares_are_those_asked_and_cost_follows_from_flops(corpus, found, write_config):
    record = found("simulate", "--corpus", corpus, "--config", write_config(), "--steps", "200", "--price", "2")
    (phase,) = record["phases"]
    assert phase["shares"] == pytest.approx({**phase["weights"]}, abs=1e-3)
    pairs = next(source for source in record["sources"] if source["name"] == "pairs")
    assert pairs["cost"] == pytest.approx(2 * pairs["device_hours"])
    assert pairs["device_hours"] == pytest.approx(pairs["flops"] / (989e12 * 0.4 * 3600))


def test_solved_weights_give_the_epochs_that_were_solved_for(corpus, found, write_config, tmp_path):
    config, out = write_config(steps=60), str(tmp_path / "weights.yaml")
    done("solve", "--corpus", corpus, "--config", config, "--unimax", "8", "--out", out)
    record = found("simulate", "--corpus", corpus, "--config", config, "--mixture", out)
    assert record["ended"] is None
    assert max(source["epochs"] for source in record["sources"]) == pytest.approx(8, rel=0.1)
    assert max(source["epochs"] for source in record["sources"]) <= 8


def test_a_source_that_is_exhausted_ends_it_with_exit_1(corpus, write_config):
    arguments = ("simulate", "--corpus", corpus, "--config", write_config(**{"mixture.max_epochs": {"pairs": 1}}))
    assert "pairs is exhausted: steps from" in failure(*arguments, "--steps", "400")
    assert "simulate: needs --config" in mistake("simulate", "--corpus", corpus)
    assert "no source 'x'" in mistake(*arguments, "--weights", "x=1")
    assert "give one of them" in mistake(*arguments, "--weights", "pairs=1", "--mixture", "weights.yaml")
    assert "cannot be read" in mistake(*arguments, "--mixture", "nothing.yaml")
