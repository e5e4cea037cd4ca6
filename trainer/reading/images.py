"""Images of a tar as pixels of the model's size: 8-bit, to be normalised on the device.

See model/images.py for how they are decoded and resized.
"""

import random
from collections.abc import Sequence

import numpy as np

from model import images
from model.config import Resampling
from model.resizing import Pixels, resize
from pipelines.images.pixels import decode_upright
from trainer.reading.shard_reader import DamagedSample

Crop = tuple[int, int, float, float]
"""Original height and width, and the crop's top and left offset in pixels of its first size."""


def decode(data: bytes, size: int, resampling: Resampling = "area") -> Pixels:
    """Decode an image as `model.images.decode` does.

    Raises:
        DamagedSample: If it cannot be decoded.
    """
    try:
        return images.decode(data, size, resampling)
    except ValueError as error:
        raise DamagedSample(str(error)) from error


def decode_views(
    data: bytes, sizes: Sequence[int], key: int, max_scale: float, resampling: Resampling
) -> tuple[tuple[Pixels, ...], Crop | None]:
    """Decode an image at several sizes: whole if `max_scale` is 1, otherwise a crop, which follows from `key`.

    Other arguments and errors as in `decode_crop`.
    """
    if max_scale == 1.0:
        return tuple(decode(data, size, resampling) for size in sizes), None
    return decode_crop(data, sizes, random.Random(key), max_scale, resampling)


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
    try:
        image = decode_upright(data)
    except ValueError as error:
        raise DamagedSample(str(error)) from error
    height, width = image.shape[:2]
    size = max(sizes)
    scale = size * rng.uniform(1.0, max_scale) / min(height, width)
    wide, high = max(size, round(width * scale)), max(size, round(height * scale))
    scaled = resize(image, wide, high, resampling)
    top, left = rng.randint(0, high - size), rng.randint(0, wide - size)
    square = np.ascontiguousarray(scaled[top : top + size, left : left + size, ::-1])  # RGB
    shrinks = sizes[0] / size
    return tuple(resize(square, s, s, resampling) for s in sizes), (height, width, top * shrinks, left * shrinks)
