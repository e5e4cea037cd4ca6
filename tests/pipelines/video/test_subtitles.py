import json
import re
import time

import pytest

from pipelines.candidate import Track
from pipelines.drop_reasons import ROWS
from pipelines.video.raw_cues import RawCue, RawCues
from pipelines.video.subtitles import (
    Cue,
    SubtitleSettings,
    SubtitlesRejected,
    choose_track,
    join_cues,
    lost_cues,
    parse_subtitles,
)

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


def test_a_declared_encoding_is_used_and_else_a_detector():
    text = "1\n00:00:00,000 --> 00:00:01,000\nпривет\n".encode("cp1251")
    assert parse(text, charset="windows-1251").cues[0].text == "привет"
    assert parse(text, charset="no such").cues[0].text == "привет"


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
        ('<!DOC\x00TYPE x [<!ENTITY a "b">]><tt><body><p begin="1s">&a;</p></body></tt>', None),
        ("<transcript><text>x</text></transcript>", None),
        ('<transcript><text start="x">x</text></transcript>', None),
        ('<timedtext format="3"><body><p>x</p></body></timedtext>', None),
    ],
)
def test_broken_files_are_malformed(data, format):
    assert rejected(data, format) == "subtitles_malformed"


def test_what_is_no_timed_text_is_unsupported():
    for data in (
        b"{0}{25}Hello\n{30}{60}World",
        b"{\\an8}Hello",
        b"",
        b"hello",
        b"<html><body>404</body></html>",
        b"\x00\x01\x02",
        b"GIF89a",
    ):
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


# --- loosely written files ------------------------------------------------------------------------------------------

THREE = [(0.2, 0.9), (1.2, 1.9), (2.2, 2.9)]


def srt(times):
    """Three cues, the second with these times."""
    rows = ("00:00:00,200 --> 00:00:00,900", times, "00:00:02,200 --> 00:00:02,900")
    return "\n".join(f"{i}\n{row}\nline {i}\n" for i, row in enumerate(rows, 1))


@pytest.mark.parametrize(
    "times",
    [
        "00: 00: 01, 200 --> 00: 00: 01, 900",
        "00 : 00 : 01 , 200 --> 00 : 00 : 01 , 900",
        "00:00:01,200 -> 00:00:01,900",
        "00:00:01,200 --> 00:00:01,900  X1:117 X2:619 Y1:042 Y2:428",
        "00:00:01,200 --&gt; 00:00:01,900",
        "00:00:01,200 – > 00:00:01,900",
        "00:00:01,200 —> 00:00:01,900",
        "00:00:01,200 → 00:00:01,900",
        "00:00:01,200 - 00:00:01,900",
        "0:00:01.200,0:00:01.900",
        "00:00:01,200 ~ 00:00:01,900",
        "00:00:01,200 >> 00:00:01,900",
        "00:00:01,200 - -> 00:00:01,900",
        "00:00:01,200 to 00:00:01,900",
        "00:00:01,200 ... 00:00:01,900",
        "00:00:01.200-->00:00:01.900",
        "\t00:00:01:200 --> 00:00:01:900",
        "0:0:1,2 --> 0:0:1,9",
        "00：00：01，200 --> 00：00：01，900",
        "00:01,200 --> 00:01,900",
        "00:00:01,200000 --> 00:00:01,900000",
        "2 00:00:01,200 --> 00:00:01,900",
        "٠٠:٠٠:٠١,٢٠٠ --> ٠٠:٠٠:٠١,٩٠٠",
    ],
)
def test_loosely_written_times_are_times(times):
    subtitles = parse(srt(times))
    assert [(c.t0, c.t1) for c in subtitles.cues] == THREE
    assert [c.text for c in subtitles.cues] == ["line 1", "line 2", "line 3"]
    assert subtitles.malformed == ()
    assert [(c.t0, c.t1) for c in parse("WEBVTT\n\n" + srt(times)).cues] == THREE


@pytest.mark.parametrize(
    "times", ["00:00:01,200 -->", "00:00:01,200 --> 00:00:0l,900", "00:00:01,200 --> 00:00:00,100", "00:00:01,200-->:"]
)
def test_an_end_that_cannot_be_read_is_the_next_start(times):
    assert [(c.t0, c.t1) for c in parse(srt(times)).cues] == [THREE[0], (1.2, 2.2), THREE[2]]


@pytest.mark.parametrize(
    "times",
    [
        "00:0O:01,200 --> 00:00:01,900",
        "--> 00:00:01,900",
        "00:aa --> 00:bb",
        "-00:00:02,000 --> -00:00:01,000",
        "00.00.01.200 --> 00.00.01.900",
        "00;00;01;200 --> 00;00;01;900",
        "OO:OO:O1,2OO --> OO:OO:O1,9OO",
        "N/A --> N/A",
        "-->",
    ],
)
def test_a_start_that_cannot_be_read_loses_that_cue_and_no_other(times):
    for text in (srt(times), "WEBVTT\n\n" + srt(times)):
        subtitles = parse(text)
        assert [c.text for c in subtitles.cues] == ["line 1", "line 3"]
        assert [(cue.times, cue.text) for cue in subtitles.malformed] == [(times, "line 2")]


