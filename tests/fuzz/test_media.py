"""Fuzz tests of images and timed text: any bytes give pixels or cues in bounds, or the declared refusal."""

import io
import json
import re
from xml.sax.saxutils import escape

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from PIL import Image

from pipelines.drop_reasons import IMAGE_FILES
from pipelines.images.embedded_rights import embedded_rights
from pipelines.images.metadata import exif_value, read_metadata, read_size, sniff_format, strip_metadata
from pipelines.images.normalise import ImageRejected, ImageSettings, normalise
from pipelines.images.pixels import decode, decode_upright
from pipelines.video.frame_text import merge_cues, sequence
from pipelines.video.storyboard_sheets import Level, Sheet, StoryboardRejected, cut_sheets, read_mhtml, tile_times
from pipelines.video.subtitles import Cue, Subtitles, SubtitlesRejected, parse_subtitles
from tests.fuzz.mutations import bounded, in_time, mutated
from tests.hostile.pages import LAUGHS, OUTSIDE
from tests.pipelines.sources.storyboard_files import sheet, storyboard
from tests.pipelines.stage_records import image_bytes
from tools.demo_web.broken_files import PLUS_PROHIBITED, c2pa_jpeg

pytestmark = pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")

# --- images ---------------------------------------------------------------------------------------------------------


def _saved(format: str, mode: str = "RGB", **options: object) -> bytes:
    image, out = Image.open(io.BytesIO(image_bytes(1, (24, 16)))).convert(mode), io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def _exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112], exif[0x8298] = 6, "Ada Example"
    return exif


IMAGES = (
    _saved("JPEG", exif=_exif(), xmp=PLUS_PROHIBITED.encode(), comment=b"words"),
    _saved("JPEG", "CMYK"),
    _saved("JPEG", progressive=True),
    c2pa_jpeg(np.zeros((16, 24, 3), np.uint8)),
    _saved("PNG", exif=_exif()),
    _saved("PNG", "P"),
    _saved("WEBP", exif=_exif(), xmp=PLUS_PROHIBITED.encode()),
    _saved("WEBP", lossless=True),
    _saved("GIF"),
    _saved("BMP"),
    _saved("AVIF"),
)
_MARKERS = (b"\xff\xd8", b"\xff\xc0", b"\xff\xda", b"\xff\xd0", b"\xff\xe1", b"IHDR", b"IDAT", b"iTXt", b"VP8X", b"\xff\xff\xff\xff",
            b"jumb", b"cbor", b"Exif\0\0", b"II*\0", b"MM\0*", b"\x7f\xff\xff\xff", b"http://ns.adobe.com/xap/1.0/\0")  # fmt: skip


@given(mutated(IMAGES, _MARKERS))
def test_any_bytes_give_an_image_of_the_size_of_their_header_or_a_refusal(data: bytes):
    format = sniff_format(data)
    with in_time():
        try:
            found = normalise(data, ImageSettings(image_size=16, max_pixels=1_000_000))
        except ImageRejected as rejected:
            reason = rejected.reason
            assert reason in IMAGE_FILES
            return
    assert format is not None
    assert {found.source_width, found.source_height} == set(read_size(data, format))
    assert decode_upright(found.data).shape[:2] == (found.height, found.width)


@given(mutated(IMAGES, _MARKERS))
def test_any_bytes_give_rights_and_metadata(data: bytes):
    rights = bounded(embedded_rights, data)
    assert all(signal.value for signal in rights.signals)
    if (format := sniff_format(data)) is not None:
        metadata = bounded(read_metadata, data, format)
        assert 1 <= metadata.orientation <= 8


@given(st.sampled_from(IMAGES))
def test_an_image_without_its_metadata_has_the_same_pixels(data: bytes):
    format = sniff_format(data)
    assume(format in ("jpeg", "png", "webp"))
    assert format is not None
    stripped = strip_metadata(data, format)
    assert (decode(stripped, format).pixels == decode(data, format).pixels).all() or read_metadata(data, format).icc
    assert strip_metadata(stripped, format) == stripped
    assert not read_metadata(stripped, format).exif
    assert b"Ada Example" not in stripped


@given(mutated(IMAGES, _MARKERS))
def test_metadata_is_stripped_or_the_file_is_refused(data: bytes):
    format = sniff_format(data)
    assume(format is not None)
    assert format is not None
    with in_time():
        try:
            stripped = strip_metadata(data, format)
        except ValueError:
            return
    assert sniff_format(stripped) == format
    assert len(stripped) <= len(data) + 64


