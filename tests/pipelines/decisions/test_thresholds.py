"""Tests of thresholds: each drops what is beyond it, with its reason; an unknown value passes none."""

from dataclasses import replace
from typing import Any

import pytest

from pipelines.decisions.features import MeasuredDocument, MeasuredImage
from pipelines.decisions.thresholds import Judged, Thresholds, judge
from pipelines.document import Document, Media, Score
from pipelines.drop_reasons import DOCUMENTS, IMAGES
from pipelines.text.assignment import sentences_of
from tests.pipelines.stage_records import document, image, image_url, scores, text

MODEL = "ViT-B-32/fp32@0123456789abcdef"
MEASURED = MeasuredImage("", phash=1, blur=200.0, mean=100.0, std=40.0)
OFF = dict.fromkeys(("max_side", "max_aspect", "min_contrast", "max_uses"))
MATCH = {"model": {"model": "ViT-B-32", "weights": "w.safetensors"}}


def media(i: int, width: int = 640, height: int = 480) -> Media:
    size = {"source_width": width, "source_height": height}
    return Media(image_url(i), "0.jpg", "image/jpeg", 64, 48, **size, bytes=9000, stored_sha256=f"hash {i}")


def page(num_media: int = 2, **more: Any) -> Document:
    segments = [s for i in range(num_media) for s in (image(i), text(f"Body number {i}."))]
    given = document("interleaved", *segments, num_media=num_media, **more)
    return replace(given, media=tuple(map(media, range(num_media))))


def pair() -> Document:
    return replace(document("pair", image(0), text("caption", role="caption"), num_media=1), media=(media(0),))


def thresholds(**settings: Any) -> Thresholds:
    return Thresholds.model_validate(settings | {"images": OFF | settings.get("images", {})})


def row(given: Document, similarity: list[list[float]] | None = None, **measured: float) -> MeasuredDocument:
    """Features of a document; `measured` are those of its first image."""
    images = [replace(MEASURED, stored_sha256=m.stored_sha256) for m in given.media]
    if images:
        images[0] = replace(images[0], **measured)
    return MeasuredDocument(tuple(images), similarity, MODEL if similarity is not None else None)


def reason_of(limits: dict[str, Any], uses: int = 0, size: tuple[int, int] = (640, 480), **measured: float):
    """Return why a page's first image is dropped, and check it against the results for the page and for a pair."""
    given = page()
    given = replace(given, media=(media(0, *size), given.media[1]))
    overused = {"hash 0": uses} if uses else {}
    judged = judge(given, row(given, **measured), thresholds(images=limits), overused)
    single = replace(pair(), media=given.media[:1])
    alone = judge(single, row(single, **measured), thresholds(images=limits), overused)
    assert set(judged.lost) <= {0}
    assert alone.lost == judged.lost
    assert alone.refusal == judged.lost.get(0)
    assert (alone.document is None) == bool(judged.lost)
    return judged.lost.get(0)


@pytest.mark.parametrize(
    ("limits", "at", "beyond", "found"),
    [
        ({"min_side": 150}, {"size": (300, 150)}, {"size": (300, 149)}, ("image_too_small", "300x149")),
        ({"max_side": 640}, {"size": (640, 320)}, {"size": (641, 320)}, ("image_too_large", "641x320")),
        ({"max_aspect": 2.0}, {"size": (200, 400)}, {"size": (200, 401)}, ("image_aspect", "200x401")),
        ({"min_contrast": 2.0}, {"std": 2.0}, {"std": 1.996}, ("image_blank", "2.00")),
        ({"min_blur": 100}, {"blur": 100.0}, {"blur": 99.9}, ("image_blurred", "99.9")),
        ({"max_uses": 10}, {"uses": 10}, {"uses": 11}, ("image_overused", "in 11 pages")),
    ],
)
def test_an_image_beyond_a_threshold_is_dropped(limits, at, beyond, found):
    assert reason_of(limits, **at) is None
    assert reason_of(limits, **beyond) == found
    assert reason_of({}, **beyond) is None
    assert found[0] in IMAGES


def test_an_image_of_few_bytes_is_dropped():
    given = pair()
    assert judge(given, row(given), thresholds(images={"min_bytes": 9000}), {}).refusal is None
    dropped = judge(given, row(given), thresholds(images={"min_bytes": 9001}), {})
    assert dropped.refusal == ("image_too_few_bytes", "9000")


def test_what_is_not_known_passes_no_threshold():
    nan = float("nan")
    assert reason_of({"min_contrast": 2.0}, std=nan) == ("image_blank", "nan")
    assert reason_of({"min_blur": 2.0}, blur=nan) == ("image_blurred", "nan")


# --- what is left ---------------------------------------------------------------------------------------------------


def test_a_document_that_passes_whole_is_as_it_was():
    given = page()
    assert judge(given, row(given), thresholds(), {}) == Judged(given, (0, 1), {})


