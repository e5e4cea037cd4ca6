"""Paper for text and images: contact sheets of corpora and of a model's output."""

from collections.abc import Iterable, Iterator, Sequence

from PIL import Image, ImageDraw

from pipelines.images.fonts import fonts, load_font
from pipelines.images.lettering import Run, lines

BODY, SMALL, HEADING, TITLE = 19, 15, 25, 31  # font sizes in pixels
GAP = 22
_PIXELS_PER_LETTER = 40  # of the narrowest, at the smallest size
INK, GREY, RULE, PAPER = "#1c2024", "#6b7280", "#d5d9de", "#ffffff"


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
        baseline = load_font(fonts()[0], size).getmetrics()[0]
        for line in lines(self._shown(runs), size, self._image.width):
            if not self._has_room(round(size * 1.35)):
                return
            for piece in line:
                at = (piece.x, self._y + baseline)
                self._draw.text(
                    at, piece.drawn, font=piece.font, fill=piece.colour, anchor="ls", direction=piece.direction
                )
            self._y += round(size * 1.35)
        self._y += 8

    def _shown(self, runs: Iterable[Run]) -> Iterator[Run]:
        """Yield the beginning of a text that may fit on the strip: a paragraph is prepared as a whole."""
        left = self._image.width * self._image.height // _PIXELS_PER_LETTER
        for text, colour in runs:
            if left > 0:
                yield text[:left], colour
            left -= len(text)

    def done(self) -> Image.Image:
        """Return the strip without its empty rest."""
        return self._image.crop((0, 0, self._image.width, min(max(self._y, 1), self._image.height)))

    def _has_room(self, height: int) -> bool:
        if not self._is_full and self._y + height > self._image.height - BODY * 1.5:
            self._is_full = True
            self._draw.text((0, self._y), "[…]", font=load_font(fonts()[0], BODY), fill=GREY)
            self._y += round(BODY * 1.35)
        return not self._is_full


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
