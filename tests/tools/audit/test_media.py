"""The audit computes few pixels of a JPEG, and finds the damage that a decoder of all finds."""

import random

import pytest

from pipelines.images.metadata import read_metadata
from pipelines.images.pixels import decode
from tests.tools.audit.small_corpus import noise
from tools.audit.media import _decoded


def damaged(rng: random.Random, **options: object) -> bytes:
    """Return a JPEG of which bits have changed, and the end of every fifth is missing."""
    data = bytearray(noise(rng.randrange(100), **options))
    if rng.random() < 0.2:
        del data[rng.randrange(4, len(data)) :]
    for _ in range(rng.choice((1, 1, 2, 10))):
        data[rng.randrange(2, len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def outcome(data: bytes) -> tuple[int, int] | str:
    """Return the size of all decoded pixels, or the error."""
    try:
        pixels = decode(data, "jpeg").pixels
    except ValueError as error:
        return f"broken jpeg: {error}"
    return pixels.shape[1], pixels.shape[0]


@pytest.mark.parametrize("progressive", [False, True])
def test_damage_of_a_jpeg_is_found_though_few_pixels_are_computed(progressive: bool):
    rng = random.Random(f"damage {progressive}")
    files = [damaged(rng, progressive=progressive, subsampling=rng.choice((0, 1, 2))) for _ in range(400)]
    found = [_decoded(data, "jpeg", read_metadata(data, "jpeg")) for data in files]
    broken = sum(isinstance(size, str) for size in found)
    assert 100 < broken < 300
    for data, size in zip(files, found, strict=True):
        if isinstance(size, str):  # from the header, or from the decoder
            assert "pixels, more than are ever decoded" in size or isinstance(outcome(data), str)
        else:
            assert size == outcome(data)
