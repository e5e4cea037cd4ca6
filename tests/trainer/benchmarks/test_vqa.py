"""Tests of the VQA challenge's accuracy, against its published rules."""

import pytest

from trainer.benchmarks.metrics.vqa import accuracy, normalised


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("The Dog", "dog"),  # case, articles
        ("a  cat and an owl", "cat and owl"),
        ("two", "2"),
        ("None", "0"),
        ("eleven", "eleven"),  # number words to ten
        ("dont", "don't"),  # apostrophes of contractions
        ("couldntve", "couldn't've"),
        ("couldnt've", "couldn't've"),
        ("its", "its"),  # no contraction in the challenge's list
        ("yes!", "yes"),
        ("black, white", "black white"),  # a sign beside a space vanishes
        ("black/white", "black white"),  # one between letters becomes a space
        ("1,000", "1000"),  # between digits it vanishes
        ("10:30 a.m.", "10:30 am"),  # periods vanish, the colon stays
        ("3.5", "3.5"),  # but not before a digit
        ("t-shirt", "t shirt"),
        ("line\nbreak\ttab ", "line break tab"),
        ("", ""),
    ],
)
def test_answers_are_normalised_as_in_the_challenge(answer: str, expected: str):
    assert normalised(answer) == expected


@pytest.mark.parametrize(("num_equal", "expected"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_an_answer_is_worth_what_nine_of_ten_people_say(num_equal: int, expected: float):
    """Each of n equal answers is left out once: n times min(1, (n - 1) / 3), and 10 - n times min(1, n / 3)."""
    assert accuracy("net", ["net"] * num_equal + ["ball"] * (10 - num_equal)) == pytest.approx(expected)


def test_answers_are_compared_after_normalisation_unless_all_people_agree():
    assert accuracy("The Net.", ["net"] * 9 + ["ball"]) == 1.0
    assert accuracy("The Net.", ["net"] * 10) == 0.0  # the challenge's code normalises only where answers differ
    assert accuracy("net", ["net"] * 10) == 1.0
