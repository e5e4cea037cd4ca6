"""Paper for text and images: contact sheets of corpora and of a model's output."""

import importlib.util
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

BODY, SMALL, HEADING, TITLE = 19, 15, 25, 31  # font sizes in pixels
GAP = 22
INK, GREY, RULE, PAPER = "#1c2024", "#6b7280", "#d5d9de", "#ffffff"

Run = tuple[str, str]
"""Text and its colour."""


class Column:
    """A strip of paper that is filled with images and texts from top to bottom."""

    def __init__(self, width: int, max_height: int) -> None:
        self._image = Image.new("RGB", (width, max_height), PAPER)
        self._draw = ImageDraw.Draw(self._image)
        self._y = 0
        self._is_full = False

    def rule(self) -> None:
        """Add a thin line over the whole width."""
        self._draw.line((0, self._y, self._image.width, self._y), fill=RULE, width=2)
        self._y += 14

    def image(self, image: Image.Image) -> None:
        """Add an image, or a sign that there was no room for it."""
        if self._has_room(image.height):
            self._image.paste(image, (0, self._y))
            self._y += image.height + 10

    def text(self, runs: Iterable[Run], size: int) -> None:
        """Add text in lines as wide as the strip; a sign replaces the part that does not fit."""
        for line in lines(runs, font(size), self._image.width):
            if not self._has_room(round(size * 1.35)):
                return
            for x, character, colour in line:
                self._draw.text((x, self._y), character, font=font(size), fill=colour)
            self._y += round(size * 1.35)
        self._y += 8

    def done(self) -> Image.Image:
        """Return the strip without its empty rest."""
        return self._image.crop((0, 0, self._image.width, min(max(self._y, 1), self._image.height)))

    def _has_room(self, height: int) -> bool:
        if not self._is_full and self._y + height > self._image.height - BODY * 1.5:
            self._is_full = True
            self._draw.text((0, self._y), "[…]", font=font(BODY), fill=GREY)
            self._y += round(BODY * 1.35)
        return not self._is_full


def lines(runs: Iterable[Run], letter: ImageFont.FreeTypeFont, width: int) -> Iterator[list[tuple[float, str, str]]]:
    """Yield lines of text: runs of one colour with their x. Words too long for a line are split; no empty lines."""
    letters = [(character, colour) for text, colour in runs for character in text]
    text = "".join(character for character, _ in letters)
    for paragraph in re.finditer(r"[^\n]*\S[^\n]*", text):
        line: list[tuple[float, str, str]] = []
        x = 0.0
        for word in re.finditer(r"\S+", paragraph[0]):
            begin = paragraph.start() + word.start()
            if x and x + letter.getlength(word[0]) > width:
                yield line
                line, x = [], 0.0
            piece = ""
            for at in range(begin, begin + len(word[0])):
                character, colour = letters[at]
                if piece and x + letter.getlength(piece + character) > width:
                    yield [*line, (x, piece, letters[at - 1][1])]
                    line, x, piece = [], 0.0, ""
                elif piece and colour != letters[at - 1][1]:
                    line.append((x, piece, letters[at - 1][1]))
                    x, piece = x + letter.getlength(piece), ""
                piece += character
            line.append((x, piece, letters[begin + len(word[0]) - 1][1]))
            x += letter.getlength(piece + " ")
        yield line


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans if matplotlib is installed (extra `train`), else Pillow's own font, which is ASCII only."""
    matplotlib = importlib.util.find_spec("matplotlib")
    if matplotlib is not None and matplotlib.origin is not None:
        file = Path(matplotlib.origin).parent / "mpl-data/fonts/ttf/DejaVuSans.ttf"
        if file.exists():
            return ImageFont.truetype(str(file), size - 1)  # its letters are wider than others of one size
    font_of_pillow = ImageFont.load_default(size)
    assert isinstance(font_of_pillow, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return font_of_pillow


def side_by_side(cells: Sequence[Image.Image], width: int, gap: int = GAP) -> Image.Image:
    """Place cells in a row, all with the room of the widest possible cell."""
    row = Image.new("RGB", (len(cells) * (width + gap) - gap, max(c.height for c in cells)), PAPER)
    for i, cell in enumerate(cells):
        row.paste(cell, (i * (width + gap), 0))
    return row


def stacked(bands: Sequence[Image.Image], width: int, margin: int = 0, gap: int = GAP) -> Image.Image:
    """Place bands below each other on paper of the given width."""
    sheet = Image.new("RGB", (width, 2 * margin + sum(b.height + gap for b in bands) - gap), PAPER)
    top = margin
    for band in bands:
        sheet.paste(band, (margin, top))
        top += band.height + gap
    return sheet
