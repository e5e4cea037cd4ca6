"""Answers of a tuned model to the questions of held-out conversations, each after the true turns before it.

A text is right if it is the true one but for case and punctuation, boxes if they overlap those of the truth, a drawn
image if its embeddings are nearer to the true image's than to those of the image that was shown last.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from model.box_text import written
from model.finished_run import FinishedRun
from model.generation import Prompt
from model.prompt_builder import write_prompt
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
    """A question in words, its true answer, and the model's."""

    source: str
    key: str
    question: str
    answer: str
    generated: str
    is_right: bool


def answer_questions(run: FinishedRun, asked: Sequence[Question], max_new_tokens: int) -> list[Answered]:
    """Generate the answers to questions of text, with or without boxes."""
    settings = run.generation.model_copy(update={"max_new_tokens": max_new_tokens, "max_images": 0})
    found = run.continue_prompts([question.prompt(run) for question in asked], settings)
    answered = []
    for question, result in zip(asked, found, strict=True):
        ids = [i for part in result.parts if isinstance(part, list) for i in part]
        generated, true = written(ids, run.layout).strip(), _words(run, question.answer)
        is_right = (
            _overlap(generated, boxes_of(question.answer)) >= MIN_OVERLAP
            if question.has_boxes
            else normalised(generated) == normalised(true)
        )
        asked_in_words = _words(run, question.before)
        sample = question.sample
        answered.append(Answered(sample.source, sample.key, asked_in_words, true, generated, is_right))
    return answered


def answer_figures(answered: Sequence[Answered], source: str) -> Figures:
    """Return the share of right answers of a source, their number, and the share of the most frequent true answer."""
    mine = [one for one in answered if one.source == source]
    most = Counter(normalised(one.answer) for one in mine).most_common(1)[0][1]
    return {
        f"answer_{source}": sum(one.is_right for one in mine) / len(mine),
        f"chance_answer_{source}": most / len(mine),
        f"num_answers_{source}": len(mine),
    }


def drawing_figures(run: FinishedRun, asked: Sequence[Question], source: str) -> Figures:
    """Return how often a drawn image is nearer to the true one than to the image shown before, where there is one."""
    mine = [question for question in asked if question.sample.source == source and _shown(question)]
    if not mine:
        return {}
    drawn = run.generate_embeddings([question.prompt(run) for question in mine])
    true, shown = (
        run.embed(torch.stack([question.sample.image(media, run.image_size) for question, media in pairs]))
        for pairs in (
            [(question, _media(question.answer[0])) for question in mine],
            [(question, _media(_shown(question)[-1])) for question in mine],
        )
    )
    nearer = _distance(drawn, true) < _distance(drawn, shown)
    return {
        f"drawn_{source}": float(nearer.float().mean()),
        f"chance_drawn_{source}": 0.5,
        f"num_drawn_{source}": len(mine),
    }


def to_json_lines(answered: Iterable[Answered]) -> bytes:
    """Return questions with their true and generated answers, one JSON object per line."""
    rows = ({name: getattr(one, name) for name in Answered.__slots__} for one in answered)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def normalised(text: str) -> str:
    """Return the words of a text in lower case, with single spaces."""
    return " ".join(re.findall(r"\w+", text.lower()))


def _shown(question: Question) -> list[ImageSegment]:
    return [part for part in question.before if isinstance(part, ImageSegment)]


def _media(segment: Segment) -> int:
    assert isinstance(segment, ImageSegment)
    return segment.media


def _words(run: FinishedRun, segments: Iterable[Segment]) -> str:
    return " ".join(run.tokenizer.decode(part.ids).strip() for part in segments if isinstance(part, Text))


def _distance(a: Tensor, b: Tensor) -> Tensor:
    return (a.float() - b.float()).flatten(1).square().sum(1)


def _overlap(generated: str, true: Sequence[Box]) -> float:
    """Return the intersection over union of the first box in a text with the first of the true ones; 0 without any."""
    match = _BOXES.search(generated)
    if match is None:
        return 0.0
    try:
        x0, y0, x1, y1 = map(float, match[1].split(";")[0].split(","))
    except ValueError:
        return 0.0
    left, top, right, bottom = true[0]
    width, height = min(x1, right) - max(x0, left), min(y1, bottom) - max(y0, top)
    shared = max(width, 0.0) * max(height, 0.0)
    union = (x1 - x0) * (y1 - y0) + (right - left) * (bottom - top) - shared
    return shared / union if union > 0 else 0.0
