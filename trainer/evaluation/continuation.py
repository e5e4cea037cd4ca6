"""Where a sample is cut before one of its images, for a model to say what comes next."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.generation import Prompt
from model.segment import ImageSegment, Segment, Text
from model.sequence import Layout
from trainer.evaluation.finished_run import FinishedRun
from trainer.tasks.samples import Sample


@dataclass(frozen=True, slots=True)
class Continuation:
    """A sample up to an image, and what followed.

    Attributes:
        context: What the model is given.
        context_images: (images, 3, S, S) uint8 of the context.
        truth: (3, S, S) uint8, the image that followed.
        rest: The texts after it, as far as the window goes.
    """

    context: tuple[Segment, ...]
    context_images: Tensor
    truth: Tensor
    rest: tuple[Text, ...]

    def prompt(self, layout: Layout, *, with_text: bool = False) -> Prompt:
        """Asks for the next image; `told` tells first what is said of it."""
        return Prompt.of(layout, [*self.context, *(self.rest if with_text else ())], self.context_images, draw=True)


def continuations(samples: Sequence[Sample], run: FinishedRun, seq_len: int) -> list[Continuation]:
    """Samples with two images or more in their first window, cut before the last of these.

    Args:
        samples: Pages or videos.
        run: Whose layout and image size are taken.
        seq_len: Tokens of a window.
    """
    found = []
    for sample in samples:
        segments = run.layout.split(sample.segments, seq_len)[0].segments
        places = [i for i, part in enumerate(segments) if isinstance(part, ImageSegment)]
        if len(places) < 2:
            continue
        *before, last = places
        images = [sample.image(_media(segments[i]), run.image_size) for i in (*before, last)]
        rest = tuple(part for part in segments[last + 1 :] if isinstance(part, Text))
        found.append(Continuation(segments[:last], torch.stack(images[:-1]), images[-1], rest))
    return found


def _media(segment: Segment) -> int:
    assert isinstance(segment, ImageSegment)
    return segment.media
