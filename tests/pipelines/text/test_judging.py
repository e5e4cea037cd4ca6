"""Tests of judging text: language, removal of poor lines, masking, and reasons for what is refused."""

from dataclasses import replace

import pytest

from pipelines.document import Document
from pipelines.text.judging import PROFILES, Refusal, TextFilters, judge_spoken, judge_text
from tests.pipelines.stage_records import document, image, text

ENGLISH = (
    "The harbour was quiet in the evening, and there was a lantern on every boat that we had seen. "
    "Nobody knew who had lit them, but it was said that the teacher of the village went out with a basket of candles."
)
GERMAN = (
    "Der Hafen lag am Abend still da, und auf jedem Boot brannte eine Laterne, die niemand angezündet haben wollte."
)


def pair(caption: str) -> Document:
    return document("pair", image(0), text(caption, role="caption"), num_media=1)


def filters(**tree: object) -> TextFilters:
    return TextFilters.model_validate(tree)


def refused(given: Document, settings: TextFilters) -> str:
    found = judge_text(given, settings, given.kind)
    assert isinstance(found, Refusal)
    return found.reason


def judged(given: Document, settings: TextFilters) -> Document:
    found = judge_text(given, settings, given.kind)
    assert isinstance(found, Document)
    return found


def test_each_kind_has_its_profile():
    assert PROFILES.keys() == {"interleaved", "pair", "grounded", "video", "text", "conversation"}


def test_a_text_is_labelled_with_its_language():
    assert judged(pair(ENGLISH), filters()).lang == "en"
    assert judged(pair(GERMAN), filters(language=None)).lang == "de"  # any language, but identified


def test_upstream_language_holds_where_none_can_be_identified():
    given = document("pair", image(0), text("Una foto di 3 x 4", role="caption"), num_media=1, lang="it")
    assert judged(given, filters()).lang == "it"


@pytest.mark.parametrize(
    ("given", "tree", "reason"),
    [
        (document("text"), {}, "no_text"),
        (document("pair", image(0), num_media=1), {}, "no_text"),
        (pair(GERMAN), {"language": {"languages": ["en"]}}, "other_language"),
        (pair("red square"), {}, "too_few_words"),
        (pair("red square"), {"text": {"min_words": 1, "min_chars": 100}}, "too_few_chars"),
        (document("text", text(ENGLISH)), {}, "too_few_words"),  # a rule of Gopher
    ],
)
def test_why_a_text_is_refused(given: Document, tree: dict, reason: str):
    assert refused(given, filters(**tree)) == reason


def test_the_language_found_stands_beside_the_reason():
    found = judge_text(pair(GERMAN), filters(language={"languages": ["en"]}), "pair")
    assert isinstance(found, Refusal)
    assert found.detail is not None
    assert found.detail.startswith("de 0.")


def test_a_video_is_judged_by_what_is_spoken_when_that_is_at_hand():
    silent = document("video")
    assert judge_text(silent, filters(language={"languages": ["en"]}), "video") == silent
    spoken = document("video", text(GERMAN, role="subtitle", t0=0.0, t1=1.0))
    found = judge_spoken(spoken, filters(language={"languages": ["en"]}))
    assert isinstance(found, Refusal)
    assert found.reason == "other_language"
    short = document("video", text("Hm.", role="subtitle", t0=0.0, t1=1.0))
    assert isinstance(judge_spoken(short, filters()), Document)  # speech is not prose


def test_what_is_spoken_has_rules_of_its_own():
    cues = [text(f"{ENGLISH} Part {i}.", role="subtitle", t0=float(i), t1=i + 1.0) for i in range(9)]
    frames = [replace(image(i), type="frame", role="frame", t0=float(i)) for i in range(2)]
    caption = text("a harbour in the evening", role="caption")
    long = document("video", caption, frames[0], *cues, frames[1], num_media=2)
    assert len(long.text) > 1_000  # which a caption may not have
    assert judged(long, filters()).segments == long.segments
    assert refused(long, filters(spoken={"max_words": 100})) == "too_many_words"
    assert refused(document("video", text("harbour", role="caption"), *cues), filters()) == "too_few_words"
    assert judged(document("video", *cues), filters(text={"min_words": 10_000})).segments == tuple(cues)
    untimed = [text(f"{ENGLISH} Part {i}.", role="transcript") for i in range(9)]  # of the storyboard builder's tars
    assert judged(document("video", *untimed), filters()).segments == tuple(untimed)


def test_a_downloaded_video_is_judged_by_what_is_spoken_in_it():
    given = document("video", text("a boat", role="caption"), text(f"{ENGLISH} " * 3, role="subtitle", t0=0.0, t1=9.0))
    assert isinstance(judge_spoken(given, filters()), Document)
    assert judge_spoken(given, filters(spoken={"max_words": 20})) == Refusal("too_many_words", "126 > 20")


@pytest.mark.parametrize("judge", [lambda d, f: judge_text(d, f, d.kind), judge_spoken])
def test_personal_data_is_masked_unless_it_is_asked_for(judge):
    given = pair(f"{ENGLISH} Write to jane.doe@example.org for more.")
    masked, plain = judge(given, filters()), judge(given, filters(mask_personal_data=False))
    assert isinstance(masked, Document)
    assert "jane.doe@example.org" not in masked.text
    assert masked.build.pii_hits == 1
    assert "jane.doe@example.org" in plain.text


def test_poor_lines_go_and_the_rest_stays():
    body = f"{ENGLISH}\nPlease enable javascript to read on.\n{ENGLISH[:-1]}, they said."
    given = document("text", text(body))
    assert "javascript" not in judged(given, filters(text={"line_furniture": True})).text
    assert judged(given, filters(text={"min_words": 1})).text == body
