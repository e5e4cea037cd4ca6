"""Tests of the few-shot tasks on images of the demo web: their rule is only in the shots."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tools.demo_web.few_shot import made_up_words, write_few_shot_tasks
from trainer.benchmarks.formats import read
from trainer.benchmarks.formats.rows import RowData


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("few_shot")
    assert write_few_shot_tasks(str(folder), seed=1) == {"new_words": 240, "languages": 120, "next_in_row": 120}
    return folder


def rows(folder: Path, task: str) -> list[dict]:
    return [json.loads(line) for line in (folder / task / "rows.jsonl").read_text().splitlines()]


def test_a_group_has_two_made_up_words_five_times_each(folder: Path):
    groups: dict[str, list[str]] = {}
    for row in rows(folder, "new_words"):
        groups.setdefault(row["group"], []).append(row["answer"])
    assert len(groups) == 24
    for words in groups.values():
        assert sorted(words.count(word) for word in set(words)) == [5, 5]
    assert len(set(made_up_words(random.Random(0), 100))) == 100


def test_a_word_stands_for_one_colour(folder: Path):
    """The shapes' middles of a group lie at most 60 levels apart for one word."""
    by_word: dict[str, list[tuple[int, ...]]] = {}
    for row in [row for row in rows(folder, "new_words") if row["group"] == "0"]:
        with Image.open(folder / "new_words" / row["image"]) as image:
            pixels = np.asarray(image).reshape(-1, 3).astype(int)
        strongest = pixels[(pixels.max(1) - pixels.min(1)).argmax()]  # the shape, on a nearly grey ground
        by_word.setdefault(row["answer"], []).append(tuple(strongest))
    for colours in by_word.values():
        assert all(max(values) - min(values) <= 60 for values in zip(*colours, strict=True))


def test_languages_name_a_colour_and_a_shape(folder: Path):
    found = {row["group"]: row["answer"] for row in rows(folder, "languages")}
    assert set(found) == {"en", "de", "fr", "es"}
    assert found["en"].split()[0] in ("a", "an")


def test_tasks_are_the_same_for_a_seed_and_can_be_read(folder: Path, tmp_path: Path):
    write_few_shot_tasks(str(tmp_path), seed=1)
    for task in ("new_words", "languages", "next_in_row"):
        files = sorted(path.name for path in (folder / task).iterdir())
        assert all((folder / task / name).read_bytes() == (tmp_path / task / name).read_bytes() for name in files)
        found = read(RowData(files=(f"{task}/rows.jsonl",)), folder)
        assert all(one.has_truth and one.group is not None for one in found)
        assert all(path.is_file() for one in found for path in (*one.images, *one.references, *one.candidates))
