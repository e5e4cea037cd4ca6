"""Tests of `suggest`: from losses whose best mixture is known, it is found; what the runs do not show is said."""

import contextlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipelines.errors import RunError, UserError
from pipelines.settings import load_settings
from tests.tools.mixture.conftest import done, failure, mistake
from tests.trainer import small_corpus
from tests.trainer.conftest import TREE, changed
from tools.mixture.probe import probe_shares
from tools.mixture.regression import fit, rank_correlation, ridge_fit
from tools.mixture.runs import Evaluation, RunLosses
from tools.mixture.suggestion import by_excess, by_fall, by_regression
from trainer.plan.mixture import MixtureFile

NAMES = ("a", "b", "c")
FREE = dict.fromkeys(NAMES, (0.0, 1.0))
NEEDS = np.array([0.6, 0.3, 0.1])  # with losses of 2 - need ln(share), the best shares of their sum


def run_of(shares, losses, *, folder="run", steps=(100,), trained=None, epochs=None) -> RunLosses:
    """Return a run with given losses at each step."""
    table = losses if np.ndim(losses) == 2 else [losses]
    points = [
        Evaluation(s, 1000 * s, dict(zip(NAMES, map(float, row), strict=True)))
        for s, row in zip(steps, table, strict=True)
    ]
    by_name = dict(zip(NAMES, map(float, shares), strict=True))
    tokens = {name: int(1e5 * share) for name, share in by_name.items()}
    return RunLosses(folder, by_name, tokens, epochs or {}, trained or {}, tuple(points))


def lossy(shares, noise=0.0, seed=0):
    rng = np.random.default_rng(seed)
    return 2 - NEEDS * np.log(np.asarray(shares) + 0.01) + noise * rng.standard_normal(3)


def probes(num=16, noise=0.0):
    shares = [list(row.values()) for row in probe_shares(dict.fromkeys(NAMES, 1 / 3), FREE, num, 1, 1.0)]
    return [run_of(row, lossy(row, noise, seed)) for seed, row in enumerate(shares)]


# --- regression -----------------------------------------------------------------------------------------------------


def test_the_best_mixture_of_known_losses_is_found():
    starved = {"a": 0.05, "b": 0.475, "c": 0.475}
    found = by_regression(probes(noise=0.01), {}, starved, FREE)
    assert list(found.shares.values()) == pytest.approx(NEEDS.tolist(), abs=0.1)
    before, with_it = (lossy(list(shares.values())).mean() for shares in (starved, found.shares))
    assert with_it < before
    predicted = np.mean(list(found.losses.values()), axis=0)
    assert predicted == pytest.approx([before, with_it], abs=0.05)
    assert found.error is not None
    assert found.error < 0.05
    assert found.fit is not None
    assert found.fit.map_name == "logarithms of shares"
    assert any(line.startswith("a: 5.00% to ") and "its own loss by -" in line for line in found.reasons)


def test_limits_and_targets_hold_in_a_regression():
    limits = FREE | {"a": (0.0, 0.3)}
    found = by_regression(probes(), {"a": 1.0}, dict.fromkeys(NAMES, 1 / 3), limits)
    assert found.shares["a"] == pytest.approx(0.3, abs=0.02)
    assert by_regression(probes(), {"c": 1.0}, {}, FREE).shares["c"] > 0.5
    with pytest.raises(UserError, match="--target: no held-out loss of 'x'"):
        by_regression(probes(), {"x": 1.0}, {}, FREE)


def test_each_left_out_error_is_that_of_a_choice_and_a_fit_without_the_run():
    shares = np.array([list(run.shares.values()) for run in probes()])
    losses = np.array([list(run.last.losses.values()) for run in probes(noise=0.05)])
    targets = np.full(3, 1 / 3)
    whole = fit(shares, losses, targets)
    for left_out in range(len(shares)):
        kept = np.arange(len(shares)) != left_out
        without = fit(shares[kept], losses[kept], targets)
        assert whole.left_out[left_out] == pytest.approx(without.predict(shares[left_out])[0], abs=1e-12)


