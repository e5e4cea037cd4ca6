"""Images of a tar as pixels of the model's size: 8-bit, to be normalised on the device.

A JPEG is decoded at the smallest of its eight DCT scales that is not below the wanted size (five times as fast on
large photos), then resized by area, which is close to a bicubic filter with anti-aliasing.
"""

import random
from typing import Any, Literal

import cv2
import numpy as np
import simplejpeg

from trainer.reading.shard_reader import DamagedSample

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
Fit = Literal["squash", "crop"]
Crop = tuple[int, int, int, int]
"""Original height and width, and the crop's top and left offset in pixels of the scaled size."""

MAX_PIXELS = 179_000_000
"""Most pixels of an image that is decoded: Pillow's limit against decompression bombs."""


def decode(data: bytes, size: int, fit: Fit = "squash") -> Pixels:
    """Decode an image to (size, size, 3) uint8, RGB.

    Args:
        data: JPEG, PNG or WebP.
        size: Side in pixels.
        fit: `squash` changes the proportions (EVA-CLIP's way); `crop` keeps the middle of the longer side.

    Raises:
        DamagedSample: If it cannot be decoded.
    """
    image = _jpeg(data, size) if data[:2] == b"\xff\xd8" else _other(data)
    if fit == "crop":
        height, width = image.shape[:2]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        image = image[top : top + side, left : left + side]
    height, width = image.shape[:2]
    if (height, width) == (size, size):
        return np.ascontiguousarray(image)
    shrinks = height >= size and width >= size
    resized: Pixels = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    return resized


def decode_crop(data: bytes, size: int, rng: random.Random, max_scale: float) -> tuple[Pixels, Crop]:
    """Decode a random square of a randomly scaled image, as in SDXL (arXiv:2307.01952) and Emu2's decoder.

    Args:
        data: JPEG, PNG or WebP.
        size: Side of the square in pixels.
        rng: Random numbers for scale and crop.
        max_scale: The shorter side is scaled to between `size` and this multiple of it.

    Raises:
        DamagedSample: If it cannot be decoded.
    """
    image = _other(data)
    height, width = image.shape[:2]
    scale = size * rng.uniform(1.0, max_scale) / min(height, width)
    wide, high = max(size, round(width * scale)), max(size, round(height * scale))
    resized = cv2.resize(image, (wide, high), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    top, left = rng.randint(0, high - size), rng.randint(0, wide - size)
    square: Pixels = np.ascontiguousarray(resized[top : top + size, left : left + size])
    return square, (height, width, top, left)


def _jpeg(data: bytes, size: int) -> Pixels:
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        _refuse_large(width, height)
        if colours in ("CMYK", "YCCK"):
            return _other(data)
        decoded: Pixels = simplejpeg.decode_jpeg(data, "RGB", min_height=size, min_width=size, min_factor=1)
    except ValueError as error:
        raise DamagedSample(f"broken JPEG: {error}") from error
    return decoded


def _other(data: bytes) -> Pixels:
    try:
        image: Pixels | None = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error as error:
        raise DamagedSample(f"broken image: {error}") from error
    if image is None:
        raise DamagedSample("broken image: unknown format")
    _refuse_large(image.shape[1], image.shape[0])
    return image


def _refuse_large(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise DamagedSample(f"{width} x {height} pixels, more than {MAX_PIXELS:,}")
