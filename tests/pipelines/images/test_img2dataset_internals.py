"""Tests of the import of img2dataset's Resizer without its package."""

import io
import itertools
import json
import subprocess
import sys

import cv2
import numpy as np
import pytest

from pipelines.images.img2dataset_internals import import_resizer, resize_pixels

MODES = ("no", "border", "keep_ratio", "keep_ratio_largest", "center_crop")
_CODE = """
import io, json, sys, warnings
warnings.simplefilter("ignore")
from tests.pipelines.images.test_img2dataset_internals import resized
if sys.argv[1] == "bare":
    from pipelines.images.img2dataset_internals import import_resizer
    found = resized(import_resizer())
    import_resizer()
else:
    from img2dataset.resizer import Resizer
    found = resized(Resizer)
print(json.dumps([found, sorted({"torch", "sklearn", "wandb", "webdataset", "img2dataset"} & sys.modules.keys())]))
"""


def resized(resizer) -> list[str]:
    """Return what a Resizer makes of an image in each mode and of two sizes, as text."""
    pixels = np.random.default_rng(0).integers(0, 255, (90, 150, 3), np.uint8)
    file = cv2.imencode(".png", pixels)[1].tobytes()
    cases = itertools.product(MODES, (64, 200))
    made = [resizer(size, mode, False)(io.BytesIO(file)) for mode, size in cases]
    return [f"{data.hex()} {rest}" for data, *rest in made]


def test_pixels_are_resized_as_those_of_a_file():
    drawn = np.random.default_rng(0).integers(0, 255, (90, 150, 3), np.uint8)
    for pixels, mode, size in itertools.product((drawn, drawn[:, ::-1, ::-1]), MODES, (64, 200)):
        resizer = import_resizer()(size, mode, False)
        *of_file, error = resizer(io.BytesIO(cv2.imencode(".png", pixels)[1].tobytes()))
        assert error is None
        assert resize_pixels(resizer, pixels) == (*of_file, None)
    assert sys.modules[type(resizer).__module__].cv2 is cv2


@pytest.mark.nightly
@pytest.mark.slow
def test_the_resizer_is_the_same_without_its_package_and_loads_a_fraction_of_it():
    def run(how: str) -> list[list[str]]:
        command = [sys.executable, "-c", _CODE, how]
        return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])

    (bare, loaded), (whole, of_whole) = run("bare"), run("whole")
    assert bare == whole
    assert len(bare) == 2 * len(MODES)
    assert loaded == []  # nor img2dataset's package itself: whoever imports it gets the whole of it
    assert {"wandb", "sklearn"} <= set(of_whole)