@pytest.mark.parametrize(("ridge", "map_name"), [(0.1, "shares"), (1.0, "logarithms of shares")])
def test_the_leave_one_out_error_of_a_fit_is_that_of_fits_without_each_run(ridge, map_name):
    shares = np.array([list(run.shares.values()) for run in probes()])
    losses = np.array([list(run.last.losses.values()) for run in probes(noise=0.05)])
    whole = ridge_fit(shares, losses, map_name, ridge)
    for left_out in range(3):
        kept = np.arange(len(shares)) != left_out
        mapped = (np.log(shares + 0.01) if "log" in map_name else shares) - whole.mean
        x, y = (mapped / whole.scale)[kept], losses[kept]
        # The intercept is not penalised: centre on the runs that are kept
        centre = x.mean(0)
        slopes = np.linalg.solve(
            (x - centre).T @ (x - centre) + whole.ridge * np.eye(3), (x - centre).T @ (y - y.mean(0))
        )
        predicted = y.mean(0) + ((mapped / whole.scale)[left_out] - centre) @ slopes
        assert whole.left_out[left_out] == pytest.approx(predicted, abs=1e-6)


def test_runs_that_show_nothing_are_said_to():
    rng = np.random.default_rng(5)
    noise = [run_of(list(run.shares.values()), rng.standard_normal(3)) for run in probes(8)]
    with pytest.raises(RunError, match="do not tell mixtures apart: the cross-validated error is"):
        by_regression(noise, {}, {}, FREE)
    with pytest.raises(UserError, match="5 runs: a regression needs 6 or more"):
        by_regression(probes(5), {}, {}, FREE)
    longer = run_of([0.5, 0.3, 0.2], lossy([0.5, 0.3, 0.2]), steps=(200,))
    with pytest.raises(UserError, match="different steps \\(100, 200\\)"):
        by_regression([*probes(8), longer], {}, {}, FREE)
    with pytest.raises(RunError, match="the limits leave nothing of the shares that the runs have seen"):
        by_regression(probes(8), {}, {}, FREE | {"c": (0.99, 1.0)})


def test_noise_is_seldom_taken_for_a_relation():
    shares = [list(run.shares.values()) for run in probes(8)]
    num_taken = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        with contextlib.suppress(RunError):
            by_regression([run_of(row, rng.standard_normal(3)) for row in shares], {}, {}, FREE)
            num_taken += 1
    assert num_taken < 10


def test_a_source_without_held_out_losses_keeps_its_share():
    run, reference = run_of([0.5, 0.3, 0.2], [3.0, 2.0, 1.0]), run_of([0.5, 0.3, 0.2], [1.0, 2.0, 1.0])
    for point in run.held_out:
        del point.losses["c"]
    found = by_excess(run, reference, 1.0)
    assert found.shares["c"] == pytest.approx(0.2)
    assert sum(found.shares.values()) == pytest.approx(1)
    assert "c: has no held-out losses to compare: it keeps its share of 20.00%" in found.reasons


def test_a_large_eta_still_tells_sources_apart():
    run, reference = run_of([0.4, 0.3, 0.3], [3.0, 2.5, 1.0]), run_of([0.4, 0.3, 0.3], [1.0, 1.0, 1.0])
    assert by_excess(run, reference, 1e6).shares["a"] > 0.99


def test_rank_correlation_is_spearmans():
    assert rank_correlation(np.array([1.0, 2, 3]), np.array([2.0, 30, 31])) == pytest.approx(1)
    assert rank_correlation(np.array([1.0, 2, 3]), np.array([3.0, 2, 1])) == pytest.approx(-1)
    assert rank_correlation(np.array([1.0, 1]), np.array([3.0, 2])) == 0


# --- one run --------------------------------------------------------------------------------------------------------


