"""Tests of held-out losses: what they are totals of, and what happens to samples that cannot be read."""

import contextlib
import io
import json
import shutil
from dataclasses import replace

import pytest

from pipelines.errors import RunError
from pipelines.shards.sidecar import read_sidecar
from tests.trainer.ranks import ALONE, in_ranks
from tests.trainer.small_corpus import damage
from tests.trainer.tasks import test_encoder
from trainer.engine.engine import SourceSums
from trainer.engine.metrics import read_metrics
from trainer.loop import FINISHED, train
from trainer.plan.steps import Chunk
from trainer.tasks.encoder import EncoderTask
from trainer.tasks.held_out import HeldOut
from trainer.tasks.pretrain import PretrainTask

NAMES = ("pairs", "texts", "videos")


@pytest.fixture
def copy(training_corpus, tmp_path):
    """A copy of the corpus, to damage."""
    return str(shutil.copytree(training_corpus, tmp_path / "copy"))


def keys(corpus, source, split="val"):
    return [row["key"] for row in read_sidecar(f"{corpus}/{source}/{split}/{source}-000000.parquet")]


# --- totals ---


def test_totals_are_means_over_targets_or_by_weights():
    sums = SourceSums(("ce", "regression"), [[10.0, 30.0, 8.0], [4.0, 0.0, 0.0]], [[10, 10, 2], [2, 0, 0]])
    means = sums.means(NAMES)
    assert means["ce"] == 48 / 22
    held_out = sums.means(NAMES, "held_out_", {"pairs": 0.75, "texts": 0.25})
    assert held_out["held_out_ce"] == 0.75 * 1.0 + 0.25 * 3.0
    assert held_out["held_out_ce/videos"] == 4.0
    assert held_out["held_out_regression"] == 2.0, "texts have no such loss: their weight does not count"


def test_a_total_of_nothing_that_is_trained_on_is_left_out():
    sums = SourceSums(("ce",), [[10.0, 0.0, 8.0]], [[10, 0, 2]])
    assert sums.means(NAMES, "held_out_", {"texts": 1.0}).keys() == {"held_out_ce/pairs", "held_out_ce/videos"}


