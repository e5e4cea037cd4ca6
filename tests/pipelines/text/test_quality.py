"""Tests of quality rules: each rejects with its own reason, removes what it should, and leaves good text unchanged."""

import random
from collections import Counter

import pytest
from pydantic import ValidationError

from pipelines.document import Region, Segment
from pipelines.drop_reasons import TEXTS
from pipelines.settings import dump_yaml, load_settings
from pipelines.text.measures import Repetition, character_repetition, split_words
from pipelines.text.quality import PROFILES, Judged, TextQuality, judge, judge_segments, profile
from pipelines.text.stop_words import CORE_STOP_WORDS, STOP_WORDS

GOOD = {
    "en": (
        "The harbour lies where the river widens before it meets the sea, and from the old bridge one can watch the "
        "boats come home. In the morning the fishermen mend their nets on the quay, while gulls wait on the roofs "
        "above them.\n\n"
        "A red lighthouse stands at the end of the mole. It was built after the great storm, when three ships were "
        "lost within sight of the town. Visitors climb its narrow stairs to look at the islands. On clear days even "
        "the northern hills can be seen from there!\n\n"
        "Few people live in the lower streets today, because the water rises with every winter. Those who stayed "
        "have painted their doors in bright colours, and nobody remembers why the baker chose yellow."
    ),
    "de": (
        "Der Hafen liegt dort, wo der Fluss breiter wird, bevor er das Meer erreicht, und von der alten Brücke aus "
        "sieht man die Boote heimkehren. Am Morgen flicken die Fischer ihre Netze auf dem Kai, während die Möwen "
        "über ihnen auf den Dächern warten.\n\n"
        "Am Ende der Mole steht ein roter Leuchtturm. Er wurde nach dem großen Sturm gebaut, als drei Schiffe vor der "
        "Stadt gesunken waren. Besucher steigen die enge Treppe hinauf, um die Inseln zu sehen. Die Nordhügel sind "
        "nur an klaren Tagen zu erkennen. Niemand weiß mehr, warum der Bäcker gelb gewählt hat."
    ),
    "zh": (
        "港口位于河流变宽的地方，再往前就是大海。从古老的桥上可以看到船只归来。清晨，渔民们在码头上修补渔网，海鸥在他们头顶的屋檐上等待。"
        "防波堤的尽头矗立着一座红色的灯塔。它是在那场大风暴之后建造的，当时有三艘船在小镇附近沉没。游客们沿着狭窄的楼梯向上走，眺望远处的岛屿。"
        "如今，住在低处街道的人已经不多了，因为每年冬天水位都会上升。留下来的人把自家的门涂成明亮的颜色。"
    ),
    "th": (
        "ท่าเรือตั้งอยู่ตรงที่แม่น้ำกว้างขึ้นก่อนจะไหลลงสู่ทะเล "
        "จากสะพานเก่าเราสามารถมองเห็นเรือกลับเข้าฝั่ง ในตอนเช้าชาวประมงซ่อมแหของพวกเขาบนท่าเรือ "
        "ขณะที่นกนางนวลรออยู่บนหลังคา ปลายเขื่อนกันคลื่นมีประภาคารสีแดงตั้งอยู่ มันถูกสร้างขึ้นหลังพายุใหญ่ นักท่องเที่ยวปีนบันไดแคบเพื่อชมหมู่เกาะ"
    ),
}
WORDS = [
    f"{a}{b}{c}" for a in ("ba", "ke", "li", "mo") for b in ("ran", "tos", "vel") for c in ("do", "min", "ser", "tu")
]


@pytest.mark.parametrize("rules", [r for r in PROFILES if r != "caption"])
@pytest.mark.parametrize("lang", ["en", "de"])
def test_good_text_passes_untouched(rules: str, lang: str):
    assert judge(GOOD[lang], lang, profile(rules)) == Judged((Segment("text", GOOD[lang]),))


@pytest.mark.parametrize("lang", ["zh", "th"])
@pytest.mark.parametrize("rules", ["gopher", "obelics"])
def test_good_text_of_scripts_without_spaces_passes(rules: str, lang: str):
    assert judge(GOOD[lang], lang, profile(rules)).reason is None


