"""Tests of imported releases in the trainer: generate, evaluate, tune and decoder continue from their folders."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from PIL import Image

from model.config import LoraConfig, named_size
from model.emu import Emu
from model.image_decoder import ImageDecoder
from model.lora import add_adapters
from model.release.importing import import_release
from model.tokenizer import Tokenizer
from model.weights import export, load_emu, with_decoder
from pipelines.shards.token_sidecar import tokens_folder
from tests.trainer.conftest import RUN, changed
from tests.trainer.ranks import ALONE, in_ranks
from tests.trainer.trial_runs import run
from trainer.__main__ import commands
from trainer.config import EvaluateSettings, ModelSettings, TrainConfig
from trainer.evaluation.evaluate import evaluate
from trainer.loop import FINISHED
from trainer.reading.corpus import TrainingCorpus
from trainer.tasks.tune import TuneTask

TUNE = changed(
    RUN,
    {
        "steps": 2,
        "mixture.phases": [{"weights": {"pairs": 1.0}}],
        "data.plan": {"seq_len": 192, "global_batch_size": 4, "packing_buffer_size": 16, "seed": 3},
        "stages": [{"lr": {"bridge": 3e-3, "language_model": 3e-3}}],
        "template": {"system": "Answer."},
    },
)
EVALUATE = EvaluateSettings(captions=2, images=2, continuations=2, max_new_tokens=4, batch=2, judge_steps=2)


def tokenizer_of(corpus: str) -> str:
    return tokens_folder(corpus, TrainingCorpus.open(corpus).tokens.name)


def released(folder: Path, corpus: str, layout: Any, *, chat: bool = False) -> Path:
    """A release's file for the corpus's tokenizer, in the debug size."""
    family = "emu" if layout in ("emu", "emu-i") else "emu2"
    size = "debug-emu" if family == "emu" else "debug"
    torch.manual_seed(0)
    model: torch.nn.Module = Emu(
        ModelSettings(size=size).resolve(Tokenizer.load(tokenizer_of(corpus), family, chat=chat))
    )
    if layout == "emu-i":
        add_adapters(model.get_submodule("language_model"), LoraConfig())
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.02)
    if layout == "emu2-gen":
        model = with_decoder(model, ImageDecoder.for_model(named_size(size)))
    torch.save(export(model, layout), folder / "release.pt")
    return folder / "release.pt"


def imported(folder: Path, corpus: str, layout: Any, *, chat: bool = False, decoder: bool = False) -> Path:
    """The folder of an imported release."""
    path, pipeline = released(folder, corpus, layout, chat=chat), folder / "pipeline"
    size = "debug-emu" if layout in ("emu", "emu-i") else "debug"
    decoder = decoder and layout != "emu2-gen"  # which has its own
    if decoder:
        drawer = ImageDecoder.for_model(named_size(size))
        drawer.unet.save_pretrained(pipeline / "unet")
        drawer.autoencoder.save_pretrained(pipeline / "vae")
    out = folder / "run"
    named = {"tokenizer": tokenizer_of(corpus), "decoder": pipeline if decoder else None, "size": size}
    import_release(layout, path, out, **named)
    return out


def generated(out: Path, *options: str) -> list[dict[str, Any]]:
    result = CliRunner().invoke(commands, ["generate", "--out", str(out), "--max-new-tokens", "4", *options])
    assert result.exit_code == 0, (result.output, result.exception)
    return [json.loads(line) for line in (out / "generated/generated.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["emu", "emu2", "emu2-gen"])
def test_a_pretrained_release_writes_and_draws(training_corpus: str, tmp_path: Path, layout: str):
    out = imported(tmp_path, training_corpus, layout, decoder=True)
    if layout != "emu2-gen":  # which only draws
        assert len(generated(out, "--prompt", "a dock")) == 1
    (row,) = generated(out, "--prompt", "a dock", "--want", "image")
    assert Image.open(out / "generated" / row["images"][0]).size == (16, 16)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["emu", "emu2", "emu2-gen"])
def test_a_release_with_a_decoder_is_evaluated(training_corpus: str, tmp_path: Path, layout: str):
    out = imported(tmp_path, training_corpus, layout, decoder=True)
    size = "debug-emu" if layout == "emu" else "debug"
    tune = changed(TUNE, {"template.form": "generation"})
    tree = {"model": {"size": size}, "pretrain": RUN, "tune": tune, "evaluate": EVALUATE.model_dump()}
    figures = evaluate(TrainConfig.model_validate(tree), training_corpus, str(out))
    assert ("ce_right_picture" in figures) == (layout != "emu2-gen")  # tuned to generate images
    assert all(np.isfinite(value) for value in figures.values())
    assert (out / "samples" / "images.png").exists()


@pytest.mark.parametrize(("layout", "form"), [("emu-i", "emu"), ("emu2", "chat")])
def test_a_chat_release_answers_and_is_evaluated(training_corpus: str, tmp_path: Path, layout: str, form: str):
    out = imported(tmp_path, training_corpus, layout, chat=True)
    assert json.loads((out / "model/template.json").read_text())["form"] == form
    assert len(generated(out, "--prompt", "What is it?")) == 1
    size = "debug-emu" if layout == "emu-i" else "debug"
    config = TrainConfig.model_validate({"model": {"size": size}, "tune": TUNE, "evaluate": EVALUATE.model_dump()})
    figures = evaluate(config, training_corpus, str(out))
    assert {"ce_right_picture", "ce_shuffled_picture"} <= figures.keys()
    assert not any(name.startswith(("next_", "retrieval")) for name in figures)
    assert {path.name for path in (out / "samples").iterdir()} == {"captions.png", "contact_sheet.png"}


@pytest.mark.parametrize("layout", ["emu-i", "emu2"])
@pytest.mark.parametrize("from_file", [False, True])
def test_tuning_continues_from_a_chat_release(training_corpus: str, tmp_path: Path, layout: str, from_file: bool):
    size, form = ("debug-emu", "emu") if layout == "emu-i" else ("debug", "chat")
    changes: dict[str, Any] = {"template.form": form}
    if from_file:
        path = released(tmp_path, training_corpus, layout, chat=True)
        changes["weights"] = [{"path": str(path), "layout": layout}]
        out = tmp_path / "other"
    else:
        out = imported(tmp_path, training_corpus, layout, chat=True)
    config = TrainConfig.model_validate({"model": {"size": size}, "tune": changed(TUNE, changes)})
    task = TuneTask(config.model, config.tune, training_corpus, str(out), ALONE)
    assert task.data.layout.config.separate_across_images == from_file
    model = task.build()
    if not from_file:
        expected = load_emu(out / "model").state_dict()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
    chat = Tokenizer.load(tokenizer_of(training_corpus), config.model.family, chat=True)
    assert model.language_model.get_input_embeddings().weight.shape[0] == chat.vocab_size == model.config.vocab_size
    task.export(model.state_dict(), str(tmp_path / "tuned"))
    carried = tmp_path / "tuned" / "generation.json"
    assert carried.exists() != from_file  # a release's file says nothing about how its authors generate
    assert from_file or carried.read_bytes() == (out / "model" / "generation.json").read_bytes()
    layout = json.loads((tmp_path / "tuned" / "layout.json").read_text())
    assert layout["separate_across_images"] == from_file


@pytest.mark.slow
def test_tune_and_decoder_train_on_from_an_imported_run(training_corpus: str, tmp_path: Path):
    out = imported(tmp_path, training_corpus, "emu2", chat=True, decoder=True)
    plan = {"seq_len": 1, "global_batch_size": 4, "packing_buffer_size": 32}
    decoder = RUN | {
        "steps": 2,
        "data": {"plan": plan, "reader": {"num_threads": 0}},
        "mixture": {"phases": [{"weights": {"pairs": 1.0}}]},
        "stages": [{"lr": {"decoder": 1e-3}}],
        "weights": [{"path": "decoder/model"}],
    }
    tree = {"model": {"size": "debug"}, "tune": TUNE, "decoder": decoder}
    config = TrainConfig.model_validate(tree)
    for command in ("tune", "decoder"):
        assert in_ranks(1, run, command, config, training_corpus, out) == [FINISHED]
        resolved = yaml.safe_load((out / command / "config.resolved.yaml").read_text())
        assert resolved[command]["data"]["layout"]["separate_across_images"] is False
    assert len(generated(out / "tune", "--config", str(_config_file(tmp_path)), "--prompt", "What is it?")) == 1


def _config_file(folder: Path) -> Path:
    path = folder / "config.yaml"
    path.write_text("model: {size: debug}\n")
    return path
