"""Images as pixels of the model's size: 8-bit, to be normalised on the device.

Files are decoded as everywhere in the project (pipelines/images/pixels.py), then resized in one of two ways:

* `bicubic`: all pixels are decoded, then Pillow's bicubic filter, which removes what the smaller size cannot show. So
  the released models and their encoders were trained, and so they are used.
* `area`: a JPEG is decoded at the smallest of its eight DCT scales that is not below the wanted size, then resized by
  area. That is close to the other (about 40 dB), and several times as fast on large photos.
"""

import numpy as np

from model.config import Resampling
from model.resizing import Pixels, resize
from pipelines.images.pixels import decode_upright


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
