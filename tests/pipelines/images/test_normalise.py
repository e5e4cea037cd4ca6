import contextlib
import hashlib
import io
import os
import resource
import struct
import subprocess
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms
from pydantic import ValidationError

from pipelines.drop_reasons import IMAGE_FILES
from pipelines.images.metadata import Metadata, read_metadata, read_size, sniff_format, strip_metadata
from pipelines.images.normalise import (
    BoxMap,
    ImageRejected,
    ImageSettings,
    features,
    normalise,
    normalise_pixels,
)

# img2dataset's Resizer passes albumentations an option by its old name.
pytestmark = pytest.mark.filterwarnings("ignore:value is deprecated, use fill:DeprecationWarning")

KEEP = ImageSettings(resize_mode="no", encode_format="png", encode_quality=1, skip_reencode=False)


def photo(width=640, height=480, seed=0):
    """Return an image of smooth colours with a red top left quarter."""
    rng = np.random.default_rng(seed)
    pixels = cv2.resize(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
    pixels[: height // 2, : width // 2] = (200, 30, 30)
    return Image.fromarray(pixels)


def encoded(image, format="JPEG", **options):
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def opened(result):
    return Image.open(io.BytesIO(result.data)).convert("RGB")


def exif(orientation, copyright_notice=None):
    tags = Image.Exif()
    tags[0x0112] = orientation
    if copyright_notice:
        tags[0x8298] = copyright_notice
    return tags


def reason(data, settings=None):
    with pytest.raises(ImageRejected) as caught:
        normalise(data, settings or ImageSettings())
    assert caught.value.reason in IMAGE_FILES
    assert caught.value.detail
    return caught.value.reason


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF"])
def test_every_format_is_known_by_its_bytes_and_decoded(format):
    image = photo(60, 40)
    data = encoded(image, format, **({"quality": 95} if format in ("JPEG", "WEBP", "AVIF") else {}))
    assert sniff_format(data) == format.lower()
    assert read_size(data, sniff_format(data)) == (60, 40)
    result = normalise(data, KEEP)
    assert (result.width, result.height, result.mime) == (60, 40, "image/png")
    difference = np.abs(np.asarray(opened(result)).astype(int) - np.asarray(image)).mean()
    assert difference < 6


def test_hashes_are_of_the_fetched_and_of_the_stored_bytes():
    data = encoded(photo())
    result = normalise(data, ImageSettings(image_size=64))
    assert result.source_sha256 == hashlib.sha256(data).hexdigest()
    assert result.stored_sha256 == hashlib.sha256(result.data).hexdigest()
    assert (result.source_width, result.source_height) == (640, 480)
    assert normalise(data, ImageSettings(image_size=64)) == result


@pytest.mark.parametrize(
    ("mode", "size"),
    [
        ("no", (640, 480)),
        ("border", (100, 100)),
        ("keep_ratio", (133, 100)),
        ("keep_ratio_largest", (100, 75)),
        ("center_crop", (100, 100)),
    ],
)
def test_resize_modes_are_those_of_img2dataset(mode, size):
    result = normalise(encoded(photo(), "PNG"), ImageSettings(image_size=100, resize_mode=mode))
    assert (result.width, result.height) == size == opened(result).size


def test_smaller_images_grow_only_when_asked():
    data = encoded(photo(80, 60), "PNG")
    assert normalise(data, ImageSettings(image_size=120)).width == 80
    assert normalise(data, ImageSettings(image_size=120, resize_only_if_bigger=False)).height == 120


@pytest.mark.parametrize("mode", ["border", "center_crop", "keep_ratio", "keep_ratio_largest"])
@pytest.mark.parametrize("only_if_bigger", [True, False])
@pytest.mark.parametrize("side", [99, 100, 101, 200, 201, 400])
def test_scaled_decoding_gives_the_size_of_a_full_one(mode, only_if_bigger, side):
    settings = ImageSettings(image_size=100, resize_mode=mode, resize_only_if_bigger=only_if_bigger)
    image = photo(side * 4 // 3, side)
    scaled, full = normalise(encoded(image), settings), normalise(encoded(image, "PNG"), settings)
    assert abs(scaled.width - full.width) <= 1
    assert abs(scaled.height - full.height) <= 1
    if mode in ("border", "center_crop"):
        assert (scaled.width, scaled.height) == (full.width, full.height)


def test_scaled_decoding_looks_like_a_full_one():
    image = photo(1200, 900)
    scaled = normalise(encoded(image, quality=95), ImageSettings(image_size=100))
    full = normalise(encoded(image, "PNG"), ImageSettings(image_size=100))
    assert cv2.PSNR(np.asarray(opened(scaled)), np.asarray(opened(full))) > 35


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_images_stand_upright_and_boxes_move_along(orientation, format):
    raw = Image.new("RGB", (64, 32), (255, 255, 255))
    raw.paste((0, 0, 0), (0, 0, 16, 8))
    options = {"quality": 95, "exif": exif(orientation)} if format != "PNG" else {"exif": exif(orientation)}
    result = normalise(encoded(raw, format, **options), KEEP)
    assert (result.source_width, result.source_height) == ((32, 64) if orientation >= 5 else (64, 32))
    x0, y0, x1, y1 = result.box_map.map_box((0.0, 0.0, 0.25, 0.25))
    grey = np.asarray(opened(result).convert("L")).astype(float)
    inside = grey[
        round(y0 * result.height) : round(y1 * result.height), round(x0 * result.width) : round(x1 * result.width)
    ]
    assert inside.size == 16 * 8
    assert inside.mean() < 60
    assert (grey < 128).sum() < 16 * 8 + 50
    assert result.box_map.map_box((0.1, 0.2, 0.3, 0.4), is_upright=True) == (0.1, 0.2, 0.3, 0.4)


def test_boxes_follow_a_border_and_a_crop():
    data = encoded(photo(200, 100), "PNG")
    border = normalise(data, ImageSettings(image_size=100, resize_mode="border")).box_map
    assert border.map_box((0.0, 0.0, 0.5, 0.5)) == pytest.approx((0.0, 0.25, 0.5, 0.5))
    crop = normalise(data, ImageSettings(image_size=50, resize_mode="center_crop")).box_map
    assert crop.map_box((0.25, 0.0, 0.75, 1.0)) == pytest.approx((0.0, 0.0, 1.0, 1.0))
    assert crop.map_box((0.0, 0.0, 0.2, 0.5)) is None
    assert BoxMap().map_box((0.1, 0.2, 0.3, 0.4)) == pytest.approx((0.1, 0.2, 0.3, 0.4))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_an_image_that_fits_keeps_its_pixels_and_loses_its_metadata(format):
    image = photo(300, 200)
    options = {"exif": exif(1, "© Someone"), "icc_profile": b"profile of a person's camera" * 8}
    if format == "JPEG":
        options |= {"comment": b"a private word", "progressive": True}
    data = encoded(image, format, **options)
    settings = ImageSettings(encode_format={"JPEG": "jpg"}.get(format, format.lower()), encode_quality=9)
    result = normalise(data + b"trailing bytes", settings)
    assert (np.asarray(opened(result)) == np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))).all()
    for word in (b"Exif", b"Someone", b"camera", b"private", b"trailing"):
        assert word not in result.data
    assert not Image.open(io.BytesIO(result.data)).getexif()
    assert len(result.data) < len(data)
    assert strip_metadata(result.data, sniff_format(data)) == result.data


def test_a_thumbnail_in_the_file_header_does_not_survive():
    data = encoded(photo(60, 40))
    header = b"JFIF\0\1\1\0\0\1\0\1\2\2" + b"\x99" * 12
    data = b"\xff\xd8\xff\xe0" + struct.pack(">H", len(header) + 2) + header + data[20:]
    assert b"\x99" * 12 not in normalise(data, ImageSettings()).data


def test_transparency_becomes_white():
    image = Image.new("RGBA", (40, 40), (255, 0, 0, 0))
    image.paste((0, 0, 255, 255), (0, 0, 20, 40))
    palette = image.convert("P")
    palette.info["transparency"] = palette.getpixel((30, 0))
    for data in (encoded(image, "PNG"), encoded(image, "WEBP", lossless=True), encoded(palette, "GIF")):
        stored = opened(normalise(data, KEEP))
        assert stored.getpixel((30, 10)) == (255, 255, 255)
        assert stored.getpixel((5, 10))[2] > 200


def test_cmyk_palette_grey_and_deep_images_become_8_bit_rgb():
    grey = Image.linear_gradient("L").resize((64, 64))
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    data = [encoded(photo(64, 64).convert("CMYK")), encoded(photo(64, 64).quantize(8), "PNG"), encoded(grey)]
    for item in [*data, encoded(deep, "PNG"), encoded(grey.convert("1"), "PNG"), encoded(grey.convert("LA"), "PNG")]:
        stored = Image.open(io.BytesIO(normalise(item, KEEP).data))
        assert stored.mode == "RGB"
    stored = opened(normalise(encoded(deep, "PNG"), ImageSettings(encode_format="png", encode_quality=1)))
    assert np.abs(np.asarray(stored)[:, :, 0].astype(int) - np.asarray(grey)).max() <= 1


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_kept(format):
    first, second = Image.new("RGB", (32, 32), (255, 0, 0)), Image.new("RGB", (32, 32), (0, 0, 255))
    data = encoded(first, format, save_all=True, append_images=[second], duration=100)
    settings = ImageSettings(encode_format={"GIF": "png"}.get(format, format.lower()), encode_quality=9)
    result = normalise(data, settings)
    assert getattr(Image.open(io.BytesIO(result.data)), "n_frames", 1) == 1
    red, _, blue = opened(result).getpixel((16, 16))
    assert red > 200 > 60 > blue


def test_what_is_no_image_is_an_unsupported_format():
    for data in (b"", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"<html>404", b"%PDF-1.7", b"II*\0tiff"):
        assert reason(data) == "unsupported_format"


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF"])
def test_a_truncated_image_is_corrupt(format):
    data = encoded(photo(200, 150), format)
    for share in (0.02, 0.5, 0.9):
        assert reason(data[: max(30, int(len(data) * share))]) == "corrupt_image"


def test_a_jpeg_cut_at_any_byte_of_its_header_is_corrupt():
    data = encoded(photo(64, 48))
    for end in range(4, data.index(b"\xff\xda") + 20):
        assert reason(data[:end]) == "corrupt_image", end


def test_damaged_bytes_give_an_image_or_a_reason():
    rng = np.random.default_rng(7)
    for format in ("JPEG", "PNG", "WEBP", "GIF", "BMP"):
        data = encoded(photo(50, 40), format)
        for _ in range(60):
            damaged = bytearray(data)
            for at in rng.integers(0, len(data), 4):
                damaged[at] = rng.integers(0, 256)
            with contextlib.suppress(ImageRejected):
                result = normalise(bytes(damaged), ImageSettings(image_size=32, max_pixels=100_000))
                assert opened(result).size == (result.width, result.height)


def test_a_bomb_is_refused_by_its_header():
    png = bytearray(encoded(photo(8, 8), "PNG"))
    png[16:24] = struct.pack(">II", 60_000, 60_000)
    assert reason(bytes(png)) == "too_many_pixels"
    gif = bytearray(encoded(photo(8, 8), "GIF"))
    gif[6:10] = struct.pack("<HH", 65_535, 65_535)
    assert reason(bytes(gif)) == "too_many_pixels"


def test_a_png_with_a_second_and_larger_size_is_not_decoded():
    small, large = (png_chunk(b"IHDR", struct.pack(">IIBBBBB", n, n, 8, 0, 0, 0, 0)) for n in (64, 9000))
    pixels = png_chunk(b"IDAT", zlib.compress(bytes(9001 * 9000), 9))
    with pytest.raises(ImageRejected, match="two sizes: 64x64 and 9000x9000") as rejected:
        normalise(b"\x89PNG\r\n\x1a\n" + small + large + pixels + png_chunk(b"IEND", b""), ImageSettings())
    assert rejected.value.reason == "corrupt_image"


def test_the_size_of_a_jpeg_is_that_of_its_first_frame_also_behind_a_marker_without_length():
    small = encoded(photo(64, 64))
    large = bytearray(small)
    struct.pack_into(">HH", large, large.index(b"\xff\xc0") + 5, 20_000, 20_000)
    # Whoever takes the restart marker for a segment finds its end, by the next two bytes, where the small image begins.
    (length,) = struct.unpack_from(">H", large, 2)
    data = b"\xff\xd8\xff\xd0" + bytes(large[2:]).ljust(length, b"\0") + small[2:]
    assert read_size(data, "jpeg") == (20_000, 20_000)
    assert reason(data) == "too_many_pixels"


def test_a_thin_strip_does_not_grow_without_bounds():
    strip = encoded(Image.new("RGB", (4000, 1)), "PNG")
    assert reason(strip, ImageSettings(resize_only_if_bigger=False)) == "too_many_pixels"
    assert reason(strip, ImageSettings(resize_mode="border")) == "aspect_ratio"


def test_limits_give_their_reasons():
    data = encoded(photo(300, 100), "PNG")
    assert reason(data, ImageSettings(min_image_size=101)) == "too_small"
    assert reason(data, ImageSettings(max_image_area=29_999)) == "image_area"
    assert reason(data, ImageSettings(max_aspect_ratio=2.9)) == "aspect_ratio"
    at_the_limits = ImageSettings(min_image_size=100, max_image_area=30_000, max_aspect_ratio=3)
    assert normalise(data, at_the_limits).width == 300


def test_a_progressive_bomb_is_refused():
    data = encoded(photo(64, 64), progressive=True)
    assert reason(data[:-2] + b"\xff\xda\0\2" * 300 + b"\xff\xd9") == "corrupt_image"


def test_stray_bytes_in_a_jpeg_are_forgiven():
    data = encoded(photo(64, 64))
    assert normalise(data[:-2] + b"\x12\x34\x56" + data[-2:], ImageSettings(image_size=32)).width == 32


def same_pixels(data, whole, settings=KEEP):
    return np.array_equal(np.asarray(opened(normalise(data, settings))), np.asarray(opened(normalise(whole, settings))))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0, "optimize": True}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_in_an_untidy_container_is_shown(mode, options):
    data = encoded(photo(64, 48).convert(mode), comment=b"words", **options)
    scan = data.index(b"\xff\xda")
    tables = data.index(b"\xff\xdb")
    untidy = {
        "no end": data[:-2],
        "half an end": data[:-1],
        "bytes after the end": data + b"\r\n<!-- trailer -->",
        "bytes before the scan": data[:scan] + b"\x12\x34" + data[scan:],
        "bytes before the tables": data[:tables] + b"\0" * 7 + data[tables:],
        "marker-like bytes": data[:tables] + b"\xff\x00\x07" + data[tables:],
        "fill bytes": data[:tables] + b"\xff" * 5 + data[tables:],
        "all of them": (data[:tables] + b"\x01" + data[tables:scan] + b"\x02" + data[scan:-2]),
    }
    for what, damaged in untidy.items():
        assert same_pixels(damaged, data), what
        kept = normalise(damaged, ImageSettings(encode_format="jpg"))
        assert kept.data.startswith(b"\xff\xd8\xff"), what
        assert kept.data.endswith(b"\xff\xd9"), what
        Image.open(io.BytesIO(kept.data)).load()


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_a_mended_jpeg_keeps_its_orientation_and_colours(mode):
    data = encoded(photo(64, 48).convert(mode), exif=exif(6), icc_profile=ADOBE_RGB)
    assert normalise(data[:-2], KEEP).data == normalise(data, KEEP).data
    assert normalise(data[:-2], KEEP).width == 48


