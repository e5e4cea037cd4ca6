"""Tests of the forms in which benchmarks are published, on a few rows of each."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from model.box_text import Region
from pipelines.errors import UserError
from tests.trainer.benchmarks.small_sets import write_coco, write_images, write_json, write_vqa
from trainer.benchmarks.formats import BenchmarkData, read
from trainer.benchmarks.formats.example import Example

ANSWERS = [{"answer": "net", "answer_confidence": "yes", "answer_id": 1}, {"answer": "a net", "answer_id": 2}]


def examples(root: Path, *, draw: bool = False, **data: Any) -> list[Example]:
    return read(TypeAdapter(BenchmarkData).validate_python(data), root, draw=draw)


def test_coco_captions(tmp_path: Path):
    write_coco(tmp_path)
    data = {"format": "captions", "annotations": "coco/captions.json", "images": "coco/val2014"}
    found = examples(tmp_path, **data)
    image = tmp_path / "coco/val2014/000000000001.jpg"
    assert found[0] == Example(
        "1", images=(image,), texts={"caption": "a red wall"}, answers=("a red wall", "one red wall")
    )
    assert not found[5].has_truth
    drawn = examples(tmp_path, draw=True, **data)
    assert drawn[0].images == ()
    assert drawn[0].references == (image,)
    assert drawn[0].texts["caption"] in found[0].answers
    assert not drawn[5].has_truth


def test_captions_in_karpathys_splits(tmp_path: Path):
    rows = [
        {"cocoid": 9, "filename": "a.jpg", "filepath": "val2014", "split": "test", "sentences": [{"raw": " A dog. "}]},
        {"imgid": 3, "filename": "b.jpg", "split": "train", "sentences": [{"raw": "A cat."}]},
    ]
    write_json(tmp_path / "k.json", {"images": rows})
    write_images(tmp_path / "images/val2014", ["a.jpg"])
    data = {"format": "captions", "annotations": "k.json", "images": "images"}
    [found] = examples(tmp_path, **data, split="test")
    assert (found.id, found.images, found.answers) == ("9", (tmp_path / "images/val2014/a.jpg",), ("A dog.",))
    assert [one.id for one in examples(tmp_path, **data)] == ["9", "3"]


def test_vqav2_with_the_answers_of_another_file(tmp_path: Path):
    write_vqa(tmp_path)
    data = {"format": "vqa", "images": "vqa/val2014", "image_name": "COCO_val2014_{image_id:012d}.jpg"}
    found = examples(tmp_path, **data, questions="vqa/questions.json", annotations="vqa/annotations.json")
    image = tmp_path / "vqa/val2014/COCO_val2014_000000000001.jpg"
    asked = {"question": "what colour is it?"}
    assert found[0] == Example("1000", images=(image,), texts=asked, answers=("red",) * 10)
    assert not any(one.has_truth for one in examples(tmp_path, **data, questions="vqa/questions.json"))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"7": {"imageId": "23", "question": "Is it?", "answer": "no"}}, ("7", "23.jpg", ("no",))),  # GQA
        (
            {"data": [{"question_id": 5, "image_id": "00a", "question": "Is it?", "answers": ["nokia", "Nokia"]}]},
            ("5", "00a.jpg", ("nokia", "Nokia")),
        ),  # TextVQA
        ([{"image": "V_0.jpg", "question": "Is it?", "answers": ANSWERS}], ("V_0.jpg", "V_0.jpg", ("net", "a net"))),
        ([{"image": "V_0.jpg", "question": "Is it?"}], ("V_0.jpg", "V_0.jpg", ())),  # VizWiz, and its test split
    ],
)
def test_other_sets_of_questions(tmp_path: Path, content: Any, expected: tuple[str, str, tuple[str, ...]]):
    write_json(tmp_path / "q.json", content)
    [found] = examples(tmp_path, format="vqa", questions="q.json", images="i")
    assert (found.id, found.images[0], found.answers) == (expected[0], tmp_path / "i" / expected[1], expected[2])
    assert found.texts == {"question": "Is it?"}


def test_questions_about_videos_in_json(tmp_path: Path):
    write_json(tmp_path / "q.json", [{"id": 4, "video_id": 1301, "question": "what does he do?", "answer": "dance"}])
    data = {"format": "video_qa", "questions": "q.json", "videos": "v"}
    [found] = examples(tmp_path, **data)
    video = tmp_path / "v/video1301.mp4"
    assert found == Example("4", video=video, texts={"question": "what does he do?"}, answers=("dance",))
    (tmp_path / "names.txt").write_text("mv89_33_46 vid1\n-abc_1_2 vid1301\n")  # as youtube_mapping.txt of MSVD-QA
    [found] = examples(tmp_path, **data, names="names.txt", video_name="{video_id}.avi")
    assert found.video == tmp_path / "v/-abc_1_2.avi"


def test_questions_about_videos_in_csv(tmp_path: Path):
    header = "video,frame_count,width,height,question,answer,qid,type"
    (tmp_path / "q.csv").write_text(f"{header}\n40,369,640,480,what does he do,dance,2,DO\n")
    write_json(tmp_path / "names.json", {"40": "0001/40"})
    data = {"format": "video_qa", "questions": "q.csv", "videos": "v", "video_name": "{video_id}.mp4"}
    [found] = examples(tmp_path, **data, names="names.json")
    assert (found.id, found.video, found.answers) == ("40-2", tmp_path / "v/0001/40.mp4", ("dance",))
    (tmp_path / "q.csv").write_text(f"{header},a0,a1\n40,369,640,480,what does he do,1,2,DO,run,dance\n")
    assert examples(tmp_path, **data)[0].answers == ("dance",)


def test_dreambench(tmp_path: Path):
    (tmp_path / "prompts_and_classes.txt").write_text(
        "Classes\n\nsubject_name,class\nbackpack,backpack\ndog2,dog\n\nPrompts\n\nObject Prompts\n\nprompt_list = [\n"
        "'a {0} {1} in the jungle'.format(unique_token, class_token),\n"
        "'a red {0} {1}'.format(unique_token, class_token),\n]\n\nLive Subject Prompts\n\nprompt_list = [\n"
        "'a {0} {1} wearing a red hat'.format(unique_token, class_token),\n]\n"
    )
    write_images(tmp_path / "backpack", ["01.jpg", "00.jpg"])
    write_images(tmp_path / "dog2", ["00.png"])
    found = examples(tmp_path, draw=True, format="dreambench", folder=".", images_per_prompt=2)
    assert [one.id for one in found] == [
        "backpack-00-0", "backpack-00-1", "backpack-01-0", "backpack-01-1", "dog2-00-0", "dog2-00-1",
    ]  # fmt: skip
    assert found[0].images == (tmp_path / "backpack/00.jpg",)
    assert found[0].references == (tmp_path / "backpack/00.jpg", tmp_path / "backpack/01.jpg")
    assert [one.texts["caption"] for one in found[::2]] == [
        "a backpack in the jungle", "a red backpack", "a dog wearing a red hat",
    ]  # fmt: skip


def test_coco_boxes(tmp_path: Path):
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 200, "height": 100} for i in (1, 2)]
    boxes = [(1, [20, 10, 100, 50], 0), (1, [0, 0, 5, 5], 0), (1, [0, 0, 200, 100], 1), (2, [0, 0, 1, 1], 0)]
    rows = [{"image_id": i, "category_id": 3, "bbox": box, "iscrowd": crowd} for i, box, crowd in boxes]
    write_json(tmp_path / "b.json", {"images": images, "annotations": rows, "categories": [{"id": 3, "name": "car"}]})
    [found] = examples(tmp_path, draw=True, format="boxes", annotations="b.json", images="i")
    assert found == Example("1", references=(tmp_path / "i/1.jpg",), objects=(Region("car", (0.1, 0.1, 0.6, 0.6)),))


def test_rows(tmp_path: Path):
    rows = [
        {"id": 1, "image": "a.png", "question": "which?", "answer": "dax", "group": 7, "box": [0, 0, 0.5, 1]},
        {"id": 2, "images": ["a.png", "b.png"], "reference": "c.png", "candidates": ["d.png"]},
    ]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, second = examples(tmp_path, format="rows", files=["r.jsonl"])
    assert (first.id, first.images, first.group, first.mark) == ("1", (tmp_path / "a.png",), "7", (0, 0, 0.5, 1))
    assert (first.texts["question"], first.answers) == ("which?", ("dax",))
    assert second.images == (tmp_path / "a.png", tmp_path / "b.png")
    assert (second.references, second.candidates) == ((tmp_path / "c.png",), (tmp_path / "d.png",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "q.json: no such file or directory: give its folder by --data"),
        ("{", "q.json: not JSON"),
        ('{"questions": [{"question_id": 1}]}', "q.json: not a file of questions in the form of VQAv2"),
        ("3", "q.json: not a file of questions in the form of VQAv2"),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path: Path, content: str | None, message: str):
    if content is not None:
        (tmp_path / "q.json").write_text(content)
    with pytest.raises(UserError, match=message):
        examples(tmp_path, format="vqa", questions="q.json", images="i")


def test_a_wrong_row_is_named_by_its_line(tmp_path: Path):
    (tmp_path / "r.jsonl").write_text('{"id": 1}\n{"id": 2, "box": [0, 0, 2, 1]}\n')
    with pytest.raises(UserError, match=r"r.jsonl, line 2: not a row: the box \[0, 0, 2, 1\] is not"):
        examples(tmp_path, format="rows", files=["r.jsonl"])


def write_refcoco(root: Path, references: Any) -> dict[str, str]:
    """Write a set of expressions about one image; return its settings."""
    write_json(
        root / "instances.json",
        {
            "images": [{"id": 9, "file_name": "9.jpg", "width": 200, "height": 100}],
            "annotations": [{"id": 1, "image_id": 9, "bbox": [20, 10, 100, 50], "category_id": 3}],
        },
    )
    (root / "refs(unc).p").write_bytes(pickle.dumps(references, protocol=0))  # as Python 2 wrote them
    return {"format": "referring", "expressions": "refs(unc).p", "instances": "instances.json", "images": "i"}


def test_refcoco_in_its_pickle(tmp_path: Path):
    sentences = [{"sent_id": 4, "sent": "left cat "}, {"sent_id": 5, "sent": "grey cat"}]
    reference = {"ann_id": 1, "image_id": 9, "split": "val", "ref_id": 0, "sentences": sentences}
    data = write_refcoco(tmp_path, [reference, reference | {"split": "train"}])
    found = examples(tmp_path, **data, split="val")
    assert [(one.id, one.texts["expression"]) for one in found] == [("4", "left cat"), ("5", "grey cat")]
    assert found[0].objects == (Region("left cat", (0.1, 0.1, 0.6, 0.6)),)
    assert found[0].images == (tmp_path / "i/9.jpg",)


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("it runs code",)


@pytest.mark.parametrize(
    ("references", "message"),
    [
        (Harmful(), r"refs\(unc\)\.p: not a pickle of RefCOCO's expressions: it names .*print, which is not read"),
        (None, "not a pickle of RefCOCO's expressions"),
        (
            [{"ann_id": 2, "image_id": 9, "split": "val", "sentences": []}],
            r"instances\.json: not a file of the boxes of refs",
        ),
    ],
)
def test_a_pickle_runs_nothing_and_a_wrong_one_is_one_line(tmp_path: Path, references: Any, message: str, capsys):
    data = write_refcoco(tmp_path, references)
    if references is None:
        (tmp_path / "refs(unc).p").write_bytes(b"no pickle")
    with pytest.raises(UserError, match=message) as caught:
        examples(tmp_path, **data)
    assert "\n" not in str(caught.value)
    assert capsys.readouterr().out == ""


def test_a_row_may_hold_any_character(tmp_path: Path):
    row = {"id": "1", "question": "two\u2028lines\x85?", "answer": "a"}
    (tmp_path / "r.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\r\n\n")
    assert examples(tmp_path, format="rows", files=["r.jsonl"])[0].texts["question"] == row["question"]


def test_rows_that_are_not_utf_8_are_one_line(tmp_path: Path):
    (tmp_path / "r.jsonl").write_bytes(b'{"id": "\xff"}')
    with pytest.raises(UserError, match=r"r\.jsonl: rows must be in UTF-8"):
        examples(tmp_path, format="rows", files=["r.jsonl"])


def test_names_of_videos_that_are_no_mapping_are_one_line(tmp_path: Path):
    write_json(tmp_path / "names.json", ["a"])
    write_json(tmp_path / "q.json", [{"video_id": 1, "question": "?", "answer": "a"}])
    with pytest.raises(UserError, match=r"names\.json: not a mapping of videos to their names"):
        examples(tmp_path, format="video_qa", questions="q.json", videos="v", names="names.json")
