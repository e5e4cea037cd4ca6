"""Tests of the forecast of a mixture."""

import re

import pytest

from pipelines.errors import UserError
from trainer.engine.metrics import Totals
from trainer.evaluation.forecast import describe, forecast
from trainer.plan.steps import Costs
from trainer.tasks.data import TrainingData

TEXTS = {"weights": {"texts": 0.3, "pairs": 0.7}, "unit": "tokens"}


def opened(corpus, config):
    return TrainingData.open(corpus, config.model, config.pretrain)


def totals(data, begin, end):
    """Return the totals of the plan's steps from `begin` to `end`."""
    steps = [step for step, _ in zip(data.plan(Costs()), range(end), strict=False)][begin:]
    return sum((Totals.of(step, len(data.sources)) for step in steps), Totals())


def test_a_forecast_is_what_the_plan_then_does(training_corpus, config):
    data = opened(training_corpus, config(steps=24))
    (phase,) = forecast(data)
    total = totals(data, 0, 24)
    assert sum(phase.samples) * 24 == pytest.approx(total.samples, rel=0.05)
    assert sum(phase.tokens) * 24 == pytest.approx(total.tokens, rel=0.05)
    assert sum(phase.images) * 24 == pytest.approx(total.images, rel=0.05)
    assert phase.fill > 0.8


def test_each_phase_has_a_forecast_of_its_own(training_corpus, config):
    phases = [*config().pretrain.mixture.model_dump()["phases"], {"step": 16, **TEXTS}]
    data = opened(training_corpus, config(steps=40, **{"mixture.phases": phases}))
    first, second = forecast(data)
    assert (first.first, first.num_steps, second.first, second.num_steps) == (0, 16, 16, 24)
    found = [tokens for _, tokens, _ in totals(data, 16, 40).by_source]
    assert [tokens * 24 for tokens in second.tokens] == pytest.approx(found, abs=0.05 * sum(found))
    text = describe(data, [first, second])
    assert "steps 0 to 15: per step" in text
    assert "steps 16 to 39: per step" in text


def test_steps_beyond_the_planned_ones_are_assumed_alike(training_corpus, config):
    data = opened(training_corpus, config(steps=400))
    (phase,) = forecast(data)
    total = totals(data, 0, 400)
    assert [samples * 400 for samples in phase.samples] == pytest.approx([s for s, *_ in total.by_source], rel=0.1)


def test_a_source_that_runs_dry_is_named_with_the_step(training_corpus, config):
    data = opened(training_corpus, config(steps=200, **{"mixture.max_epochs": {"pairs": 2}}))
    text = describe(data, forecast(data))
    assert "first epoch ends at about step" in text
    (said,) = re.findall(r"exhausted at about step ([\d,]+): mixture.max_epochs is 2", text)
    trained = 0
    with pytest.raises(UserError, match="pairs is exhausted"):
        for step in data.plan(Costs()):
            trained = step.number
    assert int(said.replace(",", "")) == pytest.approx(trained, abs=8)  # whole packing buffers are planned


def test_samples_that_are_left_out_are_counted(training_corpus, config):
    data = opened(training_corpus, config())
    names = {source.name for source in data.sources if source.refused}
    assert {line.partition(":")[0] for line in describe(data, []).splitlines()} == names
