"""Figures of answers in words: accuracies of short answers, boxes in answers, and those of captions."""

import re
from collections import Counter
from collections.abc import Callable, Sequence

from model.box_text import Region, read_boxes
from model.errors import PromptError
from model.segment import Box
from pipelines.errors import UserError
from trainer.benchmarks.metrics import captions, vqa
from trainer.benchmarks.metrics.figure import Answered, Figure, mean
from trainer.evaluation.answers import MIN_OVERLAP, normalised, overlap

_OF_CAPTIONS = ("cider", "bleu", "rouge_l", "meteor")
_END = re.compile(r"\n|\. |\"|, ")
_LEAD = re.compile(r"^(?:(?:it is|it's|a|an|the)\s+)+")


def scores(answered: Sequence[Answered], names: Sequence[str]) -> dict[str, Figure]:
    """Return the figures of texts by name, in the order in which they are asked for.

    Raises:
        UserError: If an example lacks what a metric compares, or a package is not installed.
    """
    figures: dict[str, Figure] = {}
    for name in names:
        if name != "box_accuracy" and (
            bare := next((one.example for one in answered if not one.example.answers), None)
        ):
            raise UserError(f"{name}: the example {bare.id} has no true answer in words")
        if name in _OF_CAPTIONS:
            if name not in figures and not any(n.startswith(name) for n in figures):
                figures |= captions.scores(answered, [n for n in names if n in _OF_CAPTIONS])
        elif name == "vqa_accuracy":
            figures[name] = _vqa_accuracy(answered)
        elif name == "exact_match":
            figures[name] = _accuracy(answered, _equals, normalised)
        else:
            figures[name] = _box_accuracy(answered)
    return figures


def cleaned(text: str, how: str) -> str:
    """Return an answer as it is compared: see `BenchmarkSettings.clean`."""
    text = text.strip()
    if how == "none":
        return text
    if how == "sentence":
        return re.split(r"\n|(?<=[.!?]) ", text)[0].strip().lower()
    text = _END.split(text)[0].lower().strip().removesuffix(".")
    return _LEAD.sub("", text).strip()


def _vqa_accuracy(answered: Sequence[Answered]) -> Figure:
    if few := next((one.example for one in answered if len(one.example.answers) < 2), None):
        raise UserError(
            f"vqa_accuracy: the question {few.id} has one answer, and this metric compares those of several people: "
            "use exact_match"
        )
    return _accuracy(answered, vqa.accuracy, vqa.normalised)


def _accuracy(
    answered: Sequence[Answered], worth: Callable[[str, Sequence[str]], float], normal: Callable[[str], str]
) -> Figure:
    """Return the mean worth of answers; by chance, that of the answer that is most frequent among the true ones."""
    often, _ = Counter(normal(answer) for one in answered for answer in one.example.answers).most_common(1)[0]
    chance = sum(worth(often, one.example.answers) for one in answered) / len(answered)
    return mean([worth(one.text, one.example.answers) for one in answered], chance=chance)


def _equals(answer: str, true: Sequence[str]) -> float:
    return float(normalised(answer) in map(normalised, true))


def _box_accuracy(answered: Sequence[Answered]) -> Figure:
    """Return how often the first box in an answer is the true one; by chance, how often the mean of all boxes is."""
    if bare := next((one.example for one in answered if not one.example.objects), None):
        raise UserError(f"box_accuracy: the example {bare.id} has no `objects` with their boxes")
    true = [one.example.objects[0].boxes[0] for one in answered]
    middle = [sum(values) / len(true) for values in zip(*true, strict=True)]
    found = [_first_box(one.text) for one in answered]
    return mean(
        [box is not None and overlap(box, right) >= MIN_OVERLAP for box, right in zip(found, true, strict=True)],
        chance=sum(overlap(middle, right) >= MIN_OVERLAP for right in true) / len(true),
    )


def _first_box(text: str) -> Box | None:
    try:
        return next((part.boxes[0] for part in read_boxes(text) if isinstance(part, Region)), None)
    except PromptError:
        return None
