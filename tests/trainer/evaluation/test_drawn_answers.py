"""Tests of images with which a tuned model answers: what is right is known, by embeddings and by attributes."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from model.segment import ImageSegment
from trainer.evaluation.answers import Question
from trainer.evaluation.attributes import Values
from trainer.evaluation.drawn_answers import embedding_figures, pixel_figures


def edit(before: int | None = 0, after: int = 1) -> Question:
    """Return a question that is answered by image `after`, about image `before` if there is one."""
    shown = () if before is None else (ImageSegment(before, role="user"),)
    sample: Any = SimpleNamespace(image=lambda media, side: torch.full((3, side, side), media, dtype=torch.uint8))
    return Question(sample, shown, (ImageSegment(after, role="assistant"),))


def test_embeddings_are_right_nearer_to_the_true_image_than_to_the_one_shown():
    run: Any = SimpleNamespace(image_size=2, embed=lambda images: images[:, :1, :1, 0].float())
    drawn = torch.tensor([[[0.9]], [[0.1]], [[5.0]]])
    figures = embedding_figures([edit(), edit(), edit(before=None)], "edits", run, drawn)
    assert figures == {"drawn_edits": 0.5, "num_drawn_edits": 2, "chance_drawn_edits": 0.5}
    assert embedding_figures([edit(before=None)], "boxes", run, drawn[:1]) == {}


def test_pixels_are_right_with_the_attributes_of_the_true_image():
    def thing(colour: str, shape: str) -> Values:
        return {"colour": colour, "shape": shape}

    images = {0: thing("red", "ring"), 1: thing("blue", "ring"), 2: thing("red", "cross")}
    asked = [edit(0, 1), edit(0, 1), edit(0, 2), edit(0, 1)]
    drawn = [thing("blue", "ring"), thing("blue", "cross"), thing("red", "ring"), thing("red", "ring")]
    figures = pixel_figures(asked, "edits", drawn, lambda number, media: images[media])
    assert {name: value for name, value in figures.items() if not name.startswith("num_")} == {
        "drawn_colour_edits": 0.75,
        "chance_drawn_colour_edits": 0.75,
        "drawn_shape_edits": 0.5,
        "chance_drawn_shape_edits": 0.75,
        "drawn_all_edits": 0.25,
        "drawn_change_edits": 0.5,
        "drawn_rest_edits": 0.75,
    }
    assert figures["num_drawn_change_edits"] == 4


@pytest.mark.parametrize("drawn", ["red", "blue"])
def test_without_an_image_before_there_is_no_change(drawn: str):
    figures = pixel_figures([edit(before=None)], "boxes", [{"colour": drawn}], lambda number, media: {"colour": "red"})
    assert figures["drawn_colour_boxes"] == figures["drawn_all_boxes"] == float(drawn == "red")
    assert "drawn_change_boxes" not in figures
