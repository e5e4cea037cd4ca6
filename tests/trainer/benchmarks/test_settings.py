"""Tests of benchmarks' YAML files: those that are here, and mistakes in one's own."""

from pathlib import Path

import pytest
import yaml

from pipelines.errors import UserError
from tests.sources import ROOT
from trainer.benchmarks.settings import load_benchmarks

ROOM = ROOT / "trainer/benchmarks"
GOOD = {
    "data": {"format": "vqa", "questions": "q.json", "images": "i"},
    "prompt": {"ask": "{image}{question}"},
    "metrics": ["exact_match"],
}


@pytest.mark.parametrize("folder", ["papers", "demo"])
def test_the_benchmarks_of_the_project_can_be_read(folder: str):
    found = load_benchmarks((str(ROOM / folder),))
    assert len(found) == len(list((ROOM / folder).glob("*.yaml"))) > 0
    for path in (ROOM / folder).glob("*.yaml"):
        assert path.read_text().startswith("# "), "each says what it is"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric": ["exact_match"]}, "metric: unknown key. Did you mean 'metrics'"),
        ({"shots": {"number": 2}}, "shots.number: unknown key. Did you mean 'numbers'"),
        ({"data": {**GOOD["data"], "image": "i"}}, "data.image: unknown key. Did you mean 'images'"),
        (
            {"data": {"format": "coco"}},
            "data: needs a known 'format'. Known: boxes, captions, dreambench, referring, rows, video_qa, vqa",
        ),
        (
            {"prompt": {"ask": "{image}{quesiton}"}},
            r"prompt.ask: {quesiton} is not in this set; did you mean {question}",
        ),
        ({"metrics": ["clip_t"]}, "metrics: clip_t is not one of texts: those are bleu, box_accuracy, cider"),
        ({"want": "image", "metrics": ["fid"]}, "models.fid: missing: the metric fid needs a model's weights"),
        ({"generation": {"max_tokens": 3}}, "generation: max_tokens"),
        ({"shots": {"numbers": [4, 4]}}, "shots.numbers: must be different numbers from 0 on"),
        ({"data": {**GOOD["data"], "image_name": "{id}.jpg"}}, "data.vqa.image_name|data.image_name: needs"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_would_be_right(tmp_path: Path, changes: dict, message: str):
    path = tmp_path / "task.yaml"
    path.write_text(yaml.safe_dump(GOOD | changes))
    with pytest.raises(UserError, match=message) as caught:
        load_benchmarks((str(path),))
    assert "\n" not in str(caught.value)


def test_a_folder_without_tasks_and_two_of_one_name_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"no file \*.yaml in this folder"):
        load_benchmarks((str(tmp_path),))
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(GOOD))
    (tmp_path / "more").mkdir()
    (tmp_path / "more/task.yaml").write_text(yaml.safe_dump(GOOD))
    with pytest.raises(UserError, match="a second task of the name task"):
        load_benchmarks((str(tmp_path), str(tmp_path / "more")))


def test_a_setting_can_be_overridden(tmp_path: Path):
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(GOOD))
    found = load_benchmarks((str(tmp_path),), ("shots.numbers=[1, 3]",))
    assert found["task"].shots.numbers == (1, 3)