@pytest.mark.parametrize("caption", ["a red barn", "Ein roter Schuppen am See", "湖边的红色谷仓", "赤い納屋の写真です"])
def test_good_captions_pass(caption: str):
    assert judge(caption, None, profile("caption")) == Judged((Segment("text", caption),))


REJECTED: list[tuple[str, TextQuality, str, str | None]] = [
    ("no_text", TextQuality(), " \n ", None),
    ("too_few_words", profile("gopher"), "Only a handful of words here.", "6 < 50"),
    ("too_few_words", profile("caption"), "barn photo", "2 < 3"),
    ("too_few_words", TextQuality(min_words=3), "谷仓图片", "2 < 3"),
    ("too_many_words", profile("caption"), "ab " * 257, "257 > 256"),
    ("too_few_chars", profile("caption"), "a b c", "5 < 6"),
    ("too_many_chars", profile("caption"), "abcdefghij " * 100, "1099 > 1000"),
    ("mean_word_length", profile("gopher"), "a b c d e " * 10, "1 < 3"),
    ("mean_word_length", profile("gopher"), "incomprehensibilities " * 50, "21 > 10"),
    ("symbol_to_word_ratio", profile("gopher"), GOOD["en"] + " #" * 20, "0.16 > 0.1"),
    ("symbol_to_word_ratio", profile("gopher"), GOOD["en"] + " …" * 20, "0.16 > 0.1"),
    ("bullet_lines", profile("gopher"), "\n".join(f"• {w} the {w} of" for w in WORDS), "1 > 0.9"),
    ("ellipsis_lines", TextQuality(max_ellipsis_lines=0.3), "Read more...\nMore…\nThe end.", "0.6667 > 0.3"),
    ("too_few_alphabetic_words", profile("gopher"), GOOD["en"] + " 1234" * 40, "0.7576 < 0.8"),
    ("too_few_stop_words", profile("gopher"), " ".join(WORDS * 2), "0 < 2"),
    ("too_few_stop_words", TextQuality(min_stop_word_fraction=0.35), "red barn at dusk", "0.25 < 0.35"),
    ("too_few_sentences", profile("c4"), "One is here. Two is there. And three ends.", "3 < 5"),
    ("too_few_long_paragraphs", TextQuality(min_long_paragraphs=3), GOOD["en"], "2 < 3"),
    ("lorem_ipsum", profile("c4"), GOOD["en"] + " Lorem ipsum dolor.", None),
    ("curly_bracket", profile("c4"), GOOD["en"] + " {x}.", None),
    ("no_terminal_punctuation", TextQuality(min_punctuated_lines=0.12), "Home\nAbout us\nContact", "0 < 0.12"),
    ("short_lines", TextQuality(max_short_lines=0.67), "Short.\nAlso short.", "1 > 0.67"),
    ("too_many_lines", TextQuality(max_lines_per_word=0.3), "One\ntwo\nthree", "0.6667 > 0.3"),
    ("duplicate_lines", TextQuality(max_duplicate_lines=0.3), "a b\nc d\na b", "0.3333 > 0.3"),
    (
        "duplicate_lines",
        TextQuality(max_duplicate_line_chars=0.2),
        "long one here\nb\nc\nlong one here",
        "0.4643 > 0.2",
    ),
    ("duplicate_paragraphs", TextQuality(max_duplicate_paragraphs=0.3), "a b\n\nc\n\na b", "0.3333 > 0.3"),
    ("duplicate_paragraphs", TextQuality(max_duplicate_paragraph_chars=0.2), "abc\n\nd\n\ne\n\nabc", "0.375 > 0.2"),
    ("character_repetition", TextQuality(max_character_repetition=0.1), "hahahaha" * 20, None),
    ("word_repetition", TextQuality(max_word_repetition=0.2), "buy it now or never " * 4, "1 > 0.2"),
    ("special_characters", TextQuality(max_special_characters=0.275), "1 + 2 = 3; 4 * 5 = 20", "1 > 0.275"),
    ("flagged_words", TextQuality(max_flagged_words=0.01), "free porn here", "0.3333 > 0.01"),
    ("spam_words", TextQuality(max_spam_words=0.12), "Share on Facebook or Twitter", "0.6 > 0.12"),
    ("too_little_punctuation", TextQuality(min_punctuation_per_word=0.03), " ".join(WORDS), "0 < 0.03"),
    *[
        (f"top_{n}_gram", TextQuality(**{f"max_top_{n}_gram": 0.2}), " ".join(WORDS[:n] * 4 + WORDS[n:20]), None)
        for n in (2, 3, 4)
    ],
    *[
        (
            f"duplicate_{n}_gram",
            TextQuality(**{f"max_duplicate_{n}_gram": 0.1}),
            " ".join(WORDS[:n] + WORDS[:n]),
            "0.5 > 0.1",
        )
        for n in range(5, 11)
    ],
]


