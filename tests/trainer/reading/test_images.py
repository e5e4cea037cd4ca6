"""Tests of images as the model reads them: resized as in the released models' code, or fast, and refused if broken."""

import io
import random
import struct
import zlib

import cv2
import numpy as np
import pytest
import simplejpeg
from PIL import Image

from model.config import SIZES
from model.resizing import resize
from trainer.reading.images import decode, decode_crop
from trainer.reading.shard_reader import DamagedSample


def photo(width, height, format="JPEG"):
    """Return an image file with detail at all scales."""
    rng = np.random.default_rng(0)
    pixels = np.zeros((height, width, 3))
    for side in (4, 16, 64, 256):
        noise = rng.uniform(0, 1, (side, side, 3))
        pixels += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    image = Image.fromarray((pixels / pixels.max() * 255).clip(0, 255).astype(np.uint8))
    buffer = io.BytesIO()
    image.save(buffer, format, quality=92)
    return buffer.getvalue()


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("size", [(640, 480), (100, 300), (224, 224), (60, 50)])
def test_bicubic_is_what_the_released_models_do(format, size):
    data = photo(*size, format)
    reference = Image.open(io.BytesIO(data)).convert("RGB").resize((224, 224), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(decode(data, 224, "bicubic"), np.asarray(reference))


@pytest.mark.parametrize("size", [(640, 480), (1600, 1200), (100, 300), (32, 32)])
def test_area_is_as_before(size):
    data = photo(*size)
    pixels = simplejpeg.decode_jpeg(data, "RGB", min_height=32, min_width=32, min_factor=1)
    if pixels.shape[:2] != (32, 32):
        pixels = cv2.resize(pixels, (32, 32), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(decode(data, 32), pixels)


def test_area_is_close_to_bicubic():
    data = photo(1600, 1200)
    fast, exact = (decode(data, 224, how).astype(np.float64) for how in ("area", "bicubic"))
    assert 10 * np.log10(255**2 / np.square(fast - exact).mean()) > 30


@pytest.mark.parametrize("how", ["area", "bicubic"])
def test_crops_are_cut_from_the_scaled_image(how):
    data = photo(300, 200, "PNG")
    (pixels,), (height, width, *offset) = decode_crop(data, (64,), random.Random(5), 1.5, how)
    assert pixels.shape == (64, 64, 3)
    assert (height, width) == (200, 300)
    top, left = map(int, offset)
    scale = 64 * random.Random(5).uniform(1.0, 1.5) / 200
    wide, high = round(300 * scale), round(200 * scale)
    assert 0 <= top <= high - 64
    assert 0 <= left <= wide - 64
    if how == "bicubic":
        whole = Image.open(io.BytesIO(data)).convert("RGB").resize((wide, high), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(pixels, np.asarray(whole)[top : top + 64, left : left + 64])


@pytest.mark.parametrize("sizes", [(64, 24), (24, 64)])
@pytest.mark.parametrize("how", ["area", "bicubic"])
def test_a_crop_has_both_sizes_by_the_same_resampling(sizes, how):
    data = photo(300, 200, "PNG")
    (square,), (height, width, top, left) = decode_crop(data, (64,), random.Random(5), 1.5, how)
    found, crop = decode_crop(data, sizes, random.Random(5), 1.5, how)
    assert crop == (height, width, top * sizes[0] / 64, left * sizes[0] / 64)
    for pixels, size in zip(found, sizes, strict=True):
        np.testing.assert_array_equal(pixels, resize(square, size, size, how))


def test_sizes_with_released_encoders_resize_as_these_were_trained():
    chosen = {name: size.encoder.resampling for name, size in SIZES.items()}
    ours = {"debug", "debug-emu", "demo"}
    assert {name for name, how in chosen.items() if how == "area"} == ours
    assert {name for name, how in chosen.items() if how == "bicubic"} == set(SIZES) - ours


def png_of(width, height):
    """Return a PNG whose header states a size, with a single row of pixels."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 10)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "unknown format"),
        (b"<html>", "unknown format"),
        (photo(64, 48)[:300], "broken JPEG: "),
        (photo(64, 48, "PNG")[:300], "broken PNG: "),
        (photo(64, 48, "WEBP")[:60], "broken WebP: "),
        (png_of(20_000, 20_000), "20000 x 20000 pixels, more than 179,000,000"),
        (png_of(0, 4), "broken PNG: "),
    ],
)
def test_what_cannot_be_decoded_is_a_damaged_sample(data, message):
    for how in ("area", "bicubic"):
        with pytest.raises(DamagedSample, match=message) as found:
            decode(data, 32, how)
        assert " at 0x" not in str(found.value), "the same file gives the same reason"
    with pytest.raises(DamagedSample, match=message):
        decode_crop(data, (32,), random.Random(0), 1.5)
