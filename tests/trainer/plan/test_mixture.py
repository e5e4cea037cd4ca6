import hashlib
import random

import numpy as np
import pytest
from pydantic import ValidationError

from pipelines import storage
from pipelines.errors import UserError
from trainer.plan.mixture import (
    MixtureSettings,
    Phase,
    PhaseStart,
    Scheduler,
    append_phase,
    cut_phases,
    integer_weights,
    load_phases,
    of_file,
    share_bound,
    share_error,
    without,
)

FIVE = [0.4, 0.25, 0.15, 0.12, 0.08]


def worst_prefix(sources: list[int], sizes: np.ndarray, weights: list[float]) -> float:
    """Return the largest distance of any source from its share after any sample, computed independently in floats."""
    shares = np.array(weights) / sum(weights)
    taken = np.zeros((len(sources), len(weights)))
    taken[np.arange(len(sources)), sources] = sizes
    return float(np.abs(taken.cumsum(0) - np.outer(sizes.cumsum(), shares)).max())


def random_weights(rng: random.Random, n: int) -> list[float]:
    return [round(rng.random() ** 3 + 1e-4, 6) for _ in range(n)]


@pytest.mark.slow
def test_a_million_samples_stay_within_tijdemans_bound():
    sources = Scheduler(FIVE, "samples").draw(1_000_000)
    assert worst_prefix(sources, np.ones(len(sources)), FIVE) <= share_bound(FIVE) + 1e-6


@pytest.mark.parametrize("n", [2, 3, 5, 8, 17, 64])
def test_any_weights_stay_within_the_bound(n):
    rng = random.Random(n)
    for _ in range(10):
        weights = random_weights(rng, n)
        scheduler = Scheduler(weights, "samples")
        sources = scheduler.draw(20_000)
        assert worst_prefix(sources, np.ones(len(sources)), weights) <= share_bound(weights) + 1e-6
        assert share_error(weights, scheduler.units) <= share_bound(weights)


def test_any_window_is_less_than_two_samples_off():
    sources = np.array(Scheduler(FIVE, "samples").draw(100_000))
    counts = np.eye(5)[sources].cumsum(0)
    for width in (7, 64, 1024):
        off = counts[width:] - counts[:-width] - width * np.array(FIVE)
        assert np.abs(off).max() < 2


@pytest.mark.slow
def test_tokens_stay_within_the_longest_sample():
    rng = random.Random(1)
    draw = {
        "equal": lambda: 100,
        "even": lambda: rng.randint(1, 1000),
        "long tail": lambda: 1 + int(min(rng.lognormvariate(4, 1.5), 20_000)),
        "rarely huge": lambda: rng.choice([5, 5, 5, 5000]),
    }
    for _ in range(150):
        n = rng.randint(2, 24)
        weights = random_weights(rng, n)
        lengths = [[draw[kind]() for _ in range(2001)] for kind in rng.choices(list(draw), k=n)]
        num = rng.randint(10, 2000)  # a run may end after any sample
        scheduler = Scheduler(weights, "tokens")
        sources = scheduler.draw(num, lambda s, i: lengths[s][i])  # noqa: B023
        seen = [0] * n
        sizes = []
        for source in sources:
            sizes.append(lengths[source][seen[source]])
            seen[source] += 1
        assert worst_prefix(sources, np.array(sizes, float), weights) <= max(sizes) + 1e-6
        assert scheduler.longest == max(sizes)
        assert sum(scheduler.units) == sum(sizes)


@pytest.mark.parametrize("unit", ["samples", "tokens"])
def test_drawing_continues_after_what_was_drawn(unit):
    rng = random.Random(2)
    lengths = [[rng.randint(1, 3000) for _ in range(5000)] for _ in FIVE]
    whole = Scheduler(FIVE, unit).draw(3000, lambda s, i: lengths[s][i])
    drawn, seen, units, longest = [], [0] * 5, None, 0
    while len(drawn) < 3000:
        scheduler = Scheduler(FIVE, unit, units, longest)
        part = scheduler.draw(min(rng.randint(1, 50), 3000 - len(drawn)), lambda s, i: lengths[s][seen[s] + i])
        for source in part:
            seen[source] += 1
        drawn += part
        units, longest = scheduler.units, scheduler.longest
    assert drawn == whole


