import itertools

import pytest
import torch
from torch import Tensor

from trainer.evaluation.attributes import Attributes
from trainer.evaluation.judge import Judge

WORDS = {"colour": ("red", "green", "blue"), "shape": ("square", "bar"), "position": ("left", "right")}
HELD_OUT = ("red", "bar")


def image(colour: str, shape: str, position: str, number: int) -> Tensor:
    """Draw a square or a vertical bar on grey, at a slightly different place for each number."""
    draw = torch.Generator().manual_seed(number)
    image = torch.randint(110, 140, (3, 16, 16), generator=draw, dtype=torch.uint8)
    dx, dy = torch.randint(0, 2, (2,), generator=draw).tolist()
    left = dx + (1 if position == "left" else 9)
    width, height = (5, 5) if shape == "square" else (2, 12)
    rgb = torch.tensor([[230, 30, 30], [30, 230, 30], [30, 30, 230]], dtype=torch.uint8)[WORDS["colour"].index(colour)]
    image[:, 1 + dy : 1 + dy + height, left : left + width] = rgb[:, None, None]
    return image


@pytest.fixture(scope="module")
def judge() -> Judge:
    seen = [values for values in itertools.product(*WORDS.values()) if values[:2] != HELD_OUT] * 20
    judge = Judge(Attributes(WORDS, ("colour", "shape")), torch.device("cpu"))
    images = torch.stack([image(*values, number) for number, values in enumerate(seen)])
    judge.learn(images, [dict(zip(WORDS, values, strict=True)) for values in seen], steps=60)
    return judge


@pytest.mark.slow
def test_a_judge_tells_seen_and_held_out_combinations(judge: Judge):
    for combinations in (itertools.product(*WORDS.values()), [(*HELD_OUT, "left"), (*HELD_OUT, "right")]):
        asked = [(values, number) for values in combinations for number in range(1000, 1005)]
        found = judge.read(torch.stack([image(*values, number) for values, number in asked]))
        right = [tuple(read.values()) == values for read, (values, _) in zip(found, asked, strict=True)]
        assert sum(right) / len(right) >= 0.95


def test_colours_are_recognised_by_pixels_and_shapes_without_colours(judge: Judge):
    assert judge.ways["colour"] == "palette"
    assert judge.ways["shape"] in ("palette", "recoloured")  # the area is enough for a few pixels
    assert judge.ways["position"] == "recoloured"
