"""Pixels of an image file: 8-bit BGR on white, and the rotation that turns them upright."""

import io
import struct
from dataclasses import dataclass

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from pipelines.images.metadata import Format, read_metadata

Pixels = NDArray[np.uint8]

_MAX_SCANS = 200  # of a progressive JPEG; each costs a pass over all pixels, encoders write about ten


@dataclass(frozen=True, slots=True)
class Decoded:
    """A decoded file.

    `pixels` is (height, width, 3) uint8, BGR, not yet rotated; `orientation` is EXIF's 1 to 8; `is_plain` says whether
    the file is one opaque image of at most 8 bits in RGB or grey, so that nothing had to be converted.
    """

    pixels: Pixels
    orientation: int
    is_plain: bool

    def upright(self) -> Pixels:
        """Return the pixels in upright orientation."""
        pixels = self.pixels
        turns = {
            1: pixels,
            2: pixels[:, ::-1],
            3: pixels[::-1, ::-1],
            4: pixels[::-1],
            5: pixels.transpose(1, 0, 2),
            6: pixels[::-1].transpose(1, 0, 2),
            7: pixels[::-1, ::-1].transpose(1, 0, 2),
            8: pixels[:, ::-1].transpose(1, 0, 2),
        }
        return np.ascontiguousarray(turns[self.orientation])


def decode(data: bytes, format: Format, reduction: int = 1) -> Decoded:
    """Decode a file whose header has been checked; of an animation, the first frame.

    Args:
        data: The file.
        format: Result of `sniff_format`.
        reduction: 1, 2, 4 or 8: factor by which the sides of a JPEG may be divided during decoding.

    Raises:
        ValueError: If the file is damaged or truncated.
    """
    if format == "jpeg":
        if data.count(b"\xff\xda") > _MAX_SCANS:
            raise ValueError(f"more than {_MAX_SCANS} JPEG scans")
        try:
            height, width, colours, _ = simplejpeg.decode_jpeg_header(data, strict=False)
        except KeyError:  # an unknown subsampling, or none, as in a file that ends within its tables
            height = width = 0
            colours = ""
        if colours not in ("", "CMYK", "YCCK"):
            size = {"min_height": -(-height // reduction), "min_width": -(-width // reduction)}
            pixels = _decode_jpeg(data, size if reduction > 1 else {})
            return Decoded(pixels, read_metadata(data, format).orientation, True)
    try:
        return _decode_with_pillow(data, format)
    except (OSError, SyntaxError, EOFError, TypeError, LookupError, struct.error, MemoryError) as error:
        raise ValueError(str(error) or type(error).__name__) from error


def _decode_jpeg(data: bytes, size: dict[str, int]) -> Pixels:
    try:
        return simplejpeg.decode_jpeg(data, "BGR", **size)  # type: ignore[no-any-return]
    except ValueError as error:
        # Stray bytes before a marker damage no pixel; everything else does: libjpeg fills missing data with grey.
        if "extraneous" not in str(error):
            raise
        return simplejpeg.decode_jpeg(data, "BGR", strict=False, **size)  # type: ignore[no-any-return]


def _decode_with_pillow(data: bytes, format: Format) -> Decoded:
    with Image.open(io.BytesIO(data), formats=[format.upper()]) as file:
        file.load()
        orientation = file.getexif().get(0x0112, 1)
        image: Image.Image = file
        is_plain = (
            image.mode in ("RGB", "L", "P", "1")
            and not image.has_transparency_data
            and getattr(image, "n_frames", 1) == 1
            and not (format == "png" and data[24] > 8)  # bits per channel
        )
        if image.mode.startswith("I"):  # 16-bit grey
            image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8))
        if image.has_transparency_data:
            rgba = image.convert("RGBA")
            image = Image.new("RGB", rgba.size, (255, 255, 255))
            image.paste(rgba, mask=rgba.getchannel("A"))
        pixels = np.asarray(image.convert("RGB"))[:, :, ::-1]
    return Decoded(pixels, orientation if orientation in range(1, 9) else 1, is_plain)
