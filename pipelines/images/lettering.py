"""Text of any script as lines: a font for each character, shapes that join, and right to left where it is read so.

Pillow shapes with Raqm where it can (its wheels hold it, but not FriBidi, which Linux has as `libfribidi0`); elsewhere
Arabic letters are joined by `arabic_reshaper`. The order on the line is that of the Unicode Bidirectional Algorithm
(python-bidi): each piece is drawn in one font and direction, so Raqm never sees a whole line.
"""

import functools
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import arabic_reshaper
from bidi import algorithm as bidi
from PIL import ImageFont

from pipelines.images.fonts import fonts_of, load_font

Run = tuple[str, str]
"""Text and its colour."""

_RIGHT_TO_LEFT = frozenset({"R", "AL", "RLE", "RLO", "RLI"})
_WITHOUT_DIRECTION = frozenset({"BN", "LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI", ""})


class Piece(NamedTuple):
    """Text that is drawn at once, `x` pixels from the left: in one font, colour and direction, in reading order."""

    x: float
    text: str
    colour: str
    font: ImageFont.FreeTypeFont
    is_right_to_left: bool

    @property
    def direction(self) -> str | None:
        """Pillow's name of the direction; None for a font whose text it does not shape, but takes as `drawn`."""
        return ("rtl" if self.is_right_to_left else "ltr") if self._is_shaped else None

    @property
    def drawn(self) -> str:
        """The text as Pillow is to draw it."""
        return self.text if self._is_shaped else _shaped(self.text, is_right_to_left=self.is_right_to_left)

    @property
    def _is_shaped(self) -> bool:
        return self.font.layout_engine == ImageFont.Layout.RAQM


def lines(runs: Iterable[Run], size: int, width: int) -> Iterator[list[Piece]]:
    """Yield the lines of a text, which are no wider than `width`; no empty ones.

    Lines break at spaces, and around the characters of Chinese and Japanese; a longer word is split. A paragraph that
    begins from right to left is set to the right.
    """
    letters = [(character, colour) for text, colour in runs for character in text]
    start = 0
    for end in [i for i, (character, _) in enumerate(letters) if character == "\n"] + [len(letters)]:
        if paragraph := letters[start:end]:
            yield from _Paragraph(paragraph, size, width).lines()
        start = end + 1


class _Paragraph:
    """Letters of one paragraph: with the font and the bidirectional level of each, and where a line may break."""

    def __init__(self, letters: Sequence[tuple[str, str]], size: int, width: int) -> None:
        self._text = "".join(character for character, _ in letters)
        self._colours = [colour for _, colour in letters]
        self._size, self._width = size, width
        self._levels = _levels(self._text)
        self._base = bidi.get_base_level(self._text)
        self._clusters = _clusters(self._text)
        self._fonts = fonts_of(self._text, self._clusters)

    def lines(self) -> Iterator[list[Piece]]:
        begin = end = 0  # of the line
        for start, stop in self._units():
            if self._extent(begin, stop) <= self._width:
                end = stop
                continue
            if end > begin:
                yield from self._line(begin, end)
                begin = start
            for cluster in (c for c in self._clusters if start <= c[0] < stop):
                if cluster[0] > begin and self._extent(begin, cluster[1]) > self._width:
                    yield from self._line(begin, cluster[0])
                    begin = cluster[0]
            end = stop
        yield from self._line(begin, end)

    def _units(self) -> Iterator[tuple[int, int]]:
        """Yield what a line cannot break: words with the spaces behind them, single wide characters."""
        start = 0
        for first, last in self._clusters:
            is_after_space = first > start and self._text[first - 1].isspace() and not self._text[first].isspace()
            is_beside_wide = first > start and (_is_wide(self._text[first]) or _is_wide(self._text[first - 1]))
            if is_after_space or (is_beside_wide and not _closes(self._text[first])):
                yield start, first
                start = first
            stop = last
        yield start, stop

    def _extent(self, begin: int, end: int) -> float:
        """Return the width of letters on a line, without the spaces at its end."""
        return sum(self._length(piece) for piece in self._cut(begin, begin + len(self._text[begin:end].rstrip())))

    def _line(self, begin: int, end: int) -> Iterator[list[Piece]]:
        begin += len(self._text[begin:end]) - len(self._text[begin:end].lstrip())
        pieces = self._cut(begin, begin + len(self._text[begin:end].rstrip()))
        if not pieces:
            return
        x = self._width - sum(map(self._length, pieces)) if self._base else 0.0
        line = []
        for piece in _in_visual_order(pieces):
            line.append(Piece(x, *self._described(piece)))
            x += self._length(piece)
        yield line

    def _cut(self, begin: int, end: int) -> list["_Span"]:
        """Return the spans of one font, colour and level."""
        spans: list[_Span] = []
        for i in range(begin, end):
            last = spans[-1] if spans else None
            key = (self._fonts[i], self._colours[i], self._levels[i])
            if last is not None and key == (self._fonts[last.begin], self._colours[last.begin], last.level):
                spans[-1] = _Span(last.begin, i + 1, last.level)
            else:
                spans.append(_Span(i, i + 1, self._levels[i]))
        return spans

    def _described(self, span: "_Span") -> tuple[str, str, ImageFont.FreeTypeFont, bool]:
        font = load_font(self._fonts[span.begin], self._size)
        return self._text[span.begin : span.end], self._colours[span.begin], font, span.level % 2 == 1

    def _length(self, span: "_Span") -> float:
        piece = Piece(0, *self._described(span))
        return piece.font.getlength(piece.drawn, direction=piece.direction)


