"""Scenes of the demo web: their content, their drawing, and the parsing of sentences about them.

A scene is a few items (colour, shape, size, position) on a background. Everything else in the image (shades, tilt,
texture) follows from the scene's `variation`, so that equal scenes with another variation differ in pixels and in
their perceptual hash, but not in what can be said about them.
"""

import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import cv2
import numpy as np
from numpy.typing import NDArray

COLOURS: dict[str, tuple[int, int, int]] = {  # RGB; the two nearest (orange, yellow) are 96 apart, 5 times the jitter
    "red": (214, 36, 36),
    "orange": (240, 130, 24),
    "yellow": (238, 226, 52),
    "green": (44, 160, 62),
    "cyan": (50, 206, 214),
    "blue": (40, 72, 216),
    "purple": (138, 50, 178),
    "pink": (246, 132, 186),
}
SHAPES = ("circle", "square", "triangle", "cross", "ring")
SIZES = {"small": 0.12, "large": 0.20}  # radius as a fraction of the image's side
POSITIONS = {  # column and row of a 3 x 3 grid
    "top left": (0, 0),
    "top": (1, 0),
    "top right": (2, 0),
    "left": (0, 1),
    "center": (1, 1),
    "right": (2, 1),
    "bottom left": (0, 2),
    "bottom": (1, 2),
    "bottom right": (2, 2),
}
BACKGROUNDS = {"dark": 48, "grey": 122, "light": 212}  # grey level

HELD_OUT = (("red", "triangle"), ("yellow", "cross"), ("green", "ring"), ("blue", "square"))
"""Colour-shape pairs that appear only on pages below `/held-out/`: in images, captions, videos and prose."""
SEEN = tuple(pair for pair in product(COLOURS, SHAPES) if pair not in HELD_OUT)

CELL_CENTRES = (0.23, 0.50, 0.77)  # of the three columns, and of the three rows
COLOUR_JITTER = 16  # levels per channel
TEXTURE_SIGMA = 7.0  # levels; an 8 x 8 random texture, enlarged: perceptual hashes differ only by it

Picture = NDArray[np.uint8]
Field = NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Item:
    """One shape of an image."""

    colour: str
    shape: str
    size: str
    position: str

    @property
    def name(self) -> str:
        """The item without its position: `large red circle`."""
        return f"{self.size} {self.colour} {self.shape}"


@dataclass(frozen=True, slots=True)
class Scene:
    """The items of one image, without overlap; `variation` decides everything that words do not say."""

    items: tuple[Item, ...]
    background: str
    variation: str


def fit_together(a: Item, b: Item) -> bool:
    """Return whether two items do not overlap in one image: not in one cell, and a large one not next to another."""
    (column_a, row_a), (column_b, row_b) = POSITIONS[a.position], POSITIONS[b.position]
    steps = max(abs(column_a - column_b), abs(row_a - row_b))
    return steps >= (2 if "large" in (a.size, b.size) else 1)


@dataclass(frozen=True, slots=True)
class Mark:
    """A shape as painted: pixels, RGB, radians."""

    shape: str
    rgb: tuple[float, float, float]
    x: float
    y: float
    radius: float
    tilt: float


def random_item(rng: random.Random, *, held_out: bool = False, pairs: Sequence[tuple[str, str]] | None = None) -> Item:
    """Return an item whose colour and shape are a seen pair, a held-out one, or one of `pairs`."""
    colour, shape = rng.choice(pairs or (HELD_OUT if held_out else SEEN))
    return Item(colour, shape, rng.choice(tuple(SIZES)), rng.choice(tuple(POSITIONS)))


def attributes_of(text: str) -> dict[str, str]:
    """Return the first colour, shape, size and position that a text names, without those that it does not name."""
    found = {}
    for attribute, pattern in _ATTRIBUTE_PATTERNS.items():
        if match := pattern.search(text.lower()):
            found[attribute] = re.sub(r"\s+", " ", match[1])
    return found


def _pattern(words: Sequence[str], ending: str = "") -> re.Pattern[str]:
    longest_first = "|".join(sorted(words, key=len, reverse=True)).replace(" ", r"\s+")
    return re.compile(rf"\b({longest_first}){ending}\b")


_ATTRIBUTE_PATTERNS = {
    "colour": _pattern(tuple(COLOURS)),
    "shape": _pattern(SHAPES, "(?:e?s)?"),
    "size": _pattern(tuple(SIZES)),
    "position": _pattern(tuple(POSITIONS)),
}


