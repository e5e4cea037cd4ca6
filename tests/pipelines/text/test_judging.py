"""Tests of judging text: language, removal of poor lines, masking, and reasons for what is refused."""

import hashlib
import json
import math
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.document import Document
from pipelines.errors import UserError
from pipelines.text.classifiers import ClassifierSettings, classify
from pipelines.text.judging import PROFILES, Refusal, TextFilters, judge_spoken, judge_text, named_files
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


# Classifiers and evaluation sets


def write_model(path: Path, words: dict[str, tuple[float, float]], labels: dict[str, tuple[float, float]]) -> str:
    """Write a supervised fastText model of two dimensions without subwords, in its own format (version 12)."""
    settings = (2, 5, 5, 1, 5, 1, 3, 3, 0, 0, 0, 100)  # dim ... loss softmax, model supervised, no buckets ...
    data = struct.pack("<2i12id", 793712314, 12, *settings, 1e-4)
    entries = [*((word, 0) for word in words), *((label, 1) for label in labels)]
    data += struct.pack("<3i2q", len(entries), len(words), len(labels), 100, -1)
    for name, kind in entries:
        data += name.encode() + struct.pack("<xqb", 50, kind)
    for rows in (words, labels):
        data += struct.pack("<?2q", False, len(rows), 2) + b"".join(struct.pack("<2f", *row) for row in rows.values())
    path.write_bytes(data)
    return str(path)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model by which `harbour` speaks for a text, `buy` against it, and other words do not count."""
    words = {"harbour": (1.0, 0.0), "buy": (0.0, 1.0)}
    labels = {"__label__hq": (3.0, -1.0), "__label__cc": (-1.0, 3.0)}
    return write_model(tmp_path_factory.mktemp("fasttext") / "quality.bin", words, labels)


SALE = "Click here and buy the best cheap watches for the best price now. " * 3


def test_a_classifier_scores_a_text_and_drops_what_is_outside_its_limits(classifier: str):
    rules = filters(text={}, language=None, classifiers={"quality": {"model": classifier, "min": 0.5}})
    (score,) = judged(pair(ENGLISH), rules).scores
    assert (score.name, score.target) == ("quality", "document")
    assert score.value == pytest.approx(1 / (1 + math.exp(-4)), abs=6e-5)  # softmax of 3 and -1
    assert score.origin == f"fasttext@{hashlib.sha256(Path(classifier).read_bytes()).hexdigest()[:16]}"
    assert refused(pair(SALE), rules) == "text_score"
    other = filters(
        text={}, language=None, classifiers={"spam": {"model": classifier, "label": "__label__cc", "max": 0.5}}
    )
    assert refused(pair(SALE), other) == "text_score"
    (spam,) = judged(pair(ENGLISH), other).scores
    assert spam.value == pytest.approx(1 - (score.value or 0), abs=2e-4)
    only_scored = filters(text={}, language=None, classifiers={"quality": {"model": classifier}})
    assert len(judged(pair(SALE), only_scored).scores) == 1


def test_a_score_is_the_softmax_over_the_mean_of_the_words_in_any_lines(classifier: str):
    settings = ClassifierSettings(model=classifier)
    mixed = classify("harbour\n\nharbour harbour buy", settings)  # mean (0.75, 0.25): logits 2 and 0
    assert mixed == pytest.approx(1 / (1 + math.exp(-2)), abs=6e-5)
    assert classify("harbour", settings) == classify("\tharbour \n", settings)


def test_a_model_that_cannot_judge_is_refused_in_one_line(classifier: str, tmp_path: Path):
    (tmp_path / "none.bin").write_bytes(b"no model")
    for model, label, message in (
        (classifier, "__label__good", r"no label '__label__good'; it has __label__"),
        (str(tmp_path / "none.bin"), "__label__hq", "cannot be read as a fastText model"),
    ):
        with pytest.raises(UserError, match=message):
            judge_text(pair(SALE), filters(text={}, classifiers={"q": {"model": model, "label": label}}), "pair")
    with pytest.raises(UserError, match=r"absent\.bin: no such file"):
        named_files(filters(classifiers={"q": {"model": str(tmp_path / "absent.bin")}}))
    with pytest.raises(ValueError, match="no text would be left"):
        filters(classifiers={"q": {"model": classifier, "min": 0.6, "max": 0.5}})


QUESTION = "Which animal of the northern forests sleeps through the winter in a den under the roots?"


def test_a_text_with_thirteen_words_of_an_evaluation_set_is_dropped(tmp_path: Path):
    items = [{"id": 7, "question": QUESTION, "choices": {"text": ["A bear", "A crow"]}}, {"question": "Too short?"}]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    rules = filters(text={}, language=None, evaluation_sets={"files": [str(tmp_path / "test.jsonl")]})
    words = QUESTION.split()
    assert refused(pair(f"We ask: {QUESTION.upper()} It is a bear."), rules) == "evaluation_overlap"
    found = judge_text(pair(" ".join([*words[:14], "somewhere"])), rules, "pair")
    assert found == Refusal("evaluation_overlap", "2 n-grams of test.jsonl")
    assert judged(pair(" ".join([*words[:12], "hole"])), rules).scores == ()  # twelve words in a row
    assert judged(pair(ENGLISH), rules)
    more = filters(text={}, evaluation_sets={"files": [str(tmp_path / "test.jsonl")], "min_overlap": 3})
    assert judged(pair(" ".join([*words[:14], "somewhere"])), more)


def test_an_evaluation_set_is_read_whole_or_refused(tmp_path: Path):
    for name, data, message in (
        ("a.jsonl", b'{"q": ', "line 1: no JSON"),
        ("b.txt", b"\xff\xfe words", "cannot be read as an evaluation set"),
        ("c.txt", b"too short\n", "no item of the evaluation set has 13 words"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=message):
            judge_text(pair(ENGLISH), filters(text={}, evaluation_sets={"files": [str(tmp_path / name)]}), "pair")
    one_line = tmp_path / "d.txt"
    one_line.write_text(f"{ENGLISH}\n")
    assert refused(pair(ENGLISH), filters(evaluation_sets={"files": [str(one_line)]})) == "evaluation_overlap"


def test_what_is_not_asked_for_does_not_change_the_settings():
    assert not {"classifiers", "evaluation_sets"} & TextFilters().model_dump().keys()
    assert named_files(TextFilters()) == []