def test_images_that_pass_keep_their_order_and_their_scores():
    given = page(3, scores=scores(0.1, 0.2, 0.3))
    judged = judge(given, row(given, std=0.0), thresholds(images={"min_contrast": 2.0}), {})
    assert judged.places == (1, 2)
    assert judged.document is not None
    assert [m.url for m in judged.document.media] == [image_url(1), image_url(2)]
    assert [s.media for s in judged.document.segments if s.media is not None] == [0, 1]
    assert [(s.target, s.value) for s in judged.document.scores] == [("media:0", 0.2), ("media:1", 0.3)]


def test_a_document_with_too_few_or_too_many_images_is_dropped():
    given = page(3)
    blank = row(given, std=0.0)
    for filters, features, found in [
        ({"min_images": 4}, row(given), ("too_few_images", "3")),
        ({"min_images": 3, "images": {"min_contrast": 2.0}}, blank, ("too_few_images", "2")),
        ({"max_images": 2}, row(given), ("too_many_images", "3")),
    ]:
        judged = judge(given, features, thresholds(**filters), {})
        assert (judged.document, judged.refusal) == (None, found)
        assert judged.refusal.reason in DOCUMENTS
    assert judge(given, blank, thresholds(max_images=2, images={"min_contrast": 2.0}), {}).places == (1, 2)


def test_a_page_keeps_one_image_at_least():
    given = page(1)
    judged = judge(given, row(given, std=0.0), thresholds(min_images=0, images={"min_contrast": 2.0}), {})
    assert (judged.refusal.reason, judged.lost) == ("too_few_images", {0: ("image_blank", "0.00")})


def test_a_text_needs_no_image():
    given = document("text", text("words"))
    assert judge(given, row(given), thresholds(match={**MATCH, "min_similarity": 0.3}), {}) == Judged(given, (), {})


# --- similarity -----------------------------------------------------------------------------------------------------


def test_the_best_of_an_images_texts_counts_and_is_noted():
    given = page()
    matching = thresholds(match={**MATCH, "min_similarity": 0.29})
    judged = judge(given, row(given, [[0.2, 0.29], [0.28, 0.1]]), matching, {})
    assert judged.lost == {1: ("low_similarity", "0.28")}
    assert judged.document is not None
    assert judged.document.scores == (Score("clip_similarity", "media:0", 0.29, MODEL),)


def test_an_unknown_similarity_never_passes():
    given = pair()
    matching = thresholds(match={**MATCH, "min_similarity": -1.0})
    assert judge(given, row(given, None), matching, {}).refusal.reason == "low_similarity"
    assert judge(given, row(given, [[]]), matching, {}).refusal.reason == "low_similarity"
    assert judge(given, row(given, [[float("nan")]]), matching, {}).refusal.reason == "low_similarity"


def test_a_similarity_that_is_only_scored_drops_nothing():
    given = page()
    judged = judge(given, row(given, [[-0.1, -0.2], [-0.3, -0.4]]), thresholds(match=MATCH), {})
    assert judged.document is not None
    assert [s.value for s in judged.document.scores] == [-0.1, -0.3]
    assert judge(given, row(given, None), thresholds(match=MATCH), {}) == Judged(given, (0, 1), {})


def test_assigned_images_stand_at_their_sentences_and_those_that_fit_none_are_dropped():
    given = page(3)
    assert sentences_of(given) == ["Body number 0.", "Body number 1.", "Body number 2."]
    similarity = [[0.1, 0.1, 0.3], [0.3, 0.1, 0.1], [0.1, 0.1, 0.1]]
    assigned = thresholds(match={**MATCH, "assign": True, "min_similarity": 0.2})
    judged = judge(given, row(given, similarity), assigned, {})
    assert judged.lost == {2: ("low_similarity", "0.1")}
    assert judged.places == (1, 0)
    assert judged.document is not None
    assert [m.url for m in judged.document.media] == [image_url(1), image_url(0)]
    assert [(s.media, s.text) for s in judged.document.segments] == [
        (0, None),
        (None, "Body number 0.\n\nBody number 1."),
        (1, None),
        (None, "Body number 2."),
    ]
    assert {(s.name, s.target, s.value) for s in judged.document.scores} == {
        ("clip_similarity", "media:0", 0.3),
        ("clip_similarity", "media:1", 0.3),
        ("matched_sim", "media:0", 0.3),
        ("matched_sim", "media:1", 0.3),
    }


def test_what_another_threshold_drops_is_not_assigned():
    given = page(2)
    assigned = thresholds(images={"min_contrast": 2.0}, match={**MATCH, "assign": True})
    judged = judge(given, row(given, [[0.9, 0.9], [0.1, 0.2]], std=0.0), assigned, {})
    assert (judged.lost, judged.places) == ({0: ("image_blank", "0.00")}, (1,))
