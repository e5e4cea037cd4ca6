"""Images at a model's size, as `AutoImageProcessor` loads it.

This file is part of exported models, beside copies of the modules that it imports.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature, ImageProcessingMixin

from model.config import Resampling
from model.resizing import pixels_of


class DromaiusImageProcessor(ImageProcessingMixin):
    """Resizes images to the model's square; the model itself normalises them.

    Args:
        size: Side in pixels.
        resampling: How images are resized.
    """

    model_input_names: ClassVar[Any] = ["pixel_values"]

    def __init__(self, size: int = 224, resampling: Resampling = "area", **kwargs: Any) -> None:
        super().__init__(**kwargs)  # type: ignore[no-untyped-call]
        self.size, self.resampling = size, resampling

    def __call__(self, images: "Image.Image | np.ndarray | Sequence[Any]", **kwargs: Any) -> BatchFeature:
        """Return `pixel_values`: (N, 3, S, S) uint8.

        Args:
            images: Pillow's images, or arrays (H, W, 3) uint8 in RGB.
            **kwargs: Unused.
        """
        each = [images] if isinstance(images, Image.Image | np.ndarray) else list(images)
        opened = [Image.fromarray(image) if isinstance(image, np.ndarray) else image for image in each]
        pixels = np.stack([pixels_of(image, self.size, self.resampling) for image in opened])
        return BatchFeature({"pixel_values": torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()})
