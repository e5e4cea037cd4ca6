"""Tests that all parts see the same image: corpora, training, evaluation, prompts, filters and contact sheets."""

import ast
import io
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from model import images
from pipelines.document import Document, Media, Provenance
from pipelines.images.normalise import ImageSettings, normalise
from pipelines.images.text_match import _open
from pipelines.shards import contact_sheet
from pipelines.shards.tar_samples import TarSample
from trainer.evaluation import prompts
from trainer.reading.images import decode, decode_crop

ROOT = Path(__file__).parent.parent
SIDE = 32
LOSSLESS = ImageSettings(resize_mode="no", encode_format="png", encode_quality=1, skip_reencode=False)


def colours(mode: str = "RGB") -> Image.Image:
    """Return an image whose corners differ, large enough for JPEG to keep them."""
    image = Image.new("RGB", (SIDE, SIDE), (200, 200, 200))
    for at, colour in (((0, 0), (250, 0, 0)), ((16, 0), (0, 250, 0)), ((0, 16), (0, 0, 250))):
        image.paste(colour, (*at, at[0] + 16, at[1] + 16))
    return image.convert(mode)


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def turned(format: str, orientation: int, **options: object) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(colours(), format, exif=exif, **options)


def half_transparent(mode: str = "RGBA") -> Image.Image:
    """Return an image that is black and transparent on its right half."""
    image = colours("RGBA")
    image.paste((0, 0, 0, 0), (16, 0, 32, 32))
    return image.convert(mode)


def palette_with_a_transparent_colour() -> bytes:
    image = Image.new("P", (SIDE, SIDE), 0)
    image.putpalette([0, 0, 0, 250, 0, 0])
    image.paste(1, (0, 0, 16, 32))
    return saved(image, "PNG", transparency=0)


def with_a_profile() -> bytes:
    return saved(colours(), "JPEG", quality=95, icc_profile=linear_profile())


