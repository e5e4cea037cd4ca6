"""Normalisation of images: checked by their header, decoded, turned upright, resized by img2dataset's `Resizer`.

Metadata is removed. Equal bytes and settings give equal bytes. The result also says how boxes on the source move.
"""

import functools
import hashlib
import threading
from dataclasses import dataclass, replace
from typing import Any, Literal

import cv2
import numpy as np
from PIL import Image
from pydantic import Field, model_validator

from pipelines.drop_reasons import Reason
from pipelines.images.faces import FaceSettings, FoundFaces, blur_faces, find_faces
from pipelines.images.img2dataset_internals import import_resizer, resize_pixels
from pipelines.images.metadata import MIME, Format, read_size, sniff_format, strip_metadata
from pipelines.images.pixels import Pixels, decode
from pipelines.settings import GrownSettings

Box = tuple[float, float, float, float]
Interpolation = Literal["nearest", "linear", "bilinear", "cubic", "bicubic", "area", "lanczos", "lanczos4"]

_ENCODED: dict[str, Format] = {"jpg": "jpeg", "png": "png", "webp": "webp"}
# The Resizer redirects the process's stdout and stderr to /dev/null while it works; two at once would leave them so.
_RESIZING = threading.Lock()
_MAX_SIDE = {"jpg": 65_535, "png": 1_000_000, "webp": 16_383}  # limits of the formats; PNG: of libpng


# Increment when equal images would get other features. Those that were stored with an image are then measured again.
FEATURES_VERSION = 2


class ImageSettings(GrownSettings):
    """Form in which images are stored; options that img2dataset also has bear its names."""

    LATER = frozenset({"faces"})

    image_size: int = Field(
        default=448, gt=0, description="Side in pixels that resize_mode refers to; 448 is what Emu2 reads."
    )
    resize_mode: Literal["no", "border", "keep_ratio", "keep_ratio_largest", "center_crop"] = Field(
        default="keep_ratio",
        description="keep_ratio: the shorter side becomes image_size; keep_ratio_largest: the longer one; center_crop"
        " and border: a square, cut or padded with white; no: unchanged.",
    )
    resize_only_if_bigger: bool = Field(default=True, description="Leave smaller images at their size.")
    upscale_interpolation: Interpolation = Field(default="lanczos", description="Resampling when an image grows.")
    downscale_interpolation: Interpolation = Field(default="area", description="Resampling when an image shrinks.")
    encode_format: Literal["jpg", "png", "webp"] = Field(default="jpg", description="Format of stored images.")
    encode_quality: int = Field(
        default=95, ge=0, le=100, description="JPEG and WebP: 0 to 100. PNG: compression, 0 to 9."
    )
    skip_reencode: bool = Field(
        default=True,
        description="Store an image that is already in encode_format, opaque, upright and of the right size unchanged,"
        " except for its metadata.",
    )
    convert_profile: bool = Field(
        default=True,
        description="Convert colours of an ICC profile to sRGB, as viewers show them, before the profile is removed;"
        " false: leave the numbers as they are, as img2dataset does.",
    )
    min_image_size: int = Field(
        default=0, ge=0, description="Shorter side of the source in pixels; below is too_small."
    )
    max_image_area: float | None = Field(
        default=None, gt=0, description="Pixels of the source; above is image_area; null: any."
    )
    max_aspect_ratio: float | None = Field(
        default=None, ge=1, description="Longer over shorter side; above is aspect_ratio; null: any."
    )
    max_pixels: int = Field(
        default=50_000_000,
        gt=0,
        le=Image.MAX_IMAGE_PIXELS or 0,
        description="Pixels of source or result, by the header, before anything is decoded: 150 MB in memory. At most"
        " Pillow's own limit.",
    )
    faces: FaceSettings | None = Field(
        default=None, description="Faces that are blurred, counted, or a reason to drop the image; null: not searched."
    )

    @model_validator(mode="after")
    def _check(self) -> "ImageSettings":
        if self.encode_format == "png" and self.encode_quality > 9:
            raise ValueError(f"encode_quality: PNG's compression is 0 to 9, not {self.encode_quality}")
        return self


