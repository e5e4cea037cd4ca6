"""TTML and YouTube's srv1 and srv3: cues as elements of XML.

Files that are not well-formed are read as far as they go: bare `&` and `<` are text, a cue ends where the next begins,
and lxml's recovery reads the rest, whose fault is told, since what follows it may be lost.
"""

import html
import math
import re
from collections.abc import Iterator
from typing import Any, Literal
from xml.etree import ElementTree

from lxml import etree

from pipelines.video.raw_cues import MalformedCue, RawCue, RawCues, without_markup

XmlFormat = Literal["ttml", "srv1", "srv3"]

_TTML_TIME = re.compile(
    r"(?:(?:(\d+):)?(\d{1,3}):(\d{1,2})(?:[.,](\d+)|:(\d+(?:\.\d+)?))?|(\d+(?:\.\d+)?)\s?(h|ms|m|s|f|t)?)"
)
_XML = "{http://www.w3.org/XML/1998/namespace}"
_STYLING = "{http://www.w3.org/ns/ttml#styling}"
_RUBY_READINGS = frozenset({"text", "textContainer", "delimiter"})
_DECLARATION = re.compile(r"\s*<\?xml[^>]{0,500}\?>")
_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff\ud800-\udfff]")
_BARE_AND = re.compile(r"&(?!(?:amp|lt|gt|quot|apos|#\d{1,7}|#[xX][0-9a-fA-F]{1,6});)")
_BARE_LESS = re.compile(r"<(?![A-Za-z_/!?])")
_DOCTYPE = re.compile(  # without declarations of its own, which may hide a bomb
    r"<!DOCTYPE\s{1,9}[\w:.-]{1,99}(?:\s{1,9}(?:SYSTEM|PUBLIC)(?:\s{1,9}(?:\"[^\"<>\[]{0,299}\"|'[^'<>\[]{0,299}')){1,2})?\s{0,9}>"
)
_CUE_TAG = re.compile(r"<(?P<end>/?)(?P<name>(?:\w{1,20}:)?(?P<local>\w{1,12}))\b[^<>]{0,2000}?(?P<empty>/?)>")
_CUES, _CONTAINERS = ("p", "text"), ("div", "body", "tt", "timedtext", "transcript")
_NAMED = re.compile(r"&(?!(?:amp|lt|gt|quot|apos);)[A-Za-z][A-Za-z0-9]{1,30};")


def read_xml(text: str, format: XmlFormat) -> RawCues:
    """Return the cues of a file.

    Raises:
        ValueError: If it declares entities or elements of its own, which may hide a bomb, or no element can be read.
    """
    text = _DOCTYPE.sub("", _NOT_XML.sub("", text.lstrip("\ufeff")))
    if "<!DOCTYPE" in text:
        raise ValueError("declares a document type of its own")
    declaration = _DECLARATION.match(text)
    root, fault = _parse(text[declaration.end() :] if declaration else text)
    if format == "ttml":
        found = RawCues(lang=root.get(_XML + "lang") or None, fault=fault)
        _read_ttml(found, root, _Clock(root), 0.0, None)
        return found
    name, start, duration, unit = ("text", "start", "dur", 1.0) if format == "srv1" else ("p", "t", "d", 0.001)
    found = RawCues(fault=fault)
    for element in root.iter():
        if _name(element) != name or element.get("a") == "1":  # a="1": the line break that a rolling caption adds
            continue
        words = without_markup(html.unescape("".join(_own_text(element, name))))  # escaped twice at times
        lines = tuple(" ".join(line.split()) for line in words.split("\n") if line.strip())
        t0, seconds = _number(element.get(start)), _number(element.get(duration))
        if t0 is not None:
            t1 = None if seconds is None else (t0 + seconds) * unit
            found.cues.append(RawCue(t0 * unit, t1, lines))
        elif lines:
            found.malformed.append(_malformed(element, " ".join(lines)))
    return found


def _parse(text: str) -> tuple[Any, str | None]:
    """Return the root of a document, and what is wrong with it after mending.

    Elements of lxml have the methods of those of the standard library.
    """
    try:
        return ElementTree.fromstring(text), None
    except ElementTree.ParseError:
        mended = _NAMED.sub(lambda entity: html.unescape(entity[0]), text)
        mended = _with_ends(_BARE_LESS.sub("&lt;", _BARE_AND.sub("&amp;", mended)))
    try:
        return ElementTree.fromstring(mended), None
    except ElementTree.ParseError as error:
        parser = etree.XMLParser(recover=True, no_network=True, remove_comments=True, remove_pis=True)
        root = etree.fromstring(mended.encode(), parser)
        if root is None:
            raise ValueError(str(error)) from error
        return root, str(error)


def _with_ends(text: str) -> str:
    """Return markup in which each cue ends before the next one and before the end of what holds it."""
    pieces: list[str] = []
    at = 0
    open_cue: str | None = None
    for tag in _CUE_TAG.finditer(text):
        is_cue, is_end = tag["local"] in _CUES, bool(tag["end"])
        if open_cue is not None and ((is_cue and not is_end) or (is_end and tag["local"] in _CONTAINERS)):
            pieces += [text[at : tag.start()], f"</{open_cue}>"]
            at, open_cue = tag.start(), None
        if is_cue:
            open_cue = None if is_end or tag["empty"] else tag["name"]
    return "".join(pieces) + text[at:]


