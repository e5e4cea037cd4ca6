"""Images with which a tuned model answers: edits, and what was to be drawn in a place, held against the true images.

Their embeddings are right if they are nearer to those of the true image than to those of the image shown last. Their
pixels are read by a judge, as are those of the true image and of the image shown: an attribute is right if the judge
reads the true image's value.
"""

from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from model.finished_run import FinishedRun
from model.segment import ImageSegment, Segment
from model.template_layout import box_image, boxes_of
from trainer.evaluation.answers import Figures, Question, in_words, share
from trainer.evaluation.attributes import Values
from trainer.evaluation.sample_sheets import DrawnAnswer

Read = Callable[[Tensor], list[Values]]
"""Returns the attributes of images (B, 3, S, S) uint8, of the judge's side."""


def embedding_figures(asked: Sequence[Question], source: str, run: FinishedRun, drawn: Tensor) -> Figures:
    """Return how often embeddings (B, N, E) are nearer to the true image's than to those of the image shown last."""
    edits = [(number, media) for number, question in enumerate(asked) if (media := _shown(question)) is not None]
    if not edits:
        return {}
    size = run.image_size
    true = run.embed(torch.stack([asked[n].sample.image(_true(asked[n]), size) for n, _ in edits]))
    shown = run.embed(torch.stack([asked[n].sample.image(media, size) for n, media in edits]))
    found = drawn[[number for number, _ in edits]]
    return share("drawn", source, (_distance(found, true) < _distance(found, shown)).tolist(), 0.5)


def pixel_figures(
    asked: Sequence[Question], source: str, images: Sequence[Values], read: Callable[[int, int], Values]
) -> Figures:
    """Return how often each attribute of drawn images is that of the true ones.

    Where an image was shown, `change` tells how often all attributes that the answer had to change became right, and
    `rest` how often all others stayed; `all`: all are right.

    Args:
        asked: The questions.
        source: Their source.
        images: What the judge reads in the drawn images.
        read: Returns what the judge reads in an image, by the number of its question and its media.
    """
    true = [read(n, _true(question)) for n, question in enumerate(asked)]
    figures: Figures = {}
    for name in true[0]:
        by_chance = max(Counter(values[name] for values in true).values()) / len(true)
        right = [found[name] == values[name] for found, values in zip(images, true, strict=True)]
        figures |= share(f"drawn_{name}", source, right, by_chance)
    figures |= share("drawn_all", source, [found == values for found, values in zip(images, true, strict=True)])
    edits = [(n, media) for n, question in enumerate(asked) if (media := _shown(question)) is not None]
    changed, kept = list[bool](), list[bool]()
    for number, media in edits:
        found, after, before = images[number], true[number], read(number, media)
        changed += [all(found[name] == after[name] for name in after if after[name] != before[name])]
        kept += [all(found[name] == after[name] for name in after if after[name] == before[name])]
    if edits:
        figures |= share("drawn_change", source, changed) | share("drawn_rest", source, kept)
    return figures


def to_look_at(asked: Sequence[Question], images: Tensor, run: FinishedRun) -> list[DrawnAnswer]:
    """Return questions with the images (B, 3, S, S) that were drawn for them; boxes are shown as places."""
    found = []
    for question, image in zip(asked, images, strict=False):
        side = image.shape[-1]
        media = [part.media for part in question.before if isinstance(part, ImageSegment)]
        shown = [question.sample.image(i, side) for i in media]
        places = [torch.from_numpy(box_image(box, side)).permute(2, 0, 1) for box in boxes_of(question.before)]
        true = question.sample.image(_true(question), side)
        found.append(DrawnAnswer([*shown, *places], in_words(run, question.before), image, true))
    return found


def _true(question: Question) -> int:
    (segment,) = question.answer
    return _media(segment)


def _shown(question: Question) -> int | None:
    shown = [part for part in question.before if isinstance(part, ImageSegment)]
    return _media(shown[-1]) if shown else None


def _media(segment: Segment) -> int:
    assert isinstance(segment, ImageSegment)
    return segment.media


def _distance(a: Tensor, b: Tensor) -> Tensor:
    return (a.float() - b.float()).flatten(1).square().sum(1)
