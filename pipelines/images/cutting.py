"""Parts cut out of an image: what a box holds, or what a mask covers of it, on white."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipelines.images.pixels import MAX_PIXELS, Pixels

Mask = NDArray[np.bool_]
"""(height, width), True where the object is."""

_FARTHEST = 1e6  # pixels of a corner from the image's: far below what OpenCV's integers hold


def cut_out(pixels: Pixels, box: Sequence[float], mask: Mask | None = None) -> Pixels:
    """Return what a box of an image holds, in the middle of a white square; of a mask only what it covers.

    Args:
        pixels: (height, width, 3) uint8.
        box: Left, top, right, bottom in 0..1.
        mask: Of the whole image.
    """
    columns, rows = places(pixels, box)
    content = pixels[rows, columns]
    if mask is not None:
        content = np.where(mask[rows, columns, None], content, np.uint8(255))
    height, width = content.shape[:2]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    square = np.full((side, side, 3), 255, np.uint8)
    square[top : top + height, left : left + width] = content
    return square


def places(pixels: Pixels, box: Sequence[float]) -> tuple[slice, slice]:
    """Return the columns and rows of a box, at least one of each."""
    height, width = pixels.shape[:2]
    return _places(box[0], box[2], width), _places(box[1], box[3], height)


def read_mask(segmentation: Any, drawn_in: tuple[float, float], size: tuple[int, int]) -> Mask:
    """Return the mask of a segmentation in COCO's form.

    Args:
        segmentation: Polygons, each a list of x and y in turn; or `{"size": [height, width], "counts": [...]}`, the
            lengths of runs outside and inside in turn, by columns.
        drawn_in: Width and height of the image in which polygons are drawn.
        size: Width and height of the mask.

    Raises:
        ValueError: If it is neither, or covers nothing.
    """
    width, height = size
    try:
        if isinstance(segmentation, dict):
            rows, columns = (int(value) for value in segmentation["size"])
            runs = np.asarray(segmentation["counts"], np.int64)
            if rows * columns > MAX_PIXELS or (runs < 0).any() or runs.sum() != rows * columns:
                raise ValueError(f"counts that are not {rows} x {columns} pixels")
            flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
            found = flat.reshape(rows, columns, order="F").astype(np.uint8)
            found = found[np.arange(height) * rows // height][:, np.arange(width) * columns // width]  # the nearest
        else:
            found = np.zeros((height, width), np.uint8)
            scale = np.array(size) / np.array(drawn_in)
            shapes = [np.asarray(polygon, np.float64).reshape(-1, 2) * scale for polygon in segmentation]
            if not all(np.abs(shape).max(initial=0) < _FARTHEST for shape in shapes):  # NaN is not below it either
                raise ValueError("a corner far from the image")
            cv2.fillPoly(found, [shape.round().astype(np.int32) for shape in shapes], 1)
    except (TypeError, ValueError, KeyError, OverflowError, cv2.error) as error:
        raise ValueError(f"neither polygons nor counts by columns: {str(error)[:100]}") from error
    if not found.any():
        raise ValueError("a mask that covers nothing")
    return found.astype(bool)


def _places(low: float, high: float, size: int) -> slice:
    first = min(int(low * size), size - 1)
    return slice(first, max(first + 1, min(size, int(np.ceil(high * size)))))
