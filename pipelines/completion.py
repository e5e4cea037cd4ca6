"""Completing a document: a candidate without bytes, and what became of its requests, give a document with media."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from pipelines import urls
from pipelines.candidate import Candidate
from pipelines.document import CAPTIONED, Document, Media, Region, Segment, merge_text, without_pictures
from pipelines.frame_text import sequence
from pipelines.images import BoxMap
from pipelines.raw_store import FETCHED, Blob, StoredItem, StoredMedia
from pipelines.subtitles import Cue


@dataclass(frozen=True, slots=True)
class LostMedia:
    """A picture or video that a document asked for and did not get."""

    reason: str
    url: str | None
    detail: str | None


@dataclass(frozen=True, slots=True)
class Completion:
    """The document with its media (`blobs[i]` holds the bytes of media i), or the reason why there is none.

    `found` are the addresses of what was had, without credentials; null for what came with the candidate.
    """

    document: Document | None
    blobs: tuple[Blob, ...]
    lost: tuple[LostMedia, ...]
    found: tuple[str | None, ...]
    reason: str | None = None
    detail: str | None = None


def complete(
    candidate: Candidate,
    stored: Mapping[str, StoredMedia],
    min_images: int,
    allows_license: Callable[[str | None], bool] = lambda _: True,
) -> Completion:
    """Join a candidate with its media.

    Args:
        candidate: As the extract stage wrote it.
        stored: What became of each request, by `MediaRequest.key`.
        min_images: Pictures that an interleaved or video document needs.
        allows_license: Whether a picture of this licence may be used.
    """
    if candidate.requests and candidate.requests[0].type == "video":
        return _complete_video(candidate, stored[candidate.requests[0].key], min_images, allows_license)
    return _complete_images(candidate, stored, min_images, allows_license)


def _complete_images(
    candidate: Candidate,
    stored: Mapping[str, StoredMedia],
    min_images: int,
    allows_license: Callable[[str | None], bool],
) -> Completion:
    document = candidate.document
    moved: dict[int, int] = {}  # place among the candidate's media: place among those that were had
    media: list[Media] = []
    blobs: list[Blob] = []
    lost: list[LostMedia] = []
    signals = list(document.signals)
    maps: dict[int, BoxMap] = {}
    for i, (wanted, request) in enumerate(zip(document.media, candidate.requests, strict=True)):
        found = stored[request.key]
        shown = urls.without_credentials(request.url) if request.url else None
        if found.outcome != FETCHED:
            lost.append(LostMedia(found.outcome, shown, found.detail))
            continue
        if not allows_license(license := wanted.license or found.license):
            lost.append(LostMedia("license_not_allowed", shown, license))
            continue
        moved[i] = len(media)
        maps[i] = _box_map(found)
        media.append(_media(wanted, found, found.items[0]))
        blobs.append(found.items[0].blob)
        signals += [replace(s, target=f"media:{moved[i]}") for s in found.signals]
    is_upright = document.source.page_url is not None  # who marked the box saw a browser's view
    left = without_pictures(document.segments, set(range(len(document.media))) - moved.keys())
    segments = [_move_segment(s, moved, maps, is_upright) for s in left]
    completed = replace(document, segments=merge_text(tuple(segments)), media=tuple(media), signals=tuple(signals))
    _check_order(completed)
    result = Completion(completed, tuple(blobs), tuple(lost), tuple(m.url for m in media))
    if document.kind in CAPTIONED and lost:
        return replace(result, document=None, blobs=(), reason=lost[0].reason, detail=lost[0].url or lost[0].detail)
    if document.kind == "grounded" and not any(s.regions for s in completed.segments):
        return replace(result, document=None, blobs=(), reason="box_outside_picture")
    if document.kind in ("interleaved", "video") and len(media) < max(1, min_images):
        reasons = ", ".join(f"{reason} {num}" for reason, num in sorted(Counter(x.reason for x in lost).items()))
        return replace(result, document=None, blobs=(), reason="too_few_images", detail=reasons or None)
    return result


def _complete_video(
    candidate: Candidate, found: StoredMedia, min_images: int, allows_license: Callable[[str | None], bool]
) -> Completion:
    document = candidate.document
    shown = urls.without_credentials(found.url) if found.url else None
    if found.outcome != FETCHED:
        lost = (LostMedia(found.outcome, shown, found.detail),)
        return Completion(None, (), lost, (), found.outcome, found.detail or shown)
    if not allows_license(found.license):
        return Completion(
            None, (), (LostMedia("license_not_allowed", shown, found.license),), (), "license_not_allowed"
        )
    if len(found.items) < max(1, min_images):
        return Completion(None, (), (), (shown,), "too_few_frames", f"{len(found.items)} frames")
    has_words = bool(found.cues) or any(s.text for s in document.segments)
    if not has_words:
        return Completion(None, (), (), (shown,), "video_without_text", shown)
    base = Media(url=shown)
    media = tuple(replace(_media(base, found, item), t=item.t) for item in found.items)
    times = [item.t or 0.0 for item in found.items]
    cues = tuple(Cue(cue.t0, cue.t1, cue.text) for cue in found.cues)
    before = tuple(s for s in document.segments if s.t0 is None)
    timed = [
        *(s for s in document.segments if s.t0 is not None),
        *sequence(times, cues, is_automatic=found.cues_automatic),
    ]
    timed.sort(key=lambda s: (s.t0, s.type == "text"))
    completed = replace(
        document,
        segments=(*before, *timed),
        media=media,
        lang=document.lang or found.cues_lang,
        signals=(*document.signals, *(replace(s, target="media:0") for s in found.signals)),
    )
    return Completion(completed, tuple(item.blob for item in found.items), (), (shown,))


def _media(wanted: Media, found: StoredMedia, item: StoredItem) -> Media:
    return replace(
        wanted,
        mime=item.mime,
        width=item.width,
        height=item.height,
        source_width=item.source_width,
        source_height=item.source_height,
        bytes=item.blob.length,
        stored_sha256=item.stored_sha256,
        source_sha256=item.source_sha256,
        fetched_at=found.fetched_at or wanted.fetched_at,
        license=wanted.license or found.license,
        license_evidence=wanted.license_evidence if wanted.license else found.license_evidence,
        credit=wanted.credit or found.credit,
    )


def _box_map(found: StoredMedia) -> BoxMap:
    at = found.box_map or {}
    return BoxMap(at.get("orientation", 1), tuple(at.get("scale", (1.0, 1.0))), tuple(at.get("shift", (0.0, 0.0))))


def _move_segment(segment: Segment, moved: dict[int, int], maps: dict[int, BoxMap], is_upright: bool) -> Segment:
    """The segment with media and boxes in their new places."""
    if segment.media is not None:
        return replace(segment, media=moved[segment.media])
    regions: list[Region] = []
    for region in segment.regions:
        if region.media in moved:
            box = maps[region.media].map_box(region.box, is_upright=is_upright)
            if box is not None:
                regions.append(replace(region, media=moved[region.media], box=box))
    return replace(segment, regions=tuple(regions))


def _check_order(document: Document) -> None:
    """Media must be numbered in the order of their first use."""
    order: list[int] = []
    for segment in document.segments:
        if segment.media is not None and segment.media not in order:
            order.append(segment.media)
    if order != list(range(len(document.media))):
        raise AssertionError(f"{document.key}: media in the order {order} of {len(document.media)}")