@pytest.mark.parametrize("times", ["00.00.01.200 --> 00.00.01.900", "N/A --> N/A", " --> "])
def test_a_first_cue_that_cannot_be_read_is_told(times):
    rest = "2\n00:00:01,200 --> 00:00:01,900\nline 2\n"
    subtitles = parse(f"1\n{times}\nline 1\n\n{rest}")
    assert [c.text for c in subtitles.cues] == ["line 2"]
    assert [(cue.times, cue.text) for cue in subtitles.malformed] == [(times.strip(), "line 1")]


def test_arrows_in_notes_are_no_times():
    data = "WEBVTT\n\nNOTE a --> b\n\nNOTE 1:00 --> 2:00\n\n00:00.000 --> 00:01.000\na\n"
    assert parse(data).cues == (Cue(0, 1, "a"),)
    assert parse(data).malformed == ()


def test_a_time_before_the_beginning_is_the_beginning():
    assert parse("00:00:00,000 --> 00:00:00,100\na\n\n-00:00:00,500 --> 00:00:01,000\nb\n").cues[-1].text == "b"


@pytest.mark.parametrize(
    "line", ["at 10:30 -> 11:00 we met", "10:30 -> 11:00", "from 1 --> 2", "9:00 - 10:00", "a -> b"]
)
def test_a_sentence_with_an_arrow_is_text(line):
    text = f"1\n00:00:00,000 --> 00:00:01,000\nhe said\n{line}\n\n2\n00:00:01,000 --> 00:00:02,000\nb\n"
    assert [c.text for c in parse(text).cues] == [f"he said {line}", "b"]


def test_the_format_is_what_the_file_shows_not_what_its_name_says():
    assert parse(srt("00:00:01,200 --> 00:00:01,900"), "vtt").cues[2].text == "line 3"
    assert parse("\n\nWebVTT\n\n00:00.000 --> 00:01.000\na", "srt").cues == (Cue(0, 1, "a"),)


def test_angle_brackets_are_markup_only_around_known_tags():
    kept = [
        "if x < 4 and y > 5 then stop",
        "<Mary> Where is it?",
        "a <- b -> c",
        "<3 <3",
        "1 <2>",
        "<I think so>",
        "<>",
    ]
    text = vtt(*((f"00:0{i}.000 --> 00:0{i + 1}.000", line) for i, line in enumerate(kept)))
    for data in (text, text.removeprefix("WEBVTT\n\n")):
        assert [c.text for c in parse(data).cues] == kept
    tags = (
        '<font color="#fff" size=3>a</font> <B>b</B> <c.yellow.bg>c</c> <v.loud Ann Lee>d</v> <lang en-GB>e</lang> '
        '{\\an8}<i/>f<br/>g<ruby>漢<rt>かん</rt></ruby> <span style="x">h</span> <00:00:00.500>i <p>j</p>'
    )
    assert parse(vtt(("00:00.000 --> 00:01.000", tags))).cues[0].text == "a b c d e f g漢 h i j"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("< i >World </ i>", "World"),
        ("World </ i >", "World"),
        ('<font color="#ff00ff>Hello</font>', "Hello"),
        ("<font color='#ff00ff>Hello</font>", "Hello"),
        ('< font color = "# fff" >Hello</ font>', "Hello"),
        ("a < b > c", "a < b > c"),
        ("if a < b / c > d", "if a < b / c > d"),
        ("a < i and c > d", "a < i and c > d"),
    ],
)
def test_loosely_written_tags_are_tags(line, words):
    assert parse(vtt(("00:00.000 --> 00:01.000", line))).cues == (Cue(0, 1, words),)


def test_tags_that_never_end_take_no_time():
    begun = time.process_time()
    for attack in (' y="', " y='", " y=1", " y = ", "y ", " / ", "b ", " "):
        parse(vtt(("00:00.000 --> 00:01.000", f"<b{attack * 100}/x> a")))
        parse(vtt(("00:00.000 --> 00:01.000", f"<{attack * 100}b{attack * 20}x> a")))
    assert time.process_time() - begun < 1


