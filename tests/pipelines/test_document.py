import json

import pytest

from pipelines.document import (
    Document,
    Media,
    Provenance,
    Region,
    Segment,
    canonical_json,
    clean_text,
    make_key,
    merge_text,
    without_images,
)


def document() -> Document:
    return Document(
        kind="grounded",
        key=make_key("grounded", "boats", 7),
        segments=(
            Segment("image", media=0, role="content"),
            Segment(
                "text",
                text="ein Boot — 船",
                role="caption",
                regions=(Region(0, 8, 0, (0.1, 0.2, 1 / 3, 0.9), 0.5, "noun_chunk"),),
            ),
        ),
        media=(Media("https://a.example/boat.jpg", width=3, height=4),),
        source=Provenance("boats", "7"),
        lang="de",
        extras={"url": "https://a.example/boat.jpg"},
    )


def test_json_is_canonical_and_comes_back_equal():
    text = document().to_json()
    assert Document.from_json(text).to_json() == text
    record = json.loads(text)
    assert text == json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    assert record["schema"] == "seq/1"
    assert record["url"] == "https://a.example/boat.jpg"


def test_json_can_be_encoded():
    assert canonical_json({"b": "x\ud800", "a": "\ud83d\ude00"}) == '{"a":"\U0001f600","b":"x\ufffd"}'


def test_floats_have_six_significant_digits():
    assert json.loads(document().to_json())["segments"][1]["regions"][0]["box"] == [0.1, 0.2, 0.333333, 0.9]


@pytest.mark.parametrize("text", ["[]", "{}", '{"schema":"seq/2"}', '{"schema":"seq/1","kind":"pair"}', "no json"])
def test_what_is_no_record_is_refused(text: str):
    with pytest.raises(ValueError):  # noqa: PT011 - json's own error is one too
        Document.from_json(text)


def test_keys_depend_on_the_locator_alone():
    assert make_key("pair", "a", 1) == make_key("pair", "a", 1)
    assert make_key("pair", "a", 1) != make_key("pair", "a1", "")
    assert make_key("text", "\ud800")[0] == "t"


def test_clean_text_is_nfc_without_what_no_tar_can_hold():
    assert clean_text(" e\u0301\r\nx\0\ud800 ") == "\u00e9\nx?"


def test_text_is_merged_only_with_its_like():
    body = Segment("text", text="a")
    assert merge_text((body, Segment("text", text="b"))) == (Segment("text", text="a\n\nb"),)
    for other in (
        Segment("text", text="b", role="heading"),
        Segment("text", text="b", t0=1.0),
        Segment("text", text="b", origin="synthetic"),
        Segment("image", media=0),
    ):
        assert merge_text((body, other)) == (body, other)


def test_the_caption_of_a_lost_image_goes_with_it():
    before, after = Segment("text", text="before"), Segment("text", text="after")
    images = [Segment("image", media=i, role="content") for i in range(3)]
    captions = [Segment("text", text=f"caption {i}", role="caption") for i in range(3)]
    segments = (before, images[0], captions[0], images[1], captions[1], after, captions[2], images[2])
    assert without_images(segments, {0}) == (before, images[1], captions[1], after, captions[2], images[2])
    assert without_images(segments, {1}) == (before, images[0], captions[0], after, captions[2], images[2])
    assert without_images(segments, {0, 1, 2}) == (before, after, captions[2])
    assert without_images(segments, set()) == segments


def test_a_shared_caption_stays_with_the_image_before_it():
    first, second = (Segment("image", media=i, role="content") for i in range(2))
    caption = Segment("text", text="two boats", role="caption")
    assert without_images((first, second, caption), {0}) == (second, caption)
    assert without_images((first, second, caption), {1}) == (first,)


def test_what_is_said_after_a_lost_frame_stays():
    frame = Segment("frame", media=0, t0=1.0, t1=1.0, role="frame")
    said = Segment("text", text="hello", t0=1.0, t1=2.0, role="subtitle")
    assert without_images((frame, said), {0}) == (said,)
