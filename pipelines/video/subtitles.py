"""Timed text in WebVTT, SubRip, TTML and YouTube's json3, srv1 and srv3, as one list of cues without repetition.

Automatic captions roll: each line is shown while it is built, held, and shown again above the next one. Only such
repetition is removed: in human captions a repeated line is spoken twice.
"""

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import Field

from pipelines.candidate import Track
from pipelines.document import clean_text
from pipelines.drop_reasons import Reason
from pipelines.settings import Settings
from pipelines.text.encodings import decode_text
from pipelines.video.raw_cues import PLACEHOLDER_SECONDS, MalformedCue, RawCue, RawCues
from pipelines.video.timed_text import Format, read_cues, sniff

_MIN_OVERLAP_WORDS = 3  # a shorter overlap of two cues may be real repetition
_MAX_OVERLAP_WORDS = 200  # a line has some ten; without a bound, a cue of a whole track's words takes hours
_MAX_CUES = 100_000
_MAX_SECONDS = 1e6  # eleven days; beyond, a time is an overflow or one of the day

_XML_ENCODING = re.compile(rb"""\s*<\?xml\b[^>]*?\bencoding\s*=\s*["']([\w.:-]{1,40})["']""")
_NON_SPEECH = re.compile(r"\[[^\[\]\n]{0,60}\]|[♩♪♫♬🎵🎶]+|(?:^|(?<=\s))>{2,3}(?=\s|$)")


class SubtitleSettings(Settings):
    """Parts of timed text that are kept."""

    non_speech: Literal["strip", "keep"] = Field(
        default="strip", description="[Music], notes and the speaker mark >>: removed or kept."
    )


@dataclass(frozen=True, slots=True)
class LostText:
    """Timed text that a video does not get: a whole track, or a cue of the one that it has, whose text this is."""

    unit: Literal["track", "cue"]
    reason: Reason
    detail: str | None = None
    url: str | None = None
    text: str | None = None


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
    """Cues in time order, whether they rolled, the language if the file states it, and the number of removed marks.

    `malformed` are the cues that could not be read. `fault` is what is wrong with the file; cues after it may be lost.
    """

    cues: tuple[Cue, ...]
    is_rolling: bool = False
    lang: str | None = None
    num_non_speech: int = 0
    malformed: tuple[MalformedCue, ...] = ()
    fault: str | None = None


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
    text = decode_text(data, charset, _declared_encoding(data))
    for line_end in ("\r\r\n", "\r\n", "\r"):
        text = text.replace(line_end, "\n")
    format = sniff(text) or format
    if format is None:
        raise SubtitlesRejected("subtitles_unsupported", f"begins with {text.lstrip()[:40]!r}")
    try:
        found = read_cues(text, format)
    except ValueError as error:
        raise SubtitlesRejected("subtitles_malformed", str(error)) from error
    may_roll = is_automatic and format in ("vtt", "srt", "ttml")
    return join_cues(found, format, may_roll=may_roll, settings=settings)


def join_cues(
    found: RawCues, name: str, *, may_roll: bool = False, settings: SubtitleSettings | None = None
) -> Subtitles:
    """Return the cues of a track as one list: in order of time, without overlap, repetition and non-speech.

    Args:
        found: The cues as the track has them.
        name: What the track is, for the reason to reject it.
        may_roll: Whether repetition is removed even where no word times show it.
        settings: What is kept.

    Raises:
        SubtitlesRejected: With its reason.
    """
    raw = found.cues
    if (num := len(raw) + len(found.malformed)) > _MAX_CUES:
        raise SubtitlesRejected("subtitles_malformed", f"{name}: {num} cues, at most {_MAX_CUES}")
    raw, malformed = _within_bounds(raw)
    malformed = [*found.malformed, *malformed]
    raw = sorted(raw, key=lambda cue: cue.t0)
    is_rolling = False
    if _rolls(raw) or may_roll:
        raw, is_rolling = _without_repetition(raw)
    cues, num_non_speech = _finish(raw, (settings or SubtitleSettings()).non_speech == "strip")
    if not cues and (malformed or found.fault):
        what = found.fault or f"such as {malformed[0].times!r}"
        raise SubtitlesRejected("subtitles_malformed", f"{name}: no cue can be read: {what}")
    if not cues:
        raise SubtitlesRejected("subtitles_empty", f"{name}: no cue with words")
    return Subtitles(tuple(cues), is_rolling, found.lang, num_non_speech, tuple(malformed), found.fault)


