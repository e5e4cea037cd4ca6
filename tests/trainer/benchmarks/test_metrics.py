"""Tests of figures against values that are known from their definitions."""

import math

import pytest

from model.box_text import Region
from pipelines.errors import UserError
from trainer.benchmarks.formats.example import Example
from trainer.benchmarks.metrics import captions
from trainer.benchmarks.metrics.figure import Answered, Figure, bootstrap, mean, of_others, wilson
from trainer.benchmarks.metrics.text import cleaned, scores


def said(*pairs: tuple[str, tuple[str, ...]]) -> list[Answered]:
    return [Answered(Example(str(i), answers=true), text) for i, (text, true) in enumerate(pairs)]


def test_wilsons_interval_is_that_of_the_textbook():
    low, high = wilson(8, 10)
    assert (round(low, 4), round(high, 4)) == (0.4902, 0.9433)
    assert wilson(0, 5)[0] == 0.0
    assert wilson(5, 5)[1] == 1.0


def test_a_bootstrap_covers_the_mean_and_repeats():
    values = [0.1 * (i % 10) for i in range(200)]
    low, high = bootstrap(values)
    half = 1.96 * math.sqrt(sum((v - 0.45) ** 2 for v in values) / 200 / 200)
    assert low == pytest.approx(0.45 - half, abs=0.01)
    assert high == pytest.approx(0.45 + half, abs=0.01)
    assert bootstrap(values) == (low, high)


def test_scores_of_0_and_1_have_wilsons_interval():
    assert mean([1, 1, 0]) == Figure(2 / 3, 3, *wilson(2, 3), None, (1.0, 1.0, 0.0))


def test_exact_match_compares_words_in_lower_case_and_chance_is_the_most_frequent_answer():
    found = scores(
        said(("Dance!", ("dance",)), ("run", ("walk",)), ("dance", ("dance",)), ("", ("dance",))), ["exact_match"]
    )
    assert found["exact_match"].value == 0.5
    assert found["exact_match"].chance == 0.75


def test_vqa_accuracy_needs_the_answers_of_several_people():
    found = scores(said(("two", ("2",) * 3 + ("3",) * 7), ("3", ("2",) * 3 + ("3",) * 7)), ["vqa_accuracy"])
    assert found["vqa_accuracy"].value == pytest.approx((0.9 + 1.0) / 2)
    assert found["vqa_accuracy"].chance == 1.0
    with pytest.raises(UserError, match="vqa_accuracy: the question 0 has one answer"):
        scores(said(("two", ("2",))), ["vqa_accuracy"])


@pytest.mark.parametrize("metric", ["exact_match", "vqa_accuracy", "cider"])
def test_an_answer_without_a_true_one_in_words_is_refused(metric: str):
    drawn = Answered(Example("7", objects=(Region("a boat", (0, 0, 1, 1)),)), "a boat")
    with pytest.raises(UserError, match=f"{metric}: the example 7 has no true answer in words"):
        scores([drawn], [metric])


def test_a_box_is_right_if_half_of_both_overlaps():
    boxes = [(0.0, 0.0, 0.5, 0.5), (0.5, 0.5, 1.0, 1.0)]
    texts = ["it is [box:a cat:0,0,0.5,0.4]", "[box:a cat:0,0,0.5,0.5]"]
    answered = [
        Answered(Example(str(i), objects=(Region("a cat", box),)), text)
        for i, (box, text) in enumerate(zip(boxes, texts, strict=True))
    ]
    assert scores(answered, ["box_accuracy"])["box_accuracy"].scores == (1.0, 0.0)
    assert scores([Answered(answered[0].example, "no box")], ["box_accuracy"])["box_accuracy"].value == 0.0


def by_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut words without Java, whose start takes a second."""
    monkeypatch.setattr(captions.shutil, "which", lambda _: None)


def test_captions_score_as_defined(monkeypatch: pytest.MonkeyPatch):
    by_definition(monkeypatch)
    found = scores(said(("A red wall.", ("a red wall",)), ("two dogs", ("a blue car",))), ["bleu", "rouge_l", "cider"])
    assert list(found) == ["bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider"]
    assert found["rouge_l"].scores == (1.0, 0.0)
    brevity = math.exp(1 - 6 / 5)  # 5 words for 6
    assert found["bleu_1"].value == pytest.approx(3 / 5 * brevity, rel=1e-3)
    # CIDEr-D: 10 times the mean over 1- to 4-grams of the cosine of tf-idf vectors; three words hold no 4-gram.
    assert found["cider"].scores[0] == pytest.approx(7.5, rel=1e-3)
    assert found["cider"].scores[1] == 0.0


def test_the_chance_of_captions_is_what_those_of_other_images_score(monkeypatch: pytest.MonkeyPatch):
    by_definition(monkeypatch)
    right = said(("a red wall", ("a red wall",)), ("two dogs", ("two dogs",)), ("a red wall", ("a red wall",)))
    found = scores(right, ["rouge_l", "bleu"])
    assert (found["rouge_l"].value, found["rouge_l"].chance) == (1.0, 0.0)
    assert found["bleu_1"].chance == pytest.approx(0.0, abs=1e-6)
    alike = scores(said(("a red wall", ("a red wall",)), ("x", ("a red wall",))), ["rouge_l"])
    assert alike["rouge_l"].chance is None  # there is no other caption


def test_each_is_compared_with_the_next_other_one():
    assert of_others(["a", "a", "b", "c"]) == ["b", "b", "c", "a"]
    assert of_others(["a", "a"]) is None
    assert of_others(["a"]) is None


def test_captions_without_a_word_count_as_wrong(monkeypatch: pytest.MonkeyPatch):
    by_definition(monkeypatch)
    found = scores(said(("", ("a red wall",)), ("a blue car", ("a blue car",))), ["cider", "rouge_l"])
    assert found["cider"].scores[0] == found["rouge_l"].scores[0] == 0.0


def test_meteor_without_java_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch):
    by_definition(monkeypatch)
    with pytest.raises(UserError, match="meteor: needs Java"):
        scores(said(("a", ("a",))), ["meteor"])


@pytest.mark.nightly
@pytest.mark.skipif(captions.shutil.which("java") is None, reason="needs Java")
def test_meteor_and_the_ptb_tokenizer():
    found = scores(said(("A red, wall.", ("a red wall",)), ("", ("a car",))), ["meteor", "rouge_l"])
    assert found["rouge_l"].scores == (1.0, 0.0), "punctuation and case do not count"
    assert found["meteor"].scores == (1.0, 0.0)


@pytest.mark.parametrize(
    ("text", "how", "expected"),
    [
        (" It is a Net. It hangs", "short", "net"),
        ("the dog, and", "short", "dog"),
        ('red" he said', "short", "red"),
        ("two\nthree", "short", "two"),
        ("A dog runs. It is", "sentence", "a dog runs."),
        ("A Dog ", "none", "A Dog"),
        ("", "short", ""),
    ],
)
def test_answers_are_cleaned(text: str, how: str, expected: str):
    assert cleaned(text, how) == expected


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "pycocoevalcap", None)
    with pytest.raises(UserError, match="need pycocoevalcap: install the extra `evaluate`"):
        scores(said(("a", ("a",))), ["cider"])