def test_json3_reads_what_it_can():
    events = [
        {"tStartMs": 200, "dDurationMs": 700, "segs": [{"utf8": "first"}]},
        {"dDurationMs": 10, "segs": [{"utf8": "\n"}]},
        {"dDurationMs": 700, "segs": [{"utf8": "no start"}]},
        {"tStartMs": "1200", "dDurationMs": "soon", "segs": [{"utf8": "second"}, None, {"utf8": None}, {}]},
        {"tStartMs": float("nan"), "segs": [{"utf8": "never"}]},
        {"tStartMs": 1500, "segs": "text"},
        {"tStartMs": 1600, "segs": None},
        "event",
        {"tStartMs": 2200, "dDurationMs": 700, "segs": [{"utf8": "third"}]},
    ]
    subtitles = parse(json.dumps({"events": events}))
    assert subtitles.cues == (Cue(0.2, 0.9, "first"), Cue(1.2, 2.2, "second"), Cue(2.2, 2.9, "third"))
    assert [cue.text for cue in subtitles.malformed] == ["no start", "never", "", "", ""]


def test_xml_reads_what_it_can():
    srv1 = '<transcript><text start="x">a</text><text start="1" dur="y">b</text><text>c</text><text/></transcript>'
    assert [c.text for c in parse(srv1).cues] == ["b"]
    assert [cue.text for cue in parse(srv1).malformed] == ["a", "c"]
    srv3 = '<timedtext format="3"><body><p t="1000" d="500">a</p><p d="5">b</p><p t="inf">c</p></body></timedtext>'
    assert parse(srv3).cues == (Cue(1, 1.5, "a"),)
    assert [cue.text for cue in parse(srv3).malformed] == ["b", "c"]
    ttml = (
        '<tt><body><div><p begin="1s" end="later">a</p><p begin="soon">b</p><p begin="4s" dur="1s">c</p></div>'
        '<div begin="?"><p begin="5s">d</p><p>e</p></div></body></tt>'
    )
    assert parse(ttml).cues == (Cue(1, 4, "a"), Cue(4, 5, "c"))
    assert [cue.text for cue in parse(ttml).malformed] == ["b", "d", "e"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('<transcript><text start="1">Q & A: 1 < 2 &nbsp;&copy;</text></transcript>', ["Q & A: 1 < 2 ©"]),
        ('<tt><body><p begin="1s">a<p begin="2s">b</p></body></tt>', ["a", "b"]),
        ('<tt><body><div><p begin="1s">a</p><p begin="2s">b', ["a", "b"]),
        ('<timedtext format="3"><body><p t="1">a <s t="2">b</p><p t="3000">c</p></body></timedtext>', ["a b", "c"]),
        ('<tt><body><tts:p begin="1s">a</tts:p><p begin="2s" begin="3s">b\x0b</p></body></tt>', ["a", "b"]),
    ],
)
def test_xml_that_is_not_well_formed_is_read(text, words):
    assert [c.text for c in parse(text).cues] == words


BODIES = {
    "ttml": ("<tt><body><div>", '<p begin="{0}s">cue {0}</p>', "</div></body></tt>"),
    "srv1": ("<transcript>", '<text start="{0}">cue {0}</text>', "</transcript>"),
    "srv3": ('<timedtext format="3"><body>', '<p t="{0}000">cue {0}</p>', "</body></timedtext>"),
}


@pytest.mark.parametrize("name", BODIES)
def test_the_rest_of_cut_or_damaged_xml_is_told(name):
    head, cue, tail = BODIES[name]
    cues = [cue.format(n) for n in range(100)]
    whole = head + "".join(cues) + tail
    assert lost_cues(parse(whole), None) == ()
    cut = parse(whole[: whole.index("cue 50")])
    odd = parse(head + "".join([*cues[:50], "<p <" + cues[50][1:], *cues[51:]]) + tail)
    for subtitles, least in ((cut, 50), (odd, 99)):
        assert len(subtitles.cues) >= least
        (told,) = lost_cues(subtitles, "https://a.example/x")
        assert (told.unit, told.reason) == ("cue", "malformed_cue")
        assert told.detail.startswith("cues may be lost after: ")


@pytest.mark.parametrize("name", BODIES)
def test_cues_without_end_tags_are_all_read(name):
    head, cue, tail = BODIES[name]
    bare = re.sub("</(p|text)>", "", "".join(cue.format(n) for n in range(1000)))
    subtitles = parse(head + bare + tail)
    assert [c.text for c in subtitles.cues] == [f"cue {n}" for n in range(1000)]
    assert [c.t0 for c in subtitles.cues[::500]] == [0, 500]
    assert lost_cues(subtitles, None) == ()


@pytest.mark.parametrize(
    "doctype", ["<!DOCTYPE tt>", '<!DOCTYPE tt PUBLIC "-//W3C//DTD TTML 1.0//EN" "x.dtd">', "<!DOCTYPE tt SYSTEM 'x' >"]
)
def test_a_document_type_by_name_is_no_harm(doctype):
    assert [c.text for c in parse(f'{doctype}<tt><body><p begin="1s">a</p></body></tt>').cues] == ["a"]


