"""Tests of answers to questions: which turns are asked, what counts as right, and a model that has learned some."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from model.emu import Emu
from model.segment import ImageSegment, Segment, text
from model.tokenizer import Tokenizer
from model.weights import save_emu
from pipelines.document import Build, Document, Provenance, Region, make_key
from pipelines.document import Segment as DocumentSegment
from pipelines.funnel import FunnelRow
from pipelines.running.runner import Runner
from pipelines.shards.manifest import Manifest, sort_shards, write_manifest
from pipelines.shards.token_sidecar import tokens_folder
from pipelines.shards.writer import SampleParts, finish_document
from pipelines.text.byte_level_bpe import train_bpe
from pipelines.tokenize import run_tokenize
from tests.pipelines.corpus_builder import image, media, write_shard
from tests.trainer.conftest import RUN, changed
from tests.trainer.ranks import ALONE
from tests.trainer.trial_runs import overfit
from trainer.config import TrainConfig
from trainer.evaluation.answers import Answered, answer_figures, normalised, overlap, questions
from trainer.evaluation.evaluate import evaluate
from trainer.reading.corpus import TrainingCorpus
from trainer.tasks.tune import TuneTask

BOX = (0.25, 0.25, 0.75, 0.75)
ANSWERS = ("red", "green", "blue", "grey")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_bytes(train_bpe(["a red boat"], 259))
    return Tokenizer.load(path, "emu2", chat=True)


def said(tokenizer: Tokenizer, *turns: tuple[str, object]) -> tuple[Segment, ...]:
    return tuple(
        ImageSegment(part, role=role) if isinstance(part, int) else text(str(part), tokenizer, role=role)
        for role, part in turns
    )


def test_each_answer_is_asked_for_after_the_true_turns_before_it(tokenizer: Tokenizer):
    turns = [("user", 0), ("user", "A?"), ("assistant", "b"), ("user", "C?"), ("assistant", "d")]
    segments = said(tokenizer, *turns, ("user", "Draw."), ("assistant", 1))
    found = list(questions([SimpleNamespace(segments=segments)]))  # type: ignore[list-item]
    assert [question.before for question in found] == [segments[:2], segments[:4], segments[:6]]
    assert [question.answer for question in found] == [segments[2:3], segments[4:5], segments[6:]]
    assert [question.draws for question in found] == [False, False, True]


def test_an_answer_of_words_and_images_is_not_asked_for(tokenizer: Tokenizer):
    segments = said(tokenizer, ("user", "Draw."), ("assistant", "Here:"), ("assistant", 0))
    assert list(questions([SimpleNamespace(segments=segments)])) == []  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((0.25, 0.25, 0.75, 0.75), 1.0),
        ((0.25, 0.25, 0.75, 0.5), 0.5),
        ((0.0, 0.0, 0.1, 0.1), 0.0),
        ((0.75, 0.75, 0.25, 0.25), 0.0),
    ],
)
def test_boxes_are_compared_by_their_overlap(box: tuple[float, ...], expected: float):
    assert overlap(box, BOX) == pytest.approx(expected)


def test_words_are_compared_without_case_and_punctuation():
    assert normalised(" Top-left. ") == normalised("top left")


def test_chance_is_the_share_of_the_most_frequent_answer():
    answers = [("red", True), ("Red.", False), ("red", True), ("blue", False)]
    rows = [Answered("colour", str(i), "?", answer, "x", right) for i, (answer, right) in enumerate(answers)]
    assert answer_figures([*rows, Answered("other", "k", "?", "a", "a", True)], "colour") == {
        "answer_colour": 0.5,
        "chance_answer_colour": 0.75,
        "num_answer_colour": 4,
    }


def test_boxes_are_counted_apart_and_by_chance_the_mean_box_is_right():
    boxes = [BOX, BOX, BOX, (0.0, 0.0, 1.0, 1.0)]
    rows = [Answered("boxes", str(i), "?", "it", "x", i == 0, box) for i, box in enumerate(boxes)]
    assert answer_figures(rows, "boxes") == {"box_boxes": 0.25, "chance_box_boxes": 0.75, "num_box_boxes": 4}


def sample(number: int, split: str) -> SampleParts:
    """Return a question about an image of one colour, one about a box, or an edit; both splits show the same."""
    shown, drawn = number % 4, (number + 1) % 4
    what = number % 3
    segments = [DocumentSegment("image", media=0, role="user")]
    if what == 0:
        turns, items = [("Which colour?", ANSWERS[shown], ())], [shown]
    elif what == 1:
        turns, items = [("Where?", "here", (Region(0, 4, 0, BOX),))], [shown]
    else:
        turns, items = [("The next one.", None, ())], [shown, drawn]
    for question, answer, regions in turns:
        segments.append(DocumentSegment("text", question, role="user"))
        segments.append(
            DocumentSegment("text", answer, role="assistant", regions=regions)
            if answer is not None
            else DocumentSegment("image", media=1, role="assistant")
        )
    document = Document(
        "conversation",
        make_key("conversation", split, number),
        tuple(segments),
        tuple(media(i) for i in items),
        Provenance("talks", str(number)),
        build=Build(pipeline="test", dedup_group=f"{number}"),
    )
    return finish_document(document, [image(i) for i in items])


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("talks") / "corpus")
    shards = [
        write_shard(folder, "conversation", split, 0, [sample(n, split) for n in range(12)])
        for split in ("train", "val")
    ]
    funnel = (FunnelRow("conversations", "shard", "sample", 24, 24, {}),)
    names = ("conversations",)
    write_manifest(folder, Manifest("talks", "1", "0" * 64, sort_shards(shards, list(names)), funnel, {}, names))
    run_tokenize(folder, None, Runner(), train_bpe=300)
    return folder


@pytest.mark.slow
def test_a_model_that_has_learned_the_answers_has_them_right(corpus: str, tmp_path: Path):
    changes: dict[str, Any] = {
        "steps": 1,
        "mixture.phases": [{"weights": {"conversations": 1.0}}],
        "data.plan": {"seq_len": 192, "global_batch_size": 2, "packing_buffer_size": 12, "seed": 3},
        "stages": [{"lr": {"bridge": 3e-3, "language_model": 3e-3}}],
        "template": {"system": "", "draws": True},
    }
    config = TrainConfig.model_validate({"model": {"size": "debug"}, "tune": changed(RUN, changes)})
    opened = TrainingCorpus.open(corpus)
    torch.manual_seed(0)
    plain = Tokenizer.load(tokens_folder(corpus, opened.tokens.name), config.model.family)
    save_emu(Emu(config.model.resolve(plain)), tmp_path / "model")
    assert config.tune is not None
    task = TuneTask(config.model, config.tune, corpus, str(tmp_path), ALONE)
    module, reader = task.build().train(), task.data.reader()
    step = next(iter(task.data.plan(task.costs())))
    packs = [[reader.read(chunk, 0) for chunk in pack] for pack in step.of_rank(0, 1)]
    module.encoder.requires_grad_(False)
    overfit(module, task.collate(packs), None, 250, lr=3e-3)
    task.export(module.state_dict(), str(tmp_path / "tune/model"))
    figures = evaluate(config, corpus, str(tmp_path / "tune"))
    assert [figures[f"num_{what}_conversations"] for what in ("answer", "box", "drawn")] == [4, 4, 4]
    assert [figures[f"chance_{what}_conversations"] for what in ("answer", "box", "drawn")] == [0.25, 1.0, 0.5]
    rows = [json.loads(line) for line in (tmp_path / "tune/samples/answers.jsonl").read_text().splitlines()]
    assert figures["answer_conversations"] == sum(row["is_right"] for row in rows if row["box"] is None) / 4
    assert figures["answer_conversations"] >= 0.75
    assert figures["box_conversations"] == 1.0
