import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pipelines.sources import vqa
from pipelines.sources.vqa import VqaSettings

BASE = "https://images.example.org"


def listed(tmp_path: Path, content: Any, **more: Any) -> VqaSettings:
    path = tmp_path / "questions.json"
    path.write_text(json.dumps(content))
    return VqaSettings(files=[str(path)], images=BASE, **more)


def asked(found: Any) -> list[tuple[str | None, str, str]]:
    """Return image, question and answer of each document."""
    return [(c.requests[0].url, *(s.text for s in c.document.segments if s.text is not None)) for c in found.candidates]


def test_vqav2_joins_questions_with_their_annotations(tmp_path, read_all):
    questions = [{"image_id": 9, "question": f"How many {n}?", "question_id": 9000 + n} for n in range(3)]
    content = {"info": {"questions": 1}, "data_subtype": "train2014", "questions": questions}
    annotations = tmp_path / "annotations.json"
    found = [
        {"question_id": 9000, "multiple_choice_answer": "net", "answers": [{"answer": "nets"}] * 10},
        {"question_id": 9001, "answers": [{"answer": "2"}, {"answer": "3"}, {"answer": "3"}]},
    ]
    annotations.write_text(json.dumps({"info": {}, "annotations": found}))
    settings = listed(
        tmp_path,
        content,
        annotations=[str(annotations)],
        image_name="COCO_train2014_{image_id:012d}.jpg",
        hint="Answer the question using a single word or phrase.",
        part_rows=2,
    )
    read = read_all(settings, "conversation")
    url = f"{BASE}/COCO_train2014_000000000009.jpg"
    hint = "\nAnswer the question using a single word or phrase."
    assert asked(read) == [(url, f"How many 0?{hint}", "net"), (url, f"How many 1?{hint}", "3")]
    assert read.reasons == ["missing_answer"]  # as in a test set
    assert [d.source.record for d in read.documents] == ["9000", "9001"]
    assert len({d.build.dedup_group for d in read.documents}) == 1  # one image stays in one split
    assert [file.name for file in vqa.companion_files(settings)] == ["annotations.json"]


def test_gqa_is_an_object_of_questions(tmp_path, read_all):
    content = {"07333408": {"imageId": "2375429", "question": "What is on the wall?", "answer": "pipe"}}
    read = read_all(listed(tmp_path, content), "conversation")
    assert asked(read) == [(f"{BASE}/2375429.jpg", "What is on the wall?", "pipe")]
    assert read.documents[0].source.record == "07333408"


def test_textvqas_questions_are_under_data(tmp_path, read_all):
    row = {"image_id": "0054c91397f2fe05", "question": "which brand?", "answers": ["nokia", "no", "nokia"]}
    read = read_all(listed(tmp_path, {"dataset_type": "train", "data": [row | {"question_id": 0}]}), "conversation")
    assert asked(read) == [(f"{BASE}/0054c91397f2fe05.jpg", "which brand?", "nokia")]


def test_vizwiz_names_its_images(tmp_path, read_all):
    answers = [{"answer": "basil leaves", "answer_confidence": "yes"}, {"answer": "basil"}, {"answer": "basil"}]
    row = {"image": "VizWiz_train_00000000.jpg", "question": "What is it?", "answers": answers, "answerable": 1}
    read = read_all(
        listed(tmp_path, [row, row | {"answerable": 0}], where={"answerable": {"equals": 1}}), "conversation"
    )
    assert asked(read) == [(f"{BASE}/VizWiz_train_00000000.jpg", "What is it?", "basil")]
    assert read.reasons == ["where_unmet"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"image": "1.jpg", "question": " ", "answer": "x"}, "missing_text"),
        ({"image": "1.jpg", "question": "What?"}, "missing_answer"),
        ({"image": "1.jpg", "question": "What?", "answers": [" ", 3]}, "missing_answer"),
        ({"question": "What?", "answer": "x"}, "missing_images"),
        ({"image_id": "x", "question": "What?", "answer": "x"}, "malformed_row"),
        ("What?", "malformed_row"),
    ],
)
def test_a_question_that_cannot_be_used_is_dropped_with_its_reason(tmp_path, read_all, row, reason):
    settings = listed(tmp_path, [row], image_name="{image_id:012d}.jpg")
    assert read_all(settings, "conversation").reasons == [reason]


def test_a_pattern_without_the_images_id_is_refused(tmp_path):
    with pytest.raises(ValidationError, match="image_id"):
        VqaSettings(files=["x"], image_name="image.jpg")
