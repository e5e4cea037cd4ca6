"""Boxes in texts that people and models write: `a [box:red boat:0.1,0.4,0.5,0.9] on a lake`.

They are left, top, right, bottom in 0..1; several boxes of one phrase are separated by `;`.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from model.errors import PromptError, abbreviated
from model.segment import Box
from model.sequence import Layout
from model.tokenizer import NEXT_BOX, OBJECT_END, OBJECT_START, PHRASE_END, PHRASE_START

BOX_FORM = "[box:PHRASE:LEFT,TOP,RIGHT,BOTTOM]"

_BOX = re.compile(r"\[box:")
_CLOSING = re.compile(r"\]")
_MOST_INSIDE = 10_000  # characters in a bracket: at each closing one all are read, and names may hold closing ones
_LOCATION = r"<patch_index_\d{4}>"
_PHRASE = f"{PHRASE_START}([^<]*){PHRASE_END}"
_PLACES = f"{OBJECT_START}((?:{_LOCATION}|{NEXT_BOX})*){OBJECT_END}"
_LOCATED = re.compile(f"{_PHRASE}{_PLACES}|{_PLACES}{_PHRASE}")


@dataclass(frozen=True, slots=True)
class Region:
    """A phrase of a text with what it names: boxes (left, top, right, bottom) in 0..1."""

    phrase: str
    boxes: tuple[Box, ...]

    def __init__(self, phrase: str, *boxes: Box) -> None:
        object.__setattr__(self, "phrase", phrase)
        object.__setattr__(self, "boxes", boxes)


def read_boxes(content: str) -> Iterator[str | Region]:
    """Yield a text's plain parts and its boxes.

    Raises:
        PromptError: If a box has not this form.
    """
    end = 0
    while match := _BOX.search(content, end):
        yield content[end : match.start()]
        end = end_of_bracket(content, match, lambda inside: boxes_in(inside) is not None)
        if (found := boxes_in(content[match.end() : end - 1])) is None:
            raise PromptError(f"{abbreviated(content[match.start() : end])}: not {BOX_FORM} with numbers in 0..1")
        yield found
    yield content[end:]


def write_boxes(region: Region) -> str:
    """Return a phrase with its boxes in the form of prompts."""
    boxes = ";".join(",".join(f"{value:.3g}" for value in box) for box in region.boxes)
    return f"[box:{region.phrase}:{boxes}]"


def boxes_in(inside: str) -> Region | None:
    """Return the phrase and its boxes that stand in brackets, without `box:`; None if they are none."""
    phrase, _, places = inside.rpartition(":")
    boxes: list[Box] = []
    try:
        for place in places.split(";"):
            x0, y0, x1, y1 = map(float, place.split(","))
            boxes.append((x0, y0, x1, y1))
    except ValueError:
        return None
    return Region(phrase, *boxes) if phrase and all(map(is_box, boxes)) else None


def is_box(box: Box) -> bool:
    """Return whether a box has a size and lies within its image."""
    x0, y0, x1, y1 = box
    return 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1


def end_of_bracket(content: str, begin: re.Match[str], fits: Callable[[str], bool]) -> int:
    """Return the end of what a bracket opens: names may hold brackets, so it is the first one that gives a fit.

    If none does, it is the bracket that closes the first, or else the first one.

    Raises:
        PromptError: If nothing closes it.
    """
    closings: list[int] = []
    for match in _CLOSING.finditer(content, begin.end(), begin.end() + _MOST_INSIDE):
        closings.append(match.end())
        if fits(content[begin.end() : match.start()]):
            return match.end()
    if not closings:
        raise PromptError(f"{abbreviated(content[begin.start() :])}: without a closing bracket")
    depth, last = 1, begin.end()
    for end in closings:
        depth += content.count("[", last, end) - 1
        if not depth:
            return end
        last = end
    return closings[0]


def written(token_ids: Sequence[int], layout: Layout) -> str:
    """Return the text that a model has written, with boxes in the form of prompts."""

    def located(match: re.Match[str]) -> str:
        phrase, places = match[1] or match[4], match[2] or match[3]
        found = [re.findall(_LOCATION, place) for place in places.split(NEXT_BOX)]
        if any(len(names) != 4 for names in found):
            return phrase
        return write_boxes(Region(phrase, *(layout.box([layout.ids[name] for name in names]) for names in found)))

    text = _LOCATED.sub(located, layout.tokenizer.decode(token_ids, with_own=True))
    return re.sub("|".join(map(re.escape, layout.ids)), "", text)
