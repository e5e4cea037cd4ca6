"""Tests of faces by a detector of YuNet's form that takes red cells for faces, so that every box is known."""

import io
import re

import cv2
import numpy as np
import pytest
from PIL import Image

from pipelines.document import Face
from pipelines.errors import UserError
from pipelines.images.faces import FaceSettings, blur_faces, check_detector, find_faces
from pipelines.images.normalise import ImageRejected, ImageSettings, normalise, normalise_pixels
from tests.tiny_yunet import SIDE, write_yunet

# img2dataset's Resizer passes albumentations an option by its old name.
pytestmark = pytest.mark.filterwarnings("ignore:value is deprecated, use fill:DeprecationWarning")

RED = (0, 0, 255)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_yunet(tmp_path_factory.mktemp("yunet") / "yunet.onnx")


def scene(width, height, *cells):
    """Return BGR pixels of a grid of grey, with red in the given cells (column, row)."""
    pixels = np.full((height, width, 3), 120, np.uint8)
    pixels[::4] = 60
    for column, row in cells:
        pixels[row * SIDE : (row + 1) * SIDE, column * SIDE : (column + 1) * SIDE] = RED
    return pixels


def png(pixels):
    return cv2.imencode(".png", pixels)[1].tobytes()


def decoded(data):
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


def settings(weights, action="blur", **more):
    image = {"resize_mode": "no", "encode_format": "png", "encode_quality": 1} | more
    return ImageSettings.model_validate(image | {"faces": {"weights": weights, "action": action}})


@pytest.mark.parametrize(("width", "height"), [(320, 160), (310, 145), (40, 33)])
def test_a_face_is_found_where_it_is_in_images_of_any_size(weights, width, height):
    found = find_faces(scene(width, height, (0, 0)), FaceSettings(weights=weights))
    (face,) = found.faces
    assert face.box == (0, 0, round(SIDE / width, 4), round(SIDE / height, 4))
    assert face.score == pytest.approx(1, abs=1e-3)


def test_faces_are_in_the_order_of_their_scores_and_then_of_their_boxes(weights):
    pixels = scene(320, 160, (1, 2), (9, 4), (4, 0))
    pixels[:SIDE, 4 * SIDE : 5 * SIDE] = (6, 6, 252)  # red, but less so: 240 is the middle of the sigmoid
    found = find_faces(pixels, FaceSettings(weights=weights, min_score=0.4))
    assert [face.box for face in found.faces] == [(0.1, 0.4, 0.2, 0.6), (0.9, 0.8, 1, 1), (0.4, 0, 0.5, 0.2)]
    assert find_faces(pixels, FaceSettings(weights=weights, min_score=0.9)).faces == found.faces[:2]


def test_a_larger_image_is_searched_at_a_smaller_size(weights):
    pixels = cv2.resize(scene(320, 160, (3, 1)), (1280, 640), interpolation=cv2.INTER_NEAREST)
    assert find_faces(pixels, FaceSettings(weights=weights, search_size=1280)).faces != ()  # 16 cells, one of them kept
    (face,) = find_faces(pixels, FaceSettings(weights=weights, search_size=320)).faces
    assert face.box == (0.3, 0.2, 0.4, 0.4)


def test_a_blur_leaves_nothing_of_a_face_and_all_of_the_rest():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (200, 300, 3), dtype=np.uint8)
    blurred = blur_faces(pixels, (Face((0.2, 0.25, 0.4, 0.75), 0.9), Face((0.9, 0.9, 1, 1), 0.9)))
    changed = np.argwhere((blurred != pixels).any(axis=2))
    outside = [(y, x) for y, x in changed if not (40 <= y < 160 and 50 <= x < 130) and not (y >= 177 and x >= 267)]
    assert outside == []  # a tenth of the longer side around the boxes
    inside = blurred[50:150, 60:120].astype(float)
    assert inside.std() < 0.1 * pixels[50:150, 60:120].std()
    assert np.abs(inside.mean() - pixels[50:150, 60:120].mean()) < 4


def test_an_image_with_a_face_is_encoded_again_once_and_one_without_is_kept(weights):
    plain, portrait = png(scene(320, 160)), png(scene(320, 160, (3, 1)))
    asked = settings(weights)
    kept = normalise(plain, asked)
    assert (kept.data, kept.faces.faces) == (normalise(plain, asked.model_copy(update={"faces": None})).data, ())
    made = normalise(portrait, asked)
    assert [face.box for face in made.faces.faces] == [(0.3, 0.2, 0.4, 0.4)]
    assert np.array_equal(decoded(made.data), blur_faces(scene(320, 160, (3, 1)), made.faces.faces))
    assert made.data == normalise_pixels(scene(320, 160, (3, 1)), asked, made.source_sha256).data  # of a video
    assert find_faces(decoded(made.data), asked.faces).faces == ()
    assert re.fullmatch(r"yunet@[0-9a-f]{16}\+blur", made.faces.detector)


def test_faces_are_counted_in_an_image_that_stays_as_it_is(weights):
    data = png(scene(320, 160, (3, 1), (5, 1)))
    counted = normalise(data, settings(weights, "count"))
    assert counted.data == normalise(data, settings(weights).model_copy(update={"faces": None})).data
    assert (len(counted.faces.faces), counted.faces.detector.endswith("+blur")) == (2, False)


def test_an_image_with_a_face_is_dropped_where_the_settings_say_so(weights):
    normalise(png(scene(320, 160)), settings(weights, "drop"))
    with pytest.raises(ImageRejected) as caught:
        normalise(png(scene(320, 160, (3, 1))), settings(weights, "drop"))
    assert caught.value.reason == "face_found"


def test_a_box_is_that_on_the_stored_image_and_a_face_that_is_cropped_away_does_not_count(weights):
    cropped = settings(weights, resize_mode="center_crop", image_size=160, resize_only_if_bigger=False)
    made = normalise(png(scene(320, 160, (0, 0), (3, 1))), cropped)
    assert (made.width, made.height) == (160, 160)
    (face,) = made.faces.faces
    assert face.box == pytest.approx((0.1, 0.2, 0.3, 0.4), abs=1e-6)
    normalise(png(scene(320, 160, (0, 0))), cropped.model_copy(update={"faces": settings(weights, "drop").faces}))


def test_a_face_is_found_in_the_upright_image(weights):
    upright = scene(160, 320, (1, 2))
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # its right side is the top
    turned = np.ascontiguousarray(np.rot90(upright))[:, :, ::-1]
    Image.fromarray(turned).save(file, "PNG", exif=exif)
    made = normalise(file.getvalue(), settings(weights, "count"))
    assert [face.box for face in made.faces.faces] == [(0.2, 0.2, 0.4, 0.3)]


def test_weights_that_are_not_yunets_are_told_before_anything_is_fetched(tmp_path):
    wrong = tmp_path / "wrong.onnx"
    for content in (b"", b"no model", b"\x08\x07" + bytes(200)):
        wrong.write_bytes(content)
        with pytest.raises(UserError, match=r"wrong\.onnx: not YuNet's face detector in ONNX"):
            check_detector(FaceSettings(weights=str(wrong)))
    with pytest.raises(UserError, match=r"missing\.onnx: no such file"):
        check_detector(FaceSettings(weights=str(tmp_path / "missing.onnx")))
