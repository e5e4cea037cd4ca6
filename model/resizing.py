"""Images that are decoded, at the model's size; see images.py for the two ways."""

from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageOps

from model.config import Resampling

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


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
