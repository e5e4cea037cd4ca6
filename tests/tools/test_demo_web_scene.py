"""Tests of scenes: captions describe what is drawn."""

import random
from itertools import combinations

import cv2
import numpy as np
import pytest

from tools.demo_web.scene import (
    BACKGROUNDS,
    CELL_CENTRES,
    COLOURS,
    HELD_OUT,
    POSITIONS,
    SEEN,
    SHAPES,
    SIZES,
    Item,
    Scene,
    attributes_of,
    boxes,
    draw,
    random_item,
)
from tools.demo_web.wording import caption


def scenes(count):
    rng = random.Random(7)
    return [
        Scene((random_item(rng, held_out=n % 2 == 0),), rng.choice(tuple(BACKGROUNDS)), f"test {n}")
        for n in range(count)
    ]


def perceptual_hash(image):
    grey = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (32, 32), interpolation=cv2.INTER_AREA)
    low = cv2.dct(grey.astype(np.float32))[:8, :8].ravel()
    return np.packbits(low > np.median(low[1:])).tobytes()


def test_every_pair_of_colour_and_shape_is_either_seen_or_held_out():
    assert len(SEEN) + len(HELD_OUT) == len(COLOURS) * len(SHAPES)
    assert not set(SEEN) & set(HELD_OUT)
    assert len({colour for colour, _ in HELD_OUT}) == len({shape for _, shape in HELD_OUT}) == 4


def test_a_caption_read_back_gives_the_attributes():
    for n, scene in enumerate(scenes(600)):
        item = scene.items[0]
        expected = {"colour": item.colour, "shape": item.shape, "size": item.size, "position": item.position}
        assert attributes_of(caption(scene, random.Random(n))) == expected


def test_attributes_that_are_not_named_are_left_out():
    assert attributes_of("Two green crosses") == {"colour": "green", "shape": "cross"}
    assert attributes_of("The weather is fine.") == {}
    assert attributes_of("at the top\nright") == {"position": "top right"}


def test_the_image_shows_the_colour_the_place_and_the_size():
    for scene in scenes(300):
        item = scene.items[0]
        image = draw(scene).astype(float)
        x0, y0, x1, y1 = boxes(scene)[0]
        column, row = POSITIONS[item.position]
        assert np.allclose(
            [(x0 + x1) / 2, (y0 + y1) / 2], [64 * CELL_CENTRES[column], 64 * CELL_CENTRES[row]], atol=3.5
        )
        assert (max(x1 - x0, y1 - y0) > 19) == (item.size == "large")
        inside = image[y0:y1, x0:x1].reshape(-1, 3)
        distances = np.stack([np.linalg.norm(inside - np.array(rgb), axis=1) for rgb in COLOURS.values()])
        votes = np.bincount(distances.argmin(0)[distances.min(0) < 40], minlength=len(COLOURS))
        assert list(COLOURS)[votes.argmax()] == item.colour


def test_no_two_shapes_cover_the_same_place():
    def covered(shape):
        image = draw(Scene((Item("red", shape, "large", "center"),), "light", "fixed")).astype(float)
        return np.linalg.norm(image - np.array(COLOURS["red"]), axis=2) < 70

    for one, other in combinations(map(covered, SHAPES), 2):
        assert np.count_nonzero(one & other) < 0.85 * np.count_nonzero(one | other)


def test_images_of_one_scene_differ_and_so_do_their_hashes():
    item = Item("blue", "circle", "small", "left")
    images = [draw(Scene((item,), "dark", f"variation {n}")) for n in range(200)]
    assert len({image.tobytes() for image in images}) == 200
    assert len({perceptual_hash(image) for image in images}) == 200


def test_the_same_scene_is_the_same_image_at_any_time():
    scene = scenes(1)[0]
    assert np.array_equal(draw(scene), draw(Scene(scene.items, scene.background, scene.variation)))
    assert draw(scene, 32).shape == (32, 32, 3)


def test_an_unknown_shape_is_refused():
    with pytest.raises(ValueError, match="unknown shape 'star'; known: circle"):
        draw(Scene((Item("red", "star", next(iter(SIZES)), "top"),), "dark", "x"))
