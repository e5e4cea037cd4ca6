"""Tests of the warning when few of the latest requests succeed."""

from pathlib import Path

import pytest

from pipelines.drop_reasons import FETCHED, Outcome, http_reason
from pipelines.errors import RunError
from pipelines.web.success_alarm import AlarmSettings, SuccessAlarm

BAD, GONE = http_reason(503), http_reason(404)


def warnings(folder: Path) -> list[str]:
    return [path.read_text() for path in folder.glob("*")]


def alarm(folder: Path, *outcomes: Outcome, **settings: object) -> SuccessAlarm:
    made = SuccessAlarm(AlarmSettings.model_validate({"window": 10, **settings}), str(folder))
    for outcome in outcomes:
        made.count_outcome(outcome)
    return made


def test_a_share_below_the_limit_warns_once_with_its_reasons(tmp_path: Path):
    alarm(tmp_path, *[FETCHED] * 4, *["timeout"] * 2, *[BAD] * 4)
    assert warnings(tmp_path) == ["40% of a worker's last 10 requests succeeded (http_503 4, timeout 2)"]


@pytest.mark.parametrize(
    "outcomes",
    [
        [FETCHED] * 5 + [BAD] * 5,  # as many as must succeed
        [BAD] * 9,  # fewer than the window
        [FETCHED] * 5 + ["robots_disallowed", "taken_down", "corrupt_image", "host_error_budget"] * 9,  # not sent
    ],
)
def test_else_nothing_is_said(tmp_path: Path, outcomes: list[Outcome]):
    alarm(tmp_path, *outcomes)
    assert warnings(tmp_path) == []


def test_after_a_recovery_it_warns_again(tmp_path: Path):
    made = alarm(tmp_path, *[GONE] * 10)
    for outcome in [*[FETCHED] * 5, *[GONE] * 5]:  # not enough for a recovery
        made.count_outcome(outcome)
    assert len(warnings(tmp_path)) == 1
    for outcome in [*[FETCHED] * 10, *[GONE] * 6]:
        made.count_outcome(outcome)
    assert sorted(text[:3] for text in warnings(tmp_path)) == ["0% ", "40%"]


def test_only_where_it_is_asked_for_the_run_ends(tmp_path: Path):
    alarm(tmp_path, *[BAD] * 10).check()
    stopping = alarm(tmp_path, *[BAD] * 9, stops=True)
    stopping.check()
    stopping.count_outcome(BAD)
    with pytest.raises(RunError, match=r"0% of .*http_503 10\): stopped by http.alarm.stops; rerun to continue"):
        stopping.check()


def test_null_is_no_alarm(tmp_path: Path):
    made = SuccessAlarm(None, str(tmp_path))
    for _ in range(2_000):
        made.count_outcome(BAD)
    made.check()
    assert warnings(tmp_path) == []
