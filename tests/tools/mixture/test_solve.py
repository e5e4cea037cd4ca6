"""Tests of `solve`: the file that it writes is a mixture of the trainer, and says what changes."""

from pathlib import Path

import pytest
import yaml

from pipelines.errors import UserError
from pipelines.settings import load_settings
from tests.tools.mixture.conftest import done, failure, mistake
from tests.trainer.small_corpus import WEIGHTS
from trainer.config import TrainConfig
from trainer.plan.mixture import MixtureFile


@pytest.fixture
def out(tmp_path: Path) -> str:
    return str(tmp_path / "weights.yaml")


def test_the_file_is_a_mixture_that_a_config_takes(corpus, found, out, write_config):
    record = found("solve", "--corpus", corpus, "--budget", "20k", "--unimax", "3", "--out", out)
    mixture = load_settings(MixtureFile, out).mixture
    (phase,) = mixture.phases
    assert phase.unit == "tokens"
    assert phase.reason == "solve: UniMax with 3 epochs, 20,000 tokens"
    assert mixture.max_epochs == dict.fromkeys(phase.weights, 3.0)
    assert {source["name"]: source["share"] for source in record["sources"]} == pytest.approx(phase.weights)
    config = load_settings(TrainConfig, write_config(), (f"pretrain.mixture={out}",))
    assert config.pretrain is not None
    (taken,) = config.pretrain.mixture.phases
    assert taken.weights == phase.weights
    assert taken.reason.startswith(f"{phase.reason}; ")
    assert "weights.yaml sha256 " in taken.reason
    assert Path(out).read_text().startswith("# Weights by `python -m tools mixture solve`: UniMax with 3 epochs")


def test_the_step_where_a_source_runs_dry_is_told(corpus, found, write_config):
    config = write_config(steps=100)
    arguments = ("solve", "--corpus", corpus, "--config", config, "--max-epochs", "pairs=2")
    record = found(*arguments, "--weights", "pairs=1,texts=1")
    pairs = next(source for source in record["sources"] if source["name"] == "pairs")
    per_step = 4 * 96
    assert pairs["epochs"] == pytest.approx(2, rel=1e-3)
    assert pairs["cap_reached"] == pytest.approx(100, rel=1e-3)
    assert pairs["first_epoch_ends"] == pytest.approx(pairs["tokens"] / (pairs["share"] * per_step))
    assert pairs["share_before"] > 0
    assert "step 100" in done(*arguments, "--weights", "pairs=1,texts=1")


def test_new_weights_begin_at_a_step_and_count_what_was_drawn(corpus, found, out, write_config):
    config = write_config(steps=100)
    at_once = found("solve", "--corpus", corpus, "--config", config, "--max-epochs", "10")
    arguments = ("solve", "--corpus", corpus, "--config", config, "--max-epochs", "10", "--from-step", "40")
    later = found(*arguments, "--out", out)
    first, second = load_settings(MixtureFile, out).mixture.phases
    assert (first.step, first.weights, first.unit) == (0, WEIGHTS, "samples")
    assert second.step == 40
    assert later["budget"] == pytest.approx(0.6 * at_once["budget"])
    assert all(source["epochs"] <= 10.001 for source in later["sources"])
    assert "the config has 100 steps" in mistake(*arguments[:-1], "100")


def test_weights_in_samples_give_the_same_shares(corpus, found, out):
    record = found(
        "solve", "--corpus", corpus, "--budget", "9k", "--temperature", "3", "--unit", "samples", "--out", out
    )
    shares = {source["name"]: source["share"] for source in record["sources"]}
    arguments = ("sizes", "--corpus", corpus, "--budget", "9k", "--mixture", out)
    assert {source["name"]: source["share"] for source in found(*arguments)["sources"]} == pytest.approx(
        shares, abs=1e-4
    )


