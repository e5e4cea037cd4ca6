"""Tests of completing documents with their media: every loss is named, the rest stays in order and in place."""

from dataclasses import replace

import pytest

from pipelines.candidate import Candidate, MediaRequest
from pipelines.document import Document, Media, Region, Signal
from pipelines.drop_reasons import FETCHED
from pipelines.images.normalise import ImageSettings, normalise
from pipelines.media.completion import LostMedia, complete
from pipelines.media.raw_store import StoredCue, StoredLoss, StoredMedia
from pipelines.web.permission import PolicySettings
from tests.pipelines.stage_records import (
    PAGE,
    candidate,
    document,
    fetched,
    image,
    image_bytes,
    image_url,
    item,
    scores,
    text,
)

GONE = StoredMedia(image_url(1), "http_404", "Not Found")
LONG = "The red square stands to the left of a blue circle."


def page(num_media: int = 3, **more) -> Document:
    segments = [text("Title", role="heading")]
    for i in range(num_media):
        segments += [image(i), text(f"caption {i}", role="caption"), text(f"body {i}")]
    return document("interleaved", *segments, num_media=num_media, **more)


def store(*media: StoredMedia, num: int = 3) -> dict[str, StoredMedia]:
    return {m.key: m for m in [*(fetched(image_url(i)) for i in range(num)), *media]}


# --- pages ----------------------------------------------------------------------------------------------------------


def test_all_images_are_had():
    result = complete(candidate(page()), store(), min_images=1)
    assert result.document is not None
    assert [m.stored_sha256 for m in result.document.media] == [item(image_url(i)).stored_sha256 for i in range(3)]
    assert [m.fetched_at for m in result.document.media] == ["2026-01-05T10:11:12Z"] * 3
    assert (result.document.media[0].width, result.document.media[0].source_width) == (64, 640)
    assert result.blobs == tuple(item(image_url(i)).blob for i in range(3))
    assert (result.lost, result.found) == ((), tuple(image_url(i) for i in range(3)))


def test_a_lost_image_leaves_the_others_in_order_with_what_was_said_of_them():
    signals = (Signal("robots", "page", "allowed"),)
    found = [fetched(image_url(i), signals=(Signal("exif-copyright", "media:0", f"of {i}"),)) for i in range(3)]
    given = candidate(page(signals=signals, scores=scores(0.1, 0.2, 0.3)))
    result = complete(given, {m.key: m for m in [*found, GONE]}, min_images=1)
    assert result.document is not None
    assert [(s.media, s.text) for s in result.document.segments] == [
        (None, "Title"),
        (0, None),
        (None, "caption 0"),
        (None, "body 0\n\nbody 1"),  # the lost image's caption is dropped with it
        (1, None),
        (None, "caption 2"),
        (None, "body 2"),
    ]
    assert [m.url for m in result.document.media] == [image_url(0), image_url(2)]
    assert result.lost == (LostMedia("http_404", image_url(1), "Not Found"),)
    assert [(s.target, s.value) for s in result.document.signals] == [
        ("page", "allowed"),
        ("media:0", "of 0"),
        ("media:1", "of 2"),
    ]
    assert [(s.target, s.value) for s in result.document.scores] == [("media:0", 0.1), ("media:1", 0.3)]


def test_too_few_images_are_counted_by_the_reasons_of_the_others():
    lost = [StoredMedia(image_url(0), "timeout"), GONE, StoredMedia(image_url(2), "timeout")]
    result = complete(candidate(page()), store(*lost), min_images=0)
    assert (result.document, result.refusal) == (None, ("too_few_images", "http_404 1, timeout 2"))
    assert [x.reason for x in result.lost] == ["timeout", "http_404", "timeout"]
    assert (result.blobs, result.found) == ((), ())


def test_as_many_images_as_are_asked_for():
    given = candidate(page())
    assert complete(given, store(GONE), min_images=2).refusal is None
    dropped = complete(given, store(GONE), min_images=3)
    assert (dropped.refusal.reason, dropped.found) == ("too_few_images", (image_url(0), image_url(2)))


def test_an_image_shown_twice_is_one_request_and_one_media():
    twice = document("interleaved", image(0), text("a"), image(0), num_media=1)
    result = complete(candidate(twice), store(), min_images=1)
    assert result.document is not None
    assert [s.media for s in result.document.segments] == [0, None, 0]


def test_a_text_needs_nothing():
    result = complete(candidate(document("text", text("words"))), {}, min_images=1)
    assert (result.document, result.found) == (document("text", text("words")), ())


def test_addresses_are_reported_without_credentials():
    url = "https://u:secret@images.example.org/1.jpg"
    given = document("interleaved", image(0), text("a"), num_media=1)
    result = complete(Candidate(given, (MediaRequest("image", url, PAGE),)), {url: replace(GONE, key=url)}, 1)
    assert [x.url for x in result.lost] == [image_url(1)]


