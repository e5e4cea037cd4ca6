"""Tests of images that are nearly those of evaluation sets: found by hash, given as images or as hashes."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from pipelines.decisions.evaluation_images import EvaluationImages, evaluation_content, is_evaluation_image
from pipelines.decisions.thresholds import judge
from pipelines.errors import UserError
from pipelines.filter_inputs import decision_settings
from pipelines.images.normalise import perceptual_hash
from tests.pipelines.decisions.test_thresholds import page, pair, row, thresholds
from tests.pipelines.stage_records import image_bytes, spec


def resized(data: bytes) -> bytes:
    """Return the image smaller and as another file."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return cv2.imencode(".png", cv2.resize(pixels, (150, 110), interpolation=cv2.INTER_AREA))[1].tobytes()


def test_an_image_of_a_set_is_found_in_another_size_and_others_are_not(tmp_path: Path):
    (tmp_path / "test.jpg").write_bytes(image_bytes(7, (400, 300)))
    settings = EvaluationImages(files=[str(tmp_path / "*.jpg")])
    assert is_evaluation_image(perceptual_hash(resized(image_bytes(7, (400, 300)))), settings)
    assert not any(is_evaluation_image(perceptual_hash(image_bytes(i, (400, 300))), settings) for i in range(7))


def test_hashes_may_differ_in_as_many_bits_as_are_allowed(tmp_path: Path):
    (tmp_path / "hashes.txt").write_text("ffffffffffffffff\n00000000000000F0\n")
    for distance in (0, 3):
        settings = EvaluationImages(files=[str(tmp_path / "hashes.txt")], max_distance=distance)
        assert is_evaluation_image(0xF0 ^ ((1 << distance) - 1), settings)
        assert not is_evaluation_image(0xF0 ^ ((1 << (distance + 1)) - 1), settings)


def test_an_image_that_is_found_falls_with_its_reason(tmp_path: Path):
    (tmp_path / "hashes.txt").write_text("0123456789abcdef\n")
    limits = thresholds(evaluation_images={"files": [str(tmp_path / "hashes.txt")]})
    judged = judge(page(), row(page(), phash=0x0123456789ABCDEE), limits, {})
    assert [(i, why.reason, why.detail) for i, why in judged.lost.items()] == [
        (0, "evaluation_image", "0123456789abcdee")
    ]
    assert judge(pair(), row(pair(), phash=0x0123456789ABCDEF), limits, {}).document is None
    assert judge(page(), row(page(), phash=0xFFFF), limits, {}).lost == {}


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.txt", b"0123\n", "16 hexadecimal digits per line; '0123' is none"),
        ("b.txt", b"\n", "it is empty"),
        ("c.jpg", b"no image", "cannot be read as an image of an evaluation set"),
    ],
)
def test_a_set_that_cannot_be_read_is_told_in_one_line(tmp_path: Path, name: str, data: bytes, message: str):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=message):
        is_evaluation_image(1, EvaluationImages(files=[str(tmp_path / name)]))


def test_another_set_under_the_same_name_decides_anew(tmp_path: Path):
    file = tmp_path / "hashes.txt"
    given = spec({"pairs": {"kind": "pair", "filters": {"evaluation_images": {"files": [str(file)]}}}})
    file.write_text("0123456789abcdef\n")
    before = decision_settings(given)
    file.write_text("0123456789abcdee\n0123456789abcd00\n")
    assert decision_settings(given) != before
    file.unlink()
    with pytest.raises(UserError, match=r"hashes\.txt: no such file"):
        evaluation_content(EvaluationImages(files=[str(file)]))
