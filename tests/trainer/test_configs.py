"""Tests of the configs that come with the trainer."""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch

from model.emu import Emu
from model.image_decoder import ImageDecoder
from model.video_decoder import VideoDecoder, is_temporal
from pipelines.settings import load_settings
from trainer.config import RunSettings, TrainConfig

CONFIGS = {path.stem: path for path in sorted(Path("trainer/configs").glob("*.yaml"))}


@cache
def load(name):
    return load_settings(TrainConfig, CONFIGS[name])


@dataclass
class Llama:
    """Sizes of LLaMA's vocabulary with a family's own tokens, in place of a tokenizer."""

    vocab_size: int
    base_vocab_size: int = 32000


def model(name):
    settings = load(name).model
    return settings.resolve(Llama(32004 if settings.family == "emu" else 32272))


def sections(name):
    config = load(name)
    found = (getattr(config, command) for command in TrainConfig.model_fields)
    return [section for section in found if isinstance(section, RunSettings)]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_is_valid_and_says_how_it_is_used(name):
    assert sections(name)
    text = CONFIGS[name].read_text()
    assert text.startswith("# ")
    header = text[: re.search(r"^[^#]", text, re.MULTILINE).start()]
    assert f"trainer/configs/{name}.yaml" in header or "make pretrain" in header
    for path in re.findall(r"\btrainer/[\w/]+\.\w+|\b\w+\.yaml", header):
        assert Path(path).exists() or path.removesuffix(".yaml") in CONFIGS, path


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_begins_with_a_model_that_another_leaves(name):
    config = load(name)
    weights = [*config.model.weights, *(config.decoder.weights if config.decoder else ())]
    for run in (match[1] for w in weights if (match := re.match(r"\./build/runs/(\w+)/model", w.path))):
        assert load(run).pretrain is not None
        before, after = model(run), model(name)
        assert before.language_model == after.language_model
        assert before.encoder.model_copy(update={"image_size": 0}) == after.encoder.model_copy(update={"image_size": 0})


@pytest.mark.parametrize(
    ("name", "gpus"),
    [
        ("emu_pretrain", 128),
        ("emu_decoder", 32),
        ("emu2_stage1", 128),
        ("emu2_stage1_448", 128),
        ("emu2_stage2", 128),
        ("emu2_decoder", 64),
        ("emu2_video_decoder", 32),
    ],
)
def test_a_step_can_be_shared_by_so_many_gpus(name, gpus):
    for section in sections(name):
        packs, rest = divmod(section.data.plan.global_batch_size, gpus)
        assert rest == 0
        assert packs % section.engine.micro_batch_size == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "billions"),
    [("emu_pretrain", 14.18), ("emu2_stage1", 36.91), ("emu2_stage2", 36.91), ("emu2_1b_h200", 1.16)],
)
def test_the_main_model_has_the_papers_size(name, billions):
    with torch.device("meta"):
        found = sum(p.numel() for p in Emu(model(name)).parameters())
    assert found / 1e9 == pytest.approx(billions, abs=0.02)


@pytest.mark.parametrize(("name", "width", "billions"), [("emu_decoder", 5120, 0.93), ("emu2_decoder", 1792, 2.5)])
def test_the_image_decoder_has_the_size_of_its_diffusion_model(name, width, billions):
    with torch.device("meta"):
        decoder = ImageDecoder.for_model(model(name))
    assert decoder.unet.config.cross_attention_dim == width
    assert sum(p.numel() for p in decoder.unet.parameters()) / 1e9 == pytest.approx(billions, abs=0.05)


@pytest.mark.slow
def test_the_video_decoder_is_stable_diffusion_2_1_with_layers_over_time():
    with torch.device("meta"):
        unet = VideoDecoder.for_model(model("emu2_video_decoder")).unet
    assert unet.config.cross_attention_dim == 1792
    spatial = {name: p.numel() for name, p in unet.named_parameters() if not is_temporal(name)}
    # Stable Diffusion 2.1 has 865.91 M; its 32 key and value projections read 1792 instead of 1024 channels.
    assert sum(spatial.values()) == pytest.approx(865_910_724 + 2 * (1792 - 1024) * 12_480, rel=1e-6)
    assert all(f"{name.removesuffix('.weight')}.temporal.weight" in dict(unet.named_parameters())
               for name, p in unet.named_parameters() if p.ndim == 4 and p.shape[-1] == 3)  # fmt: skip


def test_samples_seen_are_the_papers():
    """Computed from the average positions per sample that the comments of the configs give."""
    stage1 = load("emu2_stage1").pretrain
    weights = stage1.mixture.phases[0].weights
    pairs = weights["laion2b"] + weights["capsfusion"]
    samples = stage1.steps * stage1.data.plan.global_batch_size * 2048 / (95 * pairs + 550 * weights["webvid"])
    assert samples * pairs == pytest.approx(162e6, rel=0.05)
    assert samples * weights["webvid"] == pytest.approx(6.76e6, rel=0.05)

    stage2 = load("emu2_stage2").pretrain
    weights, places = stage2.mixture.phases[0].weights, stage2.steps * stage2.data.plan.global_batch_size * 2048
    pairs = sum(weights[name] for name in ("laion2b", "capsfusion", "capsfusion_grounded", "grit"))
    assert places * pairs / 100 == pytest.approx(160e6, rel=0.05)
    assert places * weights["pile"] == pytest.approx(3.7e9, rel=0.05)
    assert places * weights["grit"] / 100 == pytest.approx(20e6, rel=0.05)

    emu = load("emu_pretrain").pretrain
    assert emu.steps * emu.data.plan.global_batch_size * 2048 / 230 == pytest.approx(82e6, rel=0.05)


def test_learning_rates_are_the_papers():
    decoder = load("emu_decoder").decoder
    (stage,) = decoder.stages
    rates = [stage.lr["decoder"] * stage.schedule.factor(s, decoder.steps) for s in (4_999, 9_999, 10_000, 14_000)]
    assert rates == pytest.approx([1e-4, 1e-4, 5e-5, 1e-5])
    (stage,) = load("emu_pretrain").pretrain.stages
    assert stage.schedule.factor(1_999, 10_000) == 1.0
    assert stage.schedule.factor(9_999, 10_000) < 1e-6
    (stage,) = load("emu2_stage1").pretrain.stages
    assert stage.objective is not None
    assert not stage.objective.regression
    (stage,) = load("emu2_stage2").pretrain.stages
    assert set(stage.lr) == {"bridge", "language_model"}
