from dataclasses import replace

import pytest

from pipelines.document import KINDS, Decision, Media, Region, Segment
from pipelines.shards.sample_rules import caption_of, find_faults
from tests.pipelines.corpus_builder import sample


@pytest.mark.parametrize("kind", KINDS)
def test_a_good_sample_has_no_faults(kind):
    assert find_faults(sample(kind, 2).document) == []


def segments(kind, *changes):
    """Return a good document with changes: (index, changed fields) of its segments."""
    document = sample(kind, 2).document
    found = list(document.segments)
    for index, fields in changes:
        found[index] = replace(found[index], **fields)
    return replace(document, segments=tuple(found))


def change(kind, /, **fields):
    return replace(sample(kind, 2).document, **fields)


REGION = Region(0, 6, 0, (0.1, 0.1, 0.5, 0.5))
UNKNOWN_SIZE = replace(sample("pair", 2).document.media[0], width=None)
FILE_URL = replace(sample("pair", 2).document.media[0], url="file:///etc/passwd")


@pytest.mark.parametrize(
    ("document", "fault"),
    [
        (change("pair", kind="poem"), "unknown kind 'poem'"),
        (change("pair", key="A b"), "its key does not match"),
        (change("pair", decision=Decision("p", False, ("a", "b"))), "it may not be used: a, b"),
        (
            change("pair", segments=sample("pair", 2).document.segments[:1]),
            "1 images and 0 texts, a pair has one of each",
        ),
        (
            change("interleaved", segments=(Segment("text", "x"),), media=()),
            "no image, a interleaved document has some",
        ),
        (change("text", segments=(), media=()), "0 images and 0 texts, a text has text only"),
        (segments("grounded", (1, {"regions": ()})), "no region"),
        (segments("text", (0, {"text": None})), "a text segment has `text` and no `media`"),
        (segments("text", (0, {"text": " \n"})), "its text is empty"),
        (segments("text", (0, {"text": "\ud800"})), "its text contains a lone surrogate"),
        (segments("pair", (0, {"text": "x"})), "a segment of type image has `media` and no `text`"),
        (segments("pair", (0, {"media": 1})), "media 1 of 1"),
        (segments("grounded", (1, {"regions": (replace(REGION, box=(0.5, 0, 0.5, 1)),)})), "is not x0 < x1"),
        (segments("grounded", (1, {"regions": (replace(REGION, box=(0, 0, 1.1, 1)),)})), "within 0..1"),
        (segments("grounded", (1, {"regions": (replace(REGION, end=99),)})), "region 0..99 of 26 characters"),
        (segments("grounded", (1, {"regions": (replace(REGION, media=1),)})), "a region in media 1 of 1"),
        (segments("interleaved", (1, {"media": 1}), (3, {"media": 0})), "its segments use media [1, 0, 2], it has 3"),
        (change("interleaved", media=(*sample("interleaved", 2).document.media, Media(None))), "it has 4"),
        (change("pair", media=(UNKNOWN_SIZE,)), "media 0: its size is unknown"),
        (change("pair", media=(FILE_URL,)), "media 0: its URL is not http(s) or data"),
        (segments("video", (0, {"t0": 0.25})), "segment 0: t0 0.25, its media's t 0.5"),
        (segments("video", (1, {"t0": None})), "segment 1: a subtitle without a time"),
        (segments("video", (1, {"t0": 3.0})), "segment 2: 2.0 s after 3.0 s"),
        (segments("video", (1, {"t0": 2.0})), "segment 2: 2.0 s after 2.0 s"),  # at equal times the frame comes first
    ],
)
def test_each_rule_is_checked(document, fault):
    assert any(fault in found for found in find_faults(document)), find_faults(document)


def test_times_are_compared_as_they_are_written():
    document = sample("video", 2).document
    media = (replace(document.media[0], t=20000.04), document.media[1])
    segments = (
        Segment("text", "said first", t0=20000.02, t1=20001.0, role="subtitle"),
        Segment("frame", media=0, t0=20000.04, role="frame"),
    )
    found = find_faults(replace(document, media=media[:1], segments=segments))
    assert found == ["segment 1: 20000.04 s after 20000.0 s"]  # both are written as 20000.0


def test_the_caption_is_the_caption_segment():
    document = segments("pair", (1, {"role": "alt"}))
    assert caption_of(document) == "a dock beside boat 2, café"
    both = replace(document, segments=(*document.segments, Segment("text", "the caption", role="caption")))
    assert caption_of(both) == "the caption"


def test_a_pair_without_text_has_no_caption():
    with pytest.raises(ValueError, match="a pair without a caption"):
        caption_of(change("pair", segments=()))
