"""WebVTT and SubRip: cues as lines of text below a line with their times.

Times are written loosely in many files: with spaces, other arrows, a missing end. What can be read is read; a cue whose
start cannot is told as malformed, and its text never becomes that of the cue before.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from pipelines.video.raw_cues import MalformedCue, RawCues, shown_cue

_MAX_TIMING_CHARS = 300
_CLOCK = (
    r"(?P<minus{0}>-?)(?:(?P<h{0}>\d{{1,4}})\s?[:：]\s?)?(?P<m{0}>\d{{1,3}})\s?[:：]\s?(?P<s{0}>\d{{1,2}})"
    r"(?:\s?[.,:;，．。'](?:\s?(?P<f{0}>\d{{1,9}})))?(?!\d)"
)
_ARROW = re.compile(r"[-–—−=](?:\s?[-–—−=]){0,2}\s?(?:>|&gt;)|[→⇒]")
_START = re.compile(r"\s*(?:\d{1,6}[.)]?\s+)?" + _CLOCK.format("") + r"\s*")  # after the counter, on its line in some
_CLOCK_AT_START = re.compile(_CLOCK.format(""))
_LIKE_A_CLOCK = re.compile(r"\s*\d+\s?:")
_END_BEGINS = ("", *"0123456789:-")  # of an end that cannot be read; else an arrow in a sentence
# Without an arrow that is known, as in YouTube's sbv: only with fractions, which no sentence about hours has.
_PAIR = re.compile(r"\s*" + _CLOCK.format("0") + r"(?:[^\w\n]{1,5}|\s{1,3}to\s{1,3})" + _CLOCK.format("1") + r"\s*")


class Timing(NamedTuple):
    """What the line of a cue's times states: seconds, None where they cannot be read."""

    t0: float | None
    t1: float | None


def read_timing(line: str, *, is_after_break: bool) -> Timing | None:
    """Return the times of a line, or None for a line of text.

    Args:
        line: A line.
        is_after_break: Whether the line before is blank, a counter, or none: where the line of a cue's times stands.
    """
    if len(line) > _MAX_TIMING_CHARS:
        return None
    arrow = _ARROW.search(line)
    if arrow is None:
        pair = _PAIR.fullmatch(line) if is_after_break else None
        if pair is None or pair["f0"] is None or pair["f1"] is None:
            return None
        return Timing(_seconds(pair, "0"), _seconds(pair, "1"))
    may_be_odd = is_after_break or "-->" in line
    left, right = line[: arrow.start()], line[arrow.end() :].strip()
    start, end = _START.fullmatch(left), _CLOCK_AT_START.match(right)
    if start is not None and end is not None:
        has_fractions = start["f"] is not None and end["f"] is not None
        return Timing(_seconds(start), _seconds(end)) if may_be_odd or has_fractions else None
    if start is not None:
        return Timing(_seconds(start), None) if may_be_odd and right[:1] in _END_BEGINS else None
    is_odd = (end is not None and (":" in left or not left.strip())) or _LIKE_A_CLOCK.match(left) is not None
    is_where_times_stand = is_after_break and "-->" in line
    return Timing(None, None) if is_where_times_stand or (may_be_odd and is_odd) else None


def read_vtt(text: str) -> RawCues:
    """Return the cues of a WebVTT file.

    Raises:
        ValueError: If it is none.
    """
    lines = text.lstrip("\ufeff \t\n").split("\n")
    if not lines[0].upper().startswith("WEBVTT"):
        raise ValueError("does not begin with WEBVTT")
    found = RawCues()
    at = 1
    while at < len(lines) and lines[at] != "" and read_timing(lines[at], is_after_break=True) is None:
        name, _, value = lines[at].partition(":")
        found.lang = value.strip() or None if name.strip().lower() == "language" else found.lang
        at += 1
    while at < len(lines):
        line = lines[at]
        at += 1
        timing = None if line.startswith("NOTE") else read_timing(line, is_after_break=True)
        if timing is None:  # a name, a NOTE, a STYLE
            continue
        payload: list[str] = []
        # A line of one space is no blank line.
        while at < len(lines) and lines[at] != "" and read_timing(lines[at], is_after_break=False) is None:
            payload.append(lines[at])
            at += 1
        _add(found, line, timing, payload)
    return found


def read_srt(text: str) -> RawCues:
    """Return the cues of a SubRip file, with or without counters and blank lines.

    Raises:
        ValueError: If it has no times.
    """
    lines = text.lstrip("\ufeff").split("\n")
    timings = list(_timings(lines))
    if not timings:
        raise ValueError("no times")
    is_counted = any(line.strip().isdigit() for line in lines[: timings[0][0]])
    found = RawCues()
    ends = [*(i for i, _ in timings[1:]), len(lines)]
    for (i, timing), following in zip(timings, ends, strict=True):
        payload = [line for line in lines[i + 1 : following] if line.strip()]
        if is_counted and following < len(lines) and payload and payload[-1].strip().isdigit():
            payload.pop()  # the counter of the next cue
        _add(found, lines[i], timing, payload)
    return found


def has_timing(text: str) -> bool:
    """Return whether one of the first lines of a text gives the start of a cue."""
    return any(timing.t0 is not None for _, timing in _timings(text[:20_000].split("\n")))


def _timings(lines: list[str]) -> Iterator[tuple[int, Timing]]:
    """Yield the place of each line with times, and what it states."""
    before = ""
    for i, line in enumerate(lines):
        timing = read_timing(line, is_after_break=not before or before.isdigit())
        if timing is not None:
            yield i, timing
        before = line.strip()


def _add(found: RawCues, line: str, timing: Timing, payload: list[str]) -> None:
    t0, t1 = timing
    cue = shown_cue(max(t0 or 0.0, 0.0), t1, payload)
    if t0 is None or (t0 < 0 and t1 is not None and t1 <= 0):
        if cue.lines:
            found.malformed.append(MalformedCue(line.strip()[:100], " ".join(cue.lines)))
        return
    found.cues.append(cue)


def _seconds(clock: re.Match[str], which: str = "") -> float:
    minus, hours, minutes, seconds, fraction = (clock[name + which] for name in ("minus", "h", "m", "s", "f"))
    whole = int(hours or 0) * 3600 + int(minutes) * 60 + int(seconds)
    return (whole + float(f"0.{fraction or 0}")) * (-1 if minus else 1)
