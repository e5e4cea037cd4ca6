"""Prompts of texts and images, as `AutoProcessor` loads it.

This file is part of exported models, beside copies of the modules that it imports.
"""

from collections.abc import Sequence
from functools import cached_property
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import BatchFeature, ProcessorMixin

from model.config import BridgeConfig
from model.prompts import write_prompt
from model.segment import ImageSegment, Segment, text
from model.sequence import Layout, LayoutConfig
from model.template import TemplateSettings
from model.template_layout import TemplateLayout
from model.tokenizer import Family, Tokenizer

IMAGE = "<image>"
"""What stands for an image in a text."""


class DromaiusProcessor(ProcessorMixin):
    """Writes prompts as the model has learned to read them.

    Args:
        image_processor: Resizes images.
        tokenizer: The tokenizer of the folder.
        family: Family of the model.
        chat: Whether the vocabulary has tokens for the two sides of a conversation.
        image_slots: Visual embeddings of an image.
        layout: Settings of the layout.
        template: Settings of the template with which the model was tuned; None for a pretrained one.
        **kwargs: As of transformers' processors.
    """

    image_processor: Any
    tokenizer: Any

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        family: Family = "emu2",
        chat: bool = False,
        image_slots: int = 64,
        layout: dict[str, Any] | None = None,
        template: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.family, self.chat, self.image_slots = family, chat, image_slots
        self.layout, self.template = layout or {}, template
        super().__init__(image_processor, tokenizer, **kwargs)  # type: ignore[no-untyped-call]

    @cached_property
    def own_layout(self) -> Layout:
        """How prompts are written; its tokenizer never reads the model's own tokens from a text."""
        content = self.tokenizer.backend_tokenizer.to_str().encode()
        tokenizer = Tokenizer.of_file("tokenizer.json", content, self.family, chat=self.chat)
        bridge = BridgeConfig(image_slots=self.image_slots, frame_slots=self.image_slots)
        config = LayoutConfig.model_validate(self.layout)
        if self.template is None:
            return Layout(tokenizer, bridge, config)
        return TemplateLayout(tokenizer, bridge, config, TemplateSettings.model_validate(self.template))

    def __call__(
        self, text: str | Sequence[str], images: Any = None, *, draw: bool = False, **kwargs: Any
    ) -> BatchFeature:
        """Return the inputs of the model.

        Args:
            text: A prompt or several; `<image>` stands where an image is, and without any the images come first.
            images: The images of the prompt; of several prompts a list for each, or a flat list.
            draw: Whether the prompts ask for an image; see `generate_image_embeddings`.
            **kwargs: Unused.

        Returns:
            `input_ids` and `attention_mask` (B, L), padded on the left, and for images `pixel_values` (N, 3, S, S).

        Raises:
            ValueError: If the images are more or fewer than the prompts name.
        """
        texts = [text] if isinstance(text, str) else list(text)
        given = [] if images is None else list(images) if isinstance(images, list | tuple) else [images]
        rows = _rows(texts, given)
        pixels = [list(self.image_processor(row)["pixel_values"]) if row else [] for row in rows]
        prompts = [
            write_prompt(
                self.own_layout, self._segments(words, len(row)), self.image_processor.size, row.__getitem__, draw=draw
            )
            for words, row in zip(texts, pixels, strict=True)
        ]
        longest = max(len(prompt.sequence.token_ids) for prompt in prompts)
        input_ids = np.full((len(prompts), longest), self.own_layout.tokenizer.pad_id, np.int64)
        mask = np.zeros_like(input_ids)
        for number, prompt in enumerate(prompts):
            ids = prompt.sequence.token_ids
            input_ids[number, longest - len(ids) :], mask[number, longest - len(ids) :] = ids, 1
        found = {"input_ids": torch.from_numpy(input_ids), "attention_mask": torch.from_numpy(mask)}
        every: list[Tensor] = [prompt.images for prompt in prompts if prompt.images is not None]
        return BatchFeature(found | ({"pixel_values": torch.cat(every)} if every else {}))

    def decode(self, token_ids: Any, **kwargs: Any) -> str:
        """Return the text of ids, without the model's own tokens."""
        return self.own_layout.tokenizer.decode(torch.as_tensor(token_ids).tolist())

    def batch_decode(self, sequences: Any, **kwargs: Any) -> list[str]:
        """Return the texts of several rows of ids."""
        return [self.decode(row) for row in sequences]

    def _segments(self, words: str, num_images: int) -> list[Segment]:
        """Return a prompt's texts and images in order."""
        if num_images and IMAGE not in words:
            words = IMAGE * num_images + words
        segments: list[Segment] = []
        texts = words.split(IMAGE)
        for part, number in zip_longest(texts, range(len(texts) - 1)):
            if part.strip():
                segments.append(text(part.strip(), self.own_layout.tokenizer))
            if number is not None:
                segments.append(ImageSegment(number))
        return segments


def _rows(texts: Sequence[str], images: Sequence[Any]) -> list[list[Any]]:
    """Return the images of each prompt."""
    if images and all(isinstance(row, list | tuple) for row in images) and len(images) == len(texts):
        rows = [list(row) for row in images]
    elif len(texts) == 1:
        rows = [list(images)]
    else:
        left = iter(images)
        rows = [[image for _, image in zip(range(words.count(IMAGE)), left, strict=False)] for words in texts]
        if (num := sum(map(len, rows))) != len(images):
            raise ValueError(f"{len(images)} images, but {num} of the prompts' {IMAGE}: give a list for each prompt")
    for words, row in zip(texts, rows, strict=True):
        if (num := words.count(IMAGE)) and num != len(row):
            raise ValueError(f"{words[:60]!r}: {num} {IMAGE}, but {len(row)} images")
    return rows
