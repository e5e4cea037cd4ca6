"""Tests of language identification: short texts are unknown, and an unknown language passes no filter by accident."""

import threading

import pytest
from pydantic import ValidationError

from pipelines.drop_reasons import LANGUAGES
from pipelines.text.language import UNKNOWN, Language, LanguageSettings, identify, judge

TEXTS = {
    "en": "The quick brown fox jumps over the lazy dog and then walks home through the rain.",
    "de": "Der schnelle braune Fuchs springt über den faulen Hund und läuft dann durch den Regen nach Hause.",
    "fr": "Le renard brun saute par-dessus le chien paresseux et rentre chez lui sous la pluie.",
    "zh": "今天天气很好，我们一起去公园散步吧。公园里有很多花。",
    "ja": "今日は天気がいいので、公園へ散歩に行きましょう。",
    "th": "วันนี้อากาศดีมาก เราไปเดินเล่นที่สวนสาธารณะกันเถอะ",
}

LONG = TEXTS["en"] * 2


def test_identify_names_the_language_of_each_text_in_order():
    found = identify(list(TEXTS.values()))
    assert [f.code for f in found] == list(TEXTS)
    assert all(f.score is not None and 0.65 < f.score <= 1.0 for f in found)


def test_identify_does_not_depend_on_the_company_or_on_line_breaks():
    alone = [identify([text])[0] for text in TEXTS.values()]
    assert alone == identify(list(TEXTS.values()))
    assert identify([TEXTS["de"].replace(" ", "\n\n")]) == identify([TEXTS["de"]])


def test_identify_is_the_same_in_threads():
    expected = identify([TEXTS["fr"]])
    found: list[list[Language]] = []
    threads = [threading.Thread(target=lambda: found.append(identify([TEXTS["fr"]]))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 4


@pytest.mark.parametrize("text", ["", "   \n", "12345 + 678 = ?", "🙂🙂🙂"])
def test_text_without_a_letter_has_no_language(text: str):
    assert identify([text]) == [UNKNOWN]


def test_text_below_min_chars_is_not_judged():
    assert identify(["red circle"], min_chars=20) == [UNKNOWN]
    assert identify(["red circle"], min_chars=9)[0].code is not None


def test_lone_surrogates_do_no_harm():
    assert identify([TEXTS["en"] + "\ud800"])[0].code == "en"


def test_each_reason():
    only_english = LanguageSettings(languages=("en",))
    reasons = [
        judge(Language("de", 0.99), LONG, only_english),
        judge(Language("en", 0.64), LONG, only_english),
        judge(UNKNOWN, "12", LanguageSettings(min_chars=0)),
    ]
    assert tuple(reasons) == tuple(LANGUAGES)


def test_what_passes():
    assert judge(Language("en", 0.65), LONG, LanguageSettings(languages=("en",))) is None
    assert judge(Language("de", 0.2), LONG, LanguageSettings(min_score=None)) is None
    # Too short to identify, and no language required
    assert judge(UNKNOWN, "red circle", LanguageSettings(languages=("en",), min_chars=20)) is None
    assert judge(UNKNOWN, "red circle", LanguageSettings(min_score=None, min_chars=0)) is None


def test_the_score_of_a_caption_says_nothing_its_language_does():
    english = "Tool options of the Bucket Fill tool"
    (found,) = identify([english])
    assert found.code == "en"
    assert found.score is not None
    assert found.score < 0.65
    settings = LanguageSettings(languages=("en",))
    assert judge(found, english, settings) is None
    assert judge(found, english, LanguageSettings(languages=("en",), min_score_chars=30)) == "low_language_score"
    german = "Werkzeugeinstellungen des Werkzeugs Füllen"
    assert judge(identify([german])[0], german, settings) == "other_language"


def test_a_language_name_is_no_code():
    with pytest.raises(ValidationError, match="'English' is not a language code"):
        LanguageSettings(languages=("English",))
