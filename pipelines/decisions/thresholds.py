"""Thresholds on a completed document: which of its images pass, and whether it is kept with those."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import Field

from pipelines.decisions.evaluation_images import EvaluationImages, is_evaluation_image
from pipelines.decisions.features import MeasuredDocument, MeasuredImage
from pipelines.document import NEEDS_ALL_MEDIA, Document, Media, Score, without_media
from pipelines.drop_reasons import Refusal
from pipelines.images.heads import HeadFilter
from pipelines.images.text_match import MatchSettings
from pipelines.settings import GrownSettings, Settings
from pipelines.text.assignment import UNMATCHED, interleave_by_assignment


class ImageFilter(Settings):
    """Thresholds on stored images; null is off. An image of unknown score never passes a threshold."""

    min_side: int | None = Field(None, description="Pixels of the source image's shorter side (OBELICS: 150)")
    max_side: int | None = Field(20_000, description="Pixels of the longer side (OBELICS)")
    max_aspect: float | None = Field(3.0, description="Longer over shorter side (COYO, DataComp: 3; OBELICS: 2)")
    min_bytes: int | None = Field(None, description="Bytes as stored (LAION, COYO: 5,120 as fetched)")
    min_blur: float | None = Field(None, description="Variance of the Laplacian (NeMo Curator: 100)")
    min_contrast: float | None = Field(2.0, description="Standard deviation of grey, 0-255: drops blank images")
    max_uses: int | None = Field(10, description="An image on more pages than this is dropped (OBELICS, MMC4: 10)")


class MatchFilter(Settings):
    """Image–text similarity by CLIP."""

    model: MatchSettings
    min_similarity: float | None = Field(None, description="Cosine; LAION-2B: 0.28 of ViT-B/32. Null: only scored")
    assign: bool = Field(False, description="Interleaved: each image at its best sentence (MMC4), not in DOM order")
    side: Literal["before", "after"] = Field("before", description="Where to put an image, by its sentence")


class Thresholds(GrownSettings):
    """Requirements on a document's images, each one and their number."""

    LATER = frozenset({"evaluation_images", "image_scores"})

    images: ImageFilter = ImageFilter()
    min_images: int = Field(1, ge=0, description="Interleaved and video: images that must remain")
    max_images: int | None = Field(None, description="Interleaved: more drops the document (OBELICS: 30); null: any")
    match: MatchFilter | None = Field(None, description="Image-text similarity; null: not computed")
    evaluation_images: EvaluationImages | None = Field(
        None, description="Images of evaluation sets, nearly equal ones of which are dropped; null: none"
    )
    image_scores: HeadFilter | None = Field(
        None, description="Scores of images by heads on CLIP embeddings, such as aesthetics; null: none"
    )


@dataclass(frozen=True, slots=True)
class Judged:
    """A document after its thresholds: with the images that passed, or None with the refusal."""

    document: Document | None
    places: tuple[int, ...]  # indices of the images that are left
    lost: dict[int, Refusal]  # by image
    refusal: Refusal | None = None


def judge(
    document: Document, features: MeasuredDocument, thresholds: Thresholds, overused: Mapping[str, int]
) -> Judged:
    """Apply its source's thresholds to a document.

    Args:
        document: Completed.
        features: Features of its images.
        thresholds: Thresholds of its source.
        overused: Number of pages with each of the most frequent images, by hash.
    """
    match = thresholds.match
    similarity, model = features.similarity or [], features.match_model or ""
    best = [max(row, default=None) for row in similarity]
    lost: dict[int, Refusal] = {}
    for i, image in enumerate(features.images):
        refusal = _refusal(document.media[i], image, thresholds.images, overused)
        score = best[i] if best else None
        if refusal is None and match is not None and _is_below(score, match.min_similarity):
            refusal = Refusal("low_similarity", str(score))
        if refusal is None and thresholds.evaluation_images is not None:
            is_known = is_evaluation_image(image.phash, thresholds.evaluation_images)
            refusal = Refusal("evaluation_image", f"{image.phash:016x}") if is_known else None
        if refusal is None:
            refusal = _score_refusal(i, features, thresholds.image_scores)
        if refusal is not None:
            lost[i] = refusal
    if document.kind in NEEDS_ALL_MEDIA and lost:
        return Judged(None, (), lost, next(iter(lost.values())))
    if match is not None and best:
        scores = [Score("clip_similarity", f"media:{i}", value, model) for i, value in enumerate(best)]
        document = replace(document, scores=(*document.scores, *scores))
    if thresholds.image_scores is not None:
        found_scores = [
            Score(head["name"], f"media:{i}", value, head["origin"])
            for head in features.heads
            for i, value in enumerate(head["values"])
        ]
        document = replace(document, scores=(*document.scores, *found_scores))
    if match is not None and match.assign and best and document.kind == "interleaved":
        left = [[math.nan] * len(row) if i in lost else row for i, row in enumerate(similarity)]
        found = interleave_by_assignment(
            document, left, side=match.side, min_similarity=match.min_similarity, origin=model
        )
        lost |= {i: Refusal(UNMATCHED, "") for i in found.dropped if i not in lost}
        kept, places = found.document, found.places
    else:
        places = tuple(i for i in range(len(document.media)) if i not in lost)
        kept = without_media(document, lost)
    if document.kind in ("interleaved", "video") and len(places) < max(1, thresholds.min_images):
        return Judged(None, (), lost, Refusal("too_few_images", str(len(places))))
    if document.kind == "interleaved" and thresholds.max_images is not None and len(places) > thresholds.max_images:
        return Judged(None, (), lost, Refusal("too_many_images", str(len(places))))
    return Judged(kept, places, lost)


def _score_refusal(place: int, features: MeasuredDocument, limits: HeadFilter | None) -> Refusal | None:
    """Return why an image fails by its scores."""
    for head in features.heads if limits is not None else ():
        value = head["values"][place]
        if limits is not None and not limits.heads[head["name"]].takes(value):
            return Refusal("image_score", f"{head['name']} {value}")
    return None


def _is_below(value: float | None, least: float | None) -> bool:
    """Return whether a score fails a threshold; an unknown score does."""
    return least is not None and (value is None or not value >= least)


def _refusal(media: Media, image: MeasuredImage, limits: ImageFilter, overused: Mapping[str, int]) -> Refusal | None:
    """Return why an image fails; an unknown value passes no threshold."""
    width, height = media.source_width or 0, media.source_height or 0
    short, long = min(width, height), max(width, height)
    if limits.min_side is not None and short < limits.min_side:
        return Refusal("image_too_small", f"{width}x{height}")
    if limits.max_side is not None and long > limits.max_side:
        return Refusal("image_too_large", f"{width}x{height}")
    if limits.max_aspect is not None and not long <= limits.max_aspect * max(short, 1):
        return Refusal("image_aspect", f"{width}x{height}")
    if limits.min_bytes is not None and (media.bytes or 0) < limits.min_bytes:
        return Refusal("image_too_few_bytes", str(media.bytes))
    if limits.min_contrast is not None and not image.std >= limits.min_contrast:
        return Refusal("image_blank", f"{image.std:.2f}")
    if limits.min_blur is not None and not image.blur >= limits.min_blur:
        return Refusal("image_blurred", f"{image.blur:.1f}")
    if limits.max_uses is not None and (uses := overused.get(image.stored_sha256, 0)) > limits.max_uses:
        return Refusal("image_overused", f"in {uses} pages")
    return None
