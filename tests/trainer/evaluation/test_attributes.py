import pytest

from trainer.evaluation.attributes import Attributes

WORDS = {
    "colour": ("red", "green"),
    "shape": ("circle", "cross"),
    "position": ("top", "top left", "left"),
}
ATTRIBUTES = Attributes(WORDS, ("colour", "shape"))


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("A Red circle at the top", {"colour": "red", "shape": "circle", "position": "top"}),
        ("red crosses near the top  left corner", {"colour": "red", "shape": "cross", "position": "top left"}),
        ("two circles", {"shape": "circle"}),
        ("a reddish encircled thing, topped", {}),
        ("green, then red", {"colour": "green"}),
    ],
)
def test_the_first_value_of_each_attribute_is_read_and_long_words_come_before_short_ones(text: str, values: dict):
    assert ATTRIBUTES.first(text) == values


def test_a_caption_of_a_single_thing_names_one_value_of_every_attribute():
    assert ATTRIBUTES.of_single("a red circle on the left") == {"colour": "red", "shape": "circle", "position": "left"}
    assert ATTRIBUTES.of_single("a red circle, red all over, on the left") is not None
    assert ATTRIBUTES.of_single("a red circle and a green circle on the left") is None
    assert ATTRIBUTES.of_single("a red circle") is None
    assert Attributes({}).of_single("a red circle") is None


def test_combinations_come_from_captions_that_name_one_of_each():
    captions = ["a red circle", "a green cross at the top left", "a red cross beside a green circle", "red"]
    assert ATTRIBUTES.combinations(captions) == {("red", "circle"), ("green", "cross")}


def test_words_are_found_where_they_stand():
    text = "The red cross"
    assert [(name, text[start:end]) for name, _, start, end in ATTRIBUTES.found(text)] == [
        ("colour", "red"),
        ("shape", "cross"),
    ]
