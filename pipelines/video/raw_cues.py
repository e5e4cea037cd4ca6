"""Cues as a file of timed text has them, before repetition is removed, and the markup in their lines."""

import html
import re
from dataclasses import dataclass, field
from typing import NamedTuple

PLACEHOLDER_SECONDS = 3.0
"""What json3 gives to sentences whose end it does not know."""

_INLINE_TIME = re.compile(r"<(?:\d+:)?\d{2}:\d{2}\.\d{3}>")
_ANGLED = re.compile(r"<([^<>]{1,500})>")
_OVERRIDE = re.compile(r"\{\\[^{}]{0,200}\}")  # of SubStation, as in {\an8}
_READING = re.compile(r"<rt\b[^<>]{0,200}>[^<>]{0,500}(?:</rt>|(?=</ruby>)|$)")
# Elements of WebVTT, and those of HTML that SubRip's players know. What else stands in angle brackets was written to be
# read: `x < 4 and y > 5`, `<Mary>`. Words after the name are a value of `v` and `lang` only; elsewhere attributes.
# Machine translation puts spaces into tags: `</ i>`, `< font color = "# fff" >`; a value may lack its second quote.
_TAG = re.compile(
    r"""(?P<space>\s{0,3})(?P<end>/?)\s{0,3}(?P<name>(?i:a|b|big|br|c|center|del|div|em|font|i|ins|lang|p|rt|ruby|s|small|span|strike|strong|sub|sup|tt|u|v))
    (?:\.[^\s.&]{1,100})*
    (?P<attributes>(?:\s+[\w:-]{1,40}\s*=\s*(?:"[^"]*(?:"|\Z)|'[^']*(?:'|\Z)|[^\s"'/]+))*)
    \s{0,3}/?\s{0,3}""",
    re.VERBOSE,
)
_END_TAG = re.compile(r"<\s{0,3}/\s{0,3}(\w{1,6})\s{0,3}>")
_VOICE = re.compile(r"(?:v|lang)(?:\.[^\s.&]{1,100})*\s.*", re.DOTALL)
_TIME_TAG = re.compile(r"(?:\d+:)?\d{2}:\d{2}\.\d{3}")
_BREAKS = frozenset({"br", "div", "p"})


@dataclass(frozen=True, slots=True)
class RawCue:
    """A cue as the file has it: lines without markup, which of them were being built, its end if it is known."""

    t0: float
    t1: float | None
    lines: tuple[str, ...]
    is_built: tuple[bool, ...] = ()


class MalformedCue(NamedTuple):
    """A cue whose start cannot be read: how its times are written, and its text."""

    times: str
    text: str


@dataclass(slots=True)
class RawCues:
    """Cues of a file in its order, the language that it states, and its cues that cannot be read.

    `fault` is what is wrong with the file as a whole, although cues could be read.
    """

    cues: list[RawCue] = field(default_factory=list)
    lang: str | None = None
    malformed: list[MalformedCue] = field(default_factory=list)
    fault: str | None = None


def without_markup(line: str) -> str:
    """Return the text of a line, without tags of a known name and readings of ruby, and with entities replaced."""
    line = _OVERRIDE.sub("", _READING.sub("", line))
    ended = {name.lower() for name in _END_TAG.findall(line)}
    return html.unescape(_ANGLED.sub(lambda angled: _untagged(angled, ended), line))


def shown_cue(t0: float, t1: float | None, lines: list[str]) -> RawCue:
    """Return a cue of lines with WebVTT's or SubRip's markup; those that show nothing are left out."""
    texts = [(" ".join(without_markup(line).split()), _INLINE_TIME.search(line) is not None) for line in lines]
    shown = [(text, is_built) for text, is_built in texts if text]
    return RawCue(t0, t1, tuple(text for text, _ in shown), tuple(is_built for _, is_built in shown))


def _untagged(angled: re.Match[str], ended: set[str]) -> str:
    """Return what stands for something in angle brackets; `x < b > y` is a tag only if `</b>` is in the line."""
    inner = angled[1]
    tag = _TAG.fullmatch(inner)
    if tag and (not tag["space"] or tag["end"] or tag["attributes"] or tag["name"].lower() in ended):
        return " " if tag["name"].lower() in _BREAKS else ""
    return "" if _TIME_TAG.fullmatch(inner) or _VOICE.fullmatch(inner) else angled[0]
