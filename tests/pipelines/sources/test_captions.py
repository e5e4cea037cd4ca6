import html

import pytest

from pipelines.sources.captions import clean_caption, clean_spans


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("Tom &amp; Jerry", "Tom & Jerry"),
        ("Tom&amp;#39;s cat", "Tom's cat"),
        ("how to write &amp;amp;amp; in HTML", "how to write &amp; in HTML"),
        ("a\u00a0b\u200bc\t d\r\n", "a bc  d"),
        ("cafe\u0301", "café"),
        ("\ud83d lone", "? lone"),
        ("👩‍👩‍👧", "👩‍👩‍👧"),
    ],
)
def test_a_caption_is_cleaned_but_no_further(raw, clean):
    assert clean_caption(raw) == clean


def test_spans_follow_their_phrases():
    raw = " &quot;a dog&quot; &amp;amp; a cafe\u0301"
    spans = [(raw.index("a dog"), raw.index("a dog") + 5), (raw.index("cafe"), len(raw)), (0, len(raw))]
    text, moved = clean_spans(raw, spans)
    assert text == '"a dog" & a café'
    assert [text[s[0] : s[1]] for s in moved if s] == ["a dog", "café", text]


def test_a_span_that_cuts_an_entity_or_an_accent_off_is_lost():
    raw = "x &amp; cafe\u0301"
    text, moved = clean_spans(raw, [(0, 4), (8, 12), (1, 2), (0, 1)])
    assert text == "x & café"
    assert moved == [None, None, None, (0, 1)]


def test_spans_of_a_clean_caption_stay():
    caption = "a wooden boat beside a grey dock"
    assert clean_spans(caption, [(0, 13), (21, 32)]) == (caption, [(0, 13), (21, 32)])
    assert html.unescape(caption) == caption