@pytest.mark.parametrize(
    "rates", ['frameRate="1e-200" frameRateMultiplier="1e-200 1"', 'frameRate="0"', 'frameRateMultiplier=""']
)
def test_a_frame_rate_of_no_video_counts_as_none(rates):
    assert [c.t0 for c in parse(f'<tt {rates}><body><p begin="15f">a</p></body></tt>').cues] == [0.5]


def test_times_that_no_video_has_are_told():
    events = [(1e308, 1e308), (-5000, 2000), (-5000, 6000), (2000, 1e308), (1e10, 1)]
    rows = [{"tStartMs": t, "dDurationMs": d, "segs": [{"utf8": f"{i}"}]} for i, (t, d) in enumerate(events)]
    subtitles = parse(json.dumps({"events": rows}))
    assert subtitles.cues == (Cue(0, 1, "2"), Cue(2, 5, "3"))
    assert [cue.text for cue in subtitles.malformed] == ["0", "1", "4"]
    ttml = parse('<tt><body><p begin="1s" end="99999999999999999s">a</p><p begin="9999999999h">b</p></body></tt>')
    assert ttml.cues == (Cue(1, 4, "a"),)
    assert [cue.text for cue in ttml.malformed] == ["b"]


def test_a_track_in_two_cues_is_searched_for_overlap_in_no_time():
    words = [f"w{n}" for n in range(100_000)]
    begun = time.process_time()
    found = RawCues([RawCue(0, 1, (" ".join(words),)), RawCue(1, 2, (" ".join(words[1:]),))])
    assert len(join_cues(found, "x", may_roll=True).cues) == 2
    assert time.process_time() - begun < 1


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r", "\r\r\n"])
def test_any_line_end_ends_a_line(line_end):
    for text in (srt("00:00:01,200 --> 00:00:01,900"), "WEBVTT\n\n" + srt("00:00:01,200 --> 00:00:01,900")):
        subtitles = parse(text.replace("\n", line_end))
        assert [(c.t0, c.t1, c.text) for c in subtitles.cues] == [(*t, f"line {i}") for i, t in enumerate(THREE, 1)]


def test_ttml_keeps_text_beside_timed_parts_and_leaves_out_readings():
    text = (
        '<tt xmlns="http://www.w3.org/ns/ttml" xmlns:tts="http://www.w3.org/ns/ttml#styling"><body><div>'
        '<p begin="1s" end="3s">Hello <span begin="1s">there</span></p>'
        '<p begin="4s" end="5s">漢<span tts:ruby="text">かん</span>字</p></div></body></tt>'
    )
    assert [(c.t0, c.text) for c in parse(text).cues] == [(1, "Hello"), (2, "there"), (4, "漢字")]


@pytest.mark.parametrize(
    ("time", "seconds"),
    [("0:00:01,5", 1.5), ("00:01.5", 1.5), ("1.5", 1.5), ("00:00:01:12", 1.48), ("25t", 1.0), ("1500 ms", 1.5)],
)
def test_ttml_times_may_be_loose(time, seconds):
    root = '<tt xmlns:ttp="http://www.w3.org/ns/ttml#parameter" ttp:frameRate="25">'
    assert parse(f'{root}<body><p begin="{time}" end="9s">a</p></body></tt>').cues == (Cue(seconds, 9, "a"),)


def test_encodings_are_found_in_every_format():
    russian = "У озера стоит старый дом, и видна лодка"
    cyrillic = srt("00:00:01,200 --> 00:00:01,900").replace("line 2", russian).encode("cp1251")
    assert parse(cyrillic).cues[1].text == parse(cyrillic, charset="windows-1251").cues[1].text == russian
    xml = f'<?xml version="1.0" encoding="koi8-r"?><transcript><text start="1">{russian}</text></transcript>'
    assert parse(xml.encode("koi8-r")).cues[0].text == russian


@pytest.mark.parametrize(
    "line",
    [
        "1" * 100_000, "<" * 100_000, "<v " * 33_000, "<b a=" + "x" * 100_000, "[" * 100_000, "{\\" * 50_000,
        "-" * 100_000,
        "0:" * 50_000, " " * 100_000 + "x", "<rt" * 33_000, "00:00:01 -" * 10_000, "&" * 100_000, "<p " + " " * 100_000,
    ],
)  # fmt: skip
@pytest.mark.timeout(5)
def test_any_line_takes_linear_time(line):
    for text in (f"1\n00:00:00,000 --> 00:00:01,000\n{line}\nend\n", f"1\n{line}\nend\n"):
        try:
            parse(text)
            parse("WEBVTT\n\n" + text)
            parse(f'<transcript><text start="1">{line}</text></transcript>')
        except SubtitlesRejected:
            continue
