"""Pixels of an image file: 8-bit BGR on white, and the rotation that turns them upright.

Everything that looks at images decodes them here, so that all see the same: corpora, training, evaluation, prompts.
"""

import io
import re
from dataclasses import dataclass, replace

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from pipelines.images.colour import differs_from_srgb, to_srgb
from pipelines.images.metadata import (
    PILLOW_ERRORS,
    Format,
    Metadata,
    mended_png,
    read_metadata,
    read_size,
    sniff_format,
    strip_metadata,
)

Pixels = NDArray[np.uint8]

# Warnings of libjpeg about what damages no pixel: stray bytes before a marker, and headers that are odd.
_HARMLESS = (
    "extraneous bytes",
    "Invalid SOS parameters",
    "unknown JFIF revision",
    "Unknown Adobe color transform",
)
_NAMES: dict[Format, str] = {
    "jpeg": "JPEG",
    "png": "PNG",
    "webp": "WebP",
    "gif": "GIF",
    "bmp": "BMP",
    "avif": "AVIF",
}
MAX_PIXELS = 179_000_000
"""Most pixels of an image that is decoded: Pillow's limit against decompression bombs."""

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


def decode_upright(data: bytes, *, min_side: int | None = None) -> Pixels:
    """Decode an image file as viewers show it: upright, colours in sRGB, on white; of an animation, the first frame.

    Args:
        data: A file of any format that corpora take.
        min_side: Width and height below which a JPEG is not scaled while it is decoded, which is up to five times as
            fast; None: it is not scaled.

    Returns:
        (height, width, 3) uint8, BGR.

    Raises:
        ValueError: If it is none, has more than `MAX_PIXELS`, or is damaged.
    """
    format = sniff_format(data)
    if format is None:
        known = ", ".join(_NAMES.values())
        raise ValueError(f"broken image: unknown format, begins with {data[:16]!r}; known are {known}")
    try:
        width, height = read_size(data, format)
        too_large = width * height > MAX_PIXELS
        size = None if min_side is None else (min_side, min_side)
        if not too_large:
            return decode(data, format, size, converts_profile=True).upright()
    except (ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"broken {_NAMES[format]}: {error}") from error
    raise ValueError(f"{width} x {height} pixels, more than {MAX_PIXELS:,}")


def decode(
    data: bytes,
    format: Format,
    min_size: tuple[int, int] | None = None,
    *,
    converts_profile: bool = False,
    metadata: Metadata | None = None,
) -> Decoded:
    """Decode a file whose header has been checked; of an animation, the first frame.

    What every viewer shows is decoded: a JPEG with stray bytes between its segments or without its end marker, a PNG
    with a wrong checksum in a chunk that is not needed or without its end. Missing pixels are not filled in.

    Args:
        data: The file.
        format: Result of `sniff_format`.
        min_size: Height and width below which a JPEG is not scaled while it is decoded; None: it is not scaled.
        converts_profile: Whether the colours of a profile become those of sRGB.
        metadata: Result of `read_metadata`, if the caller has read it.

    Raises:
        ValueError: If the file is damaged or truncated.
    """
    if format == "jpeg":
        if _num_scans(data) > _MAX_SCANS:
            raise ValueError(f"more than {_MAX_SCANS} JPEG scans")
        try:
            height, width, colours, _ = simplejpeg.decode_jpeg_header(data, strict=False)
        except KeyError:  # an unknown subsampling, or none, as in a file that ends within its tables
            colours = ""
        else:
            _check_size(data, format, (width, height))
        if colours not in ("", "CMYK", "YCCK"):
            size = {} if min_size is None else {"min_height": min_size[0], "min_width": min_size[1]}
            pixels = _decode_jpeg(data, size)
            metadata = metadata or read_metadata(data, format)
            converted = _converted(pixels, colours == "Gray", metadata.icc) if converts_profile else None
            return Decoded(pixels if converted is None else converted, metadata.orientation, converted is None)
    try:
        return _decode_with_pillow(data, format, converts_profile)
    except _OtherSizeError:
        raise
    except PILLOW_ERRORS as error:
        if format not in ("jpeg", "png"):
            raise ValueError(_reason(error)) from error
    try:
        if format == "png":
            return _decode_with_pillow(mended_png(data), format, converts_profile)
        mended, metadata = strip_metadata(data, format), metadata or read_metadata(data, format)
        decoded = _decode_with_pillow(mended, format, converts_profile, metadata.icc)
        simplejpeg.decode_jpeg(mended, "CMYK")  # Pillow has filled in what is missing
        return replace(decoded, orientation=metadata.orientation)
    except PILLOW_ERRORS as error:
        raise ValueError(_reason(error)) from error