class ImageRejected(Exception):  # noqa: N818 - a verdict on the image, not a failure of ours
    """An image that cannot be kept: the reason, and the details."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True, slots=True)
class BoxMap:
    """Map of boxes from the source to the stored image: turned by `orientation` (EXIF), scaled, shifted."""

    orientation: int = 1
    scale: tuple[float, float] = (1.0, 1.0)
    shift: tuple[float, float] = (0.0, 0.0)

    def map_box(self, box: Box, *, is_upright: bool = False) -> Box | None:
        """Return the box on the stored image, or None if nothing of it is left.

        Args:
            box: [x0, y0, x1, y1] in 0..1 from the top left of the source's pixels.
            is_upright: Whether the box refers to the upright image, as browsers show it.
        """
        x0, y0, x1, y1 = box if is_upright else _turn_box(box, self.orientation)
        x0, x1 = (min(max(x * self.scale[0] + self.shift[0], 0.0), 1.0) for x in (x0, x1))
        y0, y1 = (min(max(y * self.scale[1] + self.shift[1], 0.0), 1.0) for y in (y0, y1))
        return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


@dataclass(frozen=True, slots=True)
class NormalisedImage:
    """An image in its stored form; the source's sizes are those of the upright image."""

    data: bytes
    mime: str
    width: int
    height: int
    source_width: int
    source_height: int
    source_sha256: str
    stored_sha256: str
    box_map: BoxMap
    features: "ImageFeatures"
    faces: FoundFaces | None = None


@dataclass(frozen=True, slots=True)
class ImageFeatures:
    """Features of a stored image.

    `phash` is a 64-bit DCT hash (similar images differ in few bits; it is meaningless if `std` is near 0), `blur` the
    variance of the Laplacian (high for sharp images; NeMo Curator keeps >= 100), `aspect` width over height, `mean`
    and `std` those of the grey values 0..255.
    """

    width: int
    height: int
    phash: int
    blur: float
    aspect: float
    mean: float
    std: float


def normalise(data: bytes, settings: ImageSettings) -> NormalisedImage:
    """Return the stored form of a fetched image; of an animation, that of the first frame.

    Raises:
        ImageRejected: With one of `drop_reasons.IMAGE_FILES`.
    """
    format = sniff_format(data)
    if format is None:
        raise ImageRejected("unsupported_format", f"begins with {data[:16]!r}")
    try:
        width, height = read_size(data, format)
        _check_size(width, height, settings)
        needs_resize = _needs_resize(width, height, settings)
        reduction = _reduction(width, height, settings) if needs_resize else 1
        min_size = (-(-height // reduction), -(-width // reduction)) if reduction > 1 else None
        decoded = decode(data, format, min_size, converts_profile=settings.convert_profile)
        is_kept = settings.skip_reencode and format == _ENCODED[settings.encode_format] and not needs_resize
        kept = strip_metadata(data, format) if is_kept and decoded.is_plain and decoded.orientation == 1 else None
    except Image.DecompressionBombError as error:
        raise ImageRejected("too_many_pixels", str(error)) from error
    except ValueError as error:
        raise ImageRejected("corrupt_image", str(error)) from error
    if decoded.orientation >= 5:
        width, height = height, width
    box_map = _box_map(width, height, decoded.orientation, settings)
    stored = None if kept is None else (kept, width, height)
    faces = None
    if stored is None or settings.faces is not None:
        upright = decoded.upright()
        shown, faces = _without_faces(upright, box_map, settings)
        if stored is None or shown is not upright:
            stored = _encode(shown, settings)
    return _normalised(stored, (width, height), hashlib.sha256(data).hexdigest(), box_map, faces, settings)


def normalise_pixels(pixels: Pixels, settings: ImageSettings, source_sha256: str) -> NormalisedImage:
    """Return the stored form of a frame that was decoded elsewhere.

    Args:
        pixels: (height, width, 3) uint8, BGR.
        settings: As for `normalise`.
        source_sha256: Hash of the file that contains the frame.

    Raises:
        ImageRejected: With one of `drop_reasons.IMAGE_FILES`.
    """
    height, width = pixels.shape[:2]
    _check_size(width, height, settings)
    box_map = _box_map(width, height, 1, settings)
    pixels, faces = _without_faces(pixels, box_map, settings)
    return _normalised(_encode(pixels, settings), (width, height), source_sha256, box_map, faces, settings)


def features(data: bytes) -> ImageFeatures:
    """Return the features of a stored image (JPEG, PNG or WebP).

    Raises:
        ValueError: If it cannot be decoded.
    """
    grey = _grey(data)
    height, width = grey.shape
    mean, std = cv2.meanStdDev(grey)
    return ImageFeatures(
        width=width,
        height=height,
        phash=_phash(grey),
        blur=float(cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_16S))[1][0][0]) ** 2,
        aspect=width / height,
        mean=float(mean[0][0]),
        std=float(std[0][0]),
    )


