"""Files of timed text in six formats, as their first characters show: the cues as each file has them.

pysubs2 (1.8 and 1.9 were tried) reads WebVTT as if it were SubRip: names of cues and NOTEs become text, a number that
ends a text is lost, and a line with two word times is taken for a new cue. Of TTML it knows neither `dur`, frames and
ticks nor times of a `div` or `span`.
"""

import json
import math
import re
from typing import Any, Literal

from pipelines.video.raw_cues import PLACEHOLDER_SECONDS, MalformedCue, RawCue, RawCues
from pipelines.video.timed_lines import has_timing, read_srt, read_vtt
from pipelines.video.timed_xml import read_xml

Format = Literal["vtt", "srt", "ttml", "json3", "srv1", "srv3"]

PREFERRED_FORMATS: tuple[Format, ...] = ("json3", "srv3", "vtt", "srt", "ttml", "srv1")
"""Best first: what keeps most of the timing."""

_JSON_OBJECT = re.compile(r'\{\s*(?:"|\}|\Z)')  # neither `{\an8}` of SubStation nor `{0}{25}` of MicroDVD
_ROOT = re.compile(r"<(?:\w{1,20}:)?(tt|timedtext|transcript)\b")


def sniff(text: str) -> Format | None:
    """Return the format that the first characters show, or None."""
    start = text[:20_000].lstrip("\ufeff \t\n")
    if start[:6].upper() == "WEBVTT":
        return "vtt"
    if _JSON_OBJECT.match(start):
        return "json3"
    root = _ROOT.search(start[:2000]) if start.startswith("<") else None
    if root is not None:
        by_root: dict[str, Format] = {"tt": "ttml", "timedtext": "srv3", "transcript": "srv1"}
        return by_root[root[1]]
    return "srt" if has_timing(start) else None


def read_cues(text: str, format: Format) -> RawCues:
    """Return the cues of a file.

    Raises:
        ValueError: If the file is malformed.
    """
    try:
        if format == "vtt":
            return read_vtt(text)
        if format == "srt":
            return read_srt(text)
        if format == "json3":
            return _read_json3(text)
        return read_xml(text, format)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{format}: {error}") from error


def _read_json3(text: str) -> RawCues:
    found = RawCues()
    durations: set[float | None] = set()
    for event in json.loads(text)["events"]:
        if not isinstance(event, dict):
            found.malformed.append(MalformedCue(f"an event that is no object but {type(event).__name__}", ""))
            continue
        if "segs" not in event or event.get("aAppend") == 1:
            continue
        segments = event["segs"] if isinstance(event["segs"], list) else []
        words = "".join(s["utf8"] for s in segments if isinstance(s, dict) and isinstance(s.get("utf8"), str)).strip()
        if not words and segments == event["segs"]:
            continue
        start, duration = _milliseconds(event.get("tStartMs")), _milliseconds(event.get("dDurationMs"))
        if start is None or not words:
            times = {name: value for name, value in event.items() if name != "segs"}
            found.malformed.append(MalformedCue(repr(times)[:100], words))
            continue
        durations.add(duration)
        found.cues.append(RawCue(start / 1000, None if duration is None else (start + duration) / 1000, (words,)))
    if len(found.cues) > 1 and durations == {PLACEHOLDER_SECONDS * 1000}:
        found.cues = [RawCue(cue.t0, None, cue.lines) for cue in found.cues]
    return found


def _milliseconds(value: Any) -> float | None:
    """Return a time of json3, a number or its text; None if there is none."""
    try:
        number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