def test_an_excess_over_a_reference_raises_a_share_as_in_doremi():
    run = run_of([0.1, 0.45, 0.45], [3.0, 2.0, 1.0])
    found = by_excess(run, run_of([1 / 3] * 3, [2.0, 1.9, 1.5]), eta=1.0)
    raised = np.exp([1.0, 0.1, 0.0])
    assert list(found.shares.values()) == pytest.approx((raised / raised.sum()).tolist(), abs=1e-3)
    assert "1.000 above the reference" in found.reasons[0]
    assert "no worse than the reference" in found.reasons[2]


def test_a_single_run_gives_more_to_what_still_falls():
    steps = (10, 20, 40, 80, 160)
    losses = [[3 - 0.4 * n, 3 - 0.1 * n, 3.0] for n in range(5)]
    run = run_of([0.2, 0.4, 0.4], losses, steps=steps, trained={"c": 2.0}, epochs={"c": 6.0})
    found = by_fall(run)
    assert list(found.shares.values()) == pytest.approx([0.8, 0.2, 0.0], abs=2e-3)
    assert found.reasons[0] == "a: falls by 0.400 per doubling of the tokens"
    assert "held out it is 1.000 above training after 6.0 epochs" in found.reasons[2]
    with pytest.raises(UserError, match="held-out losses at 2 steps, but 3 are needed"):
        by_fall(run_of([0.2, 0.4, 0.4], losses[:2], steps=steps[:2]))
    with pytest.raises(RunError, match="no held-out loss falls any more"):
        by_fall(run_of([0.2, 0.4, 0.4], losses[::-1], steps=steps))


# --- the commands ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def probed(corpus, tmp_path_factory) -> tuple[str, str, list[str]]:
    """Two real probes of the small corpus: the config, the folder, and the folders of the runs."""
    folder = tmp_path_factory.mktemp("probed")
    config = folder / "config.yaml"
    starved = {"interleaveds": 0.4, "pairs": 0.3, "groundeds": 0.01, "videos": 0.19, "texts": 0.1}
    config.write_text(yaml.safe_dump(changed(TREE, {"pretrain.mixture": {"phases": [{"weights": starved}]}})))
    out = str(folder / "probes")
    record = folder / "probes.json"
    done("probe", *probe_arguments(corpus, str(config), out), "--json", str(record))
    return str(config), out, [probe["run"] for probe in json.loads(record.read_text())["probes"]]


def probe_arguments(corpus: str, config: str, out: str) -> tuple[str, ...]:
    options = ("--runs", "2", "--steps", "8", "--max-share", "videos=0.3")
    return ("--corpus", corpus, "--config", config, "--out", out, *options)


@pytest.mark.nightly
@pytest.mark.slow
def test_probes_are_runs_with_other_weights(corpus, probed):
    config, out, runs = probed
    assert [Path(run).name for run in runs] == ["probe-00", "probe-01"]
    weights = [load_settings(MixtureFile, f"{run}.yaml").mixture.phases[0].weights for run in runs]
    assert weights[0] != weights[1]
    assert all(row.get("videos", 0) <= 0.3 for row in weights)
    logged = json.loads(Path(runs[1], "mixture.jsonl").read_text())
    assert logged["weights"] == weights[1]
    assert "probe-01.yaml sha256" in logged["reason"]
    before = [Path(run, "metrics.jsonl").stat().st_mtime_ns for run in runs]
    done("probe", *probe_arguments(corpus, config, out))  # finished ones are skipped
    assert [Path(run, "metrics.jsonl").stat().st_mtime_ns for run in runs] == before
    assert "of other probes" in mistake("probe", *probe_arguments(corpus, config, out), "--seed", "1")