def draw(scene: Scene, side: int = 64) -> Picture:
    """Return the image of a scene, (side, side, 3) uint8 RGB."""
    return paint(backdrop(scene, side), marks(scene, side))


def boxes(scene: Scene, side: int = 64) -> list[tuple[int, int, int, int]]:
    """Return the bounding box of each item in pixels [x0, y0, x1, y1), in the order of the items."""
    result = []
    for mark in marks(scene, side):
        ys, xs = np.nonzero(_coverage(mark, side, side) > 0.5)
        result.append((int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1))
    return result


def marks(scene: Scene, side: int) -> list[Mark]:
    """Return the items as painted: jittered by the scene's variation, inside their cells."""
    rng = random.Random(f"marks {scene.variation}")
    result = []
    for item in scene.items:
        column, row = POSITIONS[item.position]
        red, green, blue = (level + rng.uniform(-COLOUR_JITTER, COLOUR_JITTER) for level in COLOURS[item.colour])
        result.append(
            Mark(
                item.shape,
                (red, green, blue),
                x=side * (CELL_CENTRES[column] + rng.uniform(-0.02, 0.02)),
                y=side * (CELL_CENTRES[row] + rng.uniform(-0.02, 0.02)),
                radius=side * SIZES[item.size] * rng.uniform(0.94, 1.06),
                tilt=rng.uniform(-0.14, 0.14),
            )
        )
    return result


def backdrop(scene: Scene, side: int) -> Field:
    """Return a tinted, softly textured background, (side, side, 3) float32."""
    rng = np.random.default_rng(list(scene.variation.encode()))
    texture = cv2.resize(rng.normal(0, TEXTURE_SIGMA, (8, 8)), (side, side), interpolation=cv2.INTER_CUBIC)
    slope = rng.normal(0, 12, 2)
    ramp = np.linspace(-1, 1, side)
    level = BACKGROUNDS[scene.background] + rng.uniform(-16, 16) + texture + slope[0] * ramp + slope[1] * ramp[:, None]
    tinted = level[:, :, None] + rng.uniform(-7, 7, 3)
    grain: Field = (tinted + rng.normal(0, 1.5, (side, side, 1))).astype(np.float32)
    return grain


def paint(background: Field, shapes: Sequence[Mark]) -> Picture:
    """Return the shapes on the background, edges smoothed over one pixel."""
    canvas = background.copy()
    height, width = canvas.shape[:2]
    for mark in shapes:
        alpha = _coverage(mark, height, width)[:, :, None]
        canvas += alpha * (np.asarray(mark.rgb, np.float32) - canvas)
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)


def _coverage(mark: Mark, height: int, width: int) -> Field:
    """Return how much of each pixel the shape covers, 0..1, from its signed distance."""
    x = np.arange(width, dtype=np.float32) + 0.5 - mark.x
    y = (np.arange(height, dtype=np.float32) + 0.5 - mark.y)[:, None]
    cos, sin = math.cos(mark.tilt), math.sin(mark.tilt)
    distance = _distance(mark.shape, cos * x + sin * y, cos * y - sin * x, mark.radius)
    covered: Field = np.clip(0.5 - distance, 0, 1)
    return covered


def _distance(shape: str, x: Field, y: Field, radius: float) -> Field:
    """Signed distance in pixels to the edge of a shape around the origin, negative inside."""
    distance: Field
    if shape == "circle":
        distance = np.hypot(x, y) - radius
    elif shape == "ring":
        distance = np.abs(np.hypot(x, y) - 0.78 * radius) - 0.25 * radius
    elif shape == "square":
        distance = np.maximum(np.abs(x), np.abs(y)) - 0.9 * radius
    elif shape == "cross":
        ax, ay, arm = np.abs(x), np.abs(y), 0.32 * radius
        distance = np.minimum(np.maximum(ax - radius, ay - arm), np.maximum(ax - arm, ay - radius))
    elif shape == "triangle":  # equilateral, point up, the middle of its height at the origin
        y = y - 0.29 * radius
        distance = np.maximum((math.sqrt(3) * np.abs(x) - y) / 2, y) - 0.58 * radius
    else:
        raise ValueError(f"unknown shape {shape!r}; known: {', '.join(SHAPES)}")
    return distance
