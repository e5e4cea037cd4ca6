"""Samples that are cut before one of their images, for a model to predict the rest."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.finished_run import FinishedRun
from model.generation import Prompt
from model.segment import ImageSegment, Segment, Text
from model.sequence import Layout
from trainer.tasks.samples import Sample


@dataclass(frozen=True, slots=True)
class Continuation:
    """A sample up to an image, and what follows.

    Attributes:
        context: Segments before the image, the input of the model.
        context_images: (images, 3, S, S) uint8 of the context.
        truth: (3, S, S) uint8, the image that follows.
        rest: The texts after it, up to the end of the window.
    """

    context: tuple[Segment, ...]
    context_images: Tensor
    truth: Tensor
    rest: tuple[Text, ...]

    def prompt(self, layout: Layout, *, with_text: bool = False) -> Prompt:
        """Return a prompt that asks for the next image; `with_text` puts the texts about it first."""
        return Prompt.of(layout, [*self.context, *(self.rest if with_text else ())], self.context_images, draw=True)


def continuations(samples: Sequence[Sample], run: FinishedRun, seq_len: int) -> list[Continuation]:
    """Cut samples with two or more images in their first window before the last of these images.

    Args:
        samples: Pages or videos.
        run: The run, for its layout and image size.
        seq_len: Tokens per window.
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