def test_a_jpeg_that_ends_within_its_pixels_is_corrupt_whatever_its_end():
    for options in ({}, {"progressive": True}):
        data = encoded(photo(200, 150), **options)
        for end in (0.3, 0.6, 0.9):
            cut = data[: int(len(data) * end)]
            assert reason(cut) == reason(cut + b"\xff\xd9") == "corrupt_image"
    grey = encoded(photo(200, 150).convert("CMYK"))
    assert reason(grey[: len(grey) // 2]) == "corrupt_image"


def test_a_jpeg_with_an_odd_scan_header_is_shown():
    data = bytearray(encoded(photo(64, 48)))
    at = data.index(b"\xff\xda")
    end_of_spectrum = at + 2 + 2 + 1 + 2 * data[at + 4] + 1
    assert data[end_of_spectrum] == 63
    whole = bytes(data)
    data[end_of_spectrum] = 0  # as some cameras write it
    assert same_pixels(bytes(data), whole)


def png_chunk(name, content, *, is_right=True):
    return (
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content) ^ (not is_right))
    )


@pytest.mark.parametrize("name", [b"tEXt", b"gAMA", b"pHYs", b"iCCP", b"tIME", b"eXIf", b"zTXt", b"prVt"])
def test_a_png_with_a_wrong_checksum_in_what_is_not_needed_is_shown(name):
    data = encoded(photo(64, 48), "PNG")
    header = 8 + 25
    damaged = data[:header] + png_chunk(name, b"wrong\0\0bytes", is_right=False) + data[header:]
    assert same_pixels(damaged, data)
    kept = normalise(damaged, ImageSettings(encode_format="png", encode_quality=9))
    assert name not in kept.data
    Image.open(io.BytesIO(kept.data)).load()