def captured(world, command, chosen, corpus, out):
    """Run a command; return how it ended and what it said."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        end = train(command, chosen, corpus, str(out), world)
    return end, said.getvalue()


@pytest.mark.slow
def test_totals_are_of_what_is_trained_on_by_the_weights_of_their_step(training_corpus, config, tmp_path):
    first, second = {"pairs": 0.75, "texts": 0.25}, {"videos": 0.4, "texts": 0.6}
    mixture = {"phases": [{"weights": first}, {"step": 8, "weights": second}]}
    chosen = config(mixture=mixture, **{"held_out.every": 4, "held_out.samples": 0})
    assert in_ranks(1, captured, "pretrain", chosen, training_corpus, tmp_path)[0][0] == FINISHED
    rows = {row["step"]: row for row in read_metrics(str(tmp_path / "metrics.jsonl")) if "held_out_ce" in row}
    assert sorted(rows) == [3, 7, 11]
    changed = json.loads((tmp_path / "mixture.jsonl").read_text().splitlines()[1])["step"]
    assert changed == 8
    for step, row in rows.items():
        weights = first if step < changed else second
        for objective in ("ce", "regression"):
            losses = {
                name.partition("/")[2]: loss for name, loss in row.items() if name.startswith(f"held_out_{objective}/")
            }
            assert {"interleaveds", "pairs", "videos"} <= losses.keys(), "also of what is not trained on"
            counted = {name: weight for name, weight in weights.items() if name in losses}
            expected = sum(weight * losses[name] for name, weight in counted.items()) / sum(counted.values())
            assert row[f"held_out_{objective}"] == pytest.approx(expected)


# --- samples that cannot be read ---


@pytest.mark.slow
@pytest.mark.parametrize("command", ["pretrain", "encoder"])
def test_a_damaged_held_out_sample_is_left_out_and_named(copy, config, tmp_path, command):
    key = keys(copy, "pairs")[0]
    damage(copy, "pairs", {key}, "val")
    damage(copy, "groundeds", None, "val")
    held_out = {"every": 6}
    chosen = config(held_out=held_out) if command == "pretrain" else test_encoder.config(held_out=held_out)
    ((end, said),) = in_ranks(1, captured, command, chosen, copy, tmp_path)
    assert end == FINISHED
    out = tmp_path / "encoder" if command == "encoder" else tmp_path
    rows = [json.loads(line) for line in (out / "quarantine.jsonl").read_text().splitlines()]
    assert {row["key"] for row in rows} == {key, *keys(copy, "groundeds")}
    assert all(row["position"] is None and "broken JPEG" in row["reason"] for row in rows)
    assert f"held_out: pairs: left out 1 that cannot be read, the first {key} (broken JPEG" in said
    last = read_metrics(str(out / "metrics.jsonl"))[-1]
    assert not any(name.endswith("/groundeds") for name in last if name.startswith("held_out"))
    if command == "pretrain":
        assert "held_out_ce/pairs" in last
        assert "held_out: too few samples in the split val of groundeds: their held-out losses are missing" in said
    else:  # a single pair is told from no other
        assert not any(name.startswith("held_out") for name in last)
        assert "held_out: too few samples in the split val of groundeds, pairs: their" in said


def text_targets(held_out, task, source):
    number = task.data.names.index(source)
    return sum(int((micro.text_sources == number).sum()) for micro in held_out._micros)


def test_what_cannot_be_read_has_no_substitute(training_corpus, copy, config):
    key = keys(copy, "pairs")[0]
    damage(copy, "pairs", {key}, "val")
    chosen = config(**{"held_out.every": 6})
    counts = []
    for corpus in (training_corpus, copy):
        task = PretrainTask(chosen.model, chosen.pretrain, corpus, "/nowhere", ALONE)
        held_out = HeldOut(task, 2, ALONE)
        counts.append([text_targets(held_out, task, source) for source in ("pairs", "videos", "texts")])
    assert [(row.source, row.key, row.position) for row in held_out.bad] == [("pairs", key, None)]
    assert 0 < counts[1][0] < counts[0][0]
    assert counts[1][1:] == counts[0][1:]


# --- substitutes in training ---


def chunk_of(task, source):
    number = task.data.names.index(source)
    windows = task.data.sources[number]
    return Chunk(0, number, 0, 0, 0, int(windows.tokens[0]), int(windows.images[0]))


def test_only_samples_that_there_are_stand_in(copy):
    key = keys(copy, "pairs")[0]
    damage(copy, "pairs", None, "val")
    chosen = test_encoder.config()
    task = EncoderTask(chosen.model, chosen.encoder, copy, "/nowhere", ALONE)
    val = task.open("val")
    with pytest.raises(RunError, match=rf"pairs: {key} cannot be read .*: of 1 others that were tried, 1 cannot be"):
        val.reader().read(chunk_of(task, "pairs"), 0)
    damaged = keys(copy, "groundeds")[0]
    damage(copy, "groundeds", {damaged}, "val")
    read = val.reader().read(chunk_of(task, "groundeds"), 0)
    assert (read.row.key, read.row.replaces) == (keys(copy, "groundeds")[1], damaged)


def test_a_single_sample_has_no_substitute(copy):
    damage(copy, "pairs", None, "val")
    chosen = test_encoder.config()
    task = EncoderTask(chosen.model, chosen.encoder, copy, "/nowhere", ALONE)
    val = task.open("val")
    number = task.data.names.index("pairs")
    source = val.sources[number]
    cut = {"first": source.first[:2], "tokens": source.tokens[:1], "images": source.images[:1]}
    reader = val.reader()
    reader._sources = tuple(replace(source, **cut) if n == number else s for n, s in enumerate(val.sources))
    with pytest.raises(RunError, match=r"and no sample can take its place: the source has no other\. Compare its tars"):
        reader.read(chunk_of(task, "pairs"), 0)


@pytest.mark.parametrize("sample", [0, 7, 29])
def test_every_sample_of_a_small_source_may_stand_in(training_corpus, sample):
    chosen = test_encoder.config()
    task = EncoderTask(chosen.model, chosen.encoder, training_corpus, "/nowhere", ALONE)
    number = task.data.names.index("pairs")
    others = list(task.data.reader()._others(task.data.sources[number], Chunk(0, number, 0, sample, 0, 1, 1)))
    assert set(others) == set(range(30))
