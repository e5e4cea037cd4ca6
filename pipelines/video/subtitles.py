"""Timed text in WebVTT, SubRip, TTML and YouTube's json3, srv1 and srv3, as one list of cues without repetition.

Automatic captions roll: each line is shown while it is built, held, and shown again above the next one. Only such
repetition is removed: in human captions a repeated line is spoken twice.

pysubs2 (1.8 and 1.9 were tried) reads WebVTT as if it were SubRip: names of cues and NOTEs become text, a number that
ends a text is lost, and a line with two word times is taken for a new cue. Of TTML it knows neither `dur`, frames and
ticks nor times of a `div` or `span`.
"""

import html
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal
from xml.etree import ElementTree

from pydantic import Field

from pipelines.candidate import Track
from pipelines.document import clean_text
from pipelines.drop_reasons import Reason
from pipelines.settings import Settings

Format = Literal["vtt", "srt", "ttml", "json3", "srv1", "srv3"]

PREFERRED_FORMATS: tuple[Format, ...] = ("json3", "srv3", "vtt", "srt", "ttml", "srv1")
"""Formats in order of preference: the one with the most exact times first."""

_PLACEHOLDER_SECONDS = 3.0  # json3's duration for a sentence of unknown end; here also that of the last cue
_MIN_OVERLAP_WORDS = 3  # a shorter overlap of two cues may be real repetition
_MAX_CUES = 100_000

_TIME = r"(?:(\d{1,4}):)?(\d{1,2}):(\d{2})(?:[.,](\d{1,3}))?"
_TIMING = re.compile(rf"^\s*{_TIME}\s*-->\s*{_TIME}")
_INLINE_TIME = re.compile(r"<(?:\d+:)?\d{2}:\d{2}\.\d{3}>")
_MARKUP = re.compile(r"<[^<>]{0,500}>|\{\\[^{}]{0,200}\}")
_NON_SPEECH = re.compile(r"\[[^\[\]\n]{0,60}\]|[♩♪♫♬🎵🎶]+|(?:^|(?<=\s))>{2,3}(?=\s|$)")
_TTML_TIME = re.compile(r"^(?:(\d+):(\d{2}):(\d{2})(?:(\.\d+)|:(\d+(?:\.\d+)?))?|(\d+(?:\.\d+)?)(h|ms|m|s|f|t))$")
_LANG = "{http://www.w3.org/XML/1998/namespace}lang"


class SubtitleSettings(Settings):
    """Parts of timed text that are kept."""

    non_speech: Literal["strip", "keep"] = Field(
        default="strip", description="[Music], notes and the speaker mark >>: removed or kept."
    )


