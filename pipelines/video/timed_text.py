"""Readers of timed text: the cues of a WebVTT, SubRip, TTML, json3, srv1 or srv3 file, as the file has them.

pysubs2 (1.8 and 1.9 were tried) reads WebVTT as if it were SubRip: names of cues and NOTEs become text, a number that
ends a text is lost, and a line with two word times is taken for a new cue. Of TTML it knows neither `dur`, frames and
ticks nor times of a `div` or `span`.
"""

import html
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal
from xml.etree import ElementTree

Format = Literal["vtt", "srt", "ttml", "json3", "srv1", "srv3"]

PREFERRED_FORMATS: tuple[Format, ...] = ("json3", "srv3", "vtt", "srt", "ttml", "srv1")
"""Best first: what keeps most of the timing."""

PLACEHOLDER_SECONDS = 3.0
"""What json3 gives to sentences whose end it does not know."""

_TIME = r"(?:(\d{1,4}):)?(\d{1,2}):(\d{2})(?:[.,](\d{1,3}))?"
_TIMING = re.compile(rf"^\s*{_TIME}\s*-->\s*{_TIME}")
_INLINE_TIME = re.compile(r"<(?:\d+:)?\d{2}:\d{2}\.\d{3}>")
_MARKUP = re.compile(r"<[^<>]{0,500}>|\{\\[^{}]{0,200}\}")
_TTML_TIME = re.compile(r"^(?:(\d+):(\d{2}):(\d{2})(?:(\.\d+)|:(\d+(?:\.\d+)?))?|(\d+(?:\.\d+)?)(h|ms|m|s|f|t))$")
_LANG = "{http://www.w3.org/XML/1998/namespace}lang"


@dataclass(frozen=True, slots=True)
class RawCue:
    """A cue as the file has it: lines without markup, which of them were being built, its end if it is known."""

    t0: float
    t1: float | None
    lines: tuple[str, ...]
    is_built: tuple[bool, ...] = ()


def read_cues(text: str, format: Format) -> tuple[list[RawCue], str | None]:
    """Return the cues of a file and the language that it states, if any.

    Raises:
        ValueError: If the file is malformed.
    """
    try:
        if format == "vtt":
            return _read_vtt(text)
        if format == "srt":
            return _read_srt(text), None
        if format == "json3":
            return _read_json3(text), None
        return _read_xml(text, format)
    except (ValueError, KeyError, TypeError, AttributeError, ElementTree.ParseError, RecursionError) as error:
        raise ValueError(f"{format}: {error}") from error


def sniff(text: str) -> Format | None:
    """Return the format that the first characters show, or None."""
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
    return None


def _seconds(groups: Sequence[str | None]) -> float:
    hours, minutes, seconds, fraction = groups
    return int(hours or 0) * 3600 + int(minutes or 0) * 60 + int(seconds or 0) + float(f"0.{fraction or 0}")


def _without_markup(line: str) -> str:
    return html.unescape(_MARKUP.sub("", line))


def _raw_cue(timing: re.Match[str], lines: list[str]) -> RawCue:
    groups = timing.groups()
    shown = [line for line in lines if _without_markup(line).strip()]
    return RawCue(
        _seconds(groups[:4]),
        _seconds(groups[4:]),
        tuple(" ".join(_without_markup(line).split()) for line in shown),
        tuple(_INLINE_TIME.search(line) is not None for line in shown),
    )


def _read_vtt(text: str) -> tuple[list[RawCue], str | None]:
    lines = text.lstrip("\ufeff").split("\n")
    if not lines[0].startswith("WEBVTT"):
        raise ValueError("does not begin with WEBVTT")
    cues: list[RawCue] = []
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
        while at < len(lines) and lines[at] != "" and "-->" not in lines[at]:  # a line of one space is no blank line
            payload.append(lines[at])
            at += 1
        cues.append(_raw_cue(timing, payload))
    return cues, lang


def _read_srt(text: str) -> list[RawCue]:
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


def _read_json3(text: str) -> list[RawCue]:
    cues: list[RawCue] = []
    durations: set[int | None] = set()
    for event in json.loads(text)["events"]:
        if "segs" not in event or event.get("aAppend") == 1:
            continue
        words = "".join(segment.get("utf8", "") for segment in event["segs"]).strip()
        if words:
            start, duration = float(event["tStartMs"]), event.get("dDurationMs")
            durations.add(duration)
            cues.append(RawCue(start / 1000, None if duration is None else (start + duration) / 1000, (words,)))
    if len(cues) > 1 and durations == {int(PLACEHOLDER_SECONDS * 1000)}:
        cues = [RawCue(cue.t0, None, cue.lines) for cue in cues]
    return cues


def _read_xml(text: str, format: Format) -> tuple[list[RawCue], str | None]:
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


def _xml_cue(element: ElementTree.Element, start: float, duration: float | None) -> RawCue:
    words = _without_markup(html.unescape("".join(element.itertext())))  # escaped twice at times
    lines = tuple(" ".join(line.split()) for line in words.split("\n") if line.strip())
    return RawCue(start, None if duration is None else start + duration, lines)


class _TtmlClock:
    """Reads TTML's time expressions with the document's frame and tick rates."""

    def __init__(self, root: ElementTree.Element) -> None:
        rates = {name.rpartition("}")[2]: value for name, value in root.attrib.items()}
        above, below = [*rates.get("frameRateMultiplier", "1 1").replace(":", " ").split(), "1"][:2]
        self.frames = float(rates.get("frameRate", "30")) * float(above) / float(below)
        self.ticks = float(rates.get("tickRate", "1"))

    def seconds(self, expression: str | None) -> float | None:
        """Seconds, or None where nothing is said."""
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


def _ttml_cues(element: ElementTree.Element, clock: _TtmlClock, base: float, limit: float | None) -> Iterator[RawCue]:
    """Cues below an element; its times count from its parent's begin, and are its parent's where it has none."""
    begin, end, duration = (clock.seconds(element.get(name)) for name in ("begin", "end", "dur"))
    start = base + (begin or 0.0)
    stops = [base + end] if end is not None else [start + duration] if duration is not None else []
    stop = min([*stops, *([limit] if limit is not None else [])], default=None)
    name = element.tag.rpartition("}")[2]
    has_timed_parts = any(child.get("begin") is not None for child in element.iter() if child is not element)
    if name in ("p", "span") and not has_timed_parts:
        text = "".join(_ttml_text(element))
        lines = tuple(" ".join(line.split()) for line in text.split("\n") if line.strip())
        yield RawCue(start, stop, lines)
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
