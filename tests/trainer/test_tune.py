"""Tests of tuning: what is learned, what is left alone, and what is written."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from model.emu import Emu
from model.tokenizer import Tokenizer
from model.weights import load_emu, save_emu
from pipelines.token_sidecar import tokens_folder
from tests.trainer.conftest import RUN, changed, run_findings
from tests.trainer.ranks import in_ranks
from trainer import runs
from trainer.config import TrainConfig
from trainer.corpus import TrainingCorpus
from trainer.metrics import read_metrics
from trainer.training import FINISHED
from trainer.tune import TuneTask, add_chat_tokens

LORA = {"rank": 4, "alpha": 8, "dropout": 0.0}
TUNE = changed(
    RUN,
    {
        "steps": 4,
        "mixture.phases": [{"weights": {"pairs": 0.6, "groundeds": 0.4}}],
        "data.plan": {"length": 192, "packs_per_step": 4, "stretch_packs": 16, "seed": 3},
        "stages": [{"lr": {"bridge": 3e-3, "language_model": 3e-3}}],
        "template": {"system": "Answer."},
    },
)


def tuning(size="debug", **changes) -> TrainConfig:
    return TrainConfig.model_validate({"model": {"size": size}, "tune": changed(TUNE, changes)})


def pretrained(config, corpus, out):
    """A model that `pretrain` might have left, and its tokenizer."""
    opened = TrainingCorpus.open(corpus)
    tokenizer = Tokenizer.load(tokens_folder(corpus, opened.tokens.name), config.model.family)
    torch.manual_seed(0)
    model = Emu(config.model.resolve(tokenizer))
    save_emu(model, out / "model")
    return model, tokenizer


def task_of(config, corpus, out):
    return TuneTask(config.model, config.tune, corpus, str(out))


def first_batch(task):
    reader = task.data.reader()
    step = next(iter(task.data.plan(task.costs())))
    return task.collate([[reader.read(piece, 0) for piece in pack] for pack in step.of_rank(0, 2)])


def run(world, config, corpus, out):
    return runs.run("tune", config, corpus, str(out), world)


@pytest.mark.parametrize(
    ("size", "changes", "objectives", "part"),
    [
        ("debug", {"template.form": "chat"}, [True, False], 0.6),
        ("debug-emu", {"template.form": "emu", "lora": LORA}, [True, False], 0.97),  # what random weights leave to it
        ("debug", {"template.form": "generation"}, [False, True], 0.6),
    ],
)
def test_one_batch_is_learned_by_its_own_objective(training_corpus, tmp_path, size, changes, objectives, part):
    config = tuning(size, **changes)
    pretrained(config, training_corpus, tmp_path)
    task = task_of(config, training_corpus, tmp_path)
    module, batch = task.build().train(), first_batch(task)
    assert [len(sources) > 0 for sources in batch.sources] == objectives
    module.encoder.requires_grad_(False)
    rate = 3e-2 if "lora" in changes else 1e-2
    optimizer = torch.optim.Adam([p for p in module.parameters() if p.requires_grad], lr=rate)
    losses = []
    for _ in range(25):
        found = batch.losses(module, None)
        losses.append(float(found.loss.detach()))
        optimizer.zero_grad()
        found.loss.backward()
        optimizer.step()
    assert losses[-1] < part * losses[0]


def test_the_two_sides_begin_as_their_words(training_corpus, tmp_path):
    config = tuning()
    before, tokenizer = pretrained(config, training_corpus, tmp_path)
    old = before.language_model.get_input_embeddings().weight
    chat = Tokenizer(tokenizer.base, tokenizer.family, chat=True)
    model = load_emu(tmp_path / "model")
    add_chat_tokens(model, tokenizer, chat)
    new = model.language_model.get_input_embeddings().weight
    assert new.shape[0] == old.shape[0] + 2
    assert torch.equal(new[: tokenizer.base_vocab_size], old[: tokenizer.base_vocab_size])
    assert torch.equal(new[chat.ids["[IMG]"]], old[tokenizer.ids["[IMG]"]])
    torch.testing.assert_close(new[chat.ids["[USER]"]], old[tokenizer.encode("user")].mean(0))


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_adapters_are_tuned_and_the_base_is_left_alone(training_corpus, tmp_path, zero_stage):
    lr = {"language_model": 1e-2}
    config = tuning(**{"lora": LORA, "stages": [{"lr": lr}], "engine.zero_stage": zero_stage})
    base, tokenizer = pretrained(config, training_corpus, tmp_path)
    assert in_ranks(1, run, config, training_corpus, tmp_path) == [FINISHED]
    assert run_findings(str(tmp_path / "tune"), training_corpus) == []
    tuned = load_emu(tmp_path / "tune" / "model").state_dict()
    adapters = load_file(tmp_path / "tune" / "model" / "adapter" / "adapter_model.safetensors")
    record = json.loads((tmp_path / "tune" / "model" / "adapter" / "adapter_config.json").read_text())
    for name, tensor in base.state_dict().items():
        if name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight", "o_proj.weight")) and "language" in name:
            at = name.replace("language_model.", "base_model.model.").removesuffix(".weight")
            added = adapters[f"{at}.lora_B.weight"] @ adapters[f"{at}.lora_A.weight"]
            assert float(added.abs().max()) > 0
            torch.testing.assert_close(tuned[name], tensor + record["lora_alpha"] / record["r"] * added)
        elif tensor.shape == tuned[name].shape:
            assert torch.equal(tuned[name], tensor)
        else:
            assert torch.equal(tuned[name][: tokenizer.vocab_size], tensor)


def test_a_tuned_run_leaves_what_it_promises(training_corpus, tmp_path):
    config = tuning(**{"held_out.every": 4, "template.instructions": ["What is it?", "Say what you see."]})
    pretrained(config, training_corpus, tmp_path)
    assert in_ranks(2, run, config, training_corpus, tmp_path) == [FINISHED, FINISHED]
    row = read_metrics(str(tmp_path / "tune" / "metrics.jsonl"))[-1]
    assert {"ce/pairs", "ce/groundeds", "held_out_ce/pairs"} <= set(row)
    assert not any(name.startswith("regression") for name in row)
    folder = tmp_path / "tune" / "model"
    model = load_emu(folder)
    assert model.config.vocab_size == Tokenizer.load(folder, "emu2", chat=True).vocab_size


def test_boxes_are_drawn_for_what_is_to_be_drawn(training_corpus, tmp_path):
    config = tuning(**{"template.form": "generation", "mixture.phases": [{"weights": {"groundeds": 1.0}}]})
    pretrained(config, training_corpus, tmp_path)
    batch = first_batch(task_of(config, training_corpus, tmp_path)).batch
    first, second, last = batch.images[:3].permute(0, 2, 3, 1).numpy()
    assert {tuple(pixel) for pixel in first.reshape(-1, 3)} == {(0, 0, 0), (255, 255, 255)}
    assert not np.array_equal(first, second)
    assert len(np.unique(last.reshape(-1, 3), axis=0)) != 2
    assert len(batch.visual_at) * 3 == len(batch.slots)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": [{"path": "elsewhere"}]}, r"tune\.weights: .*elsewhere: no model that can be read"),
        ({"mixture.phases": [{"weights": {"texts": 1.0}}]}, "'texts' has no sample to train on"),
        ({"lora": {"targets": ["w_proj"]}}, r"tune\.lora\.targets: the language model has no linear layer 'w_proj'"),
    ],
)
def test_a_mistake_is_one_line(training_corpus, tmp_path, changes, message):
    config = tuning(**changes)
    pretrained(config, training_corpus, tmp_path)
    with pytest.raises(Exception, match=message) as error:
        task = task_of(config, training_corpus, tmp_path)
        task.data.plan(task.costs())
        task.build()
    assert type(error.value).__name__ == "UserError"
