"""Images as pixels of the model's size: 8-bit, to be normalised on the device.

Files are decoded as everywhere in the project (pipelines/images/pixels.py), then resized in one of two ways:

* `bicubic`: all pixels are decoded, then Pillow's bicubic filter, which removes what the smaller size cannot show. So
  the released models and their encoders were trained, and so they are used.
* `area`: a JPEG is decoded at the smallest of its eight DCT scales that is not below the wanted size, then resized by
  area. That is close to the other (about 40 dB), and several times as fast on large photos.
"""

from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageOps

from model.config import Resampling
from pipelines.images.pixels import decode_upright

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def decode(data: bytes, size: int, resampling: Resampling = "area") -> Pixels:
    """Decode an image to (size, size, 3) uint8, RGB, upright and on white; its proportions change to a square's.

    Args:
        data: JPEG, PNG, WebP, GIF, BMP or AVIF.
        size: Side in pixels.
        resampling: How it is resized.

    Raises:
        ValueError: If it cannot be decoded.
    """
    pixels = decode_upright(data, min_side=size if resampling == "area" else None)
    return np.ascontiguousarray(resize(pixels, size, size, resampling)[:, :, ::-1])


def resize(pixels: Pixels, width: int, height: int, resampling: Resampling) -> Pixels:
    """Resize pixels (H, W, 3) to (height, width, 3); the order of the channels does not matter."""
    if pixels.shape[:2] == (height, width):
        return pixels
    if resampling == "bicubic":
        return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))
    shrinks = pixels.shape[0] >= height and pixels.shape[1] >= width
    found: Pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    return found


def pixels_of(image: Image.Image, size: int, resampling: Resampling) -> Pixels:
    """Return an image that somebody has opened: upright, on white and at the model's size, (size, size, 3) uint8 RGB.

    Args:
        image: In any mode and orientation; its colours are taken for sRGB, its proportions change to a square's.
        size: Side in pixels.
        resampling: How it is resized.

    Raises:
        OSError: If its pixels cannot be decoded.
    """
    upright = ImageOps.exif_transpose(image)
    if upright.has_transparency_data:
        upright = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
    return np.array(resize(np.asarray(upright.convert("RGB")), size, size, resampling))
