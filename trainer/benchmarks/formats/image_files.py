"""Images that sets name, as a model reads them."""

from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from model.config import Resampling
from model.segment import Box
from pipelines.errors import UserError
from trainer.reading.images import decode
from trainer.reading.shard_reader import DamagedSample

_MARK = (255, 0, 0)  # red, the colour in which visual prompts work best (arXiv:2304.06712)
_MARK_WIDTH = 0.02  # of the image's side


@lru_cache(maxsize=256)  # shots come again and again
def read_image(path: Path, size: int, resampling: Resampling, mark: Box | None = None) -> Tensor:
    """Return an image at the model's size, (3, size, size) uint8, with a box drawn on it if one is given.

    Raises:
        UserError: If the file is missing or cannot be decoded.
    """
    try:
        pixels = decode(path.read_bytes(), size, resampling)
    except OSError as error:
        raise UserError(f"{path}: {(error.strerror or str(error)).lower()}; the benchmark names it") from error
    except DamagedSample as error:
        raise UserError(f"{path}: {error}") from error
    if mark is not None:
        x0, y0, x1, y1 = (min(size - 1, round(value * size)) for value in mark)
        pixels = cv2.rectangle(pixels.copy(), (x0, y0), (x1, y1), _MARK, max(1, round(_MARK_WIDTH * size)))
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)