def lost_cues(subtitles: Subtitles, url: str | None) -> tuple[LostText, ...]:
    """Return the cues of a track that could not be read, and the place after which more may be lost."""
    lost = [LostText("cue", "malformed_cue", cue.times, url, cue.text or None) for cue in subtitles.malformed]
    if subtitles.fault is not None:
        lost.append(LostText("cue", "malformed_cue", f"cues may be lost after: {subtitles.fault}", url))
    return tuple(lost)


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


def _declared_encoding(data: bytes) -> str | None:
    """Return the encoding that an XML declaration names."""
    declared = _XML_ENCODING.match(data[:300])
    return declared[1].decode("ascii") if declared else None


def _within_bounds(cues: list[RawCue]) -> tuple[list[RawCue], list[MalformedCue]]:
    """Return the cues whose times a video can have, and the others; what begins before the beginning begins there."""
    kept: list[RawCue] = []
    malformed: list[MalformedCue] = []
    for cue in cues:
        t1 = cue.t1 if cue.t1 is not None and cue.t1 < _MAX_SECONDS else None
        if cue.t0 < _MAX_SECONDS and (cue.t0 >= 0 or t1 is None or t1 > 0):
            kept.append(replace(cue, t0=max(cue.t0, 0.0), t1=t1))
        elif cue.lines:
            malformed.append(
                MalformedCue(f"{cue.t0:g} s --> {'?' if cue.t1 is None else f'{cue.t1:g} s'}", " ".join(cue.lines))
            )
    return kept, malformed


def _rolls(cues: list[RawCue]) -> bool:
    """Return whether lines with times of words return as plain lines in the next cue; those of karaoke do not."""
    num_built = num_returned = 0
    for cue, following in itertools.pairwise(cues):
        built = [line for line, is_built in zip(cue.lines, cue.is_built, strict=False) if is_built]
        num_built += len(built)
        num_returned += sum(line in following.lines for line in built)
    return num_built > 0 and 2 * num_returned >= num_built


def _without_repetition(cues: list[RawCue]) -> tuple[list[RawCue], bool]:
    """Return the cues with only the new text of each, and whether anything was removed.

    A line that the previous cue showed is not new; each of its lines counts once, so that a word said twice is kept
    twice. From the rest, a beginning of three or more words that is the end of the previous cue is removed.
    """
    kept: list[RawCue] = []
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
            longest = range(min(len(words), len(before), _MAX_OVERLAP_WORDS), _MIN_OVERLAP_WORDS - 1, -1)
            words = words[next((n for n in longest if before[-n:] == words[:n]), 0) :]
        is_changed = is_changed or len(words) < len(" ".join(cue.lines).split())
        shown = cue.lines
        if words:
            kept.append(RawCue(cue.t0, cue.t1, (" ".join(words),)))
    return kept, is_changed


def _finish(raw: list[RawCue], strips: bool) -> tuple[list[Cue], int]:
    """Return the cues with clean text, known ends and no overlap, and the number of non-speech marks found."""
    texts: list[tuple[RawCue, str]] = []
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
        end = cue.t0 + PLACEHOLDER_SECONDS if end is None else end
        cues.append(Cue(round(cue.t0, 3), round(end if following is None else min(end, following), 3), text))
    return cues[::-1], num_non_speech
