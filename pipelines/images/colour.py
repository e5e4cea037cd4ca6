"""Colours of a profile as sRGB, which is what an image without a profile is taken for."""

import functools
import io
from typing import Any

import numpy as np
from PIL import Image, ImageCms

_SIDE = 9  # of the cube of colours on which a profile is compared with sRGB
_MAX_DIFFERENCE = 3  # of 255 levels: sRGB profiles of different makers differ by that
_MAX_PROFILE_BYTES = 4 << 20  # those for CMYK printing have up to two megabytes
_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
_CONVERTED = ("RGB", "L", "CMYK")


def differs_from_srgb(profile: bytes, mode: str) -> bool:
    """Return whether a profile gives images of a mode (RGB, L or CMYK) other colours than sRGB."""
    return mode in _CONVERTED and _transform(profile, mode) is not None


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image | None:
    """Return an image of a profile's colours in sRGB, as colour-managed viewers show it.

    Args:
        image: Of mode RGB, L or CMYK.
        profile: An ICC profile.

    Returns:
        The image in RGB; None if nothing has to be converted: its colours are those of sRGB, or the profile is broken
        or for images of another mode, so that viewers ignore it.
    """
    if image.mode not in _CONVERTED or (transform := _transform(profile, image.mode)) is None:
        return None
    return ImageCms.applyTransform(image, transform)


@functools.lru_cache(maxsize=16)  # with its profile, one for CMYK takes some megabytes
def _transform(profile: bytes, mode: str) -> Any:
    """Return the transform to sRGB; None if there is none or it changes nothing."""
    if len(profile) > _MAX_PROFILE_BYTES:
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if _MODES.get(source.profile.xcolor_space.strip()) != mode:
            return None
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
        colours = _colours(mode)
        shown = np.asarray(ImageCms.applyTransform(colours, transform), np.int16)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    difference = np.abs(shown - np.asarray(colours.convert("RGB"), np.int16)).max()
    return None if mode != "CMYK" and difference <= _MAX_DIFFERENCE else transform


def _colours(mode: str) -> Image.Image:
    """Return an image of colours all over the gamut."""
    levels = np.linspace(0, 255, _SIDE).astype(np.uint8)
    if mode == "L":
        return Image.fromarray(levels[None])
    channels = np.stack(np.meshgrid(*[levels] * len(mode), indexing="ij"), axis=-1)
    return Image.frombytes(mode, (channels.size // len(mode), 1), np.ascontiguousarray(channels).tobytes())
