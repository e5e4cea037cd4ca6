"""Tests of what is said of a mixture before it runs."""

import pytest

from trainer.data import TrainingData
from trainer.forecast import describe, forecast
from trainer.metrics import Totals
from trainer.plan_state import Costs


def test_a_forecast_is_what_the_plan_then_does(training_corpus, config):
    chosen = config(steps=24)
    data = TrainingData.open(training_corpus, chosen.model, chosen.pretrain)
    (phase,) = forecast(data)
    steps = [step for step, _ in zip(data.plan(Costs()), range(24), strict=False)]
    total = sum((Totals.of(step, len(data.sources)) for step in steps), Totals())
    assert sum(phase.samples) * 24 == pytest.approx(total.samples, rel=0.05)
    assert sum(phase.tokens) * 24 == pytest.approx(total.tokens, rel=0.05)
    assert phase.fill > 0.8


def test_a_source_that_runs_dry_is_named(training_corpus, config):
    chosen = config(steps=200, **{"mixture.max_passes": {"pairs": 2}})
    data = TrainingData.open(training_corpus, chosen.model, chosen.pretrain)
    text = describe(data, forecast(data))
    assert "runs dry at about step" in text
    assert "first seen whole at about step" in text
