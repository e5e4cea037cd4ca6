import pytest

from tests.trainer.test_plan import FIRST, SETTINGS, SOURCES, plan
from trainer.mixture import Phase
from trainer.plan import Plan
from trainer.plan_report import report_plan


def test_a_report_counts_what_the_plan_does():
    report = report_plan(plan(), 60)
    state = next(step.state for step in plan() if step.number == 59)
    assert [s.samples for s in report.sources] == pytest.approx(state.drawn, abs=3)
    assert report.tokens == pytest.approx(60 * 8 * 256, rel=0.05)
    assert 0.95 < report.fill < 1
    assert len(report.phases) == 3
    pages = report.sources[2]
    assert pages.dry_at is not None
    assert pages.passes > 1
    assert "from step 10 by tokens: books 0.1, pages 0.9" in str(report)


def test_what_is_not_planned_goes_on_at_the_same_pace():
    short = report_plan(Plan(SOURCES, SETTINGS, [Phase(weights=FIRST)], "f"), 400, max_planned=100)
    whole = report_plan(Plan(SOURCES, SETTINGS, [Phase(weights=FIRST)], "f"), 400)
    assert short.num_planned == 100
    for a, b in zip(short.sources, whole.sources, strict=True):
        assert a.samples == pytest.approx(b.samples, rel=0.1)
        assert a.dry_at == pytest.approx(b.dry_at, rel=0.2)
    assert "the rest goes on at their pace" in str(short)


def test_an_exhausted_source_is_told():
    assert "pages is exhausted" in str(report_plan(plan(max_passes={"pages": 1}), 60))
    report = report_plan(plan(max_passes={"pages": 30}), 100_000, max_planned=20)
    assert "mixture.max_passes allows 30" in str(report)