def perceptual_hash(data: bytes) -> int:
    """Return `phash` of a stored image's features, without the others.

    Raises:
        ValueError: If it cannot be decoded.
    """
    return _phash(_grey(data))


def _grey(data: bytes) -> Pixels:
    grey = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE) if data else None
    if grey is None:
        raise ValueError("not an image that can be decoded")
    return grey  # type: ignore[no-any-return]


def _phash(grey: Pixels) -> int:
    low = cv2.dct(cv2.resize(grey, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32))[:8, :8].ravel()
    median = np.partition(low[1:], 31)[31]  # without the mean, which would dominate; `np.median` is slow
    bits = low > median
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def _without_faces(pixels: Pixels, box_map: BoxMap, settings: ImageSettings) -> tuple[Pixels, FoundFaces | None]:
    """Return an upright image as it may be stored, and its faces with their boxes on the stored image.

    Raises:
        ImageRejected: `face_found`, if that is what the settings ask for.
    """
    if settings.faces is None:
        return pixels, None
    found = find_faces(pixels, settings.faces)
    boxes = {face: box_map.map_box(face.box, is_upright=True) for face in found.faces}
    shown = tuple(face for face in found.faces if boxes[face] is not None)  # no part of the others is stored
    if shown and settings.faces.action == "drop":
        raise ImageRejected("face_found", f"{len(shown)}, by {found.detector}")
    if shown and settings.faces.action == "blur":
        pixels = blur_faces(pixels, shown)
    faces = tuple(replace(face, box=box) for face, box in boxes.items() if box is not None)
    return pixels, replace(found, faces=faces)


def _normalised(
    stored: tuple[bytes, int, int],
    size: tuple[int, int],
    source_sha256: str,
    box_map: BoxMap,
    faces: FoundFaces | None,
    settings: ImageSettings,
) -> NormalisedImage:
    data, width, height = stored
    return NormalisedImage(
        data=data,
        mime=MIME[_ENCODED[settings.encode_format]],
        width=width,
        height=height,
        source_width=size[0],
        source_height=size[1],
        source_sha256=source_sha256,
        stored_sha256=hashlib.sha256(data).hexdigest(),
        box_map=box_map,
        features=features(data),
        faces=faces,
    )


def _check_size(width: int, height: int, settings: ImageSettings) -> None:
    size = f"{width}x{height}"
    if min(width, height) < 1:
        raise ImageRejected("corrupt_image", f"the header says {size}")
    if width * height > settings.max_pixels:
        raise ImageRejected("too_many_pixels", f"{size}, at most {settings.max_pixels} pixels")
    if min(width, height) < settings.min_image_size:
        raise ImageRejected("too_small", f"{size}, at least {settings.min_image_size} a side")
    if settings.max_image_area is not None and width * height > settings.max_image_area:
        raise ImageRejected("image_area", f"{size}, at most {settings.max_image_area:.0f} pixels")
    ratio = max(width, height) / min(width, height)
    if settings.max_aspect_ratio is not None and ratio > settings.max_aspect_ratio:
        raise ImageRejected("aspect_ratio", f"{size}, at most {settings.max_aspect_ratio} to 1")
    # A thin strip would become millions of pixels long, or less than one pixel high.
    scaled_width, scaled_height = _scaled(width, height, settings)
    if scaled_width * scaled_height > settings.max_pixels:
        raise ImageRejected("too_many_pixels", f"{size} would be stored as {scaled_width:.0f}x{scaled_height:.0f}")
    if min(scaled_width, scaled_height) < 1 or max(scaled_width, scaled_height) > _MAX_SIDE[settings.encode_format]:
        raise ImageRejected("aspect_ratio", f"{size} would be stored as {scaled_width:.2f}x{scaled_height:.2f}")


