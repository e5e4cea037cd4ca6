"""Tests of prompts: shots and a question as a model reads them."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from model.box_text import Region
from model.finished_run import FinishedRun
from model.generation import GenerationConfig
from model.sequence import LayoutConfig
from model.template import TemplateSettings
from model.template_layout import TemplateLayout
from model.tokenizer import Tokenizer
from pipelines.errors import UserError
from tests.trainer.benchmarks.small_sets import write_images
from tests.trainer.finished_runs import write_run
from trainer.benchmarks.formats.example import Example
from trainer.benchmarks.prompts import PromptWriter, read_image
from trainer.benchmarks.settings import BenchmarkSettings


@pytest.fixture(scope="module")
def run(training_corpus: str, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    folder = tmp_path_factory.mktemp("prompted")
    write_run(folder, training_corpus)
    return FinishedRun.open(folder)


@pytest.fixture
def examples(tmp_path: Path) -> list[Example]:
    names = ["0.png", "1.png", "2.png"]
    write_images(tmp_path, names)
    return [
        Example(str(i), images=(tmp_path / name,), texts={"question": f"q{i}"}, answers=("b", "a", "a"))
        for i, name in enumerate(names)
    ]


def writer(run: FinishedRun, *, show_shots: bool = True, want: str = "text", **prompt: Any) -> PromptWriter:
    tree = {"data": {"format": "rows", "files": ["r.jsonl"]}, "want": want, "metrics": [], "prompt": prompt}
    settings = BenchmarkSettings.model_validate(tree)
    return PromptWriter(run, settings, GenerationConfig(max_new_tokens=4), show_shots)


def test_shots_are_written_with_the_most_frequent_answer(run: FinishedRun, examples: list[Example]):
    write = writer(run, ask="{image}{question} answer:", ask_without_shots="{image}{question}?", begin="Look. ").write
    found = write(examples[0], examples[1:])
    assert found.words == ("Look. [image:1.png]q1 answer: a. [image:2.png]q2 answer: a. [image:0.png]q0 answer:")
    assert found.num_shots == 2
    assert found.prompt is not None
    assert found.prompt.images is not None
    assert len(found.prompt.images) == 3
    assert write(examples[0], []).words == "Look. [image:0.png]q0?"


def test_shots_for_drawing_are_answered_by_their_images(run: FinishedRun, examples: list[Example]):
    pairs = [replace(one, images=(), references=one.images) for one in examples]
    found = writer(run, want="image", ask="{question}:", separator="; ").write(pairs[0], pairs[1:])
    assert found.words == "q1:[image:1.png]; q2:[image:2.png]; q0:"


def test_a_model_for_conversations_reads_shots_as_turns(run: FinishedRun, examples: list[Example]):
    template = TemplateSettings.model_validate({"form": "chat", "system": "Answer."})
    tokenizer = Tokenizer(run.tokenizer.base, "emu2", chat=True)
    layout = TemplateLayout(tokenizer, run.model.config.bridge, LayoutConfig(), template)
    tuned = replace(run, tokenizer=tokenizer, layout=layout)
    made = writer(tuned, ask="{image}{question}", begin_answer="It is", system="Be brief.")
    found = made.write(examples[0], examples[1:2])
    assert found.prompt is not None
    said = tokenizer.decode(found.prompt.sequence.token_ids, with_own=True)
    assert said.count("[USER]") == said.count("[ASSISTANT]") == 2
    assert "Be brief." in said
    assert said.rstrip().endswith("It is")


def test_boxes_are_written_as_on_the_command_line(run: FinishedRun):
    objects = (Region("a cat", (0.0, 0.0, 0.5, 0.5)), Region("a dog", (0.5, 0.0, 1.0, 0.25)))
    found = writer(run, want="image", ask="A photo of {objects}").write(Example("1", objects=objects), [])
    assert found.words == "A photo of [box:a cat:0,0,0.5,0.5], [box:a dog:0.5,0,1,0.25]"


def test_frames_of_a_folder_are_spread_over_it(run: FinishedRun, tmp_path: Path):
    write_images(tmp_path / "film", [f"{i:03}.jpg" for i in range(20)])
    found = writer(run, ask="{image}what?").write(Example("1", video=tmp_path / "film", texts={}), [])
    assert found.prompt is not None
    assert sum(found.prompt.sequence.frames) == 8
    assert found.words == "[video:film]what?"


def test_a_mark_is_a_red_box_on_the_image(tmp_path: Path):
    Image.new("RGB", (50, 50), "white").save(tmp_path / "a.png")
    plain = read_image(tmp_path / "a.png", 100, "area")
    marked = read_image(tmp_path / "a.png", 100, "area", (0.2, 0.3, 0.6, 0.7))
    assert marked[:, 30, 40].tolist() == [255, 0, 0]
    assert marked[:, 50, 40].tolist() == plain[:, 50, 40].tolist() == [255, 255, 255]


def test_the_digest_changes_with_files_and_words(run: FinishedRun, examples: list[Example]):
    made = writer(run, ask="{image}{question}")
    before = made.digest(examples[0], examples[1:])
    assert made.digest(examples[0], examples[1:]) == before
    assert made.digest(examples[0], examples[2:]) != before
    assert made.digest(replace(examples[0], texts={"question": "q9"}), examples[1:]) != before
    os.utime(examples[1].images[0], (1, 1))
    assert made.digest(examples[0], examples[1:]) != before
    examples[1].images[0].unlink()
    with pytest.raises(UserError, match=r"1.png: no such file or directory; the benchmark names it"):
        made.digest(examples[0], examples[1:])
