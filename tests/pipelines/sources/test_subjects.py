"""Tests of subjects that are cut from grounded pairs: content on white, masks, order, drops, what is kept of a pair."""

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.document import Build, Document, Media, Provenance, Region, Score, Segment, Signal
from pipelines.images.cutting import cut_out, read_mask
from pipelines.sources.subjects import SubjectSettings
from pipelines.spec import load_spec

CAPTION = "a red boat on a blue lake"
BOAT, LAKE = (0.0, 0.0, 0.5, 0.5), (0.5, 0.0, 1.0, 1.0)
REGIONS = (Region(0, 10, 0, BOAT, 0.9, "noun_chunk"), Region(14, 25, 0, LAKE, 0.8, "noun_chunk"))
IMAGE = Segment("image", media=0)
URL = "https://img.example/1.jpg"


def picture() -> bytes:
    """An image of 80 x 40 pixels: red at the top left, blue on the right, black below."""
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:20, :40] = (255, 0, 0)
    pixels[:, 40:] = (0, 0, 255)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def document(*regions: Region, **more: Any) -> Document:
    segments = (IMAGE, Segment("text", CAPTION, role="caption", regions=regions or REGIONS))
    found = Document(
        "grounded", "g0001", segments, (Media(URL, "png", license="CC0-1.0"),), Provenance("theirs", "7"),
        signals=(Signal("x-robots-tag", "media:0", "all"), Signal("robots.txt", "page", "ok")),
        scores=(Score("num_bad_regions", "document", 0.0, "derived"), Score("blur", "media:0", 9.0, "derived")),
        build=Build("0.1", "c", dedup_group="group"),
    )  # fmt: skip
    return replace(found, **more)


def tar(tmp_path: Path, *samples: tuple[bytes, bytes], **settings: Any) -> SubjectSettings:
    """Write samples, each a JSON and an image, as a tar; return a source that reads it."""
    path = tmp_path / "00000.tar"
    with tarfile.open(path, "w") as archive:
        for number, (record, image) in enumerate(samples):
            key = json.loads(record).get("key", f"{number:05}")
            for name, data in ((f"{key}.json", record), (f"{key}.png", image)):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return SubjectSettings(files=[str(path)], **({"min_side": 8, "min_area": 0.02} | settings))


def own(tmp_path: Path, *regions: Region, **settings: Any) -> SubjectSettings:
    return tar(tmp_path, (document(*regions).to_json().encode(), picture()), **settings)


def images(candidate: Any) -> list[np.ndarray]:
    """Return the images of a conversation in order."""
    data = dict(candidate.inline)
    files = (data[request.inline_sha256] for request in candidate.requests)
    return [np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files]


def test_the_user_shows_subjects_among_the_words_and_the_assistant_draws_the_whole(tmp_path, read_all):
    (candidate,) = read_all(own(tmp_path), "conversation").candidates
    segments = candidate.document.segments
    assert [(s.role, s.text if s.text is not None else s.media) for s in segments] == [
        ("user", "a red boat"),
        ("user", 0),
        ("user", "on a blue lake"),
        ("user", 1),
        ("assistant", 2),
    ]
    boat, lake, whole = images(candidate)
    assert boat.shape == (40, 40, 3)
    assert (boat[10:30] == (255, 0, 0)).all()
    assert (boat[:10] == 255).all()
    assert (boat[30:] == 255).all()
    assert (lake == (0, 0, 255)).all()
    assert (whole == np.asarray(Image.open(io.BytesIO(picture())))).all()
    assert not any(segment.regions for segment in segments)


def test_what_is_said_of_the_image_holds_for_its_parts(tmp_path, read_all):
    (found,) = read_all(own(tmp_path), "conversation").documents
    assert found.build.dedup_group == "group"  # it stays in the split of its pair
    assert found.source.dataset == "theirs"
    assert [(media.url, media.license) for media in found.media] == [(URL, "CC0-1.0")] * 3
    assert sorted(signal.target for signal in found.signals) == ["media:0", "media:1", "media:2", "page"]
    assert {score.target for score in found.scores} == {"document", "media:2"}


def test_places_are_those_on_the_answered_image(tmp_path, read_all):
    (found,) = read_all(own(tmp_path, boxes=True), "conversation").documents
    [boat], [lake] = (segment.regions for segment in found.segments if segment.text is not None)
    assert (boat.start, boat.end, boat.media, boat.box) == (0, 10, 2, BOAT)
    assert (lake.start, lake.end, lake.media, lake.box) == (3, 14, 2, LAKE)


def test_several_boxes_of_a_phrase_are_several_subjects_and_a_nested_phrase_is_shown_after_its_own(tmp_path, read_all):
    inner = replace(REGIONS[1], start=16)
    twice = replace(REGIONS[0], box=(0.5, 0.5, 1.0, 1.0))
    (found,) = read_all(own(tmp_path, *REGIONS, inner, twice), "conversation").documents
    assert [s.text if s.text is not None else s.media for s in found.segments] == [
        "a red boat", 0, 1, "on a blue lake", 2, 3, 4,
    ]  # fmt: skip


def test_an_expression_that_repeats_a_phrase_is_no_subject_of_its_own(tmp_path, read_all):
    expression = replace(REGIONS[0], end=25, label="ref_exp")
    found = read_all(own(tmp_path, REGIONS[0], expression), "conversation")
    assert len(found.documents[0].media) == 2
    assert found.drops == []


