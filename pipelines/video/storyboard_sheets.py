"""Storyboards of video players: sheets of small images, cut into tiles, and the times of the tiles.

A storyboard comes as yt-dlp's `.mhtml` or as separate sheets. The second that a tile shows is stated exactly nowhere;
it is inferred, and the times are marked as estimated.
"""

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from PIL import Image

from pipelines.drop_reasons import Reason
from pipelines.images.metadata import read_size, sniff_format
from pipelines.images.pixels import Pixels, decode

_PART_HEADER = re.compile(
    rb"^--([^\r\n]{1,200}+)\r?\n((?:[A-Za-z.-]{1,100}+:[^\r\n]*+\r?\n){1,32}+)\r?\n", re.MULTILINE
)
_SHEET_NUMBER = re.compile(r"(?:^|/)M(\d{1,4})\.\w+$")
_LIKELY_INTERVALS = (1, 2, 5, 10)  # seconds; players choose whole ones
_SPARE_TILES = (-1, 2)  # beyond duration / interval: one at 0, one at the end, and a duration that is rounded
_MIN_STD = 2.0  # of the grey values; black and white filler tiles have 0 to 1, after compression
_EVEN_TILES, _MAX_EVEN_HEIGHT = 100, 27  # of YouTube's smallest level, `sb3`: one sheet of 48x27 tiles
MAX_TILES = 1_000_000
"""Most tiles of a video: eleven days at one each second."""

_MAX_PIXELS = 50_000_000  # of a sheet


class StoryboardRejected(Exception):  # noqa: N818 - a verdict on the file, not a failure of ours
    """A storyboard that cannot be read: `storyboard_malformed`, and details."""

    def __init__(self, detail: str) -> None:
        super().__init__("storyboard_malformed", detail)
        self.reason: Reason = "storyboard_malformed"
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Sheet:
    """One fetched sheet; `index` is its index among all sheets of the level, even if others are missing."""

    index: int
    data: bytes
    url: str | None = None


@dataclass(frozen=True, slots=True)
class Level:
    """Layout of a storyboard: pixels of a tile, tiles of a sheet, total tiles if known.

    `is_even` says that the tiles divide the video evenly, whatever its length: those of YouTube's smallest level.
    """

    tile_width: int
    tile_height: int
    columns: int
    rows: int
    num_tiles: int | None = None
    is_even: bool = False

    @property
    def num_per_sheet(self) -> int:
        """Number of tiles of a full sheet."""
        return self.columns * self.rows

    def num_expected(self, sheet: int) -> int | None:
        """Return the number of tiles of a sheet, or None if the total is unknown."""
        if self.num_tiles is None:
            return None
        return max(0, min(self.num_per_sheet, self.num_tiles - sheet * self.num_per_sheet))


@dataclass(frozen=True, slots=True)
class Tile:
    """A lossless tile; `index` counts over all sheets."""

    index: int
    png: bytes


@dataclass(frozen=True, slots=True)
class LostTile:
    """A sheet or a tile that was left out, by its index, and what was found."""

    index: int
    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class CutSheets:
    """The tiles in order, and what was dropped."""

    tiles: tuple[Tile, ...]
    dropped: tuple[LostTile, ...]


def read_mhtml(data: bytes) -> list[Sheet]:
    """Return the sheets in a storyboard of yt-dlp, with their own numbers: fragments that failed are missing.

    Raises:
        StoryboardRejected: If it contains no sheet or ends within one.
    """
    sheets: list[Sheet] = []
    at = 0
    while (match := _PART_HEADER.search(data, at)) is not None:
        lines = match[2].decode("latin-1").splitlines()
        fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = fields.get("content-length", "")
        if not length.isdecimal():
            raise StoryboardRejected("a part does not state its length")
        at = match.end() + int(length)
        if at > len(data):
            raise StoryboardRejected("ends within a part")
        if fields.get("content-type", "").startswith("image/"):
            url = fields.get("content-location")
            index = sheet_index(url or "")
            sheets.append(Sheet(len(sheets) if index is None else index, data[match.end() : at], url))
    if not sheets:
        raise StoryboardRejected("contains no sheet")
    return sorted(sheets, key=lambda sheet: sheet.index)


def sheet_index(url: str) -> int | None:
    """Return the number in a sheet's URL (`M3.jpg` is 3, `default.jpg` the only one), or None."""
    path = re.split(r"[?#]", url)[0]
    match = _SHEET_NUMBER.search(path)
    if match is not None:
        return int(match[1])
    return 0 if re.search(r"(?:^|/)default\.\w+$", path) else None


def level_of_format(entry: dict[str, Any], seconds: float | None) -> Level:
    """Return the layout in an entry of `formats` of yt-dlp's info.json.

    Raises:
        StoryboardRejected: If it is not a storyboard.
    """
    try:
        width, height, columns, rows = (int(entry[name]) for name in ("width", "height", "columns", "rows"))
        fps = float(entry.get("fps") or 0)
        num_tiles = round(fps * seconds) if fps and seconds else None
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise StoryboardRejected(f"not the layout of a storyboard: {error}") from error
    if min(width, height, columns, rows) < 1 or max(columns * rows, num_tiles or 0) > MAX_TILES:
        raise StoryboardRejected(f"a layout of {columns}x{rows} tiles of {width}x{height}, {num_tiles} in all")
    is_even = num_tiles == columns * rows == _EVEN_TILES and height <= _MAX_EVEN_HEIGHT
    return Level(width, height, columns, rows, num_tiles, is_even)