@given(st.binary(max_size=200), st.sampled_from([0x0112, 0x8298]))
@example(b"II*\0\x08\0\0\0\xff\xff" + bytes(60), 0x0112)
def test_any_exif_gives_a_value_or_none(exif: bytes, tag: int):
    for start in (b"", b"II*\0", b"MM\0*", b"II*\0\x08\0\0\0"):
        assert isinstance(bounded(exif_value, start + exif, tag), int | str | None)


@given(
    st.integers(1, 8),
    st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["Cc", "Zs"]), min_size=1, max_size=30),
)
def test_exif_is_what_pillow_writes(orientation: int, notice: str):
    exif = Image.Exif()
    exif[0x0112], exif[0x8298] = orientation, notice
    data = exif.tobytes().removeprefix(b"Exif\0\0")
    assume(Image.Exif().load(data) is None)
    assert exif_value(data, 0x0112) == orientation


# --- storyboards ----------------------------------------------------------------------------------------------------

_BOARDS = (storyboard((0, sheet(4, 0)), (1, sheet(3, 4))), storyboard((0, IMAGES[0])))


@given(
    mutated(_BOARDS, (b"Content-Length: ", b"--", b"image/jpeg", b"M99.jpg")), st.integers(1, 70), st.integers(1, 40)
)
def test_any_storyboard_gives_tiles_of_its_layout_or_a_refusal(data: bytes, width: int, height: int):
    level = Level(width, height, 2, 2, 7)
    with in_time():
        try:
            sheets = read_mhtml(data)
        except StoryboardRejected as rejected:
            reason = rejected.reason
            assert reason == "storyboard_malformed"
            return
        cut = cut_sheets(sheets, level)
    assert all(isinstance(found, Sheet) and len(found.data) <= len(data) for found in sheets)
    for tile in cut.tiles:
        with Image.open(io.BytesIO(tile.png)) as image:
            assert image.size == (width, height)


@given(st.integers(1, 500), st.floats(0.01, 1e5), st.booleans())
def test_tiles_are_in_order_and_within_the_video(num: int, seconds: float, is_even: bool):
    times = tile_times(num, seconds, is_even=is_even)
    assert times == sorted(times)
    assert len(times) == num
    assert 0 <= times[0] <= times[-1] <= seconds + 0.001


# --- timed text -----------------------------------------------------------------------------------------------------

TRACKS = (
    b"WEBVTT\nLanguage: en\n\nNOTE x\n\n1\n00:00:01.000 --> 00:00:02.500 align:start\n<v Ada>Hello <00:00:01.500><c>there</c>\n\n"
    b"00:03.000 --> 00:04.000\nbye\n",
    b"1\n00:00:01,000 --> 00:00:02,000\n{\\an8}<i>Hello</i>\n\n2\n00:00:03,000 --> 00:00:04,000\nbye\n",
    b'{"events": [{"tStartMs": 1000, "dDurationMs": 500, "segs": [{"utf8": "Hello"}, {"utf8": " you", "tOffsetMs": 9}]}]}',
    b'<tt xmlns="http://www.w3.org/ns/ttml" xmlns:ttp="x" xml:lang="en" ttp:frameRate="25" ttp:tickRate="10"><body><div>'
    b'<p begin="00:00:01.5" dur="2s">Hello<br/><span begin="5f">you</span></p><p begin="9t" end="1h">x</p></div></body></tt>',
    b'<?xml version="1.0"?><timedtext format="3"><body><p t="1000" d="500">Hello <s t="9">you</s></p></body></timedtext>',
    b'<transcript><text start="1.5" dur="2">Hello &amp;amp; you</text></transcript>',
    b"0:00:01.000,0:00:02.000\nHello\n\n0:00:03.000,0:00:04.000\nbye\n",
    f"{LAUGHS}<tt><body><p begin='1s'>&j;</p></body></tt>".encode(),
    f"{OUTSIDE}<tt><body><p begin='1s'>&a;&j;</p></body></tt>".encode(),
)
_TIMED_WORDS = (b" --> ", b"00:00:01", b"<p begin='1s'>", b"</p>", b"<span>", b"&", b"<", b"1e-300", b"1e308", b"NaN", b"-1", b"frameRate='0'",
                b"WEBVTT", b"99:99:99.999", b"<rt>", b"<ruby>", b"&#x0;", b"<!DOCTYPE x [", b"[Music]", b"\xe2\x80\xae")  # fmt: skip


def _parsed(data: bytes, *, is_automatic: bool = False) -> Subtitles | None:
    with in_time():
        try:
            return parse_subtitles(data, is_automatic=is_automatic)
        except SubtitlesRejected as rejected:
            reason = rejected.reason
            assert reason in ("subtitles_unsupported", "subtitles_malformed", "subtitles_empty")
            return None


