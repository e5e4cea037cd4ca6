"""Images as pixels of the model's size: 8-bit, to be normalised on the device."""

from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

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


def image_tensor(image: Image.Image, size: int, resampling: Resampling) -> Tensor:
    """Return an image upright, on white and at the model's size: (3, size, size) uint8.

    Args:
        image: In any mode and orientation; its proportions change to a square's.
        size: Side in pixels.
        resampling: How it is resized.

    Raises:
        OSError: If its pixels cannot be decoded.
    """
    upright = ImageOps.exif_transpose(image)
    if upright.has_transparency_data:
        upright = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
    pixels = resize(np.asarray(upright.convert("RGB")), size, size, resampling)
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1)


def to_pil(image: Tensor) -> Image.Image:
    """Return an image (3, H, W) uint8 as Pillow's."""
    return Image.fromarray(image.permute(1, 2, 0).cpu().numpy())
