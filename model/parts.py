"""What prompts are made of, as one writes them in Python: parts in the order in which a model reads them, messages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from model.box_text import Region
from model.errors import PromptError
from model.video_file import FORMATS, encode_video

ImageLike = Image.Image | np.ndarray | bytes | Path
"""An image: Pillow's, an array (H, W, 3) uint8 in RGB, a file's bytes, or its path. A `str` in a prompt is text."""


@dataclass(frozen=True, slots=True)
class Frames:
    """Frames of a video in order, and their times in seconds if the model reads them."""

    images: Sequence[ImageLike]
    times: Sequence[float] | None = None

    def save(self, path: str | Path) -> None:
        """Write Pillow images as a video, by the file's ending: .mp4 or .webp.

        Raises:
            ValueError: If it has another ending.
        """
        form = next((form for form in FORMATS if str(path).endswith(f".{form}")), None)
        if form is None:
            raise ValueError(f"{path}: a video is written as {' or '.join(f'.{form}' for form in FORMATS)}")
        frames = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in self.images])
        rate = 1 / (self.times[1] - self.times[0]) if self.times is not None and len(self.times) > 1 else 1.0
        Path(path).write_bytes(encode_video(frames, form, rate))


Part = str | Region | Frames | ImageLike
Message = Mapping[str, Any]
"""`{"role": "system" | "user" | "assistant", "content": a text, or a list of parts}`."""


def turns_of(messages: Sequence[Message], *, draws: bool) -> tuple[str | None, list[Sequence[Part]]]:
    """Return the system's message, if there is one, and what the sides say in turn.

    Args:
        messages: The messages.
        draws: Whether the assistant's may hold images.

    Raises:
        PromptError: If they do not take turns, the user first and last.
    """
    system, turns = None, list[Sequence[Part]]()
    for number, message in enumerate(messages):
        role, content = message.get("role"), message.get("content")
        parts = [content] if isinstance(content, str) else content
        if not isinstance(parts, Sequence) or not any(not isinstance(p, str) or p.strip() for p in parts):
            raise PromptError(f"message {number + 1}: has no content")
        if role == "system" and not number:
            if not all(isinstance(part, str) for part in parts):
                raise PromptError("message 1: the system's message may contain only words")
            system = "".join(map(str, parts))
            continue
        if role != (expected := "assistant" if len(turns) % 2 else "user"):
            raise PromptError(f"message {number + 1}: its role is {role!r}, and {expected!r} is due")
        if expected == "assistant" and not draws and not all(isinstance(part, str | Region) for part in parts):
            raise PromptError(f"message {number + 1}: the assistant's messages may contain only words")
        turns.append(parts)
    if len(turns) % 2 == 0:
        raise PromptError("messages: the last one must be the user's" if turns else "messages: there are none")
    return system, turns
