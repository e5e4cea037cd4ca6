"""Prompts from segments, in the layout in which a model reads them."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from model.generation import Prompt
from model.segment import Box, Segment
from model.sequence import Layout
from model.template_layout import box_image, boxes_of


def write_prompt(
    layout: Layout, segments: Sequence[Segment], side: int, image: Callable[[int], Tensor], *, draw: bool = False
) -> Prompt:
    """Write segments as a prompt; where the layout shows boxes as images, they are drawn.

    Args:
        layout: How prompts are written.
        segments: Texts and images.
        side: Side in pixels of the model's images.
        image: Returns the pixels of an image segment by its index: (3, side, side) uint8.
        draw: Whether to request an image.
    """
    sequence, boxes = layout.prompt(segments, draw=draw), boxes_of(segments)
    images = [image(i) if i >= 0 else _canvas(boxes[-1 - i], side) for i in sequence.images]
    return Prompt(sequence, torch.stack(images) if images else None)


def _canvas(box: Box, side: int) -> Tensor:
    return torch.from_numpy(box_image(box, side)).permute(2, 0, 1)