def test_one_source_and_sources_of_no_weight():
    assert Scheduler([1.0], "samples").draw(4) == [0] * 4
    scheduler = Scheduler([0, 3, 0], "tokens")
    assert scheduler.draw(3, lambda s, i: 10 + i) == [1] * 3
    assert (scheduler.units, scheduler.longest) == ([0, 33, 0], 12)
    assert set(Scheduler([0.5, 0, 0.5], "samples").draw(100)) == {0, 2}
    with pytest.raises(ValueError, match="all weights are 0"):
        Scheduler([0.0, 0.0], "samples")


def test_weights_are_taken_as_written():
    assert integer_weights([0.1, 0.2, 0.7]) == [1, 2, 7]
    assert integer_weights([0.333333, 0.666667]) == [333333, 666667]
    assert integer_weights([1e-05, 1]) == [1, 100_000]


def test_bad_mixtures_are_refused():
    with pytest.raises(ValidationError, match=r"sum to 0\.9, not to 1; in the same ratio: a: 0\.5556, b: 0\.4444"):
        Phase(weights={"a": 0.5, "b": 0.4})
    with pytest.raises(ValidationError, match="weight of a is -1"):
        Phase(weights={"a": -1, "b": 2})
    with pytest.raises(ValidationError, match=r"increasing steps, the first at 0, not at \[0, 5, 5\]"):
        MixtureSettings(phases=tuple(Phase(step=s, weights={"a": 1}) for s in (0, 5, 5)))


def test_the_log_is_appended_to_and_cut_back(tmp_path):
    path = str(tmp_path / "mixture.jsonl")
    rows = [PhaseStart(s, 10 * s, {"a": 1.0}, "samples", "config") for s in (0, 5, 9)]
    assert load_phases(path) == []
    for row in [rows[0], rows[0], *rows[1:], rows[2]]:
        append_phase(path, row)
    assert load_phases(path) == rows
    cut_phases(path, 9)  # from the checkpoint after step 8
    assert load_phases(path) == rows[:2]
    storage.write_bytes(path, b'{"step": 0}\n')
    with pytest.raises(UserError, match=r"mixture\.jsonl:1: not a row of a mixture"):
        load_phases(path)


def test_phases_are_equal_when_their_shares_are():
    start = PhaseStart(3, 17, {"a": 0.5, "b": 0.5}, "tokens", "online")
    assert start.equals(Phase(weights={"b": 0.5, "a": 0.5, "c": 0.0}, unit="tokens"))
    assert not start.equals(Phase(weights={"b": 0.5, "a": 0.5}))
    assert not start.equals(Phase(weights={"b": 0.4, "a": 0.6}, unit="tokens"))


def test_a_reason_names_each_ended_source_once_and_stays_short():
    names = [f"source-{n:03d}-{'x' * 50}" for n in range(200)]
    phase, before, ended, named = Phase(weights=dict.fromkeys(names, 1 / 200)), None, [], []
    for batch in (names[:1], names[1:3], names[3:100], names[100:199]):
        ended += batch
        left = without(phase, ended, before)
        before = PhaseStart(0, 0, {n: w for n, w in left.weights.items() if w}, "samples", left.reason)
        assert len(before.reason) < 300
        named += [name for name in names if name in before.reason]
        assert set(before.weights) == set(names) - set(ended)
    assert named == [*names[:6], *names[100:103]]
    assert before.reason.endswith(f"{names[102]} and 96 more; 100 ended before")
    assert without(phase, ended, before).reason == "config; 199 ended before"
    assert without(phase, (), before) is phase


def test_a_file_of_weights_is_named_in_the_reasons_of_its_phases(tmp_path):
    path = tmp_path / ("long" * 40) / "weights.yaml"
    path.parent.mkdir()
    path.write_text(f"mixture: {{phases: [{{weights: {{a: 1.0}}, reason: {'because ' * 20}}}]}}\n")
    (phase,) = of_file(str(path)).phases
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    assert phase.reason.endswith(f"/weights.yaml sha256 {digest}")
    assert phase.reason.startswith("because because")
    assert len(phase.reason) == 200, "every checkpoint holds it"