def test_a_png_without_its_end_is_shown_and_one_without_pixels_corrupt():
    data = encoded(photo(64, 48), "PNG")
    for damaged in (data[:-12], data[:-6], data + b"trailer"):
        assert same_pixels(damaged, data)
        assert normalise(damaged, ImageSettings(encode_format="png", encode_quality=9)).data.endswith(b"IEND\xaeB`\x82")
    pixels = bytearray(data)
    pixels[data.index(b"IDAT") + 20] ^= 1
    assert reason(bytes(pixels)) == "corrupt_image"
    assert reason(data[: data.index(b"IDAT") + 40] + data[-12:]) == "corrupt_image"


def test_other_formats_with_a_trailer_or_without_their_end_are_shown():
    for format in ("GIF", "WEBP", "BMP", "AVIF"):
        data = encoded(photo(64, 48), format)
        assert same_pixels(data + b"\0\r\n trailer", data), format
    gif = encoded(photo(64, 48), "GIF")
    assert same_pixels(gif[:-1], gif)


# --- colours --------------------------------------------------------------------------------------------------------


def profile(*primaries, gamma=None):
    """Return an ICC profile: sRGB's, with other primaries (XYZ of red, green and blue) or another gamma."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    (number,) = struct.unpack_from(">I", data, 128)
    places = {
        bytes(data[132 + 12 * i : 136 + 12 * i]): struct.unpack_from(">I", data, 136 + 12 * i)[0] for i in range(number)
    }
    for tag, values in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries, strict=False):
        struct.pack_into(">iii", data, places[tag] + 8, *[round(value * 65536) for value in values])
    return bytes(data)


SRGB = profile()
ADOBE_RGB = profile((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
DISPLAY_P3 = profile((0.51512, 0.2412, -0.00105), (0.29198, 0.69225, 0.04189), (0.1571, 0.06657, 0.78407))


def shown(data):
    """Return the pixels that a colour-managed viewer shows."""
    image = Image.open(io.BytesIO(data))
    source = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
    return np.asarray(
        ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB"), np.int16
    )


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "AVIF"])
@pytest.mark.parametrize("icc", [ADOBE_RGB, DISPLAY_P3], ids=["Adobe RGB", "Display P3"])
def test_colours_of_a_profile_are_those_that_viewers_show(format, icc):
    data = encoded(photo(64, 48), format, icc_profile=icc, **({"lossless": True} if format == "WEBP" else {}))
    result = normalise(data, KEEP)
    assert np.abs(np.asarray(opened(result), np.int16) - shown(data)).max() <= 2
    raw = normalise(data, KEEP.model_copy(update={"convert_profile": False}))
    assert np.array_equal(np.asarray(opened(raw)), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
    assert np.abs(np.asarray(opened(raw), np.int16) - shown(data)).max() > 20
    kept = normalise(data, ImageSettings(encode_format={"JPEG": "jpg"}.get(format, "png"), encode_quality=9))
    assert b"ICC" not in kept.data


def test_an_image_of_srgb_or_of_a_broken_profile_is_left_as_it_is():
    for icc in (SRGB, b"no profile", ADOBE_RGB[:200], profile()[:-20], ADOBE_RGB + bytes(5 << 20)):
        data = encoded(photo(64, 48), icc_profile=icc)
        kept = normalise(data, ImageSettings(encode_format="jpg"))
        assert kept.data == strip_metadata(data, "jpeg")
    grey = encoded(photo(64, 48).convert("L"), icc_profile=ADOBE_RGB)  # a profile for images of another mode
    assert normalise(grey, ImageSettings()).data == strip_metadata(grey, "jpeg")


def test_transparency_and_scaled_decoding_go_with_profiles():
    picture = photo(640, 480).convert("RGBA")
    picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    data = encoded(picture, "PNG", icc_profile=ADOBE_RGB)
    clear = np.asarray(opened(normalise(data, KEEP)))
    assert (clear[0] >= 250).all()  # on white
    opaque = encoded(photo(640, 480), "PNG", icc_profile=ADOBE_RGB)
    assert np.abs(clear[-1].astype(int) - shown(opaque)[-1]).max() <= 2
    small = normalise(encoded(photo(640, 480), icc_profile=ADOBE_RGB, quality=95), ImageSettings(image_size=60))
    expected = cv2.resize(shown(opaque).astype(np.uint8), (80, 60), interpolation=cv2.INTER_AREA)
    assert np.abs(np.asarray(opened(small), np.int16) - expected).mean() < 4


def test_png_quality_is_a_compression():
    with pytest.raises(ValidationError, match="0 to 9"):
        ImageSettings(encode_format="png")


def test_frames_are_stored_like_images():
    pixels = np.asarray(photo(200, 100))[:, :, ::-1].copy()
    frame = normalise_pixels(pixels, ImageSettings(image_size=50), "f" * 64)
    assert (frame.width, frame.height, frame.mime, frame.source_sha256) == (100, 50, "image/jpeg", "f" * 64)
    with pytest.raises(ImageRejected):
        normalise_pixels(pixels, ImageSettings(min_image_size=500), "")


def test_features_tell_alike_from_different_and_sharp_from_blurred():
    image = photo(seed=1)
    original = features(encoded(image, quality=95))
    smaller = features(encoded(image.resize((320, 240)), quality=60))
    other = features(encoded(photo(seed=2)))
    assert (original.phash ^ smaller.phash).bit_count() <= 4
    assert (original.phash ^ other.phash).bit_count() >= 10
    assert 0 <= original.phash < 2**64
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    sharp = features(cv2.imencode(".png", noise)[1].tobytes())
    blurred = features(cv2.imencode(".png", cv2.GaussianBlur(noise, (9, 9), 3))[1].tobytes())
    assert sharp.blur > 10 * blurred.blur
    flat = features(encoded(Image.new("RGB", (40, 20), (10, 10, 10)), "PNG"))
    assert (flat.aspect, flat.mean, flat.std, flat.blur) == (2.0, 10.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="not an image"):
        features(b"")


def test_the_blur_and_spread_are_those_of_their_definitions():
    image = np.random.default_rng(3).integers(0, 255, (20, 30), dtype=np.uint8)
    result = features(cv2.imencode(".png", image)[1].tobytes())
    padded = np.pad(image.astype(float), 1, mode="reflect")
    laplacian = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:] - 4.0 * image
    assert result.blur == pytest.approx(laplacian.var())
    assert (result.mean, result.std) == pytest.approx((image.mean(), image.std()))


def test_metadata_of_a_broken_container_is_none():
    assert read_metadata(b"\xff\xd8\xff\xe1", "jpeg").exif == b""


@pytest.mark.parametrize("start", [b"", b"\xff\xe0\0\x06JFIF", b"\xff\xfe\0\x03x"])
def test_fill_bytes_without_a_marker_take_no_time(start):
    data = b"\xff\xd8" + start + b"\xff" * 50_000
    begun = time.process_time()
    for read in (read_size, strip_metadata):
        with pytest.raises(ValueError, match="JPEG marker missing"):
            read(data, "jpeg")
    assert read_metadata(data, "jpeg") == Metadata()
    assert time.process_time() - begun < 1


@pytest.mark.slow
def test_settings_load_nothing_of_img2dataset():
    code = (
        "import sys, pipelines.spec; print([m for m in ('torch', 'img2dataset', 'albumentations') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_img2dataset_asks_nobody_for_newer_versions():
    code = (
        "import urllib.request\n"
        "asked = []\n"
        "urllib.request.OpenerDirector.open = lambda *args, **_: asked.append(args)\n"
        "from pipelines.images.normalise import load_resizer\n"
        "load_resizer()\n"
        "print(asked)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "NO_ALBUMENTATIONS_UPDATE"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.splitlines()[-1] == "[]"


def test_threads_that_resize_leave_the_process_its_output(capfd):
    pixels = np.zeros((900, 900, 3), np.uint8)
    with ThreadPoolExecutor(8) as threads:
        images = list(threads.map(lambda _: normalise_pixels(pixels, ImageSettings(), ""), range(64)))
    os.write(1, b"out")
    os.write(2, b"err")
    assert len(images) == 64
    assert capfd.readouterr() == ("out", "err")


def test_want_of_file_descriptors_is_no_fault_of_the_image():
    pixels = np.zeros((9, 9, 3), np.uint8)
    normalise_pixels(pixels, ImageSettings(), "")
    free = os.open(os.devnull, os.O_RDONLY)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            normalise_pixels(pixels, ImageSettings(), "")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.close(free)
