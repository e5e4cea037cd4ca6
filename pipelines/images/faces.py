"""Faces in images, found by YuNet: blurred, only counted, or a reason to drop the image.

YuNet (Wu, Peng, Yu 2023, https://doi.org/10.1007/s11633-023-1423-y) runs on the CPU by OpenCV's `FaceDetectorYN`. Its
weights are an ONNX file that the spec names; OpenCV's model zoo has some.
"""

import math
import threading
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from pydantic import Field

from pipelines import storage
from pipelines.document import Face
from pipelines.errors import UserError
from pipelines.images.pixels import Pixels
from pipelines.settings import Settings

_NMS_THRESHOLD, _TOP_K = 0.3, 5000  # OpenCV's defaults
_MARGIN = 0.1  # of a box's longer side, on every side of it, and the blur's sigma (Yang et al. 2021, arXiv:2103.06191)
_BLURRED_SIDE = 32  # pixels that a larger face keeps before it is blurred: no deconvolution finds what is not there
_DECIMALS = 4
_thread = threading.local()  # a detector keeps the size of its last image, so no two threads may share one


class FaceSettings(Settings):
    """How faces are found, and what becomes of them."""

    weights: str = Field(description="Path of YuNet's ONNX file, on every worker")
    action: Literal["blur", "drop", "count"] = Field(
        "blur",
        description="blur: faces are blurred before the image is stored. drop: an image with a face is not stored, nor "
        "a video with a frame that has one. count: faces are only found",
    )
    min_score: float = Field(0.9, gt=0, le=1, description="Lowest score of a face (OpenCV: 0.9)")
    search_size: int = Field(
        640,
        ge=32,
        description="Longer side in pixels at which faces are searched; larger images are reduced for that. YuNet was "
        "trained for faces of about 10 to 300 pixels",
    )


@dataclass(frozen=True, slots=True)
class FoundFaces:
    """The faces of an image, the most certain first, and what found them: the model, its weights, and `+blur`."""

    detector: str
    faces: tuple[Face, ...]


def find_faces(pixels: Pixels, settings: FaceSettings) -> FoundFaces:
    """Return the faces of an upright image.

    Args:
        pixels: (height, width, 3) uint8, BGR.
        settings: How they are searched.

    Raises:
        UserError: If the weights are missing or not YuNet's.
    """
    height, width = pixels.shape[:2]
    sha256 = storage.sha256(settings.weights)
    scale = min(1.0, settings.search_size / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    searched = pixels if scale == 1 else cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    detector = _detector(settings, sha256)
    detector.setInputSize(size)
    _, rows = detector.detect(searched)
    faces = [] if rows is None else [_face(row.tolist(), size) for row in rows]
    ordered = sorted((face for face in faces if face is not None), key=lambda face: (-face.score, face.box))
    return FoundFaces(f"yunet@{sha256[:16]}" + ("+blur" if settings.action == "blur" else ""), tuple(ordered))


def check_detector(settings: FaceSettings) -> None:
    """Load the detector once, before any image is requested.

    Raises:
        UserError: If the weights are missing or not YuNet's.
    """
    _detector(settings, storage.sha256(settings.weights))


def blur_faces(pixels: Pixels, faces: tuple[Face, ...]) -> Pixels:
    """Return a copy of an image in which a rectangle around each face is blurred.

    Args:
        pixels: (height, width, 3) uint8.
        faces: With boxes on this image.
    """
    height, width = pixels.shape[:2]
    blurred = pixels.copy()
    for face in faces:
        x0, x1 = face.box[0] * width, face.box[2] * width
        y0, y1 = face.box[1] * height, face.box[3] * height
        margin = _MARGIN * max(x1 - x0, y1 - y0)
        columns = slice(max(0, math.floor(x0 - margin)), min(width, math.ceil(x1 + margin)))
        rows = slice(max(0, math.floor(y0 - margin)), min(height, math.ceil(y1 + margin)))
        blurred[rows, columns] = _blurred(blurred[rows, columns])
    return blurred


def _blurred(region: Pixels) -> Pixels:
    height, width = region.shape[:2]
    scale = min(1.0, _BLURRED_SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(region, size, interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), _MARGIN * max(size))
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def _face(row: list[float], size: tuple[int, int]) -> Face | None:
    """Return a face of a detector's row (x, y, width, height, ten of landmarks, score); None if outside the image."""
    x, y, width, height = row[:4]
    ends = (x / size[0], y / size[1], (x + width) / size[0], (y + height) / size[1])
    x0, y0, x1, y1 = (round(min(max(end, 0.0), 1.0), _DECIMALS) for end in ends)
    return Face((x0, y0, x1, y1), round(row[-1], _DECIMALS)) if x0 < x1 and y0 < y1 else None


def _detector(settings: FaceSettings, sha256: str) -> cv2.FaceDetectorYN:
    """Return this thread's detector by its settings and the content of its weights."""
    known: dict[tuple[str, float], cv2.FaceDetectorYN] = _thread.__dict__.setdefault("detectors", {})
    name = (sha256, settings.min_score)
    if name not in known:
        model = np.frombuffer(storage.read_bytes(settings.weights), np.uint8)
        side = _BLURRED_SIDE
        try:
            found = cv2.FaceDetectorYN.create(
                "onnx", model, np.empty(0, np.uint8), (side, side), settings.min_score, _NMS_THRESHOLD, _TOP_K
            )
            found.detect(np.zeros((side, side, 3), np.uint8))
        except cv2.error as error:
            raise UserError(f"{settings.weights}: not YuNet's face detector in ONNX: {error.err}") from error
        known[name] = found
    return known[name]