class SubtitlesRejected(Exception):  # noqa: N818 - a verdict on the file, not a failure of ours
    """A file of timed text that cannot be used: the reason, and the details."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True, slots=True)
class Cue:
    """A line of timed text; `t0 < t1` in seconds, and it does not overlap the next one."""

    t0: float
    t1: float
    text: str


@dataclass(frozen=True, slots=True)
class Subtitles:
    """Cues in time order, whether they rolled, the language if the file states it, and the number of removed marks."""

    cues: tuple[Cue, ...]
    is_rolling: bool = False
    lang: str | None = None
    num_non_speech: int = 0


@dataclass(frozen=True, slots=True)
class _RawCue:
    """A cue in the file: its lines without markup, which of them were being built, and its end, if known."""

    t0: float
    t1: float | None
    lines: tuple[str, ...]
    is_built: tuple[bool, ...] = ()


def parse_subtitles(
    data: bytes,
    format: Format | None = None,
    *,
    is_automatic: bool = False,
    charset: str | None = None,
    settings: SubtitleSettings | None = None,
) -> Subtitles:
    """Return the cues of a file of timed text.

    Args:
        data: The file.
        format: Its format; None: as its first characters show.
        is_automatic: Whether a machine wrote it; then repetition is removed even if no times of words show it.
        charset: Encoding that the server states; tried after UTF-8.
        settings: Parts that are kept.

    Raises:
        SubtitlesRejected: With its reason.
    """
    text = _decode(data, charset)
    format = format or _sniff(text)
    lang, is_rolling = None, False
    try:
        if format == "vtt":
            raw, lang = _read_vtt(text)
        elif format == "srt":
            raw = _read_srt(text)
        elif format == "json3":
            raw = _read_json3(text)
        else:
            raw, lang = _read_xml(text, format)
    except (ValueError, KeyError, TypeError, AttributeError, ElementTree.ParseError, RecursionError) as error:
        raise SubtitlesRejected("subtitles_malformed", f"{format}: {error}") from error
    if len(raw) > _MAX_CUES:
        raise SubtitlesRejected("subtitles_malformed", f"{format}: {len(raw)} cues, at most {_MAX_CUES}")
    raw.sort(key=lambda cue: cue.t0)
    if _rolls(raw) or (is_automatic and format in ("vtt", "srt", "ttml")):
        raw, is_rolling = _without_repetition(raw)
    cues, num_non_speech = _finish(raw, (settings or SubtitleSettings()).non_speech == "strip")
    if not cues:
        raise SubtitlesRejected("subtitles_empty", f"{format}: no cue with words")
    return Subtitles(tuple(cues), is_rolling, lang, num_non_speech)


def choose_track(tracks: Sequence[Track], video_lang: str | None) -> Track | None:
    """Return the track that best represents the speech, or None.

    It is a human track in the video's language, else the automatic track of the original speech, else any human track.
    Other automatic tracks than the original (`<lang>-orig`, or the video's language) are machine translations.
    """
    spoken = _primary(video_lang)
    texts = [t for t in tracks if t.kind in ("subtitles", "captions")]
    human = [t for t in texts if not t.is_automatic]
    original = [t for t in texts if t.is_automatic and (t.lang or "").endswith("-orig")]
    original += [t for t in texts if t.is_automatic and spoken is not None and _primary(t.lang) == spoken]
    same = [t for t in human if spoken is None or _primary(t.lang) == spoken]
    return next(iter([*same, *original, *human]), None)


def _primary(lang: str | None) -> str | None:
    return re.split(r"[-_]", lang.lower())[0] if lang else None


def _decode(data: bytes, charset: str | None) -> str:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", "replace").replace("\r\n", "\n").replace("\r", "\n")
    for encoding in ("utf-8-sig", charset, "cp1252"):
        try:
            if encoding:
                return data.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")
        except (UnicodeDecodeError, LookupError):
            continue
    return data.decode("cp1252", "replace").replace("\r\n", "\n").replace("\r", "\n")


def _sniff(text: str) -> Format:
    start = text.lstrip("\ufeff \t\n")
    if start.startswith("WEBVTT"):
        return "vtt"
    if start.startswith("{"):
        return "json3"
    root = re.search(r"<(?:\w+:)?(tt|timedtext|transcript)\b", start[:2000]) if start.startswith("<") else None
    if root is not None:
        by_root: dict[str, Format] = {"tt": "ttml", "timedtext": "srv3", "transcript": "srv1"}
        return by_root[root[1]]
    if any(_TIMING.match(line) for line in start[:20_000].split("\n")):
        return "srt"
    raise SubtitlesRejected("subtitles_unsupported", f"begins with {start[:40]!r}")


def _seconds(groups: Sequence[str | None]) -> float:
    hours, minutes, seconds, fraction = groups
    return int(hours or 0) * 3600 + int(minutes or 0) * 60 + int(seconds or 0) + float(f"0.{fraction or 0}")


def _without_markup(line: str) -> str:
    return html.unescape(_MARKUP.sub("", line))


def _raw_cue(timing: re.Match[str], lines: list[str]) -> _RawCue:
    groups = timing.groups()
    shown = [line for line in lines if _without_markup(line).strip()]
    return _RawCue(
        _seconds(groups[:4]),
        _seconds(groups[4:]),
        tuple(" ".join(_without_markup(line).split()) for line in shown),
        tuple(_INLINE_TIME.search(line) is not None for line in shown),
    )


def _read_vtt(text: str) -> tuple[list[_RawCue], str | None]:
    lines = text.lstrip("\ufeff").split("\n")
    if not lines[0].startswith("WEBVTT"):
        raise ValueError("does not begin with WEBVTT")
    cues: list[_RawCue] = []
    lang, at = None, 1
    while at < len(lines) and lines[at] != "" and "-->" not in lines[at]:
        name, _, value = lines[at].partition(":")
        lang = value.strip() or None if name.strip().lower() == "language" else lang
        at += 1
    while at < len(lines):
        timing = _TIMING.match(lines[at])
        at += 1
        if timing is None:  # a name, a NOTE, a STYLE
            continue
        payload: list[str] = []
        while at < len(lines) and lines[at] != "" and "-->" not in lines[at]:  # a line with a space is not blank
            payload.append(lines[at])
            at += 1
        cues.append(_raw_cue(timing, payload))
    return cues, lang


def _read_srt(text: str) -> list[_RawCue]:
    lines = text.lstrip("\ufeff").split("\n")
    timings = [(i, timing) for i, line in enumerate(lines) if (timing := _TIMING.match(line))]
    if not timings:
        raise ValueError("no times")
    first = timings[0][0]
    is_counted = any(line.strip().isdigit() for line in lines[:first])
    cues = []
    for (i, timing), (following, _) in zip(timings, [*timings[1:], (len(lines), None)], strict=True):
        payload = [line for line in lines[i + 1 : following] if line.strip()]
        if is_counted and following < len(lines) and payload and payload[-1].strip().isdigit():
            payload.pop()  # the counter of the next cue
        cues.append(_raw_cue(timing, payload))
    return cues


def _read_json3(text: str) -> list[_RawCue]:
    cues: list[_RawCue] = []
    durations: set[int | None] = set()
    for event in json.loads(text)["events"]:
        if "segs" not in event or event.get("aAppend") == 1:
            continue
        words = "".join(segment.get("utf8", "") for segment in event["segs"]).strip()
        if words:
            start, duration = float(event["tStartMs"]), event.get("dDurationMs")
            durations.add(duration)
            cues.append(_RawCue(start / 1000, None if duration is None else (start + duration) / 1000, (words,)))
    if len(cues) > 1 and durations == {int(_PLACEHOLDER_SECONDS * 1000)}:
        cues = [_RawCue(cue.t0, None, cue.lines) for cue in cues]
    return cues


def _read_xml(text: str, format: Format) -> tuple[list[_RawCue], str | None]:
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError("declares a document type")
    root = ElementTree.fromstring(re.sub(r"^\s*<\?xml[^>]*\?>", "", text.lstrip("\ufeff")))
    if format == "ttml":
        return list(_ttml_cues(root, _TtmlClock(root), 0.0, None)), root.get(_LANG)
    if format == "srv1":
        found = [(e, float(e.attrib["start"]), e.get("dur")) for e in root.iter("text")]
        return [_xml_cue(e, start, float(dur) if dur else None) for e, start, dur in found], None
    rows = [(e, float(e.attrib["t"]) / 1000, e.get("d")) for e in root.iter("p") if e.get("a") != "1"]
    return [_xml_cue(e, start, float(dur) / 1000 if dur else None) for e, start, dur in rows], None


def _xml_cue(element: ElementTree.Element, start: float, duration: float | None) -> _RawCue:
    words = _without_markup(html.unescape("".join(element.itertext())))  # escaped twice at times
    lines = tuple(" ".join(line.split()) for line in words.split("\n") if line.strip())
    return _RawCue(start, None if duration is None else start + duration, lines)


class _TtmlClock:
    """Reads TTML's time expressions with the document's frame and tick rates."""

    def __init__(self, root: ElementTree.Element) -> None:
        rates = {name.rpartition("}")[2]: value for name, value in root.attrib.items()}
        above, below = [*rates.get("frameRateMultiplier", "1 1").replace(":", " ").split(), "1"][:2]
        self.frames = float(rates.get("frameRate", "30")) * float(above) / float(below)
        self.ticks = float(rates.get("tickRate", "1"))

    def seconds(self, expression: str | None) -> float | None:
        """Return the seconds of an expression, or None if there is none."""
        if expression is None:
            return None
        match = _TTML_TIME.match(expression.strip())
        if match is None:
            raise ValueError(f"{expression!r} is no time")
        hours, minutes, seconds, fraction, frames, count, unit = match.groups()
        if unit:
            scale = {"h": 3600, "m": 60, "s": 1, "ms": 0.001, "f": 1 / self.frames, "t": 1 / self.ticks}
            return float(count) * scale[unit]
        whole = int(hours) * 3600 + int(minutes) * 60 + int(seconds)
        return whole + float(fraction or 0) + float(frames or 0) / self.frames


def _ttml_cues(element: ElementTree.Element, clock: _TtmlClock, base: float, limit: float | None) -> Iterator[_RawCue]:
    """Yield the cues of an element, whose times count from its parent's begin and are its parent's if it has none."""
    begin, end, duration = (clock.seconds(element.get(name)) for name in ("begin", "end", "dur"))
    start = base + (begin or 0.0)
    stops = [base + end] if end is not None else [start + duration] if duration is not None else []
    stop = min([*stops, *([limit] if limit is not None else [])], default=None)
    name = element.tag.rpartition("}")[2]
    has_timed_parts = any(child.get("begin") is not None for child in element.iter() if child is not element)
    if name in ("p", "span") and not has_timed_parts:
        text = "".join(_ttml_text(element))
        lines = tuple(" ".join(line.split()) for line in text.split("\n") if line.strip())
        yield _RawCue(start, stop, lines)
        return
    for child in element:
        yield from _ttml_cues(child, clock, start, stop)


def _ttml_text(element: ElementTree.Element) -> Iterator[str]:
    yield re.sub(r"\s+", " ", element.text or "")
    for child in element:
        name = child.tag.rpartition("}")[2]
        if name == "br":
            yield "\n"
        elif name != "metadata":
            yield from _ttml_text(child)
        yield re.sub(r"\s+", " ", child.tail or "")


def _rolls(cues: list[_RawCue]) -> bool:
    """Return whether lines with times of words return as plain lines in the next cue; those of karaoke do not."""
    num_built = num_returned = 0
    for cue, following in itertools.pairwise(cues):
        built = [line for line, is_built in zip(cue.lines, cue.is_built, strict=False) if is_built]
        num_built += len(built)
        num_returned += sum(line in following.lines for line in built)
    return num_built > 0 and 2 * num_returned >= num_built


def _without_repetition(cues: list[_RawCue]) -> tuple[list[_RawCue], bool]:
    """Return the cues with only the new text of each, and whether anything was removed.

    A line that the previous cue showed is not new; each of its lines counts once, so that a word said twice is kept
    twice. From the rest, a beginning of three or more words that is the end of the previous cue is removed.
    """
    kept: list[_RawCue] = []
    shown: tuple[str, ...] = ()
    is_changed = False
    for cue in cues:
        old = Counter(shown)
        new: list[str] = []
        is_built = cue.is_built or (False,) * len(cue.lines)
        for line, built in zip(cue.lines, is_built, strict=True):
            if not built and old[line] > 0:
                old[line] -= 1
            else:
                new.append(line)
        words, before = " ".join(new).split(), " ".join(shown).split()
        if not any(is_built):
            longest = range(min(len(words), len(before)), _MIN_OVERLAP_WORDS - 1, -1)
            words = words[next((n for n in longest if before[-n:] == words[:n]), 0) :]
        is_changed = is_changed or len(words) < len(" ".join(cue.lines).split())
        shown = cue.lines
        if words:
            kept.append(_RawCue(cue.t0, cue.t1, (" ".join(words),)))
    return kept, is_changed


def _finish(raw: list[_RawCue], strips: bool) -> tuple[list[Cue], int]:
    """Return the cues with clean text, known ends and no overlap, and the number of non-speech marks found."""
    texts: list[tuple[_RawCue, str]] = []
    num_non_speech = 0
    for cue in raw:
        text = " ".join(cue.lines)
        num_non_speech += len(_NON_SPEECH.findall(text))
        text = clean_text(" ".join((_NON_SPEECH.sub(" ", text) if strips else text).split()))
        text = text.translate({0x200E: None, 0x200F: None})  # direction marks: &lrm; &rlm;
        if text:
            texts.append((cue, text))
    cues: list[Cue] = []
    latest: float | None = None
    following: float | None = None  # start of the next cue that starts later; cues that start together may overlap
    for cue, text in reversed(texts):
        if latest is not None and cue.t0 < latest:
            following = latest
        latest = cue.t0
        end = cue.t1 if cue.t1 is not None and cue.t1 > cue.t0 else following
        end = cue.t0 + _PLACEHOLDER_SECONDS if end is None else end
        cues.append(Cue(round(cue.t0, 3), round(end if following is None else min(end, following), 3), text))
    return cues[::-1], num_non_speech