def _own_text(element: Any, name: str) -> Iterator[str]:
    """Yield the text of an element, without that of elements of its own name: those whose end tag is missing."""
    yield element.text or ""
    for child in element:
        if _name(child) != name:
            yield from _own_text(child, name)
        yield child.tail or ""


def _name(element: Any) -> str:
    return str(element.tag).rpartition("}")[2].rpartition(":")[2]


def _number(value: str | None) -> float | None:
    try:
        number = float(value) if value else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _rate(value: str | None) -> float | None:
    """Return what is stated, unless no clock can run so fast or slow: it divides, also multiplied by another."""
    number = _number(value)
    return number if number is not None and 1e-6 <= number <= 1e12 else None


def _malformed(element: Any, words: str) -> MalformedCue:
    attributes = " ".join(f'{name.rpartition("}")[2]}="{value}"' for name, value in element.items())
    return MalformedCue(f"<{_name(element)} {attributes[:100]}>", words)


class _Clock:
    """Reads TTML's time expressions with the document's frame and tick rates."""

    def __init__(self, root: Any) -> None:
        rates = {name.rpartition("}")[2].rpartition(":")[2]: value for name, value in root.items()}
        above, below = [*rates.get("frameRateMultiplier", "").replace(":", " ").split(), "1", "1"][:2]
        sub_frames = _rate(rates.get("subFrameRate")) or 1.0
        multiplier = (_rate(above) or 1.0) / (_rate(below) or 1.0)
        self.frames = (_rate(rates.get("frameRate")) or 30.0) * multiplier
        self.ticks = _rate(rates.get("tickRate")) or (self.frames * sub_frames if "frameRate" in rates else 1.0)

    def seconds(self, expression: str | None) -> float | None:
        """Return seconds, or None where nothing is said.

        Raises:
            ValueError: If the expression is no time.
        """
        if expression is None:
            return None
        match = _TTML_TIME.fullmatch(expression.strip())
        if match is None:
            raise ValueError(f"{expression!r} is no time")
        hours, minutes, seconds, fraction, frames, count, unit = match.groups()
        if count:
            scale = {"h": 3600, "m": 60, "s": 1, "ms": 0.001, "f": 1 / self.frames, "t": 1 / self.ticks}
            return float(count) * scale[unit or "s"]
        whole = int(hours or 0) * 3600 + int(minutes) * 60 + int(seconds)
        return whole + float(f"0.{fraction or 0}") + float(frames or 0) / self.frames

    def seconds_or_none(self, expression: str | None) -> float | None:
        """Return seconds, or None where nothing is said that can be read."""
        try:
            return self.seconds(expression)
        except ValueError:
            return None


def _read_ttml(found: RawCues, element: Any, clock: _Clock, base: float, limit: float | None) -> None:
    """Add the cues below an element; times count from its parent's begin, and are its parent's where it has none."""
    try:
        begin = clock.seconds(element.get("begin"))
    except ValueError:
        timed = [e for e in element.iter() if _name(e) == "p"] or [element]
        lost = [(e, " ".join("".join(_text(e)).split())) for e in timed]
        found.malformed += [_malformed(e, words) for e, words in lost if words]
        return
    end, duration = (clock.seconds_or_none(element.get(name)) for name in ("end", "dur"))
    start = base + (begin or 0.0)
    stops = [base + end] if end is not None else [start + duration] if duration is not None else []
    stop = min([*stops, *([limit] if limit is not None else [])], default=None)
    if _name(element) in ("p", "span"):  # else its text is only the space between elements
        lines = tuple(" ".join(line.split()) for line in "".join(_text(element, only_untimed=True)).split("\n"))
        if shown := tuple(line for line in lines if line):
            found.cues.append(RawCue(start, stop, shown))
        parts = [*_timed_parts(element)]
    else:
        parts = list(element)
    for part in parts:
        _read_ttml(found, part, clock, start, stop)


def _timed_parts(element: Any) -> Iterator[Any]:
    """Yield the outermost elements below one that have a begin of their own."""
    for child in element:
        if child.get("begin") is not None:
            yield child
        else:
            yield from _timed_parts(child)


def _text(element: Any, *, only_untimed: bool = False) -> Iterator[str]:
    """Yield the text of an element, without readings of ruby; at choice without the parts that have their own times."""
    yield re.sub(r"\s+", " ", element.text or "")
    for child in element:
        name = _name(child)
        if name == "br":
            yield "\n"
        elif (
            name != "metadata"
            and child.get(_STYLING + "ruby") not in _RUBY_READINGS
            and not (only_untimed and child.get("begin") is not None)
        ):
            yield from _text(child, only_untimed=only_untimed)
        yield re.sub(r"\s+", " ", child.tail or "")
