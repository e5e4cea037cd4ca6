"""Conversations from the turns of a row: their order is checked, and their texts and images become segments."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from pipelines.candidate import Candidate, MediaRequest
from pipelines.document import Media, Region, Segment, Speaker, are_in_turn, clean_text
from pipelines.sources.attachments import Attachment
from pipelines.sources.origin import Origin, RowError

_PHRASE = re.compile(r"<ref>(.*?)</ref>\s*<box>(.*?)</box>", re.DOTALL)
_TAG = re.compile(r"</?(?:ref|box)>")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_SCALE = 1_000  # of Qwen-VL's and InternVL's boxes: thousandths of the image
_ROLES: dict[str, Speaker] = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "chatgpt", "bing", "bard"), "assistant"),
}

Box = tuple[float, float, float, float]


class Placed(NamedTuple):
    """A phrase of a text, half-open, and its box on the image that was shown last; before any, on the first one."""

    start: int
    end: int
    box: Box


@dataclass(frozen=True, slots=True)
class Words:
    """A text of a turn, as it is stored, with its phrases that have boxes."""

    text: str
    placed: tuple[Placed, ...] = ()


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side says and shows, in order."""

    role: Speaker
    parts: tuple[Words | Attachment, ...]


def speaker(name: Any) -> Speaker:
    """Return the role of a turn by any of the names that data sets give it.

    Raises:
        RowError: `unknown_role`.
    """
    role = _ROLES.get(name.strip().lower()) if isinstance(name, str) else None
    if role is None:
        raise RowError("unknown_role", str(name)[:100])
    return role


def conversation(
    origin: Origin,
    locator: str,
    turns: Iterable[Turn],
    *,
    system: str | None = None,
    generator: str | None = None,
    **more: Any,
) -> Candidate:
    """Return the conversation of some turns.

    Args:
        origin: The part.
        locator: The row's position.
        turns: As they stand in the row; an empty system turn is left out.
        system: The system turn of a conversation that has none.
        generator: Model that made the answers, texts and images.
        more: Further arguments of `Origin.document`. Without a `group` it is the first image.

    Raises:
        RowError: `empty_turn`, `turns_out_of_order`, `bad_box` or `malformed_row`.
    """
    found = [turn for turn in turns if turn.parts or turn.role != "system"]
    if system is not None and not any(turn.role == "system" for turn in found):
        found.insert(0, Turn("system", (Words(clean_text(system)),)))
    if (empty := next((i for i, turn in enumerate(found) if not turn.parts), None)) is not None:
        raise RowError("empty_turn", f"turn {empty}, of {found[empty].role}")
    if not are_in_turn(roles := [turn.role for turn in found]):
        raise RowError("turns_out_of_order", ", ".join(roles[:12]) or "no turn")
    shown = [part for turn in found for part in turn.parts if isinstance(part, Attachment)]
    if any(part.request.type == "video" for part in shown) and len(shown) > 1:
        raise RowError("malformed_row", "a video by URL beside other images or videos")
    words_with_boxes = any(isinstance(part, Words) and part.placed for turn in found for part in turn.parts)
    if words_with_boxes and not shown:
        raise RowError("bad_box", "a box, but no image")
    requests = tuple(part.request for part in shown)
    more.setdefault("group", requests[0].key if requests else None)
    document = origin.document(locator, _segments(found, generator), _media(requests, shown), **more)
    inline = dict(item for part in shown for item in part.inline)
    return Candidate(document, requests, tuple(inline.items()))


def _media(requests: Sequence[MediaRequest], shown: Sequence[Attachment]) -> list[Media]:
    """Return the media; none of a video that is to be fetched, whose frames come later."""
    is_film = bool(requests) and requests[0].type == "video"
    return [] if is_film else [part.media for part in shown]


def _segments(turns: Iterable[Turn], generator: str | None) -> Iterator[Segment]:
    number = 0
    for turn in turns:
        for part in turn.parts:
            if isinstance(part, Attachment):
                media = None if part.request.type == "video" else number
                segment = Segment("frame" if part.is_frame else "image", media=media, t0=part.time, role=turn.role)
                number += 1
            else:
                shown = max(number - 1, 0)
                regions = tuple(Region(placed.start, placed.end, shown, placed.box) for placed in part.placed)
                segment = Segment("text", text=part.text, role=turn.role, regions=regions)
            is_made = turn.role == "assistant" and generator is not None
            yield replace(segment, origin="synthetic", generator=generator) if is_made else segment


def words(text: str, *, has_boxes: bool = False) -> list[Words]:
    """Return a text as a part of a turn; none if nothing visible is in it.

    Args:
        text: As published.
        has_boxes: Whether phrases with boxes are marked as `<ref>the boat</ref><box>(80,410),(550,930)</box>`, or with
            `[[80,410,550,930]]`, in thousandths of the image.

    Raises:
        RowError: `bad_box` or `bad_span`.
    """
    text = clean_text(text)
    if not has_boxes:
        return [Words(text)] if text else []
    plain, placed, done = "", [], 0
    for match in _PHRASE.finditer(text):
        plain += text[done : match.start()]
        phrase = match[1].strip()
        if not phrase:
            raise RowError("bad_span", "an empty <ref>")
        placed += [Placed(len(plain), len(plain) + len(phrase), box) for box in _boxes(match[2])]
        plain += phrase
        done = match.end()
    plain += text[done:]
    if tag := _TAG.search(plain):
        raise RowError("bad_span", f"{tag[0]} that is no <ref>phrase</ref><box>place</box>")
    return [Words(plain, tuple(placed))] if plain else []


def _boxes(written: str) -> list[Box]:
    numbers = [float(number) / _SCALE for number in _NUMBER.findall(written)]
    boxes = [(x0, y0, x1, y1) for x0, y0, x1, y1 in zip(*(numbers[i::4] for i in range(4)), strict=False)]
    is_good = all(0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1 for x0, y0, x1, y1 in boxes)
    if not boxes or len(numbers) % 4 or not is_good:
        raise RowError("bad_box", written[:100])
    return boxes
