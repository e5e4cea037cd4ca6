"""Tests of a run's settings."""

import re

import pytest

from model.tokenizer import Tokenizer
from pipelines.errors import UserError
from pipelines.settings import load_settings
from pipelines.text.byte_level_bpe import train_bpe
from tests.model.tiny_language_models import tiny_settings
from tests.trainer.conftest import RUN, TREE, changed
from trainer.config import ModelSettings, PretrainSettings, ScheduleSettings, TrainConfig


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_bytes(train_bpe(["a red boat"], 259))
    return {"emu2": Tokenizer.load(path, "emu2")}


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


def test_a_language_model_by_its_folder_has_the_folders_sizes(tmp_path, tokenizers):
    folder = tmp_path / "mistral"
    tiny_settings("mistral", max_position_embeddings=4096).save_pretrained(folder)
    settings = ModelSettings(size="emu2-1b", changes={"language_model": {"path": str(folder)}})
    found = settings.resolve(tokenizers["emu2"]).language_model
    assert (found.width, found.layers, found.max_positions) == (32, 4, 4096)


@pytest.mark.parametrize(
    ("model_type", "changes", "message"),
    [
        ("mamba", {}, "language models of type 'mamba' are not supported: known to keep packed documents apart are"),
        ("mistral", {"max_positions": 4096}, "language_model.max_positions is 4096, but .*config.json has 128"),
        (None, {}, "not a folder with a language model's config.json"),
    ],
)
def test_a_language_model_that_would_be_computed_wrongly_is_refused(tmp_path, tokenizers, model_type, changes, message):
    if model_type is not None:
        tiny_settings(model_type).save_pretrained(tmp_path)
    settings = ModelSettings(size="debug", changes={"language_model": {"path": str(tmp_path), **changes}})
    with pytest.raises(UserError, match=f"model.changes: .*{message}") as error:
        settings.resolve(tokenizers["emu2"])
    assert "\n" not in str(error.value)