class _OtherSizeError(ValueError):
    """A file whose decoder finds another size than the header that was judged."""


def _check_size(data: bytes, format: Format, found: tuple[int, int]) -> None:
    """Check that a decoder finds the size by which the file was let in.

    A PNG with two headers, or a JPEG with one in what a parser takes for a segment, would be small where it is judged
    and gigabytes where it is decoded.

    Raises:
        _OtherSizeError: If it does not.
    """
    stated = read_size(data, format)
    if found != stated:
        raise _OtherSizeError(f"two sizes: {stated[0]}x{stated[1]} and {found[0]}x{found[1]}")


def _num_scans(data: bytes) -> int:
    """Return the number of markers of a scan: `data.count` takes five times as long, 60 µs for 50 KB."""
    values = np.frombuffer(data, np.uint8)
    return int(np.count_nonzero((values[:-1] == 0xFF) & (values[1:] == 0xDA)))


def _reason(error: BaseException) -> str:
    """Return what an error says, without the address of the object that was read, which is another at every run."""
    return re.sub(r" ?<\S+ object at 0x\w+>", "", str(error)) or type(error).__name__


def _converted(pixels: Pixels, is_grey: bool, profile: bytes) -> Pixels | None:
    """Return pixels in sRGB; None if they are already, or have no profile."""
    if not profile or not differs_from_srgb(profile, "L" if is_grey else "RGB"):
        return None
    image = Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if is_grey else pixels[:, :, ::-1]))
    converted = to_srgb(image, profile)
    return None if converted is None else np.ascontiguousarray(np.asarray(converted)[:, :, ::-1])


def _decode_jpeg(data: bytes, size: dict[str, int]) -> Pixels:
    try:
        return simplejpeg.decode_jpeg(data, "BGR", **size)  # type: ignore[no-any-return]
    except ValueError:
        # With the end marker in its place, libjpeg tells missing pixels, which it fills with grey, from a missing end.
        mended = strip_metadata(data, "jpeg")
    try:
        return simplejpeg.decode_jpeg(mended, "BGR", **size)  # type: ignore[no-any-return]
    except ValueError as error:
        if not any(harmless in str(error) for harmless in _HARMLESS):
            raise
        return simplejpeg.decode_jpeg(mended, "BGR", strict=False, **size)  # type: ignore[no-any-return]


def _decode_with_pillow(data: bytes, format: Format, converts_profile: bool, profile: bytes = b"") -> Decoded:
    with Image.open(io.BytesIO(data), formats=[format.upper()]) as file:
        if format in ("jpeg", "png", "webp"):  # of the others Pillow itself has told the size
            _check_size(data, format, file.size)
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
        alpha = None
        if image.has_transparency_data:
            rgba = image.convert("RGBA")
            image, alpha = rgba.convert("RGB"), rgba.getchannel("A")
        elif image.mode not in ("L", "CMYK"):
            image = image.convert("RGB")
        profile = file.info.get("icc_profile") or profile
        if converts_profile and profile and (converted := to_srgb(image, profile)) is not None:
            image, is_plain = converted, False
        if alpha is not None:
            opaque, image = image, Image.new("RGB", image.size, (255, 255, 255))
            image.paste(opaque, mask=alpha)
        pixels = np.asarray(image.convert("RGB"))[:, :, ::-1]
    return Decoded(pixels, orientation if orientation in range(1, 9) else 1, is_plain)