def linear_profile() -> bytes:
    """Return sRGB's profile with a linear tone curve in place of its own."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for number in range(int.from_bytes(data[128:132], "big")):
        entry = 132 + 12 * number
        name, offset = bytes(data[entry : entry + 4]), int.from_bytes(data[entry + 4 : entry + 8], "big")
        if name in (b"rTRC", b"gTRC", b"bTRC"):
            data[offset : offset + 4] = b"curv"
            data[offset + 4 : offset + 12] = bytes(8)  # no entries: the identity
    return bytes(data)


def with_stray_bytes() -> bytes:
    data = saved(colours(), "JPEG", quality=95)
    end = 4 + int.from_bytes(data[4:6], "big")  # of the first segment, JFIF
    return data[:end] + b"\x00\x00" + data[end:]


FILES: dict[str, Callable[[], bytes]] = {
    **{f"jpeg turned {n}": (lambda n=n: turned("JPEG", n, quality=95)) for n in range(1, 9)},
    "png turned": lambda: turned("PNG", 6),
    "webp turned": lambda: turned("WEBP", 8, lossless=True),
    "png transparent": lambda: saved(half_transparent(), "PNG"),
    "png grey transparent": lambda: saved(half_transparent("LA"), "PNG"),
    "png palette transparent": palette_with_a_transparent_colour,
    "webp transparent": lambda: saved(half_transparent(), "WEBP", lossless=True),
    "gif transparent": lambda: saved(half_transparent(), "GIF"),
    "cmyk": lambda: saved(colours("CMYK"), "JPEG", quality=95),
    "grey jpeg": lambda: saved(colours("L"), "JPEG"),
    "16 bits": lambda: saved(Image.fromarray(np.full((SIDE, SIDE), 40_000, np.uint16)), "PNG"),
    "one bit": lambda: saved(colours("1"), "PNG"),
    "bmp": lambda: saved(colours(), "BMP"),
    "profile": with_a_profile,
    "stray bytes": with_stray_bytes,
}
ON_SHEETS = Document("pair", "k", (), (Media(None, "jpg"),), Provenance("pairs", "0"))


def of_corpus(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(normalise(data, LOSSLESS).data)).convert("RGB"))


def of_crop(data: bytes) -> np.ndarray:
    (pixels,), _ = decode_crop(data, (SIDE,), random.Random(0), 1.0)
    return pixels


def of_prompt(data: bytes, path: Path) -> np.ndarray:
    path.write_bytes(data)
    return prompts._image(path, SIDE, "area").permute(1, 2, 0).numpy()


def of_model(data: bytes) -> np.ndarray:
    return images.decode(data, SIDE, "bicubic")


def of_sheet(data: bytes) -> np.ndarray:
    return np.asarray(contact_sheet._image(ON_SHEETS, TarSample("k", 0, 0, {"jpg": data}), 0))


@pytest.mark.parametrize("name", FILES)
def test_all_parts_see_the_same_image(name: str, tmp_path: Path):
    data = FILES[name]()
    seen = {
        "training, area": decode(data, SIDE),
        "training, bicubic": decode(data, SIDE, "bicubic"),
        "crops": of_crop(data),
        "prompts": of_prompt(data, tmp_path / "image"),
        "the model, from Python": of_model(data),
        "filters": np.asarray(_open(data)),
        "sheets": of_sheet(data),
    }
    expected = of_corpus(data)
    assert expected.shape == (SIDE, SIDE, 3)
    for part, pixels in seen.items():
        np.testing.assert_array_equal(pixels, expected, err_msg=part)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_upright(orientation: int):
    data = turned("PNG", orientation)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    np.testing.assert_array_equal(decode(data, SIDE), upright)


@pytest.mark.parametrize("name", [name for name in FILES if "transparent" in name])
def test_what_is_transparent_is_white(name: str):
    pixels = decode(FILES[name](), SIDE)
    assert (pixels[:, 20:] == 255).all()
    assert (pixels[:16, :12] != 255).any()


def test_colours_of_a_profile_are_those_of_srgb():
    plain, shown = decode(saved(colours(), "JPEG", quality=95), SIDE), decode(with_a_profile(), SIDE)
    assert int(shown[24, 24, 0]) > int(plain[24, 24, 0]) + 20, "linear light is brighter in sRGB"


# --- nobody decodes or resizes by other means ---

DECODERS = {"imdecode", "imread", "decode_jpeg", "decode_image", "read_image", "pil_loader"}
ALLOWED = {
    "pipelines/images/pixels.py": "the decoder",
    "pipelines/images/metadata.py": "sizes of GIF, BMP and AVIF, without decoding",
    "pipelines/images/normalise.py": "grey values of stored images, which are plain",
    "pipelines/sources/mint.py": "pages of a TIFF, which become images of a corpus's formats",
    "trainer/benchmarks/drawings.py": "what the networks of published metrics see, read as their authors do",
}


RESIZERS = {"interpolate", "resize", "thumbnail", "grid_sample"}
ALLOWED_TO_RESIZE = {
    "model/resizing.py": "the one way of resizing",
    "pipelines/images/faces.py": "a copy in which faces are searched, and how they are blurred",
    "pipelines/images/normalise.py": "a hash of what an image shows",
}


def resizing_calls(path: Path) -> set[str]:
    """Return the functions by which a module resizes images."""
    nodes = (node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
    return {ast.unparse(node) for node in nodes if isinstance(node, ast.Attribute) and node.attr in RESIZERS}


@pytest.mark.parametrize("package", ["model", "pipelines", "trainer"])
def test_images_are_resized_in_one_place(package: str):
    names = {str(path.relative_to(ROOT)): resizing_calls(path) for path in sorted((ROOT / package).rglob("*.py"))}
    assert {name: calls for name, calls in names.items() if calls and name not in ALLOWED_TO_RESIZE} == {}


def decoding_calls(path: Path) -> set[str]:
    """Return the functions by which a module decodes image files."""
    nodes = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute))
    names = {ast.unparse(node) for node in nodes}
    return {name for name in names if name in ("Image.open", "PIL.Image.open") or name.rpartition(".")[2] in DECODERS}


@pytest.mark.slow
@pytest.mark.parametrize("package", ["model", "pipelines", "trainer", "tools"])
def test_image_files_are_decoded_in_one_place(package: str):
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        name = str(path.relative_to(ROOT))
        if not name.startswith(("tools/bench/", "tools/demo_web/")) and (calls := decoding_calls(path)):
            found[name] = calls
    assert {name: calls for name, calls in found.items() if name not in ALLOWED} == {}
    assert set(found) == {name for name in ALLOWED if name.startswith(f"{package}/")}
