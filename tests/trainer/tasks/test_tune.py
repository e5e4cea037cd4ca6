"""Tests of tuning: what is learned, what is left unchanged, what is written, and the answers."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file

from model.box_text import written
from model.emu import Emu
from model.sequence import TEXT
from model.tokenizer import Tokenizer
from model.weight_files import read
from model.weights import load_emu, save_emu
from pipelines.errors import UserError
from pipelines.shards.token_sidecar import tokens_folder
from tests.trainer import small_corpus
from tests.trainer.conftest import RUN, changed, run_findings
from tests.trainer.finished_runs import write_decoder
from tests.trainer.ranks import ALONE, in_ranks
from tests.trainer.trial_runs import killed, losses, overfit, run
from trainer.__main__ import commands
from trainer.config import TrainConfig
from trainer.engine.metrics import read_metrics
from trainer.evaluation.open_run import open_run
from trainer.evaluation.prompts import read_prompt
from trainer.loop import FINISHED
from trainer.plan.steps import Costs
from trainer.reading.corpus import TrainingCorpus
from trainer.reading.micro_batches import as_tensor
from trainer.tasks.tune import TuneTask, add_chat_tokens

LORA = {"rank": 4, "alpha": 8, "dropout": 0.0}
TUNE = changed(
    RUN,
    {
        "steps": 4,
        "mixture.phases": [{"weights": {"pairs": 0.6, "groundeds": 0.4}}],
        "data.plan": {"seq_len": 192, "global_batch_size": 4, "packing_buffer_size": 16, "seed": 3},
        "stages": [{"lr": {"bridge": 3e-3, "language_model": 3e-3}}],
        "template": {"system": "Answer."},
    },
)


def tuning(size="debug", **changes) -> TrainConfig:
    return TrainConfig.model_validate({"model": {"size": size}, "tune": changed(TUNE, changes)})


def pretrained(config, corpus, out):
    """Write a model as if `pretrain` had trained it, and its tokenizer."""
    opened = TrainingCorpus.open(corpus)
    tokenizer = Tokenizer.load(tokens_folder(corpus, opened.tokens.name), config.model.family)
    torch.manual_seed(0)
    model = Emu(config.model.resolve(tokenizer))
    save_emu(model, out / "model")
    return model, tokenizer


def task_of(config, corpus, out):
    return TuneTask(config.model, config.tune, corpus, str(out), ALONE)


def first_packs(task):
    reader = task.data.reader()
    step = next(iter(task.data.plan(task.costs())))
    return [[reader.read(chunk, 0) for chunk in pack] for pack in step.of_rank(0, 2)]


def first_batch(task):
    return task.collate(first_packs(task))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "changes", "objectives", "part"),
    [
        ("debug", {"template.form": "chat"}, [True, False], 0.6),
        (
            "debug-emu",
            {"template.form": "emu", "lora": LORA},
            [True, False],
            0.97,
        ),  # all that is possible with random weights
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
    found = overfit(module, batch, None, 25, lr=3e-2 if "lora" in changes else 1e-2)
    assert found[-1] < part * found[0]


def learned(config, corpus, out):
    """Tune a model on the first packed sequences until it reproduces them."""
    pretrained(config, corpus, out)
    task = task_of(config, corpus, out)
    module, packs = task.build().train(), first_packs(task)
    module.encoder.requires_grad_(False)
    overfit(module, task.collate(packs), None, 250, lr=3e-3)
    task.export(module.state_dict(), str(out / "tune/model"))
    return task, packs


def answer(out, *options):
    """Return the results of the command line for prompts to the tuned model below `out`."""
    (out / "config.yaml").write_text("model: {size: debug}\n")
    base = ["generate", "--config", str(out / "config.yaml"), "--out", str(out / "tune")]
    result = CliRunner().invoke(commands, [*base, *options])
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in (out / "tune/generated/generated.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_tuned_model_answers_on_the_command_line(training_corpus, tmp_path):
    question = "What is it?"
    config = tuning(**{"template.instructions": [question]})
    task, packs = learned(config, training_corpus, tmp_path)
    prompts, answers = [], []
    for number, chunk in enumerate(chunk for pack in packs for chunk in pack):
        Image.fromarray(chunk.images[0]).save(tmp_path / f"{number}.png")
        said = chunk.sequence.token_ids[chunk.sequence.targets == TEXT]
        boxes = "<grounding>" if chunk.source == task.data.names.index("groundeds") else ""
        prompts += ["--prompt", f"[image:{tmp_path}/{number}.png] {question} {boxes}"]
        answers.append(written(said[:-1], task.data.layout).strip())
    assert len(set(answers)) > 5
    assert any("[box:a dock:" in text for text in answers)
    assert [row["text"] for row in answer(tmp_path, *prompts)] == answers


@pytest.mark.slow
def test_a_model_tuned_to_draw_draws_what_it_learned(training_corpus, tmp_path):
    config = tuning(**{"template.form": "generation", "mixture.phases": [{"weights": {"pairs": 1.0}}]})
    task, packs = learned(config, training_corpus, tmp_path)
    write_decoder(tmp_path / "decoder/model", task.data.model)
    run = open_run(str(tmp_path / "tune"), config)
    chunks = [chunk for pack in packs for chunk in pack]
    captions = [run.tokenizer.decode(chunk.sequence.token_ids) for chunk in chunks]
    drawn = run.generate_embeddings([read_prompt(caption, run, draw=True, num_frames=1) for caption in captions])
    true = run.embed(torch.stack([as_tensor(chunk.images[0]) for chunk in chunks]))
    nearest = torch.cdist(drawn.flatten(1), true.flatten(1)).argmin(1)
    torch.testing.assert_close(true[nearest], true)  # some captions occur twice
    (row,) = answer(tmp_path, "--prompt", captions[0], "--want", "image")
    assert Image.open(tmp_path / "tune/generated" / row["images"][0]).size == (16, 16)


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


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_adapters_are_tuned_and_the_base_is_left_alone(training_corpus, tmp_path, zero_stage):
    lr = {"language_model": 1e-2}
    config = tuning(**{"lora": LORA, "stages": [{"lr": lr}], "engine.zero_stage": zero_stage})
    base, tokenizer = pretrained(config, training_corpus, tmp_path)
    assert in_ranks(1, run, "tune", config, training_corpus, tmp_path) == [FINISHED]
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


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", [0, pytest.param(3, marks=pytest.mark.nightly)])
@pytest.mark.nightly
def test_a_killed_run_ends_with_the_same_weights(training_corpus, tmp_path, zero_stage):
    lora = LORA | {"dropout": 0.1}
    config = tuning(**{"steps": 6, "lora": lora, "engine.zero_stage": zero_stage, "checkpoints.every": 2})
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for out in (whole, cut):
        pretrained(config, training_corpus, out)
    in_ranks(2, run, "tune", config, training_corpus, whole)
    killed(2, "tune", config, training_corpus, cut, 3)
    assert [path.name for path in (cut / "tune/checkpoints").iterdir()] == ["step-00000002"]
    in_ranks(2, run, "tune", config, training_corpus, cut)
    assert losses(cut / "tune") == losses(whole / "tune")
    for folder in ("tune/model", "tune/model/adapter"):
        found, expected = read(cut / folder), read(whole / folder)
        assert found.keys() == expected.keys()
        assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


@pytest.mark.slow
def test_a_tuned_run_leaves_what_it_promises(training_corpus, tmp_path):
    config = tuning(**{"held_out.every": 4, "template.instructions": ["What is it?", "Say what you see."]})
    pretrained(config, training_corpus, tmp_path)
    assert in_ranks(2, run, "tune", config, training_corpus, tmp_path) == [FINISHED, FINISHED]
    row = read_metrics(str(tmp_path / "tune" / "metrics.jsonl"))[-1]
    assert {"ce/pairs", "ce/groundeds", "held_out_ce/pairs"} <= set(row)
    assert not any(name.startswith("regression") for name in row)
    folder = tmp_path / "tune" / "model"
    model = load_emu(folder)
    assert model.config.vocab_size == Tokenizer.load(folder, "emu2", chat=True).vocab_size


@pytest.fixture(scope="module")
def conversations(tmp_path_factory):
    """A corpus of conversations in which the user shows and asks, and the assistant answers and draws."""
    return small_corpus.build(tmp_path_factory.mktemp("conversations") / "corpus", ("conversation",))


TALKING = {"mixture.phases": [{"weights": {"conversations": 1.0}}], "template.draws": True}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "form", "objectives"),
    [
        ("debug", "chat", [True, True]),
        ("debug-emu", "emu", [True, True]),
        ("debug", "generation", [False, True]),
    ],
)
def test_conversations_teach_what_the_assistant_says_and_draws(conversations, tmp_path, size, form, objectives):
    config = tuning(size, **TALKING, **{"template.form": form})
    pretrained(config, conversations, tmp_path)
    task = task_of(config, conversations, tmp_path)
    module, batch = task.build().train(), first_batch(task)
    assert [len(sources) > 0 for sources in batch.sources] == objectives
    assert len(batch.batch.images) == 2 * sum(len(pack) for pack in first_packs(task))
    module.encoder.requires_grad_(False)
    found = overfit(module, batch, None, 25, lr=1e-2)
    assert found[-1] < 0.8 * found[0]


@pytest.mark.slow
def test_a_tuned_model_is_tuned_again(conversations, tmp_path):
    first = tuning(**TALKING, steps=2)
    pretrained(first, conversations, tmp_path)
    assert in_ranks(1, run, "tune", first, conversations, tmp_path) == [FINISHED]
    again = tmp_path / "again"
    second = tuning(**TALKING, steps=2, weights=[{"path": str(tmp_path / "tune/model")}])
    assert (
        task_of(second, conversations, again).build().config.vocab_size
        == load_emu(tmp_path / "tune/model").config.vocab_size
    )
    assert in_ranks(1, run, "tune", second, conversations, again) == [FINISHED]
    before, after = (load_emu(folder / "tune/model").state_dict() for folder in (tmp_path, again))
    assert before.keys() == after.keys()
    assert not torch.equal(before["language_model.model.norm.weight"], after["language_model.model.norm.weight"])
    row = read_metrics(str(again / "tune" / "metrics.jsonl"))[-1]
    assert {"ce/conversations", "regression/conversations"} <= set(row)


def test_conversations_longer_than_the_context_are_told_with_their_reason(conversations, tmp_path):
    config = tuning(**TALKING, **{"data.plan": {"seq_len": 24, "global_batch_size": 4, "packing_buffer_size": 16}})
    data = task_of(config, conversations, tmp_path).data
    reasons = {row.reason.partition(" takes ")[0] for row in data.refused}
    assert reasons == {"too_large: a question with its answer"}
    assert len(data.refused) == 30
    with pytest.raises(UserError, match="'conversations' has weight, but no sample to train on"):
        data.plan(Costs())


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
        ({"weights": [{"path": "elsewhere"}]}, r"tune\.weights: .*elsewhere: no "),
        ({"mixture.phases": [{"weights": {"texts": 1.0}}]}, "'texts' has weight, but no sample to train on"),
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
