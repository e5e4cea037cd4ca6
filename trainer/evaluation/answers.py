"""Answers of a tuned model to the questions of held-out conversations, each after the true turns before it.

A text is right if it is the true one but for case and punctuation, boxes if they overlap those of the truth; for images
see drawn_answers.py.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from model.box_text import written
from model.finished_run import FinishedRun
from model.generation import Prompt
from model.prompts import write_prompt
from model.segment import Box, ImageSegment, Segment, Text
from model.template_layout import ANSWER, boxes_of
from model.tokenizer import GROUNDING
from trainer.tasks.samples import Sample

MIN_OVERLAP = 0.5  # intersection over union from which a box is right, as for referring expressions (RefCOCO)
_BOXES = re.compile(r"\[box:[^\[\]]*:([^\[\]:]*)\]")

Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Question:
    """A turn of the assistant that is to be answered, after the true turns before it."""

    sample: Sample
    before: tuple[Segment, ...]
    answer: tuple[Segment, ...]

    @property
    def is_whole(self) -> bool:
        """True if all images of the sample can be read."""
        return self.sample.is_whole

    @property
    def draws(self) -> bool:
        """True if the answer is an image."""
        return isinstance(self.answer[0], ImageSegment)

    @property
    def has_boxes(self) -> bool:
        """True if the answer has boxes."""
        return bool(boxes_of(self.answer))

    def prompt(self, run: FinishedRun) -> Prompt:
        """Return the question as the model reads it."""
        before = list(self.before)
        if self.has_boxes and GROUNDING in run.tokenizer.ids:
            before.append(Text(np.array([run.tokenizer.ids[GROUNDING]], np.int32), ANSWER, continued=True))
        return write_prompt(
            run.layout, before, run.image_size, lambda i: self.sample.image(i, run.image_size), draw=self.draws
        )


def questions(samples: Iterable[Sample]) -> Iterator[Question]:
    """Yield every turn of the assistant in conversations that is all text, or an image alone."""
    for sample in samples:
        before: tuple[Segment, ...] = ()
        for role, group in groupby(sample.segments, key=lambda segment: segment.role):
            turn = tuple(group)
            is_text = all(isinstance(part, Text) for part in turn)
            if role == ANSWER and (is_text or (len(turn) == 1)):
                yield Question(sample, before, turn)
            before += turn


@dataclass(frozen=True, slots=True)
class Answered:
    """A question in words, its true answer, and the model's; `box` is the true answer's first, if it has any."""

    source: str
    key: str
    question: str
    answer: str
    generated: str
    is_right: bool
    box: Box | None = None


def answer_questions(run: FinishedRun, asked: Sequence[Question], max_new_tokens: int) -> list[Answered]:
    """Generate the answers to questions of text, with or without boxes."""
    settings = run.generation.model_copy(update={"max_new_tokens": max_new_tokens, "max_images": 0})
    found = run.continue_prompts([question.prompt(run) for question in asked], settings)
    answered = []
    for question, result in zip(asked, found, strict=True):
        ids = [i for part in result.parts if isinstance(part, list) for i in part]
        generated, true = written(ids, run.layout).strip(), in_words(run, question.answer)
        box = next(iter(boxes_of(question.answer)), None)
        is_right = normalised(generated) == normalised(true) if box is None else _finds(generated, box)
        sample, asked_in_words = question.sample, in_words(run, question.before)
        answered.append(Answered(sample.source, sample.key, asked_in_words, true, generated, is_right, box))
    return answered


def answer_figures(answered: Sequence[Answered], source: str) -> Figures:
    """Return the share of right answers of a source in words and in boxes, their number, and what is right by chance.

    By chance the most frequent answer is right, and a box in the middle of all.
    """
    mine = [one for one in answered if one.source == source]
    figures: Figures = {}
    if in_words := [one for one in mine if one.box is None]:
        most = Counter(normalised(one.answer) for one in in_words).most_common(1)[0][1]
        figures |= share("answer", source, [one.is_right for one in in_words], most / len(in_words))
    if boxes := [one.box for one in mine if one.box is not None]:
        mean = [sum(values) / len(boxes) for values in zip(*boxes, strict=True)]
        by_chance = sum(overlap(mean, box) >= MIN_OVERLAP for box in boxes) / len(boxes)
        figures |= share("box", source, [one.is_right for one in mine if one.box is not None], by_chance)
    return figures


def to_json_lines(answered: Iterable[Answered]) -> bytes:
    """Return questions with their true and generated answers, one JSON object per line."""
    rows = ({name: getattr(one, name) for name in Answered.__slots__} for one in answered)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the intersection over union of two boxes; 0 if one is empty."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (one, other))
    return width * height / (areas - width * height)


def share(what: str, source: str, are_right: Sequence[bool], by_chance: float | None = None) -> Figures:
    """Return the share of right answers, their number, and the share that is right by chance if that is known."""
    figures = {f"{what}_{source}": sum(are_right) / len(are_right), f"num_{what}_{source}": len(are_right)}
    return figures if by_chance is None else figures | {f"chance_{what}_{source}": by_chance}


def normalised(text: str) -> str:
    """Return the words of a text in lower case, with single spaces."""
    return " ".join(re.findall(r"\w+", text.lower()))


def _finds(generated: str, true: Box) -> bool:
    """Return whether the first box in a text is the true one."""
    match = _BOXES.search(generated)
    if match is None:
        return False
    try:
        x0, y0, x1, y1 = map(float, match[1].split(";")[0].split(","))
    except ValueError:
        return False
    return overlap((x0, y0, x1, y1), true) >= MIN_OVERLAP


def in_words(run: FinishedRun, segments: Iterable[Segment]) -> str:
    """Return the texts of segments, without their images and boxes."""
    return " ".join(run.tokenizer.decode(part.ids).strip() for part in segments if isinstance(part, Text))