def _reference_side(width: int, height: int, settings: ImageSettings) -> int:
    """Return the side that becomes image_size."""
    return min(width, height) if settings.resize_mode in ("keep_ratio", "center_crop") else max(width, height)


def _needs_resize(width: int, height: int, settings: ImageSettings) -> bool:
    """Return whether the Resizer changes pixels, by its own rule."""
    if settings.resize_mode == "no":
        return False
    is_bigger = _reference_side(width, height, settings) > settings.image_size
    return is_bigger or not settings.resize_only_if_bigger


def _scaled(width: int, height: int, settings: ImageSettings) -> tuple[float, float]:
    """Return width and height after scaling, before cutting or padding."""
    if not _needs_resize(width, height, settings):
        return width, height
    factor = settings.image_size / _reference_side(width, height, settings)
    return width * factor, height * factor


def _box_map(width: int, height: int, orientation: int, settings: ImageSettings) -> BoxMap:
    if not _needs_resize(width, height, settings) or settings.resize_mode not in ("center_crop", "border"):
        return BoxMap(orientation)
    scale_x, scale_y = (side / settings.image_size for side in _scaled(width, height, settings))
    return BoxMap(orientation, (scale_x, scale_y), ((1 - scale_x) / 2, (1 - scale_y) / 2))


def _turn_box(box: Box, orientation: int) -> Box:
    x0, y0, x1, y1 = box
    turned: dict[int, Box] = {
        1: (x0, y0, x1, y1),
        2: (1 - x1, y0, 1 - x0, y1),
        3: (1 - x1, 1 - y1, 1 - x0, 1 - y0),
        4: (x0, 1 - y1, x1, 1 - y0),
        5: (y0, x0, y1, x1),
        6: (1 - y1, x0, 1 - y0, x1),
        7: (1 - y1, 1 - x1, 1 - y0, 1 - x0),
        8: (y0, 1 - x1, y1, 1 - x0),
    }
    return turned[orientation]


def _reduction(width: int, height: int, settings: ImageSettings) -> int:
    """Return by how much a JPEG is scaled while it is decoded: the largest of 8, 4, 2, 1 that leaves enough pixels.

    From 1600x1200 to 256 this is 2.3 times as fast, and differs by 38-40 dB from resizing all pixels, as much as
    encoding at quality 95 does. Other fractions are slower than no scaling at all.
    """
    side = _reference_side(width, height, settings)
    return next(n for n in (8, 4, 2, 1) if n == 1 or side // n > settings.image_size)


def _encode(pixels: Pixels, settings: ImageSettings) -> tuple[bytes, int, int]:
    """Return the file that the Resizer makes of pixels, and its width and height."""
    with _RESIZING:
        stored, width, height, _, _, error = resize_pixels(_resizer(settings), pixels)
    if error is None:
        return stored, width, height
    if error.startswith("[Errno"):  # no file descriptor is left for its redirection; the image is fine
        raise OSError(f"an image cannot be resized: {error}")
    raise ImageRejected("corrupt_image", f"cannot be resized: {error}")


def load_resizer() -> Any:
    """Import img2dataset's `Resizer`, which takes half a second, and return it.

    Local workers are forked from a process that has already imported it (`pipelines/forkserver_preload.py`).
    """
    return import_resizer()


@functools.lru_cache(maxsize=16)
def _resizer(settings: ImageSettings) -> Any:
    return load_resizer()(
        image_size=settings.image_size,
        resize_mode=settings.resize_mode,
        resize_only_if_bigger=settings.resize_only_if_bigger,
        upscale_interpolation=settings.upscale_interpolation,
        downscale_interpolation=settings.downscale_interpolation,
        encode_quality=settings.encode_quality,
        encode_format=settings.encode_format,
    )  # sizes are checked before this: the pixels given to it may already be reduced