class _Span(NamedTuple):
    """A part of a paragraph, and its bidirectional level: odd from right to left."""

    begin: int
    end: int
    level: int


# --- order ----------------------------------------------------------------------------------------------------------


def _levels(text: str) -> list[int]:
    """Return the level of each character by the Unicode Bidirectional Algorithm (UAX 9)."""
    if all(unicodedata.bidirectional(character) not in _RIGHT_TO_LEFT for character in text):
        return [0] * len(text)
    # The algorithm takes out what has no direction of its own (joiners, marks): it goes with what stands before it.
    plain = ""
    for character in text:
        has_none = unicodedata.bidirectional(character) in _WITHOUT_DIRECTION
        plain += (plain[-1:] or " ") if has_none else character
    storage = bidi.get_empty_storage()
    storage["base_level"] = level = bidi.get_base_level(plain)
    storage["base_dir"] = ("L", "R")[level]
    bidi.get_embedding_levels(plain, storage)
    bidi.explicit_embed_and_overrides(storage)
    bidi.resolve_weak_types(storage)
    bidi.resolve_neutral_types(storage, False)
    bidi.resolve_implicit_levels(storage, False)
    return [int(character["level"]) for character in storage["chars"]]


def _in_visual_order(spans: list[_Span]) -> list[_Span]:
    """Return spans from left to right: rule L2 of UAX 9."""
    ordered = list(spans)
    for level in range(max(span.level for span in spans), 0, -1):
        at = 0
        while at < len(ordered):
            end = at
            while end < len(ordered) and ordered[end].level >= level:
                end += 1
            ordered[at:end] = ordered[at:end][::-1]
            at = max(end, at + 1)
    return ordered


def _clusters(text: str) -> list[tuple[int, int]]:
    """Return the ranges of what is never parted: a character with the marks on it."""
    starts = [
        i
        for i, character in enumerate(text)
        if i == 0 or not (unicodedata.category(character)[0] == "M" or character == "\u200d" or text[i - 1] == "\u200d")
    ]
    return list(zip(starts, [*starts[1:], len(text)], strict=True))


def _is_wide(character: str) -> bool:
    """Return whether a line may break beside a character: Chinese, Japanese kana, and their punctuation."""
    return unicodedata.east_asian_width(character) in "WF" and not "\uac00" <= character <= "\ud7a3"


def _closes(character: str) -> bool:
    """Return whether a character never begins a line."""
    return (
        unicodedata.category(character) in ("Pe", "Pf", "Po", "Lm")
        or character in "ぁぃぅぇぉっゃゅょァィゥェォッャュョ"
    )


# --- shapes ---------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=10_000)
def _shaped(text: str, *, is_right_to_left: bool) -> str:
    """Return text with Arabic letters joined, in the order of drawing."""
    if not is_right_to_left:
        return text
    return str(bidi.get_display(arabic_reshaper.reshape(text), base_dir="R"))
