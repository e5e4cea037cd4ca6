import json

import pytest

from pipelines.candidate import Track
from pipelines.drop_reasons import ROWS
from pipelines.video.subtitles import Cue, SubtitleSettings, SubtitlesRejected, choose_track, parse_subtitles

MIX = (Cue(0.32, 2.51, "mix the flour"), Cue(2.52, 6.41, "and salt"))
ROLLING = """WEBVTT
Kind: captions
Language: en

00:00:00.320 --> 00:00:02.510 align:start position:0%
 
mix<00:00:00.560><c> the</c><00:00:00.800><c> flour</c>

00:00:02.510 --> 00:00:02.520 align:start position:0%
mix the flour
 

00:00:02.520 --> 00:00:06.410 align:start position:0%
mix the flour
and<00:00:02.730><c> salt</c>
"""


def parse(text, *args, **options):
    return parse_subtitles(text.encode() if isinstance(text, str) else text, *args, **options)


def vtt(*cues):
    return "WEBVTT\n\n" + "\n\n".join(f"{times}\n{text}" for times, text in cues) + "\n"


def rejected(data, *args):
    with pytest.raises(SubtitlesRejected) as caught:
        parse(data, *args)
    assert caught.value.reason in ROWS
    assert caught.value.detail
    return caught.value.reason


def test_rolling_captions_say_each_word_once():
    subtitles = parse(ROLLING)
    assert subtitles.cues == MIX
    assert subtitles.is_rolling
    assert subtitles.lang == "en"
    assert parse(ROLLING.replace("\n", "\r\n").encode("utf-8-sig")) == subtitles


def test_a_word_spoken_twice_stays_twice_in_rolling_captions():
    rolling = vtt(
        ("00:00.000 --> 00:01.000", "we<00:00:00.500><c> said</c>"),
        ("00:01.000 --> 00:01.010", "we said\n "),
        ("00:01.010 --> 00:02.000", "we said\nyes"),
        ("00:02.000 --> 00:02.010", "yes\n "),
        ("00:02.010 --> 00:03.000", "yes\nyes"),
        ("00:03.000 --> 00:03.010", "yes\n "),
        ("00:03.010 --> 00:04.000", "yes\nand<00:00:03.500><c> no</c>"),
    )
    assert [c.text for c in parse(rolling).cues] == ["we said", "yes", "yes", "and no"]


def test_repetition_in_human_captions_stays():
    chorus = vtt(*((f"00:0{i}.000 --> 00:0{i + 1}.000", "row row row your boat") for i in range(4)))
    assert [c.text for c in parse(chorus).cues] == ["row row row your boat"] * 4
    karaoke = vtt(
        ("00:00.000 --> 00:01.000", "row<00:00:00.500> row"),
        ("00:01.000 --> 00:02.000", "your boat\nyour boat"),
        ("00:02.000 --> 00:03.000", "your boat"),
    )
    subtitles = parse(karaoke)
    assert [c.text for c in subtitles.cues] == ["row row", "your boat your boat", "your boat"]
    assert not subtitles.is_rolling


def test_a_line_of_one_space_does_not_end_a_cue():
    assert [c.text for c in parse(vtt(("00:00.000 --> 00:01.000", " \nabove\n \nbelow"))).cues] == ["above below"]


def test_automatic_captions_without_word_times_are_freed_by_overlap():
    srt = (
        "1\n00:00:00,320 --> 00:00:02,510\nmix the flour with\n\n2\n00:00:02,510 --> 00:00:02,520\nmix the flour with"
        "\n\n3\n00:00:02,520 --> 00:00:04,000\nmix the flour with\nsalt and then some"
        "\n\n4\n00:00:04,000 --> 00:00:06,000\nand then some water\n"
    )
    automatic = parse(srt, is_automatic=True)
    assert [c.text for c in automatic.cues] == ["mix the flour with", "salt and then some", "water"]
    assert automatic.is_rolling
    assert len(parse(srt).cues) == 4


def test_an_overlap_of_two_words_is_no_reason_to_cut():
    text = vtt(("00:00.000 --> 00:01.000", "that is very good"), ("00:01.000 --> 00:02.000", "very good indeed"))
    assert [c.text for c in parse(text, is_automatic=True).cues] == ["that is very good", "very good indeed"]


def test_vtt_knows_settings_hours_notes_styles_tags_and_entities():
    text = (
        "\ufeffWEBVTT - a title\nKind: captions\n\nNOTE\nnot shown\n\nSTYLE\n::cue { color: red }\n\nREGION\nid:a\n\n"
        "first\n00:01.000 --> 00:02.000 line:0\n<v Ann><i>fish</i> &amp; <c.red>chips</c></v>\n\n"
        "01:00:03.000 --> 01:00:04.500\n1 &lt; 2&nbsp;&lrm;ok\n"
    )
    assert parse(text).cues == (Cue(1.0, 2.0, "fish & chips"), Cue(3603.0, 3604.5, "1 < 2 ok"))


