"""Segments of a sample: texts, with phrases that have boxes, and images, in the order of the source."""

from collections.abc import Sequence as Many
from dataclasses import dataclass, replace

import numpy as np

from model.tokenizer import Tokenizer

Box = tuple[float, float, float, float]  # left, top, right, bottom in 0..1


@dataclass(frozen=True, slots=True)
class Phrase:
    """Tokens `start` to `end` of a text, and the boxes [x0, y0, x1, y1] in 0..1 of what they name."""

    start: int
    end: int
    boxes: tuple[Box, ...]


@dataclass(frozen=True, slots=True)
class Text:
    """Ids of a text. `role` as in seq/1; `learn` is off for text that is not predicted (a prompt in tuning)."""

    ids: np.ndarray
    role: str = "body"
    phrases: tuple[Phrase, ...] = ()
    learn: bool = True
    continued: bool = False  # continues the previous window

    def part(self, start: int, end: int) -> "Text":
        """Return tokens `start` to `end`, with the phrases inside them."""
        phrases = tuple(
            Phrase(p.start - start, p.end - start, p.boxes) for p in self.phrases if start <= p.start and p.end <= end
        )
        return replace(self, ids=self.ids[start:end], phrases=phrases, continued=self.continued or start > 0)


@dataclass(frozen=True, slots=True)
class ImageSegment:
    """An image, by its index among the sample's media; `time` in seconds for a video frame, `role` as in seq/1."""

    media: int
    frame: bool = False
    time: float | None = None
    learn: bool = True
    role: str = "content"


Segment = Text | ImageSegment


def text(content: str, tokenizer: Tokenizer, *, role: str = "body", learn: bool = True) -> Text:
    """Build a text segment from a string."""
    return Text(np.array(tokenizer.encode(content), np.int32), role, learn=learn)


def grounded_text(content: str, regions: Many[tuple[int, int, Box]], tokenizer: Tokenizer) -> Text:
    """Build a caption whose phrases have boxes.

    The text is encoded in parts, split where phrases begin and end. A phrase that overlaps an earlier one is
    kept as plain text.

    Args:
        content: The caption.
        regions: (start, end, box): half-open offsets in characters; several with equal offsets are one phrase.
        tokenizer: The tokenizer that encodes the parts.
    """
    boxes: dict[tuple[int, int], list[Box]] = {}
    for start, end, box in sorted(regions, key=lambda region: (region[0], -region[1])):
        boxes.setdefault((start, end), []).append(box)
    ids: list[int] = []
    phrases: list[Phrase] = []
    done = 0
    for (start, end), found in boxes.items():
        if start < done or end <= start:
            continue
        ids += tokenizer.encode(content[done:start], continued=done > 0, followed=True) if start > done else []
        begin = len(ids)
        ids += tokenizer.encode(content[start:end], continued=start > 0, followed=True)
        phrases.append(Phrase(begin, len(ids), tuple(found)))
        done = end
    ids += tokenizer.encode(content[done:], continued=done > 0) if done < len(content) else []
    return Text(np.array(ids, np.int32), "caption", tuple(phrases))
