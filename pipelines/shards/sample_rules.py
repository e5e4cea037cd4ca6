"""Rules that every finished sample obeys beyond its types; checked once, when samples are packed."""

import re
from collections.abc import Iterator

from pipelines.document import CAPTIONED, KINDS, SPEAKERS, Document, Segment, are_in_turn, turns_of

KEY = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


def find_faults(document: Document) -> list[str]:
    """Return the faults of a document that is about to be packed, one phrase each; empty if there are none.

    Indexes in range, media in the order of their first use, times that do not decrease, regions inside their text and
    image, and the requirements of each kind. A fault is a bug in a stage or an adapter, never a property of the web.
    """
    return [*decision_faults(document), *structure_faults(document), *region_faults(document)]


def decision_faults(document: Document) -> Iterator[str]:
    """Yield why a document may not be used, if it may not."""
    if not document.decision.allowed:
        yield f"it may not be used: {', '.join(document.decision.reasons) or 'no reason given'}"


def structure_faults(document: Document) -> Iterator[str]:
    """Yield the faults of a document's kind, key, segments, media and times."""
    yield from _document_faults(document)
    yield from _media_faults(document)
    yield from _time_faults(document)


def region_faults(document: Document) -> Iterator[str]:
    """Yield the faults of regions: boxes that are none within the image, ranges that are none within the text."""
    for i, segment in enumerate(document.segments):
        for region in segment.regions:
            if not _is_box(region.box):
                yield f"segment {i}: box {list(region.box)} is not x0 < x1, y0 < y1 within 0..1"
            if not 0 <= region.start < region.end <= len(segment.text or ""):
                yield f"segment {i}: region {region.start}..{region.end} of {len(segment.text or '')} characters"
            if not 0 <= region.media < len(document.media):
                yield f"segment {i}: a region in media {region.media} of {len(document.media)}"


def caption_of(document: Document) -> str:
    """Return the caption of a pair or grounded sample: its caption segment, or its only text of another role.

    Raises:
        ValueError: If the document has no text.
    """
    texts = [s for s in document.segments if s.text is not None]
    for segment in [*(s for s in texts if s.role == "caption"), *texts]:
        assert segment.text is not None
        return segment.text
    raise ValueError(f"sample {document.key}: a {document.kind} without a caption")


def _document_faults(document: Document) -> Iterator[str]:
    if document.kind not in KINDS:
        yield f"unknown kind {document.kind!r}"
    if not KEY.fullmatch(document.key):
        yield f"its key does not match {KEY.pattern}"
    num_media, num_texts = len(document.media), sum(s.type == "text" for s in document.segments)
    if document.kind in CAPTIONED and (num_media, num_texts) != (1, 1):
        yield f"{num_media} images and {num_texts} texts, a {document.kind} has one of each"
    if document.kind in ("interleaved", "video") and not num_media:
        yield f"no image, a {document.kind} document has some"
    if document.kind == "text" and (num_media or not num_texts):
        yield f"{num_media} images and {num_texts} texts, a text has text only"
    if document.kind == "grounded" and not any(s.regions for s in document.segments):
        yield "no region, a grounded sample has some"
    roles = [turn[0].role for turn in turns_of(document.segments)]
    if document.kind == "conversation" and not are_in_turn(roles):
        yield f"its turns are of {', '.join(roles[:6]) or 'nobody'}, not of user and assistant by turns"
    if document.kind != "conversation" and (spoken := set(roles).intersection(SPEAKERS)):
        yield f"a turn of {min(spoken)}, a {document.kind} has none"
    for i, segment in enumerate(document.segments):
        yield from (f"segment {i}: {fault}" for fault in _segment_faults(segment, num_media))


def _segment_faults(segment: Segment, num_media: int) -> Iterator[str]:
    if segment.type == "text":
        if segment.text is None or segment.media is not None:
            yield "a text segment has `text` and no `media`"
        elif not segment.text.strip():
            yield "its text is empty"
        elif not _is_encodable(segment.text):
            yield "its text contains a lone surrogate"
    elif segment.media is None or segment.text is not None:
        yield f"a segment of type {segment.type} has `media` and no `text`"
    elif not 0 <= segment.media < num_media:
        yield f"media {segment.media} of {num_media}"


def _media_faults(document: Document) -> Iterator[str]:
    used = list(dict.fromkeys(s.media for s in document.segments if s.media is not None))
    if used != list(range(len(document.media))):
        yield f"its segments use media {used[:8]}, it has {len(document.media)}"
    for i, media in enumerate(document.media):
        if media.width is None or media.height is None or media.width < 1 or media.height < 1:
            yield f"media {i}: its size is unknown"
        if media.url is not None and not media.url.startswith(("http://", "https://", "data:")):
            yield f"media {i}: its URL is not http(s) or data"
        for face in media.faces or ():
            if not _is_box(face.box):
                yield f"media {i}: the box of a face, {list(face.box)}, is not x0 < x1, y0 < y1 within 0..1"


def _time_faults(document: Document) -> Iterator[str]:
    for i, segment in enumerate(document.segments):
        in_range = segment.media is not None and 0 <= segment.media < len(document.media)
        if segment.type == "frame" and in_range and segment.t0 != document.media[segment.media or 0].t:
            yield f"segment {i}: t0 {segment.t0}, its media's t {document.media[segment.media or 0].t}"
    if document.kind != "video":
        return
    clock = (float("-inf"), False)
    for i, segment in enumerate(document.segments):
        if segment.t0 is None:
            if segment.role in ("frame", "subtitle"):
                yield f"segment {i}: a {segment.role} without a time"
            continue
        now = (float(f"{segment.t0:.6g}"), segment.type == "text")  # as written; on a tie the frame comes first
        if now < clock:
            yield f"segment {i}: {segment.t0} s after {clock[0]} s"
        clock = now


def _is_box(box: tuple[float, float, float, float]) -> bool:
    x0, y0, x1, y1 = (float(f"{x:.6g}") for x in box)  # as written
    return 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