def test_weights_are_never_edited_in_place(corpus, out):
    arguments = ("solve", "--corpus", corpus, "--out", out, "--budget")
    done(*arguments, "9k")
    before = Path(out).read_bytes()
    done(*arguments, "9k")
    assert "never edited in place" in mistake(*arguments, "9k", "--temperature", "2")
    assert Path(out).read_bytes() == before


def test_without_a_file_the_weights_are_printed(corpus):
    text = done("solve", "--corpus", corpus, "--budget", "9k")
    assert yaml.safe_load(text[text.index("\nmixture:") :]).keys() == {"mixture"}


def test_demands_that_conflict_exit_1_and_write_nothing(corpus, out):
    arguments = ("solve", "--corpus", corpus, "--budget", "9M", "--out", out)
    assert "limits leave" in failure(*arguments, "--unimax", "1")
    assert "sum to 1.5" in failure(*arguments, "--min-share", "0.3")
    assert not Path(out).exists()


def test_only_the_named_sources_are_used(corpus, found):
    arguments = ("solve", "--corpus", corpus, "--budget", "1k", "--sources", "texts,pairs", "--min-share")
    shares = {source["name"]: source["share"] for source in found(*arguments, "0.1")["sources"]}
    assert {name for name, share in shares.items() if share} == {"texts", "pairs"}
    assert "--min-share videos: not among --sources texts,pairs" in mistake(*arguments, "videos=0.1")


def test_the_caps_of_the_config_and_the_tighter_of_two_hold(corpus, found, write_config):
    config = write_config(steps=100, mixture={"phases": [{"weights": WEIGHTS}], "max_epochs": {"pairs": 0.5}})
    record = found("solve", "--corpus", corpus, "--config", config, "--weights", "pairs=1,texts=1")
    assert record["mixture"]["max_epochs"] == {"pairs": 0.5}
    assert {source["name"]: source["epochs"] for source in record["sources"]}["pairs"] <= 0.5
    record = found("solve", "--corpus", corpus, "--budget", "9k", "--unimax", "3", "--max-epochs", "texts=20,pairs=1")
    assert record["mixture"]["max_epochs"]["texts"] == 3
    assert record["mixture"]["max_epochs"]["pairs"] == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--temperature", "nan"), "is not a finite number"),
        (("--unimax", "inf"), "is not a finite number"),
        (("--min-share", "texts=1.5"), "a share is at most 1"),
        (("--weights", "texts=0"), "all weights are 0"),
        (("--budget", "0.00001"), "is not a number of tokens"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(corpus, options, words):
    assert words in mistake("solve", "--corpus", corpus, "--budget", "1k", *options)


def test_what_cannot_be_used_is_told_in_one_line(corpus):
    arguments = ("solve", "--corpus", corpus)
    assert "--budget: give the number of tokens" in mistake(*arguments)
    for option in ("--max-epochs", "--min-share", "--max-share", "--weights"):
        assert f"{option}: no source 'x' in the corpus" in mistake(*arguments, "--budget", "1k", option, "x=1")
    assert "--sources: no source 'x'" in mistake(*arguments, "--budget", "1k", "--sources", "x")
    assert "give one of them" in mistake(*arguments, "--budget", "1k", "--unimax", "2", "--temperature", "2")
    assert "needs --config" in mistake(*arguments, "--budget", "1k", "--from-step", "2")


def test_a_file_that_is_no_mixture_is_refused_with_its_line(tmp_path, write_config):
    path = tmp_path / "weights.yaml"
    for text, message in (
        ("mixture: {phases: [{weights: {a: 2}}]}\n", "weights.yaml:1: mixture.phases.0.weights: the weights sum to 2"),
        ("phases: []\n", "weights.yaml: mixture: missing"),
        ("mixture: {phases: [{weights: {a: 1}, resaon: x}]}\n", "Did you mean 'reason'"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            load_settings(TrainConfig, write_config(mixture=str(path)))
    with pytest.raises(UserError, match=r"nothing\.yaml: cannot be read"):
        load_settings(TrainConfig, write_config(mixture="nothing.yaml"))