@pytest.mark.parametrize(("reason", "settings", "text", "detail"), REJECTED)
def test_each_rule_rejects_by_its_reason(reason: str, settings: TextQuality, text: str, detail: str | None):
    judged = judge(text, "en", settings)
    assert judged.reason == reason
    assert detail is None or judged.detail == detail


BY_FILES = {"evaluation_overlap", "text_score"}  # of the user: test_judging.py


def test_every_reason_is_tested():
    assert {reason for reason, *_ in REJECTED} | BY_FILES == set(TEXTS)


def test_lines_are_taken_out_and_counted():
    furniture = (
        "\n\nRead more\nYou agree to our Privacy Policy by reading this.\n\nPlease enable JavaScript.\nOh no.\n"
        + "y" * 1001
    )
    judged = judge(GOOD["en"] + furniture + ".", "en", profile("c4"))
    assert judged.text == GOOD["en"]
    assert judged.reason is None
    assert judged.removed == {"line_furniture": 2, "line_no_terminal_punctuation": 1, "line_too_few_words": 2}
    assert judge(GOOD["en"] + "\n" + "y" * 1001, "en", TextQuality(line_max_word_chars=1000)).removed == {
        "line_long_word": 1
    }


def test_paragraphs_are_taken_out_and_counted():
    spam = "\n\nShare on Facebook, share on Twitter and share this!\n\nOh no.\n\n12:30 – 14:45; 16:00 – 18:15 (+49)"
    judged = judge(GOOD["en"] + spam, "en", profile("obelics"))
    assert judged.text == GOOD["en"]
    assert judged.removed == {
        "paragraph_spam_words": 1,
        "paragraph_special_characters": 1,
        "paragraph_too_few_words": 1,
    }


def test_text_with_nothing_left_has_no_text():
    judged = judge("Menu\n\nHome", "en", profile("obelics"))
    assert (judged.text, judged.reason) == ("", "no_text")


def test_segments_lose_bad_paragraphs_and_empty_segments_vanish():
    paragraphs = GOOD["en"].split("\n\n")
    region = Region(0, 4, 0, (0, 0, 1, 1))
    heading, image = Segment("text", "Harbour", role="heading"), Segment("image", media=0)
    grounded = Segment("text", "Boat", regions=(region,))
    timed = Segment("text", "Hello", t0=1.0, t1=2.0)
    caption = Segment("text", "A boat", role="caption")
    segments = [
        heading,
        Segment("text", f"{paragraphs[0]}\n\nSkip this"),
        image,
        caption,
        Segment("text", "Back to top"),
        grounded,
        timed,
        Segment("text", paragraphs[1]),
    ]
    judged = judge_segments(segments, "en", profile("obelics"))
    expected = (
        heading,
        Segment("text", paragraphs[0]),
        image,
        caption,
        grounded,
        timed,
        Segment("text", paragraphs[1]),
    )
    assert judged.segments == expected
    assert judged.removed == {"paragraph_too_few_words": 2}
    assert judged.reason is None


def test_document_rules_look_at_all_segments_together():
    segments = [Segment("text", p) for p in GOOD["en"].split("\n\n")]
    assert judge_segments(segments, "en", profile("gopher")).reason is None
    assert judge_segments(segments[:1], "en", profile("gopher")).reason == "too_few_words"


def test_stop_word_rules_need_a_list_for_the_language():
    text = " ".join(WORDS * 2)
    for lang in ("pl", None):
        assert judge(text, lang, TextQuality(min_stop_words=2, min_stop_word_fraction=0.3)).reason is None