def test_bytes_that_came_with_the_candidate_have_no_address_and_keep_their_time():
    given = document("interleaved", image(0), text("a"), num_media=1)
    given = replace(given, media=(Media(None, fetched_at="2025-01-01T00:00:00Z"),))
    request = MediaRequest("image", None, PAGE, inline_sha256="ab")
    stored = StoredMedia(request.key, FETCHED, items=(item("x"),))
    result = complete(Candidate(given, (request,)), {"inline:ab": stored}, 1)
    assert result.document is not None
    assert result.document.media[0].fetched_at == "2025-01-01T00:00:00Z"
    assert result.found == (None,)


# --- licences -------------------------------------------------------------------------------------------------------

ONLY_FREE = PolicySettings(licenses=["CC-BY-4.0"]).allows_license


def test_only_images_of_an_allowed_licence_are_kept_the_pages_word_before_the_files():
    given = page()
    stated = replace(given.media[0], license="CC-BY-4.0", license_evidence="link")
    refused = replace(given.media[1], license="CC-BY-NC-4.0", license_evidence="link")
    given = replace(given, media=(stated, refused, given.media[2]))
    stated_in_files = [
        fetched(image_url(0), license="CC0-1.0", license_evidence="xmp-license"),
        fetched(image_url(1), license="CC-BY-4.0", license_evidence="xmp-license"),
        fetched(image_url(2), license="CC-BY-4.0", license_evidence="xmp-license", credit="A. Painter"),
    ]
    result = complete(candidate(given), store(*stated_in_files), 1, ONLY_FREE)
    assert result.document is not None
    assert [(m.license, m.license_evidence, m.credit) for m in result.document.media] == [
        ("CC-BY-4.0", "link", None),
        ("CC-BY-4.0", "xmp-license", "A. Painter"),
    ]
    assert result.lost == (LostMedia("license_not_allowed", image_url(1), "CC-BY-NC-4.0"),)


def test_an_image_of_which_nothing_is_stated_is_under_no_allowed_licence():
    given = document("pair", image(0), text(LONG, role="caption"), num_media=1)
    result = complete(candidate(given), store(), 1, ONLY_FREE)
    assert (result.refusal.reason, result.lost) == (
        "license_not_allowed",
        (LostMedia("license_not_allowed", image_url(0), None),),
    )


# --- pairs and boxes ------------------------------------------------------------------------------------------------


def grounded(*boxes: tuple[float, float, float, float], page: str | None = PAGE) -> Document:
    regions = tuple(Region(4, 14, 0, box) for box in boxes)
    return document("grounded", image(0), text(LONG, role="caption", regions=regions), num_media=1, page=page)


def normalised(settings: ImageSettings, size: tuple[int, int], exif_orientation: int | None = None) -> StoredMedia:
    """Return an image as stored by the fetch stage."""
    made = normalise(image_bytes(0, size, exif_orientation), settings)
    at = {"orientation": made.box_map.orientation, "scale": list(made.box_map.scale), "shift": list(made.box_map.shift)}
    return fetched(image_url(0), box_map=at)  # lists, as read from JSON


def boxes_of(result) -> list[tuple[float, ...]]:
    assert result.document is not None
    return [tuple(round(x, 6) for x in r.box) for s in result.document.segments for r in s.regions]


def test_a_pair_bears_the_reason_of_its_image():
    given = document("pair", image(0), text(LONG, role="caption"), num_media=1)
    result = complete(candidate(given), {image_url(0): StoredMedia(image_url(0), "corrupt_image", "ends early")}, 1)
    assert (result.document, result.refusal) == (None, ("corrupt_image", image_url(0)))


def test_a_box_of_a_list_is_turned_with_its_image_and_a_browsers_is_not():
    stored = {image_url(0): normalised(ImageSettings(), (40, 20), exif_orientation=6)}
    box = (0.0, 0.1, 0.5, 0.4)
    listed = complete(candidate(grounded(box, page=None)), stored, 1)
    assert boxes_of(listed) == [(0.6, 0.0, 0.9, 0.5)]  # a quarter clockwise
    assert boxes_of(complete(candidate(grounded(box)), stored, 1)) == [box]


def test_a_box_is_cut_with_its_image_and_dropped_where_nothing_of_it_is_left():
    settings = ImageSettings(image_size=20, resize_mode="center_crop", resize_only_if_bigger=False)
    stored = {image_url(0): normalised(settings, (40, 20))}  # the middle half of the width
    result = complete(candidate(grounded((0.0, 0.0, 0.2, 1.0), (0.0, 0.2, 0.5, 0.8))), stored, 1)
    assert boxes_of(result) == [(0.0, 0.2, 0.5, 0.8)]
    gone = complete(candidate(grounded((0.0, 0.0, 0.2, 1.0))), stored, 1)
    assert (gone.document, gone.refusal.reason, gone.found) == (None, "box_outside_image", (image_url(0),))


