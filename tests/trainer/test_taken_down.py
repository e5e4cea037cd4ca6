"""A run whose corpus loses samples: refused on resume, or continued with exact shares, and without them at any time."""

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipelines.additions import Addition
from pipelines.layout import addition_log_path, excluded_keys_path
from pipelines.running.runner import Runner
from pipelines.shards.manifest import load_manifest, sort_shards, write_manifest
from pipelines.tokenize import run_tokenize
from tests.pipelines.corpus_builder import sample, write_shard
from tests.trainer.ranks import in_ranks
from tests.trainer.small_corpus import WEIGHTS, Opened, take
from tests.trainer.trial_runs import consumed, killed, run
from tools.__main__ import commands
from trainer.loop import FINISHED
from trainer.plan.mixture import load_phases, share_bound, share_error
from trainer.plan.steps import max_state_bytes

TAKEN = [sample("pair", n).key for n in (3, 7, 21)]


@pytest.fixture
def copy(training_corpus: str, tmp_path: Path) -> str:
    return str(shutil.copytree(training_corpus, tmp_path / "corpus"))


def take_down(corpus: str) -> None:
    command = ["takedown", "--corpus", corpus, "--reason", "asked for"]
    done = CliRunner().invoke(commands, [*command, *(a for key in TAKEN for a in ("--key", key))])
    assert done.exit_code == 0, done.output


@pytest.mark.slow
@pytest.mark.parametrize("at", [6, pytest.param(4, marks=pytest.mark.nightly)], ids=["within a buffer", "between"])
@pytest.mark.nightly
def test_a_run_continues_only_if_it_is_told_to(copy, config, tmp_path, at):
    chosen = config(**{"checkpoints.every": 2, "steps": 24})
    out = tmp_path / "run"
    killed(1, "pretrain", chosen, copy, out, at)
    before = consumed(out)
    take_down(copy)
    with pytest.raises(
        RuntimeError, match=r"3 samples were taken down, version 1 to 1\+takedown.1, since the checkpoint"
    ):
        in_ranks(1, run, "pretrain", chosen, copy, out)
    assert consumed(out) == before
    going_on = config(**{"checkpoints.every": 2, "steps": 24, "data.when_corpus_changes": "continue"})
    assert in_ranks(1, run, "pretrain", going_on, copy, out) == [FINISHED]
    rows = consumed(out)
    assert [row for row in rows if row["step"] < at] == before
    assert {row["step"] for row in rows} == set(range(24))
    later = [row for row in rows if row["step"] >= at]
    assert not {row["key"] for row in later} & set(TAKEN)
    first, second = load_phases(str(out / "mixture.jsonl"))
    assert (first.step, second.step, second.weights) == (0, at, first.weights)
    assert second.reason == "config; 3 samples were taken down, version 1 to 1+takedown.1"
    assert second.position == 1 + max(row["position"] for row in before) == min(row["position"] for row in later)
    names = sorted(WEIGHTS)
    turns = Counter({row["position"]: row["source"] for row in later}.values())
    end = max(row["position"] for row in later) + 1
    lost = end - second.position - sum(turns.values())  # drawn into the last buffer, for which there was no step
    weights = [WEIGHTS[name] for name in names]
    assert share_error(weights, [turns[name] for name in names]) <= share_bound(weights) + lost
    for name in names:
        epoch = [row["key"] for row in rows if row["source"] == name and row["epoch"] == 0 and row["window"] == 0]
        assert name == "pairs" or len(epoch) == len(set(epoch)), "what was not changed goes on in its order"
    state = max(out.glob("checkpoints/*/data_state.json"))
    assert state.stat().st_size < max_state_bytes(len(names))
    assert "note" not in json.loads(state.read_text())
    assert in_ranks(1, run, "pretrain", going_on, copy, out) == [FINISHED]


@pytest.mark.nightly
def test_a_run_continues_on_what_was_added(copy, config, tmp_path):
    chosen = config(**{"checkpoints.every": 2, "steps": 8})
    out = tmp_path / "run"
    killed(1, "pretrain", chosen, copy, out, 4)
    before = load_manifest(copy)
    more = write_shard(copy, "pair", "train", 2, [sample("pair", n) for n in range(100, 110)])
    shards = sort_shards([*before.shards, more], before.source_names)
    rows = [
        replace(row, in_=row.in_ + 10, kept=row.kept + 10) if row.source == "pairs" else row for row in before.funnel
    ]
    after = replace(before, shards=shards, funnel=tuple(rows), version="1.1.0")
    write_manifest(copy, after)
    Path(addition_log_path(copy)).write_text(Addition.between(before, after).to_json() + "\n")
    run_tokenize(copy, f"{copy}/tokens/bpe-300", Runner(), name="bpe-300")
    with pytest.raises(
        RuntimeError, match=r"10 samples were added, version 1 to 1.1.0, since the checkpoint of step 4"
    ):
        in_ranks(1, run, "pretrain", chosen, copy, out)
    going_on = config(**{"checkpoints.every": 2, "steps": 8, "data.when_corpus_changes": "continue"})
    assert in_ranks(1, run, "pretrain", going_on, copy, out) == [FINISHED]
    _, second = load_phases(str(out / "mixture.jsonl"))
    assert second.reason == "config; 10 samples were added, version 1 to 1.1.0"


def test_excluded_samples_are_replaced_at_once(copy):
    opened = Opened(copy)
    planned = {c.row.key for s in take(opened.loader(opened.plan()), 20) for pack in s.packs for c in pack}
    assert set(TAKEN) <= planned
    Path(excluded_keys_path(copy)).write_text("".join(f"{key}\n" for key in TAKEN))
    opened = Opened(copy)
    chunks = [c for s in take(opened.loader(opened.plan()), 20) for pack in s.packs for c in pack]
    assert not {c.row.key for c in chunks} & set(TAKEN)
    assert {c.row.replaces for c in chunks if c.row.replaces} == set(TAKEN)
    assert {c.bad.reason for c in chunks if c.bad} == {"taken_down"}