def best_level(info: dict[str, Any]) -> dict[str, Any] | None:
    """Return the storyboard with the largest tiles in yt-dlp's info.json, or None."""
    formats = [entry for entry in list_of(info.get("formats")) if isinstance(entry, dict)]
    entries = [f for f in formats if f.get("format_note") == "storyboard" or f.get("ext") == "mhtml"]
    return max(entries, key=lambda f: _side(f.get("width")) * _side(f.get("height")), default=None)


def list_of(value: Any) -> list[Any]:
    """Return a list of JSON; an empty one in place of anything else."""
    return value if isinstance(value, list) else []


def _side(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and 0 < value < 1e6 else 0.0


def tile_times(num_tiles: int, seconds: float, *, is_even: bool = False) -> list[float]:
    """Return the estimated time of each tile.

    They are whole seconds apart by which the video has so many tiles; else, or if the tiles divide it evenly, the mean.
    The mean would drift: 94 tiles at 5 s are a video of 464 s, whose last tile is at 464 s and not 459.
    """
    interval = seconds / num_tiles if num_tiles else 0.0
    if not is_even:
        interval = float(_fitting_interval(num_tiles, seconds) or interval)
    return [round(min(i * interval, seconds), 3) for i in range(num_tiles)]


def cut_sheets(sheets: Sequence[Sheet], level: Level) -> CutSheets:
    """Cut sheets into tiles, without filler.

    A sheet whose pixels disagree with the layout is dropped whole: its tiles would be cut across images.
    """
    tiles: list[Tile] = []
    dropped: list[LostTile] = []
    for sheet in sheets:
        try:
            pixels = _read_sheet(sheet.data)
        except (ValueError, Image.DecompressionBombError) as error:
            dropped.append(LostTile(sheet.index, "sheet_unreadable", str(error)))
            continue
        num, columns = _grid(pixels, sheet.index, level)
        if num is None:
            size = f"{pixels.shape[1]}x{pixels.shape[0]}"
            detail = f"{size} for {level.num_expected(sheet.index)} tiles of {level.tile_width}x{level.tile_height}"
            dropped.append(LostTile(sheet.index, "sheet_grid_mismatch", detail))
            continue
        for number in range(num):
            top, left = number // columns * level.tile_height, number % columns * level.tile_width
            tile = np.ascontiguousarray(pixels[top : top + level.tile_height, left : left + level.tile_width])
            index = sheet.index * level.num_per_sheet + number
            spread = float(cv2.cvtColor(tile, cv2.COLOR_BGR2GRAY).std())
            if spread < _MIN_STD:
                dropped.append(LostTile(index, "tile_near_uniform", f"standard deviation {spread:.2f}"))
            else:
                tiles.append(Tile(index, _png(tile)))
    return CutSheets(tuple(tiles), tuple(dropped))


def _read_sheet(data: bytes) -> Pixels:
    format = sniff_format(data)  # WebP under the name .jpg is the rule
    if format is None:
        raise ValueError(f"begins with {data[:16]!r}")
    width, height = read_size(data, format)
    if width * height > _MAX_PIXELS:
        raise ValueError(f"{width}x{height}")
    return decode(data, format).pixels


def _grid(pixels: Pixels, index: int, level: Level) -> tuple[int | None, int]:
    """Return the number of tiles in a sheet and its columns; None if its size and the layout disagree."""
    height, width = pixels.shape[:2]
    columns, rows = width // level.tile_width, height // level.tile_height
    if width % level.tile_width or height % level.tile_height or not 0 < columns <= level.columns:
        return None, columns
    expected = level.num_expected(index)
    if expected is None:
        return (columns * rows if 0 < rows <= level.rows else None), columns
    # The last sheet ends below its last row; if it has only one row, it may also end after its last tile.
    fits_rows = rows in (math.ceil(expected / level.columns), level.rows)
    fits_columns = columns == level.columns or (rows == 1 and columns == expected)
    return (expected if expected and fits_rows and fits_columns else None), columns


def _fitting_interval(num_tiles: int, seconds: float) -> int | None:
    """Return the interval in whole seconds by which a video has so many tiles, or None if there is none.

    Of several, as few tiles allow, one that players use, and that with one tile more than full intervals.
    """
    mean = seconds / num_tiles if num_tiles else 0.0
    spare = {
        interval: num_tiles - seconds / interval
        for interval in (*_LIKELY_INTERVALS, math.floor(mean), math.ceil(mean))
        if interval > 0
    }
    fitting = [interval for interval, num in spare.items() if _SPARE_TILES[0] <= num <= _SPARE_TILES[1]]
    return min(fitting, key=lambda n: (n not in _LIKELY_INTERVALS, abs(spare[n] - 1)), default=None)


def _png(pixels: Pixels) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels[:, :, ::-1]).save(out, "PNG", compress_level=1)
    return out.getvalue()
