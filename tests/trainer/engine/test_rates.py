"""Tests of learning rates over a run that is made longer or shorter, or resumed with other settings."""

import pytest
from pydantic import ValidationError

from tests.trainer.conftest import RUN
from trainer.config import PretrainSettings, ScheduleSettings
from trainer.engine.rates import jump

LR = {"encoder": 1e-3, "language_model": 3e-3}


def settings(steps, *schedules, ends=()):
    """Return settings of a run with one stage per schedule; all but the last end at given steps."""
    stages = [
        {"step": step, "name": f"s{n}", "lr": LR, "schedule": schedule}
        for n, (step, schedule) in enumerate(zip((0, *ends), schedules, strict=True))
    ]
    return PretrainSettings.model_validate(RUN | {"steps": steps, "stages": stages})


def resumed(before, now, step):
    """Return what is said where a run saved at a step continues with other settings."""
    return jump(step, before.steps, before.rates(min(step, before.steps - 1)), now)


@pytest.mark.parametrize("shape", ["cosine", "linear"])
def test_a_finished_run_made_longer_says_how_far_its_rate_jumps(shape):
    line = resumed(settings(1000, {"decay": shape}), settings(1100, {"decay": shape}), 1000)
    assert line.startswith("the learning rate of encoder jumps at step 1000 from ")
    assert " times what it was: the run was to have 1000 steps, and its curve now runs over 1100. " in line
    assert line.endswith("set stages.0.schedule.steps to 1000")


def test_the_size_of_a_jump_is_right():
    before, now = settings(60, {"warmup": 0}), settings(120, {"warmup": 0})
    line = resumed(before, now, 50)
    ratio = now.rates(50)["encoder"] / before.rates(50)["encoder"]
    assert ratio > 9
    assert f"{ratio:.3g} times what it was" in line


def test_a_run_made_shorter_says_that_its_rate_falls():
    assert ", 1/" in resumed(settings(1000, {}), settings(501, {}), 500)


def test_a_kept_curve_continues_as_before_and_then_holds_its_last_rate():
    schedule = {"warmup": 5, "decay": "cosine"}
    before, now = settings(60, schedule), settings(120, schedule | {"steps": 60})
    assert [now.rates(step) for step in range(60)] == [before.rates(step) for step in range(60)]
    assert all(now.rates(step) == before.rates(59) for step in range(60, 120))
    assert before.rates(59)["encoder"] > 0
    for step in (3, 30, 59, 60):
        assert resumed(before, now, step) is None


def test_the_curve_of_a_later_stage_is_kept_by_its_own_steps():
    before = settings(100, {}, {"decay": "linear"}, ends=(40,))
    line = resumed(before, settings(200, {}, {"decay": "linear"}, ends=(40,)), 100)
    assert line.endswith("set stages.1.schedule.steps to 60")
    kept = settings(200, {}, {"decay": "linear", "steps": 60}, ends=(40,))
    assert [kept.rates(step) for step in range(100)] == [before.rates(step) for step in range(100)]
    assert resumed(before, kept, 100) is None


@pytest.mark.parametrize(
    ("before", "now", "step"),
    [
        (settings(100, {}), settings(100, {}), 37),
        (settings(100, {"warmup": 20}), settings(100, {"warmup": 20}), 1),
        (settings(100, {"decay": "constant", "warmup": 0}), settings(900, {"decay": "constant", "warmup": 0}), 100),
        (settings(100, {}), settings(100, {}), 100),
        (settings(40, {}), settings(100, {}, {}, ends=(40,)), 40),
        (settings(10_000, {}), settings(10_100, {}), 5000),
    ],
    ids=["unchanged", "warming up", "constant", "finished", "a stage begins", "hardly"],
)
def test_nothing_is_said_where_the_rate_does_not_jump(before, now, step):
    assert resumed(before, now, step) is None


def test_another_peak_is_said_without_advice_on_the_curve():
    other = PretrainSettings.model_validate(RUN | {"steps": 100, "stages": [{"lr": {"encoder": 5e-3}}]})
    line = resumed(settings(100, {}), other, 50)
    assert "5 times what it was: the settings of stage 'all' are other ones than before" in line


def test_checkpoints_of_older_versions_say_nothing():
    assert jump(50, None, {}, settings(100, {})) is None


def test_a_curve_of_no_steps_is_refused():
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        ScheduleSettings(steps=0)
