"""Images of a tar as pixels of the model's size: 8-bit, to be normalised on the device.

They are decoded as everywhere in the project (pipelines/images/pixels.py), then resized in one of two ways:

* `bicubic`: all pixels are decoded, then Pillow's bicubic filter, which removes what the smaller size cannot show. So
  the released models and their encoders were trained, and so they are used.
* `area`: a JPEG is decoded at the smallest of its eight DCT scales that is not below the wanted size, then resized by
  area. That is close to the other (about 40 dB), and several times as fast on large photos.
"""

import random
from collections.abc import Sequence

import numpy as np

from model.config import Resampling
from model.images import Pixels, resize
from pipelines.images.pixels import decode_upright
from trainer.reading.shard_reader import DamagedSample

Crop = tuple[int, int, float, float]
"""Original height and width, and the crop's top and left offset in pixels of its first size."""


def decode(data: bytes, size: int, resampling: Resampling = "area") -> Pixels:
    """Decode an image to (size, size, 3) uint8, RGB, upright and on white; its proportions change to a square's.

    Args:
        data: JPEG, PNG, WebP, GIF, BMP or AVIF.
        size: Side in pixels.
        resampling: How it is resized.

    Raises:
        DamagedSample: If it cannot be decoded.
    """
    return _rgb(resize(_upright(data, size if resampling == "area" else None), size, size, resampling))


def decode_crop(
    data: bytes, sizes: Sequence[int], rng: random.Random, max_scale: float, resampling: Resampling = "area"
) -> tuple[tuple[Pixels, ...], Crop]:
    """Decode a random square of a randomly scaled image, as in SDXL (arXiv:2307.01952) and Emu2's decoder.

    Args:
        data: As for `decode`.
        sizes: Sides in pixels of the results: the square is cut out at the largest, then resized to the others.
        rng: Random numbers for scale and crop.
        max_scale: The shorter side is scaled to between the largest size and this multiple of it.
        resampling: How it is resized.

    Returns:
        The square at each of the sizes, and where it was cut out.

    Raises:
        DamagedSample: If it cannot be decoded.
    """
    image = _upright(data, None)
    height, width = image.shape[:2]
    size = max(sizes)
    scale = size * rng.uniform(1.0, max_scale) / min(height, width)
    wide, high = max(size, round(width * scale)), max(size, round(height * scale))
    scaled = resize(image, wide, high, resampling)
    top, left = rng.randint(0, high - size), rng.randint(0, wide - size)
    square = _rgb(scaled[top : top + size, left : left + size])
    shrinks = sizes[0] / size
    return tuple(resize(square, s, s, resampling) for s in sizes), (height, width, top * shrinks, left * shrinks)


def _upright(data: bytes, min_side: int | None) -> Pixels:
    try:
        return decode_upright(data, min_side=min_side)
    except ValueError as error:
        raise DamagedSample(str(error)) from error


def _rgb(pixels: Pixels) -> Pixels:
    """Return BGR pixels as RGB."""
    return np.ascontiguousarray(pixels[:, :, ::-1])
