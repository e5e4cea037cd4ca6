"""Completion of a document: a candidate and the results of its requests give a document with media."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from pipelines.candidate import Candidate
from pipelines.document import NEEDS_ALL_MEDIA, Document, Media, Score, Segment, merge_text, without_media
from pipelines.drop_reasons import FETCHED, Reason, Refusal
from pipelines.images.normalise import BoxMap
from pipelines.media.raw_store import Blob, StoredItem, StoredLoss, StoredMedia
from pipelines.video.frame_text import sequence
from pipelines.video.subtitles import Cue
from pipelines.web import urls


@dataclass(frozen=True, slots=True)
class LostMedia:
    """An image or video that a document needs and did not get."""

    reason: Reason
    url: str | None
    detail: str | None


@dataclass(frozen=True, slots=True)
class Completion:
    """The document with its media (`blobs[i]` is the bytes of media i), or the refusal.

    `found` are the URLs of fetched media, without credentials; None for media that came with the candidate.
    `lost_texts` are the tracks and cues that a video does not have, and `num_cues` the number of those that it has.
    """

    document: Document | None
    blobs: tuple[Blob, ...]
    lost: tuple[LostMedia, ...]
    found: tuple[str | None, ...]
    refusal: Refusal | None = None
    lost_texts: tuple[StoredLoss, ...] = ()
    num_cues: int = 0


def complete(
    candidate: Candidate,
    stored: Mapping[str, StoredMedia],
    min_images: int,
    allows_license: Callable[[str | None], bool] = lambda _: True,
) -> Completion:
    """Join a candidate with its media.

    Args:
        candidate: As the extract stage wrote it.
        stored: Result of each request, by `MediaRequest.key`.
        min_images: Images that an interleaved or video document needs.
        allows_license: Returns whether an image of this licence may be used.
    """
    if candidate.requests and candidate.requests[0].type == "video":
        found = stored[candidate.requests[0].key]
        video = _complete_video(candidate, found, min_images, allows_license)
        is_film = candidate.document.kind == "video"  # a conversation about a video does not use its subtitles
        return replace(video, lost_texts=found.lost_texts, num_cues=found.num_cues) if is_film else video
    return _complete_images(candidate, stored, min_images, allows_license)


def failed_completion(candidate: Candidate) -> Completion:
    """Return the completion of a candidate on which our code failed: all its media are without a document."""
    return Completion(
        None, (), (), tuple(urls.without_credentials(r.url) if r.url else None for r in candidate.media_requests)
    )


def _complete_images(
    candidate: Candidate,
    stored: Mapping[str, StoredMedia],
    min_images: int,
    allows_license: Callable[[str | None], bool],
) -> Completion:
    document = candidate.document
    fetched: list[StoredMedia] = []
    lost: dict[int, LostMedia] = {}
    for i, (wanted, request) in enumerate(zip(document.media, candidate.requests, strict=True)):
        found = stored[request.key]
        shown = urls.without_credentials(request.url) if request.url else None
        license = wanted.license or found.license
        if found.outcome != FETCHED:
            lost[i] = LostMedia(found.outcome, shown, found.detail)
        elif not allows_license(license):
            lost[i] = LostMedia("license_not_allowed", shown, license)
        else:
            fetched.append(found)
    left = without_media(document, lost)
    is_upright = document.source.page_url is not None  # the author of the box saw a browser's view
    maps = [_box_map(found) for found in fetched]
    completed = replace(
        left,
        segments=merge_text(tuple(_map_boxes(s, maps, is_upright) for s in left.segments)),
        media=tuple(_media(wanted, found, found.items[0]) for wanted, found in zip(left.media, fetched, strict=True)),
        signals=(
            *left.signals,
            *(replace(s, target=f"media:{i}") for i, found in enumerate(fetched) for s in found.signals),
        ),
        scores=(*left.scores, *_face_scores([found.items[0] for found in fetched])),
    )
    _check_order(completed)
    media = completed.media
    result = Completion(
        completed, tuple(found.items[0].blob for found in fetched), tuple(lost.values()), tuple(m.url for m in media)
    )
    if document.kind in NEEDS_ALL_MEDIA and lost:
        why = next(iter(lost.values()))
        return replace(result, document=None, blobs=(), refusal=Refusal(why.reason, why.url or why.detail))
    num_boxes = sum(len(s.regions) for s in completed.segments)
    lacks_boxes = document.kind == "conversation" and num_boxes < sum(len(s.regions) for s in document.segments)
    if lacks_boxes or (document.kind == "grounded" and not num_boxes):
        return replace(result, document=None, blobs=(), refusal=Refusal("box_outside_image"))
    if document.kind in ("interleaved", "video") and len(media) < max(1, min_images):
        counted = sorted(Counter(why.reason for why in result.lost).items())
        reasons = ", ".join(f"{reason} {num}" for reason, num in counted)
        return replace(result, document=None, blobs=(), refusal=Refusal("too_few_images", reasons or None))
    return result


def _complete_video(
    candidate: Candidate, found: StoredMedia, min_images: int, allows_license: Callable[[str | None], bool]
) -> Completion:
    document = candidate.document
    shown = urls.without_credentials(found.url) if found.url else None
    if found.outcome != FETCHED:
        lost = (LostMedia(found.outcome, shown, found.detail),)
        return Completion(None, (), lost, (), Refusal(found.outcome, found.detail or shown))
    if not allows_license(found.license):
        lost = (LostMedia("license_not_allowed", shown, found.license),)
        return Completion(None, (), lost, (), Refusal("license_not_allowed"))
    if len(found.items) < max(1, min_images):
        return Completion(None, (), (), (shown,), Refusal("too_few_frames", f"{len(found.items)} frames"))
    if document.kind == "conversation":
        return _complete_filmed(document, found, shown)
    has_words = bool(found.cues) or any(s.text for s in document.segments)
    if not has_words:
        return Completion(None, (), (), (shown,), Refusal("video_without_text", shown))
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
        scores=(*document.scores, *_face_scores(found.items)),
    )
    return Completion(completed, tuple(item.blob for item in found.items), (), (shown,))


def _complete_filmed(document: Document, found: StoredMedia, shown: str | None) -> Completion:
    """Complete a conversation about a video: its frames stand where the video is shown, its subtitles are not used."""
    media = tuple(replace(_media(Media(url=shown), found, item), t=item.t) for item in found.items)
    segments: list[Segment] = []
    for segment in document.segments:
        is_place = segment.type == "frame" and segment.media is None
        frames = (replace(segment, media=i, t0=item.t) for i, item in enumerate(media))
        segments += frames if is_place else [segment]
    signals = (*document.signals, *(replace(s, target="media:0") for s in found.signals))
    scores = (*document.scores, *_face_scores(found.items))
    completed = replace(document, segments=tuple(segments), media=media, signals=signals, scores=scores)
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
        faces=None if item.faces is None else item.faces.faces,
    )


def _face_scores(items: Sequence[StoredItem]) -> Iterator[Score]:
    """Yield the number of faces of each image in which some were searched."""
    for i, item in enumerate(items):
        if item.faces is not None:
            yield Score("num_faces", f"media:{i}", float(len(item.faces.faces)), item.faces.detector)


def _box_map(found: StoredMedia) -> BoxMap:
    at = found.box_map or {}
    return BoxMap(at.get("orientation", 1), tuple(at.get("scale", (1.0, 1.0))), tuple(at.get("shift", (0.0, 0.0))))


def _map_boxes(segment: Segment, maps: Sequence[BoxMap], is_upright: bool) -> Segment:
    """Return the segment with its boxes in the stored images, without those that are cropped away entirely."""
    if not segment.regions:
        return segment
    boxes = ((r, maps[r.media].map_box(r.box, is_upright=is_upright)) for r in segment.regions)
    return replace(segment, regions=tuple(replace(r, box=box) for r, box in boxes if box is not None))


def _check_order(document: Document) -> None:
    """Check that media are numbered in the order of their first use."""
    order: list[int] = []
    for segment in document.segments:
        if segment.media is not None and segment.media not in order:
            order.append(segment.media)
    if order != list(range(len(document.media))):
        raise AssertionError(f"{document.key}: media in the order {order} of {len(document.media)}")