@pytest.mark.nightly
@pytest.mark.slow
def test_one_run_becomes_weights_with_a_plot_and_reasons(corpus, probed, found, tmp_path):
    _, _, runs = probed
    one, out = ("suggest", "--corpus", corpus, "--run", runs[0]), str(tmp_path / "weights.yaml")
    record = found(*one, "--reference", runs[1], "--budget", "9k", "--min-share", "texts=0.2", "--out", out)
    (phase,) = load_settings(MixtureFile, out).mixture.phases
    assert phase.weights["texts"] >= 0.2
    assert phase.reason == "suggest: excess over a reference (DoReMi)"
    assert record["method"] == "excess over a reference (DoReMi)"
    assert record["runs"][0]["held_out"].keys() == set(small_corpus.WEIGHTS)
    assert Path(out).with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert all(f"# {line}" in Path(out).read_text() for line in record["reasons"])
    record = found(*one, "--plot", str(tmp_path / "fall.png"))
    assert record["method"] == "what held-out losses still fall"
    assert (tmp_path / "fall.png").exists()
    assert "limits leave" in failure(*one, "--max-epochs", "0.001")


@pytest.mark.nightly
@pytest.mark.slow
def test_several_runs_become_weights_by_regression(corpus, probed, found, tmp_path):
    config, _, runs = probed
    names = list(small_corpus.WEIGHTS)
    shares = probe_shares(dict.fromkeys(names, 0.2), dict.fromkeys(names, (0.0, 1.0)), 12, 1, 1.0)
    for number, row in enumerate(shares):
        shutil.copytree(runs[0], tmp_path / str(number))
        path = tmp_path / str(number) / "metrics.jsonl"
        last = json.loads(path.read_text().splitlines()[-1])
        last |= {f"tokens/{name}": round(1e6 * share) for name, share in row.items()}
        last |= {f"held_out_ce/{name}": 3 - 0.2 * np.log(share + 0.01) for name, share in row.items()}
        last |= {f"held_out_regression/{name}": 0.0 for name in names}
        path.write_text(json.dumps(last) + "\n")
    several = [argument for number in range(12) for argument in ("--run", str(tmp_path / str(number)))]
    arguments = ("suggest", "--corpus", corpus, "--config", config, *several, "--plot", str(tmp_path / "fit.png"))
    record = found(*arguments, "--out", str(tmp_path / "weights.yaml"))
    assert [source["share"] for source in record["sources"]] == pytest.approx([0.2] * 5, abs=0.06)
    assert record["error"] < 0.02
    assert record["predicted"]["groundeds"]["with"] < record["predicted"]["groundeds"]["before"] - 0.1
    assert (tmp_path / "fit.png").exists()


@pytest.mark.nightly
@pytest.mark.slow
def test_runs_that_cannot_be_used_are_told_in_one_line(corpus, probed, tmp_path):
    _, _, runs = probed
    several = [argument for run in runs for argument in ("--run", run)]
    assert "is for one --run" in mistake("suggest", "--corpus", corpus, *several, "--reference", runs[0])
    assert "2 runs: a regression needs 6" in mistake("suggest", "--corpus", corpus, *several)
    assert "not the folder of a run" in mistake("suggest", "--corpus", corpus, "--run", str(tmp_path))
    assert "probe: needs --config" in mistake("probe", "--corpus", corpus, "--out", "x", "--steps", "5")
    other = small_corpus.build(tmp_path / "other", kinds=("interleaved", "pair", "grounded", "text", "video"))
    assert "a run of another corpus" in mistake("suggest", "--corpus", other, "--run", runs[0])
    shutil.copytree(runs[0], tmp_path / "run")
    for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines():
        kept = {name: value for name, value in json.loads(line).items() if not name.startswith("held_out")}
        (tmp_path / "run" / "metrics.jsonl").write_text(json.dumps(kept) + "\n")
    assert "no held-out losses" in mistake("suggest", "--corpus", corpus, "--run", str(tmp_path / "run"))
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    assert "no checkpoint" in mistake("suggest", "--corpus", corpus, "--run", str(tmp_path / "run"))
