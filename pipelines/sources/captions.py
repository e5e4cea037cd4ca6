"""Cleaning of the captions in lists, and of the spans that point into them."""

import html
import re
import unicodedata
from collections.abc import Iterable

from pipelines.document import without_invisible

_SPACE = re.compile(r"\s")


def clean_caption(caption: str) -> str:
    """Return a caption without HTML debris, invisible characters and line breaks, in NFC.

    Entities are resolved at most twice, since some lists are escaped twice, and no further: a caption may be about
    HTML.
    """
    return _clean(caption).strip()


def clean_spans(caption: str, spans: Iterable[tuple[int, int]]) -> tuple[str, list[tuple[int, int] | None]]:
    """Return the cleaned caption and the new positions of its spans.

    Args:
        caption: As published; the spans index this text.
        spans: Half-open code-point offsets, within the caption.

    Returns:
        The caption, and one span per given one: None if it cuts through what cleaning joins (an entity, a letter and
        its accent) or contains nothing visible.
    """
    whole = _clean(caption)
    lead = len(whole) - len(whole.lstrip())
    text = whole.strip()

    def moved(offset: int) -> int | None:
        before = _clean(caption[:offset])
        if before + _clean(caption[offset:]) != whole:
            return None
        return min(max(len(before) - lead, 0), len(text))

    found: list[tuple[int, int] | None] = []
    for start, end in spans:
        first, last = moved(start), moved(end)
        is_visible = first is not None and last is not None and text[first:last].strip()
        found.append((first, last) if first is not None and last is not None and is_visible else None)
    return text, found


def _clean(caption: str) -> str:
    for _ in range(2):
        caption = html.unescape(caption)
    caption = _SPACE.sub(" ", without_invisible(caption)).encode("utf-8", "replace").decode("utf-8")
    return unicodedata.normalize("NFC", caption)
