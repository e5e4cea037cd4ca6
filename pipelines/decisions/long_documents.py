"""Windows: a long document as several samples. Media are never split; text is split at a paragraph, or a sentence.

A conversation is split between an answer and the next question only.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from pipelines.document import Document, Segment, turns_of, with_media

# Where a text may be split, best first: after a paragraph, a line, a sentence, a word.
_CUTS = (re.compile(r"\n\n+"), re.compile(r"\n"), re.compile(r"(?<=[.!?])\s+|(?<=[。！？])"), re.compile(r"\s+"))


@dataclass(frozen=True, slots=True)
class Window:
    """One sample of a document; `media` are the indices of its media in the document."""

    document: Document
    media: tuple[int, ...]


def windows(document: Document, max_media: int, max_chars: int) -> list[Window]:
    """Return the samples of a document, in order; nothing is lost, and only a conversation's system turn is repeated.

    An exchange of a conversation, its question and answer, is whole even if it is longer than a sample should be.

    Args:
        document: Completed.
        max_media: Images per sample.
        max_chars: Code points of text per sample.
    """
    split = _exchanges if document.kind == "conversation" else _groups
    groups = [g for g in split(document.segments, max_media, max_chars) if g]
    if len(groups) <= 1:
        return [Window(document, tuple(range(len(document.media))))]
    return [_window(document, group, number) for number, group in enumerate(groups)]


def _groups(segments: tuple[Segment, ...], max_media: int, max_chars: int) -> Iterator[list[Segment]]:
    group: list[Segment] = []
    media: set[int] = set()
    num_chars = 0
    for segment in segments:
        if segment.media is not None:
            if len(media | {segment.media}) > max_media:
                yield group
                group, media, num_chars = [], set(), 0
            group.append(segment)
            media.add(segment.media)
            continue
        for piece in _pieces(segment, max_chars - num_chars, max_chars):
            assert piece.text is not None
            if num_chars + len(piece.text) > max_chars and group:
                yield group
                group, media, num_chars = [], set(), 0
            group.append(piece)
            num_chars += len(piece.text)
    yield group


def _exchanges(segments: tuple[Segment, ...], max_media: int, max_chars: int) -> Iterator[list[Segment]]:
    """Yield as many whole exchanges of a conversation as fit, each time after its system turn."""
    turns = turns_of(segments)
    system = turns.pop(0) if turns[0][0].role == "system" else ()
    group: list[Segment] = [*system]
    for question, answer in zip(turns[::2], turns[1::2], strict=True):
        longer = [*group, *question, *answer]
        num_media = len({segment.media for segment in longer if segment.media is not None})
        num_chars = sum(len(segment.text or "") for segment in longer)
        if (num_media > max_media or num_chars > max_chars) and len(group) > len(system):
            yield group
            longer = [*system, *question, *answer]
        group = longer
    yield group


def _pieces(segment: Segment, room: int, max_chars: int) -> Iterator[Segment]:
    """Split a text segment into chunks of at most `max_chars`, the first of at most `room` if it can be split well."""
    text = segment.text or ""
    if len(text) <= max_chars or segment.regions:
        yield segment  # a whole segment moves to the next window instead of being split
        return
    while len(text) > max_chars:
        at = _cut(text, room if room >= max_chars // 2 else max_chars)
        head, text = text[:at].rstrip(), text[at:].lstrip()
        if head:
            yield replace(segment, text=head)
        room = max_chars
    if text:
        yield replace(segment, text=text)


def _cut(text: str, limit: int) -> int:
    """Return where to split a text so that at most `limit` code points come before."""
    for pattern in _CUTS:
        ends = [m.end() for m in pattern.finditer(text, 0, limit)]
        if ends and ends[-1] >= limit // 2:
            return ends[-1]
    return limit


def _window(document: Document, group: list[Segment], number: int) -> Window:
    places = tuple(dict.fromkeys(s.media for s in group if s.media is not None))
    part = with_media(document, group, places)
    record = f"{document.source.record}#w{number:02d}"
    source = replace(document.source, record=record)
    return Window(replace(part, key=f"{document.key}-w{number:02d}", source=source), places)
