"""Tests of `evaluate --tasks` on a run of the debug size with random weights and small sets in published forms."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from model.finished_run import FinishedRun
from pipelines.errors import UserError
from tests.trainer.benchmarks.small_sets import write_coco, write_vqa
from tests.trainer.finished_runs import write_run
from tests.trainer.ranks import ALONE, in_ranks
from trainer.__main__ import commands
from trainer.benchmarks import descriptions
from trainer.benchmarks import evaluate as module
from trainer.benchmarks.evaluate import evaluate
from trainer.benchmarks.metrics.text import cleaned
from trainer.benchmarks.settings import BenchmarkSettings
from trainer.engine.distributed import World

CAPTIONS = {
    "data": {"format": "captions", "annotations": "coco/captions.json", "images": "coco/val2014"},
    "prompt": {"ask": "{image}", "answer": "{caption}"},
    "shots": {"numbers": [0, 2]},
    "generation": {"max_new_tokens": 6},
    "clean": "sentence",
    "metrics": ["cider", "bleu", "rouge_l"],
}
VQA = {
    "data": {
        "format": "vqa",
        "questions": "vqa/questions.json",
        "annotations": "vqa/annotations.json",
        "images": "vqa/val2014",
        "image_name": "COCO_val2014_{image_id:012d}.jpg",
    },
    "prompt": {"ask": "{image}based on the picture, {question} short answer:"},
    "shots": {"numbers": [0, 1, 2]},
    "generation": {"max_new_tokens": 3},
    "clean": "short",
    "metrics": ["vqa_accuracy"],
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sets")
    write_coco(root)
    write_vqa(root)
    return root


@pytest.fixture
def folder(training_corpus: str, tmp_path: Path) -> Path:
    write_run(tmp_path / "run", training_corpus)
    return tmp_path / "run"


def settings(tree: dict, **changes: Any) -> BenchmarkSettings:
    return BenchmarkSettings.model_validate(tree | changes)


def measured(folder: Path, root: Path, tree: dict, world: World = ALONE, **changes: Any) -> list[str]:
    """Evaluate one benchmark, and return the lines of its table."""
    lines: list[str] = []
    evaluate({"task": settings(tree, **changes)}, FinishedRun.open(folder), root, world, lines.append)
    return lines


def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "benchmarks/task/results.json").read_text())


def answers(folder: Path, num_shots: int) -> list[dict[str, Any]]:
    path = folder / f"benchmarks/task/answers-{num_shots}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_captions_and_questions_with_several_numbers_of_shots(folder: Path, root: Path):
    found = measured(folder, root, VQA)
    assert [line.split()[1:4] for line in found] == [[str(n), "shots", "vqa_accuracy"] for n in (0, 1, 2)]
    content = results(folder)
    assert content["num_examples"] == 5
    for one in content["results"]:
        figure = one["figures"]["vqa_accuracy"]
        assert figure["num"] == 5
        assert figure["chance"] == 0.2  # five answers, each right once
        assert figure["low"] <= figure["value"] <= figure["high"]
    assert [row["id"] for row in answers(folder, 2)] == ["1000", "2000", "3000", "4000", "5000"]
    few, more = answers(folder, 1)[0]["prompt"], answers(folder, 2)[0]["prompt"]
    assert (few.count("[image:"), more.count("[image:")) == (2, 3)
    assert more.count("based on the picture, what colour is it? short answer:") == 3
    assert more.startswith(few[: few.rindex("[image:")]), "more shots begin with the fewer ones"
    assert few.endswith("[image:COCO_val2014_000000000001.jpg]based on the picture, what colour is it? short answer:")
    assert few.count("000000000001") == 1, "a question is not among its shots"
    for name in ("sheet.png", "curve.png", "benchmark.resolved.yaml"):
        assert (folder / "benchmarks/task" / name).stat().st_size > 100

    measured(folder, root, CAPTIONS)
    content = results(folder)
    assert content["num_without_truth"] == 1
    assert {"cider", "bleu_1", "bleu_4", "rouge_l"} <= content["results"][1]["figures"].keys()
    assert content["tokenizer"] in ("ptb", "words")


@pytest.mark.slow
def test_a_rerun_answers_only_what_is_new(folder: Path, root: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list[int] = []
    respond = module.respond

    def counted(run: FinishedRun, prompts: list, *rest: Any, **more: Any) -> list:
        asked.append(len(prompts))
        return respond(run, prompts, *rest, **more)

    monkeypatch.setattr(module, "respond", counted)

    def num_asked(**changes: Any) -> int:
        asked.clear()
        measured(folder, root, VQA, **{"shots": {"numbers": [2]}, **changes})
        return sum(asked)

    assert num_asked() == 5
    before = answers(folder, 2)
    assert num_asked() == 0
    assert answers(folder, 2) == before
    path = folder / "benchmarks/task/answers-2.jsonl"
    path.write_text(path.read_text()[:-30])  # as a kill leaves it
    assert num_asked() == 1
    assert answers(folder, 2) == before
    assert num_asked(generation={"max_new_tokens": 4}) == 5
    assert num_asked(generation={"max_new_tokens": 4}, shots={"numbers": [2], "seed": 1}) > 0
    os.utime(folder / "model/model.safetensors", (1, 1))  # another model
    assert num_asked() == 5


@pytest.mark.slow
def test_shots_without_room_are_dropped_from_the_first_and_counted(folder: Path, root: Path):
    [line] = measured(folder, root, VQA, shots={"numbers": [4]}, limit=2)
    [result] = results(folder)["results"]
    shown = [row["num_shots"] for row in answers(folder, 4)]
    assert result["dropped_shots"] == 2 * 4 - sum(shown) > 0
    assert f"({result['dropped_shots']} dropped shots" in line
    assert all(row["prompt"].count("[image:") == row["num_shots"] + 1 for row in answers(folder, 4))
    with pytest.raises(UserError, match="task: no question fits into the model's context"):
        measured(folder, root, VQA, prompt={"ask": "{image}" * 60})


def test_the_most_similar_images_come_last_with_rices(folder: Path, root: Path):
    measured(folder, root, VQA, shots={"numbers": [2], "choice": "rices"}, limit=1)
    run = FinishedRun.open(folder)
    benchmark = module.BenchmarkRun("task", settings(VQA, shots={"numbers": [2], "choice": "rices"}), run, root, ALONE)
    [asked, *pool] = benchmark.examples
    vectors = benchmark._embed([asked, *pool])
    near = sorted(pool, key=lambda one: float(vectors[0] @ vectors[1 + pool.index(one)]))[-2:]
    assert [one.id for one in benchmark._shots.of([asked], 2)[0]] == [one.id for one in near]


@pytest.mark.slow
def test_images_are_described_once_before_they_are_asked_about(
    folder: Path, root: Path, monkeypatch: pytest.MonkeyPatch
):
    asked: list[int] = []
    respond = descriptions.respond

    def counted(run: FinishedRun, prompts: list, *rest: Any, **more: Any) -> list:
        asked.append(len(prompts))
        return respond(run, prompts, *rest, **more)

    monkeypatch.setattr(descriptions, "respond", counted)
    changes: dict[str, Any] = {
        "describe": {"ask": "{image}a picture of", "generation": {"max_new_tokens": 4, "min_new_tokens": 4}},
        "prompt": {"ask": "{image}a picture of {description}. {question}"},
    }
    measured(folder, root, VQA, **changes)
    assert sum(asked) == 5, "shots are other images of the same set"
    rows = [json.loads(line) for line in (folder / "benchmarks/task/descriptions.jsonl").read_text().splitlines()]
    said = {Path(row["id"]).name: cleaned(row["answer"], "sentence").removesuffix(".") for row in rows}
    assert len(said) == 5
    for row in answers(folder, 2):
        shown = re.findall(r"\[image:(.*?)\]a picture of ", row["prompt"])
        assert len(shown) == row["num_shots"] + 1
        assert all(f"[image:{name}]a picture of {said[name]}. what colour" in row["prompt"] for name in shown)
    asked.clear()
    measured(folder, root, VQA, **changes)
    assert asked == []
    with pytest.raises(UserError, match=r"describe: .*there is no room for it and its description"):
        measured(folder, root, VQA, **changes | {"describe": {"ask": "{image}" * 60}})


def test_text_only_shots_show_no_image(folder: Path, root: Path):
    measured(folder, root, VQA, shots={"numbers": [0], "text_only": 2}, limit=1)
    [row] = answers(folder, 0)
    assert row["prompt"].count("[image:") == 1
    assert row["prompt"].count("short answer:") == 3


@pytest.mark.slow
def test_images_are_drawn_scored_and_kept(folder: Path, root: Path):
    rows = [
        {"id": str(i), "reference": f"{i:012d}.jpg", "candidates": [f"{i % 5 + 1:012d}.jpg"], "group": "a"}
        for i in range(1, 6)
    ]
    (root / "coco/val2014/rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "data": {"format": "rows", "files": ["coco/val2014/rows.jsonl"]},
        "want": "image",
        "prompt": {"ask": "", "separator": ""},
        "shots": {"numbers": [1], "same_group": True},
        "metrics": ["nearest"],
        "limit": 2,
    }
    measured(folder, root, task)
    figure = results(folder)["results"][0]["figures"]["nearest"]
    assert (figure["num"], figure["chance"]) == (2, 0.5)
    images = sorted((folder / "benchmarks/task/images-1").iterdir())
    assert [row["answer"] for row in answers(folder, 1)] == [path.name for path in images]
    before = [path.stat().st_mtime_ns for path in images]
    images[0].unlink()
    measured(folder, root, task)
    assert images[0].is_file(), "a lost image is drawn again"
    assert images[1].stat().st_mtime_ns == before[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": VQA["data"] | {"annotations": None}}, "task: none of 5 examples has a true answer"),
        ({"data": VQA["data"] | {"images": "nowhere"}}, "nowhere/COCO_val2014_000000000001.jpg: no such file"),
        ({"data": {"format": "captions", "annotations": "empty.json", "images": "i"}, "prompt": {"ask": "{image}"}},
         "task: no example in the set"),
        ({"prompt": {"ask": "{answers}"}, "data": {"format": "rows", "files": ["one.jsonl"]}},
         "{answers} is not in the example"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(folder: Path, root: Path, changes: dict, message: str):
    (root / "empty.json").write_text('{"images": []}')
    (root / "one.jsonl").write_text('{"id": "1", "answer": "a"}\n')
    with pytest.raises(UserError, match=message) as caught:
        measured(folder, root, VQA, **changes)
    assert "\n" not in str(caught.value)


def test_without_metrics_answers_are_only_written(folder: Path, root: Path):
    data = VQA["data"] | {"annotations": None}
    assert measured(folder, root, VQA, data=data, metrics=[], shots={"numbers": [0]}) == []
    assert len(answers(folder, 0)) == 5


def test_the_command_evaluates_tasks(folder: Path, root: Path, tmp_path: Path):
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(VQA))
    given = ["evaluate", "--tasks", str(tmp_path / "task.yaml"), "--data", str(root), "--out", str(folder)]
    found = CliRunner().invoke(commands, [*given, "--set", "shots.numbers=[0]", "--set", "limit=2"])
    assert found.exit_code == 0, found.output
    assert found.output.splitlines()[-1] == f"evaluated: 2 answers to 1 benchmarks, {folder}/benchmarks"
    bare = CliRunner().invoke(commands, ["evaluate", "--out", str(folder)])
    assert str(bare.exception) == "evaluate: give --config and --corpus, or --tasks"


@pytest.mark.slow
def test_ranks_share_the_questions(folder: Path, root: Path):
    measured(folder, root, VQA)
    alone, expected = results(folder), [answers(folder, n) for n in (0, 1, 2)]
    for path in (folder / "benchmarks/task").glob("*.jsonl"):
        path.unlink()
    tables = in_ranks(2, _measured_in_rank, str(folder), str(root))
    assert tables[1] == []
    assert results(folder) == alone
    assert [answers(folder, n) for n in (0, 1, 2)] == expected
    assert not list((folder / "benchmarks/task").glob("*.rank*"))


def _measured_in_rank(world: World, folder: str, root: str) -> list[str]:
    return measured(Path(folder), Path(root), VQA, world)


def test_each_id_has_a_file_of_its_own():
    ids = ["12", "a/b", "a_b", "a b", "x" * 80, "x" * 81, "ÿ", "y"]
    names = [module.image_name(name) for name in ids]
    assert len(set(names)) == len(ids)
    assert names[0] == "12.png"
    assert all(re.fullmatch(r"[\w-]+\.png", name, re.ASCII) for name in names)