# --- videos ---------------------------------------------------------------------------------------------------------

VIDEO = "https://videos.example.org/1.mp4"


def video(*segments) -> Candidate:
    return Candidate(document("video", *segments), (MediaRequest("video", VIDEO, PAGE),))


def film(*times: float, cues: tuple[StoredCue, ...] = (), **more) -> dict[str, StoredMedia]:
    items = tuple(item(f"frame {t}", t=t) for t in times)
    return {VIDEO: replace(fetched(VIDEO), items=items, cues=cues, **more)}


def test_a_caption_comes_first_then_frames_and_cues_by_time_a_frame_before_its_cue():
    cues = (StoredCue(1.0, 2.0, "second"), StoredCue(0.5, 0.9, "first"))
    stored = film(0.0, 1.0, cues=cues, cues_lang="en", signals=(Signal("robots", "page", "allowed"),))
    result = complete(video(text("A film", role="title")), stored, 1)
    assert result.document is not None
    assert [(s.t0, s.media, s.text, s.role) for s in result.document.segments] == [
        (None, None, "A film", "title"),
        (0.0, 0, None, "frame"),
        (0.5, None, "first", "subtitle"),
        (1.0, 1, None, "frame"),
        (1.0, None, "second", "subtitle"),
    ]
    assert [(m.url, m.t) for m in result.document.media] == [(VIDEO, 0.0), (VIDEO, 1.0)]
    assert (result.document.lang, result.found, len(result.blobs)) == ("en", (VIDEO,), 2)
    assert [s.target for s in result.document.signals] == ["media:0"]


def test_tracks_and_cues_that_a_video_does_not_have_are_named():
    lost = (StoredLoss("track", "subtitles_empty", "vtt: no cue with words", f"{VIDEO}.vtt", None),)
    for stored in (film(0.0, cues=(StoredCue(0.0, 1.0, "words"),), num_cues=1, lost_texts=lost), film(lost_texts=lost)):
        result = complete(video(), stored, 1)
        assert (result.lost_texts, result.num_cues) == (lost, stored[VIDEO].num_cues)


def test_what_a_machine_heard_is_a_transcript():
    stored = film(0.0, cues=(StoredCue(0.0, 1.0, "words"),), cues_automatic=True)
    result = complete(video(), stored, 1)
    assert result.document is not None
    assert [(s.role, s.generator) for s in result.document.segments][1:] == [("transcript", "automatic captions")]


def test_words_that_the_list_times_stand_among_the_frames():
    result = complete(video(text("said", t0=0.5, t1=0.9, role="transcript")), film(0.0, 1.0), 1)
    assert result.document is not None
    assert [s.t0 for s in result.document.segments] == [0.0, 0.5, 1.0]


@pytest.mark.parametrize(
    ("segments", "stored", "reason", "detail"),
    [
        ((text("A"),), {VIDEO: StoredMedia(VIDEO, "too_large", "9 GB", url=VIDEO)}, "too_large", "9 GB"),
        ((text("A"),), film(license="CC-BY-NC-4.0"), "license_not_allowed", None),
        ((text("A"),), film(0.0, license="CC-BY-4.0"), "too_few_frames", "1 frames"),
        ((), film(0.0, 1.0, license="CC-BY-4.0"), "video_without_text", VIDEO),
    ],
)
def test_why_a_video_is_left_out(segments, stored, reason: str, detail: str | None):
    result = complete(video(*segments), stored, 2, ONLY_FREE)
    assert (result.document, result.refusal) == (None, (reason, detail))
    # One request: fetched and then dropped with its document, or lost for the same reason.
    assert (result.found, [x.reason for x in result.lost]) in [((VIDEO,), []), ((), [reason])]


def test_frames_that_come_with_a_list_are_images_like_others():
    frames = [replace(image(i), type="frame", role="frame", t0=float(i)) for i in range(2)]
    given = document("video", *frames, text("said", t0=1.0, role="subtitle"), num_media=2)
    given = replace(given, media=tuple(replace(m, t=float(i)) for i, m in enumerate(given.media)))
    result = complete(candidate(given), store(GONE, num=1), 1)
    assert result.document is not None
    assert [(s.type, s.media) for s in result.document.segments] == [("frame", 0), ("text", None)]
    assert complete(candidate(given), store(GONE, num=1), 2).refusal.reason == "too_few_images"