@pytest.mark.parametrize(
    ("box", "settings", "reason"),
    [
        ((0.0, 0.0, 0.1, 0.1), {}, "subject_too_small"),
        ((0.0, 0.0, 0.3, 0.5), {"min_side": 30}, "subject_too_small"),
        ((0.0, 0.0, 1.0, 1.0), {}, "subject_too_large"),
        ((0.5, 0.0, 0.4, 1.0), {}, "bad_box"),
        ((0.0, 0.0, 2.0, 1.0), {}, "bad_box"),
    ],
)
def test_a_subject_that_cannot_be_cut_is_counted(tmp_path, read_all, box, settings, reason):
    odd = replace(REGIONS[0], box=box)
    found = read_all(own(tmp_path, odd, REGIONS[1], min_area=0.05, **settings), "conversation")
    assert [(drop.unit, drop.reason) for drop in found.drops][:1] == [("element", reason)]
    alone = read_all(own(tmp_path, odd, min_area=0.05, **settings), "conversation")
    assert [(drop.unit, drop.reason) for drop in alone.drops] == [("document", reason)]


def test_the_largest_subjects_are_taken(tmp_path, read_all):
    found = read_all(own(tmp_path, max_subjects=1), "conversation")
    assert [(drop.unit, drop.reason) for drop in found.drops] == [("element", "too_many_subjects")]
    assert (images(found.candidates[0])[0] == (0, 0, 255)).all()


@pytest.mark.parametrize(
    ("record", "image", "reason"),
    [
        (document(segments=(IMAGE, Segment("text", CAPTION, role="caption"))), None, "missing_regions"),
        (document(kind="pair"), None, "other_kind"),
        (document(media=(Media(URL, "png"), Media(URL, "png"))), None, "malformed_sample"),
        (document(), b"\x89PNG\r\n\x1a\n", "corrupt_image"),
    ],
)  # fmt: skip
def test_a_sample_of_no_use_is_dropped_with_its_reason(tmp_path, read_all, record, image, reason):
    settings = tar(tmp_path, (record.to_json().encode(), picture() if image is None else image))
    assert read_all(settings, "conversation").reasons == [reason]


def foreign(**more: Any) -> bytes:
    """The JSON of a sample of GRIT as img2dataset writes it."""
    record = {
        "url": URL, "caption": CAPTION, "key": "00000", "status": "success", "width": 80, "height": 40,
        "original_width": 160, "original_height": 80, "exif": "{}",
        "noun_chunks": [[0, 10, *BOAT, 0.9], [14, 25, *LAKE, 0.8]],
    }  # fmt: skip
    return json.dumps(record | more).encode()


TRIANGLE = [[0, 0, 80, 0, 0, 40]]  # in pixels of 160 x 80: the upper left half of the boat's box
COLUMNS = {"size": [4, 8], "counts": [16, 8, 8]}  # of 8 columns of 4, the fifth and sixth


def test_a_mask_covers_what_is_not_the_subject(tmp_path, read_all):
    settings = tar(tmp_path, (foreign(segmentations=[TRIANGLE, COLUMNS]), picture()))
    (candidate,) = read_all(settings, "conversation").candidates
    boat, lake, _ = images(candidate)
    assert (boat[11, 2] == (255, 0, 0)).all()
    assert (boat[28, 38] == 255).all()
    assert (lake[:, 1:19] == (0, 0, 255)).all()
    assert (lake[:, 21:] == 255).all()


@pytest.mark.parametrize(
    ("segmentations", "reason"),
    [
        ([TRIANGLE, {"size": [4, 8], "counts": "compressed"}], "bad_mask"),
        ([TRIANGLE, {"size": [4, 8], "counts": [1, 2]}], "bad_mask"),
        ([TRIANGLE, [[0, 0, 1]]], "bad_mask"),
        ([TRIANGLE, []], "bad_mask"),
        ([TRIANGLE, [[]]], "bad_mask"),
        ([TRIANGLE, [[0, 0, 1e12, 0, 0, 40]]], "bad_mask"),
        ([TRIANGLE, [[0, 0, float("nan"), 0, 0, 40]]], "bad_mask"),
        ([TRIANGLE, {"size": [10**6, 10**6], "counts": [10**12]}], "bad_mask"),
        ([TRIANGLE, {"size": [4, 8], "counts": [-8, 40]}], "bad_mask"),
        ([TRIANGLE, 7], "bad_mask"),
        ([TRIANGLE], "length_mismatch"),
    ],
)
def test_masks_of_no_use_are_counted(tmp_path, read_all, segmentations, reason):
    found = read_all(tar(tmp_path, (foreign(segmentations=segmentations), picture())), "conversation")
    assert found.reasons == [reason]
    assert len(found.documents) == (reason == "bad_mask")


def test_a_mask_may_be_drawn_in_another_size():
    mask = read_mask([[0, 0, 10, 0, 10, 10, 0, 10]], (20, 10), (8, 4))
    assert mask.tolist() == [[True] * 5 + [False] * 3] * 4  # edges are of the shape
    pixels = np.zeros((4, 8, 3), np.uint8)
    assert (cut_out(pixels, (0, 0, 1, 1), mask)[2:6, 5:] == 255).all()


SPEC = """
name: s
version: 1.0.0
policy: {user_agent: 'Test (mail@example.org)'}
sources:
  s: {kind: conversation, input: {format: subjects, files: [a.tar]}}
"""


def test_a_spec_takes_them(tmp_path):
    (tmp_path / "spec.yaml").write_text(SPEC)
    assert load_spec(str(tmp_path / "spec.yaml")).sources["s"].input.format == "subjects"