@given(mutated(TRACKS, _TIMED_WORDS), st.booleans())
@example(TRACKS[3].replace(b'"25"', b'"1e-200" ttp:frameRateMultiplier="1e-200 1"'), False)
def test_any_timed_text_gives_cues_in_order_or_a_refusal(data: bytes, is_automatic: bool):
    found = _parsed(data, is_automatic=is_automatic)
    if found is None:
        return
    assert found.cues
    for cue, following in zip(found.cues, [*found.cues[1:], None], strict=True):
        assert 0 <= cue.t0 <= cue.t1
        assert cue.text.strip() == cue.text != ""
        cue.text.encode()
        assert not re.search("[\u202a-\u202e\u200b\u2066-\u2069]", cue.text)
        assert "hahaha" not in cue.text  # no entity is expanded
        assert following is None or (cue.t0 <= following.t0 and (cue.t1 <= following.t0 or cue.t0 == following.t0))


_WORDS = st.from_regex(r"[a-z]{1,6}( [a-z]{1,6}){0,3}", fullmatch=True)
_CUES = st.lists(st.tuples(st.integers(1, 900), st.integers(1, 900), _WORDS), min_size=1, max_size=6)


def _stamp(milliseconds: int, point: str) -> str:
    return f"00:{milliseconds // 60000:02}:{milliseconds // 1000 % 60:02}{point}{milliseconds % 1000:03}"


@given(_CUES, st.sampled_from(["vtt", "srt", "json3", "ttml", "srv1", "srv3"]))
def test_written_timed_text_is_read(cues: list[tuple[int, int, str]], format: str):
    timed, at = list[tuple[int, int, str]](), 0
    for gap, length, words in cues:
        timed.append((at + gap, at + gap + length, words))
        at += gap + length
    arrow = {
        "vtt": lambda a, b, w: f"{_stamp(a, '.')} --> {_stamp(b, '.')}\n{w}\n\n",
        "srt": lambda a, b, w: f"1\n{_stamp(a, ',')} --> {_stamp(b, ',')}\n{w}\n\n",
        "ttml": lambda a, b, w: f'<p begin="{a}ms" end="{b}ms">{escape(w)}</p>',
        "srv1": lambda a, b, w: f'<text start="{a / 1000}" dur="{(b - a) / 1000}">{escape(w)}</text>',
        "srv3": lambda a, b, w: f'<p t="{a}" d="{b - a}">{escape(w)}</p>',
        "json3": lambda a, b, w: json.dumps({"tStartMs": a, "dDurationMs": b - a, "segs": [{"utf8": w}]}) + ",",
    }[format]
    body = "".join(arrow(*cue) for cue in timed)
    around = {
        "vtt": "WEBVTT\n\n{}", "srt": "{}", "ttml": "<tt><body><div>{}</div></body></tt>", "srv1": "<transcript>{}</transcript>",
        "srv3": '<timedtext format="3"><body>{}</body></timedtext>', "json3": '{{"events": [{}]}}',
    }[format]  # fmt: skip
    found = _parsed(around.format(body.rstrip(",") if format == "json3" else body).encode())
    assert found is not None
    assert [(c.t0, c.t1, c.text) for c in found.cues] == [(a / 1000, b / 1000, w) for a, b, w in timed]
    assert not found.malformed
    assert found.fault is None


@given(_CUES, st.lists(st.integers(0, 5000), max_size=6))
def test_merged_and_ordered_cues_keep_all_words(cues: list[tuple[int, int, str]], frames: list[int]):
    timed, at = list[Cue](), 0
    for gap, length, words in cues:
        timed.append(Cue((at + gap) / 1000, (at + gap + length) / 1000, words))
        at += gap + length
    times = sorted(frame / 1000 for frame in frames)
    merged = merge_cues(tuple(timed), times)
    assert " ".join(cue.text for cue in merged).split() == " ".join(words for _, _, words in cues).split()
    segments = sequence(times, merged, is_automatic=True)
    assert " ".join(s.text for s in segments if s.text).split() == " ".join(words for _, _, words in cues).split()
    assert [s.media for s in segments if s.media is not None] == list(range(len(times)))
    assert [s.t0 for s in segments] == sorted(s.t0 for s in segments if s.t0 is not None)


@given(st.lists(_WORDS, min_size=2, max_size=8, unique=True))
def test_captions_that_roll_say_each_line_once(texts: list[str]):
    cues = "".join(
        f"{_stamp(i * 1000 + 1, '.')} --> {_stamp(i * 1000 + 999, '.')}\n{before}\n{line}\n\n"
        for i, (before, line) in enumerate(zip(["", *texts], texts, strict=False))
    )
    found = _parsed(f"WEBVTT\n\n{cues}".encode(), is_automatic=True)
    assert found is not None
    assert " ".join(cue.text for cue in found.cues).split() == " ".join(texts).split()
