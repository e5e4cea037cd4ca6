"""Prompts from texts, boxes and images in the order in which a model reads them."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from torch import Tensor

from model.box_text import Region, is_box
from model.errors import PromptError
from model.finished_run import FinishedRun
from model.generation import Prompt
from model.prompts import write_prompt
from model.segment import Box, ImageSegment, Segment, Text, grounded_text
from model.sequence import Layout
from model.template_layout import ANSWER
from model.tokenizer import GROUNDING


class PromptBuilder:
    """The segments and images of a prompt, as far as they were added.

    Args:
        run: The model that will read it.
        layout: How it is written; not given: as the model has learned to read.
    """

    def __init__(self, run: FinishedRun, layout: Layout | None = None) -> None:
        self.run = run
        self.layout = run.layout if layout is None else layout
        self.segments: list[Segment] = []
        self.images: list[Tensor] = []

    def add_text(self, parts: Iterable[str | Region], *, role: str = "body") -> None:
        """Add a text; nothing is added if it is empty.

        Args:
            parts: The text, with its phrases that have boxes; without the spaces around it, which the layout adds.
            role: `answer` for what the model has said, any other for what it is told.

        Raises:
            PromptError: If a box does not lie in the image.
        """
        words, regions = "", list[tuple[int, int, Box]]()
        for part in parts:
            if isinstance(part, Region):
                if bad := [box for box in part.boxes if not is_box(box)]:
                    raise PromptError(f"the box of {part.phrase!r}: {bad[0]} is not left, top, right, bottom in 0..1")
                regions += [(len(words), len(words) + len(part.phrase), box) for box in part.boxes]
            words += part.phrase if isinstance(part, Region) else part
        start = len(words) - len(words.lstrip())
        places = [(first - start, last - start, box) for first, last, box in regions]
        if words.strip():
            text = grounded_text(words.strip(), places, self.run.tokenizer)
            self.segments.append(replace(text, role=role))

    def add_image(self, pixels: Tensor, *, role: str = "body", frame: bool = False, time: float | None = None) -> None:
        """Add an image, or a frame of a video: (3, S, S) uint8, `time` in seconds; `role` as in `add_text`."""
        self.segments.append(ImageSegment(len(self.images), role=role, frame=frame, time=time))
        self.images.append(pixels)

    def ask_for_boxes(self) -> None:
        """Request boxes in the answer, which begins here.

        Raises:
            PromptError: If the model has none.
        """
        if GROUNDING not in self.run.tokenizer.ids:
            raise PromptError(f"{GROUNDING}: the model has no tokens for boxes")
        grounding = np.array([self.run.tokenizer.ids[GROUNDING]], np.int32)
        self.segments.append(Text(grounding, ANSWER, continued=True))

    def build(self, *, draw: bool = False) -> Prompt:
        """Return the prompt, which requests an image if `draw`.

        Raises:
            PromptError: If it is too long for the model.
        """
        prompt = write_prompt(self.layout, self.segments, self.run.image_size, self.images.__getitem__, draw=draw)
        length, longest = len(prompt.sequence.token_ids), self.run.model.config.language_model.max_positions
        if length >= longest:
            raise PromptError(
                f"a prompt takes {length} of the model's {longest} positions: shorten it, or give fewer frames"
            )
        return prompt
