"""Tests of images with which a tuned model answers: what is right is known, by embeddings and by attributes."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from model.segment import ImageSegment, Phrase, Text
from trainer.evaluation.answers import Question
from trainer.evaluation.attributes import Values
from trainer.evaluation.drawn_answers import embedding_figures, pixel_figures, to_look_at
from trainer.evaluation.sample_sheets import WIDTH, write_drawn_answers


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


def test_the_sheet_shows_what_was_asked_drawn_and_true(tmp_path: Path):
    box = (0.25, 0.25, 0.75, 0.75)
    words = Text(np.arange(3, dtype=np.int32), "user", (Phrase(0, 2, (box,)),))
    asked = edit()
    asked = replace(asked, before=(*asked.before, words))
    run: Any = SimpleNamespace(tokenizer=SimpleNamespace(decode=lambda ids: " a boat "))
    drawn = torch.full((2, 3, 16, 16), 200, dtype=torch.uint8)
    first, second = to_look_at([asked, edit(before=None, after=2)], drawn, run)
    shown, place = first.shown
    assert (shown == 0).all()
    assert place.max() == 255  # the outline of its box
    assert place.float().mean() < 128
    assert (first.words, first.generated.min(), first.true.max()) == ("a boat", 200, 1)
    assert (second.shown, second.words, second.true.max()) == ([], "", 2)
    write_drawn_answers(str(tmp_path / "sheet.png"), {"edits": [first], "boxes": [second]})
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width == WIDTH
        colours = {colour for _, colour in sheet.convert("RGB").getcolors(1 << 24) or ()}
    assert {(200, 200, 200), (0, 0, 0), (2, 2, 2)} <= colours
