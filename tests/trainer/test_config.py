"""Tests of a run's settings."""

import re

import pytest

from pipelines.errors import UserError
from pipelines.settings import load_settings
from tests.trainer.conftest import RUN, TREE, changed
from trainer.config import PretrainSettings, ScheduleSettings, TrainConfig


def test_a_cosine_rises_then_falls_to_its_end():
    schedule = ScheduleSettings(warmup=0.1, final=0.1)
    factors = [schedule.factor(step, 100) for step in range(100)]
    assert factors[:3] == pytest.approx([0.1, 0.2, 0.3])
    assert factors[9:11] == pytest.approx([1.0, 1.0])
    assert factors[55] == pytest.approx(0.55, abs=0.02)
    assert factors[99] == pytest.approx(0.1, abs=0.01)
    assert factors[10:] == sorted(factors[10:], reverse=True)


def test_a_log_warmup_rises_fast_at_first():
    schedule = ScheduleSettings(warmup=10, warmup_shape="log", decay="linear")
    factors = [schedule.factor(step, 30) for step in range(30)]
    assert factors[4] > 0.8
    assert factors[9] == pytest.approx(1.0)
    assert factors[20] == pytest.approx(0.5)


def test_drops_hold_from_their_step_on():
    schedule = ScheduleSettings(warmup=5, drops={10: 0.5, 14: 0.1})
    assert [schedule.factor(step, 15) for step in (5, 9, 10, 13, 14)] == [1.0, 1.0, 0.5, 0.5, 0.1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages": [{"step": 3, "lr": {"bridge": 1e-3}}]}, "stages must begin at rising steps, the first at 0"),
        ({"stages": [{"lr": {}}]}, "name the modules that are trained"),
        ({"stages": [{"lr": {"bridge": 0}}]}, "with a learning rate above 0"),
        ({"engine.micro_batch_size": 3}, "not a multiple of engine.micro_batch_size 3"),
        ({"engine.keep_features": True}, "the encoder is trained to the end, so its features change"),
        ({"stages": [{"lr": {"brigde": 1e-3}}]}, "no module 'brigde': its modules are encoder, bridge"),
        ({"mixture.phases": [{"weights": {"a": 0.5}}]}, "the weights sum to 0.5, not to 1"),
    ],
)
def test_a_mistake_says_what_would_be_right(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        PretrainSettings.model_validate(changed(RUN, changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.size": "dbug"}, "model size 'dbug' is unknown"),
        ({"model.changes": {"encoder": {"widht": 3}}}, "encoder.widht"),
    ],
)
def test_a_model_that_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        TrainConfig.model_validate(changed(TREE, changes))


def test_an_unknown_key_is_answered_with_the_nearest(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(
        "pretrain:\n  steps: 3\n  engine:\n    zero_stgae: 1\n  mixture: {phases: [{weights: {a: 1}}]}\n"
        "  stages: [{lr: {bridge: 1}}]\n"
    )
    with pytest.raises(
        UserError, match=r"run\.yaml:4: pretrain\.engine\.zero_stgae: unknown key\. Did you mean 'zero_stage'\?"
    ):
        load_settings(TrainConfig, path)


@pytest.mark.parametrize("name", ["debug"])
def test_the_configs_are_valid(name):
    load_settings(TrainConfig, f"trainer/configs/{name}.yaml")