def test_a_cue_that_follows_without_a_blank_line_is_its_own():
    text = "WEBVTT\n\n00:00.000 --> 00:01.000\none\n00:01.000 --> 00:02.000\ntwo"
    assert [c.text for c in parse(text).cues] == ["one", "two"]


def test_srt_may_lack_counters_and_hold_numbers_and_styles():
    counted = (
        "1\n00:00:00,320 --> 00:00:02,510\n{\\an8}<i>mix the flour</i>\n\n2\n00:00:02,520 --> 00:00:06,41\nand salt\n"
    )
    assert parse(counted).cues == (MIX[0], Cue(2.52, 6.41, "and salt"))
    bare = "00:00:00,000 --> 00:00:01,000\nthe answer\n42\n\n00:00:01,000 --> 00:00:02,000\nis that\n"
    assert [c.text for c in parse(bare).cues] == ["the answer 42", "is that"]
    assert [c.text for c in parse(counted.replace("2\n00:00:02", "00:00:02")).cues] == ["mix the flour", "and salt"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16"])
def test_encodings_are_recognised(encoding):
    text = "1\n00:00:00,000 --> 00:00:01,000\nl’été à Köln\n"
    assert parse(text.encode(encoding)).cues[0].text == "l’été à Köln"


def test_a_declared_encoding_comes_before_the_western_one():
    text = "1\n00:00:00,000 --> 00:00:01,000\nпривет\n".encode("cp1251")
    assert parse(text, charset="windows-1251").cues[0].text == "привет"
    assert parse(text, charset="no such").cues[0].text != "привет"


TTML = """<?xml version="1.0" encoding="utf-8"?>
<tt xmlns="http://www.w3.org/ns/ttml" xmlns:ttp="http://www.w3.org/ns/ttml#parameter" ttp:frameRate="25" xml:lang="en">
 <body><div><p begin="00:00:00.320" end="00:00:02.510">mix the<br/>flour</p>
 <p begin="63f" dur="3.9s">and
   <span>salt</span></p></div></body></tt>"""


def test_ttml_reads_frames_offsets_and_line_breaks():
    subtitles = parse(TTML)
    assert subtitles.cues == (MIX[0], Cue(2.52, 6.42, "and salt"))
    assert subtitles.lang == "en"


def test_ttml_times_are_inherited_and_count_from_the_parent():
    text = (
        '<tt xmlns="http://www.w3.org/ns/ttml" xmlns:ttp="http://www.w3.org/ns/ttml#parameter" ttp:tickRate="1000"'
        ' ttp:frameRate="30"><body begin="10s"><div begin="1m" end="100s"><p>whole</p><p begin="500ms">rest</p>'
        '</div><div><p begin="0.1h" dur="9000t"><span begin="00:00:01:15" end="00:00:02.5">part</span></p></div>'
        "</body></tt>"
    )
    assert parse(text).cues == (Cue(70.0, 70.5, "whole"), Cue(70.5, 110.0, "rest"), Cue(371.5, 372.5, "part"))


def test_json3_skips_appended_rows_and_clamps_overlap():
    events = [
        {"tStartMs": 0, "dDurationMs": 60000, "id": 1, "wpWinPosId": 1, "wsWinStyleId": 1},
        {
            "tStartMs": 320,
            "dDurationMs": 4200,
            "segs": [{"utf8": "mix"}, {"utf8": " the", "tOffsetMs": 240}, {"utf8": " flour", "tOffsetMs": 480}],
        },
        {"tStartMs": 2510, "aAppend": 1, "segs": [{"utf8": "\n"}]},
        {"tStartMs": 2520, "dDurationMs": 3900, "segs": [{"utf8": "and"}, {"utf8": " salt", "tOffsetMs": 210}]},
    ]
    assert parse(json.dumps({"wireMagic": "pb3", "events": events})).cues == (
        Cue(0.32, 2.52, "mix the flour"),
        Cue(2.52, 6.42, "and salt"),
    )


def test_json3_durations_of_3000_ms_throughout_are_placeholders():
    def events(*durations):
        rows = zip((1000, 6000, 7000), durations, ("one", "two", "three"), strict=True)
        return json.dumps({"events": [{"tStartMs": t, "dDurationMs": d, "segs": [{"utf8": w}]} for t, d, w in rows]})

    assert [c.t1 for c in parse(events(3000, 3000, 3000)).cues] == [6.0, 7.0, 10.0]
    assert [c.t1 for c in parse(events(3000, 2000, 3000)).cues] == [4.0, 7.0, 10.0]


def test_srv3_and_srv1_say_the_same():
    srv3 = (
        '<?xml version="1.0"?><timedtext format="3"><body>\n <p t="320" d="4200" w="1"><s ac="0">mix</s><s t="240"> the'
        '</s><s t="480"> flour</s></p>\n <p t="2510" w="1" a="1">\n</p>\n <p t="2520" d="3900" w="1"><s>and</s>'
        '<s t="210"> salt</s></p></body></timedtext>'
    )
    srv1 = (
        '<transcript><text start="0.32" dur="4.2">mix the flour</text>'
        '<text start="2.52" dur="3.9">and salt</text></transcript>'
    )
    expected = (Cue(0.32, 2.52, "mix the flour"), Cue(2.52, 6.42, "and salt"))
    assert parse(srv3).cues == parse(srv1).cues == expected


def test_srv1_may_lack_durations_and_be_escaped_twice():
    text = '<transcript><text start="1">Q&amp;amp;A isn&amp;#39;t</text><text start="5" dur="">on</text></transcript>'
    assert parse(text).cues == (Cue(1.0, 5.0, "Q&A isn't"), Cue(5.0, 8.0, "on"))


def test_non_speech_is_stripped_or_kept_and_counted():
    text = vtt(
        ("00:00.000 --> 00:01.000", "[Music]"),
        ("00:01.000 --> 00:02.000", ">> hello [ __ ] there ♪"),
        ("00:02.000 --> 00:03.000", "a >b"),
    )
    stripped = parse(text)
    assert [c.text for c in stripped.cues] == ["hello there", "a >b"]
    assert stripped.num_non_speech == 4
    kept = parse(text, settings=SubtitleSettings(non_speech="keep"))
    assert [c.text for c in kept.cues] == ["[Music]", ">> hello [ __ ] there ♪", "a >b"]


def test_cues_come_in_time_order_without_overlap():
    text = vtt(
        ("00:04.000 --> 00:05.000", "c"),
        ("00:00.000 --> 00:03.000", "a"),
        ("00:02.000 --> 00:01.000", "b"),
        ("00:04.000 --> 00:06.000", "d"),
    )
    assert parse(text).cues == (Cue(0, 2, "a"), Cue(2, 4, "b"), Cue(4, 5, "c"), Cue(4, 6, "d"))


def test_text_is_composed_unicode():
    assert parse(vtt(("00:00.000 --> 00:01.000", "cafe\u0301"))).cues[0].text == "café"


@pytest.mark.parametrize(
    ("data", "format"),
    [
        ("WEBVTX", "vtt"),
        ("no times here", "srt"),
        ("{", None),
        ('{"events": 3}', None),
        ('{"events": [{"segs": [{"utf8": "x"}]}]}', None),
        ("<tt><body>", None),
        ('<tt><body><p begin="soon">x</p></body></tt>', None),
        ('<!DOCTYPE x [<!ENTITY a "b">]><tt><body><p begin="1s">&a;</p></body></tt>', None),
        ("<transcript><text>x</text></transcript>", None),
        ('<transcript><text start="x">x</text></transcript>', None),
        ('<timedtext format="3"><body><p>x</p></body></timedtext>', None),
    ],
)
def test_broken_files_are_malformed(data, format):
    assert rejected(data, format) == "subtitles_malformed"


def test_what_is_no_timed_text_is_unsupported():
    for data in (b"", b"hello", b"<html><body>404</body></html>", b"\x00\x01\x02", b"GIF89a"):
        assert rejected(data) == "subtitles_unsupported"


def test_a_file_without_words_is_empty():
    for data in ("WEBVTT\n", vtt(("00:00.000 --> 00:01.000", "[Music]")), '{"events": []}', "<transcript/>"):
        assert rejected(data) == "subtitles_empty"


def track(lang, is_automatic=False, kind="subtitles"):
    return Track(f"https://a.example/{lang}.vtt", lang, kind, is_automatic)


def test_human_captions_in_the_spoken_language_come_first():
    tracks = [track("de"), track("en-GB"), track("en", is_automatic=True)]
    assert choose_track(tracks, "en") == track("en-GB")
    assert choose_track(tracks, None) == track("de")
    assert choose_track([track("de"), track("en-orig", is_automatic=True)], "en") == track("en-orig", is_automatic=True)
    assert choose_track([track("de")], "en") == track("de")


def test_machine_translations_are_refused():
    automatic = [track(lang, is_automatic=True) for lang in ("en", "fr", "ja-orig")]
    assert choose_track(automatic, "ja") == track("ja-orig", is_automatic=True)
    assert choose_track(automatic[:2], "ja") is None
    assert choose_track(automatic[:2], None) is None
    assert choose_track(automatic[:2], "fr-CA") == track("fr", is_automatic=True)


def test_only_subtitles_and_captions_are_speech():
    assert choose_track([track("en", kind="chapters"), track("en", kind="metadata")], "en") is None
    assert choose_track([track("en", kind="captions")], "en") is not None