@pytest.mark.parametrize("lang", sorted(STOP_WORDS))
def test_lists_are_lower_case_and_hold_their_core(lang: str):
    assert CORE_STOP_WORDS[lang] < STOP_WORDS[lang]
    assert len(CORE_STOP_WORDS[lang]) == 8
    assert all(word == word.lower() for word in STOP_WORDS[lang])


def test_words_are_reckoned_by_script():
    assert split_words("The 'quick' brown-fox — don't!").tokens == ["the", "quick", "brown-fox", "don't"]
    assert split_words("हिन्दी में लिखा").number == 3  # combining marks do not split words
    assert split_words("他在使用 GIMP 软件").number == 3.5
    assert split_words("한국어는 띄어쓰기를 합니다").number == 3
    assert split_words("a word of 日本語 inside").number == 5


def test_measures_of_repetition_have_known_values():
    assert Repetition(split_words("one two three")).top_n_gram(2) == 0.0  # nothing occurs twice
    assert Repetition(split_words("aa bb aa bb cc dd")).top_n_gram(2) == pytest.approx(8 / 12)
    assert Repetition(split_words("aa bb cc aa bb cc")).duplicate_n_grams(3) == 0.5
    assert character_repetition("abcdefghijklmnop") == 0.0
    assert character_repetition("x" * 100) == 1.0


def _top(tokens: list[str], n: int) -> float:
    counts = Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))
    most = max(counts.values(), default=1)
    longest = max((sum(map(len, gram)) for gram, count in counts.items() if count == most), default=0)
    return min(most * longest / sum(map(len, tokens)), 1.0) if most > 1 else 0.0


def _duplicate(tokens: list[str], n: int) -> float:
    seen, chars, i = set(), 0, 0
    while i <= len(tokens) - n:
        gram = tuple(tokens[i : i + n])
        if gram in seen:
            chars += sum(map(len, gram))
            i += n
        else:
            seen.add(gram)
            i += 1
    return chars / sum(map(len, tokens))


@pytest.mark.parametrize("vocabulary", [2, 9, 60, 20_000])
def test_repetition_is_what_counting_n_grams_gives_and_bounds_hold(vocabulary: int):
    rng = random.Random(vocabulary)
    words = [f"w{'x' * rng.randint(0, 6)}{number}" for number in range(vocabulary)]
    for _ in range(6):
        phrase = rng.choices(words, k=12)
        tokens = [*rng.choices(words, k=rng.randint(1, 90)), *phrase * rng.randint(0, 3), *rng.choices(words, k=9)]
        found = Repetition(split_words(" ".join(tokens)))
        for n in rng.sample(range(2, 11), 9):
            limit = rng.choice([0.01, 0.1, 0.3])
            assert found.top_n_gram(n) == pytest.approx(_top(tokens, n))
            assert (Repetition(split_words(" ".join(tokens))).top_n_gram(n, limit) > limit) == (_top(tokens, n) > limit)
            assert found.duplicate_n_grams(n) == pytest.approx(_duplicate(tokens, n))
            assert all(found.repeated_fraction(n) >= _duplicate(tokens, longer) for longer in range(n, 11))


def test_rules_are_defaults_that_settings_override():
    settings = TextQuality(rules="obelics", min_words=20, max_words=None, paragraph={"min_words": 8})
    assert (settings.min_words, settings.max_words, settings.max_special_characters) == (20, None, 0.275)
    assert (settings.paragraph.min_words, settings.paragraph.max_words) == (8, 1000)
    assert TextQuality().min_words is None


def test_resolved_settings_load_as_what_they_were(tmp_path):
    settings = TextQuality(rules="gopher", max_words=None)
    path = tmp_path / "text.yaml"
    path.write_text(dump_yaml(settings))
    assert load_settings(TextQuality, path) == settings


@pytest.mark.parametrize("tree", [{"rules": "gophr"}, {"max_short_lines": 2}, {"min_words": -1}, {"min_wrods": 3}])
def test_wrong_settings_are_refused(tree: dict[str, object]):
    with pytest.raises(ValidationError):
        TextQuality.model_validate(tree)
