"""img2dataset's `Resizer` without the rest of its package; a test says what is lost if the parts move.

`import img2dataset.resizer` also imports wandb, pandas and, if it is installed, torch, because the package imports all
of itself, and so does albumentations, of which the Resizer uses four transforms: five seconds and 300 MB. Here modules
are imported below packages whose `__init__` has not run.

Checked with img2dataset 1.47 and albumentations 1.4.6.
"""

import contextlib
import importlib
import importlib.metadata
import importlib.util
import io
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np

from pipelines.images.pixels import Pixels

_TRANSFORMS = {
    "SmallestMaxSize": "geometric.resize",
    "LongestMaxSize": "geometric.resize",
    "CenterCrop": "crops.transforms",
    "PadIfNeeded": "geometric.transforms",
}
"""Transforms that the Resizer uses, by the module of `albumentations.augmentations` that has each."""

_BARE = (
    "albumentations",
    "albumentations.augmentations",
    "albumentations.augmentations.geometric",
    "albumentations.augmentations.crops",
    "img2dataset",
)


def import_resizer() -> Any:
    """Import the module of the Resizer alone, or all of its package where that fails; return its class `Resizer`."""
    if not {"img2dataset", "albumentations"} & sys.modules.keys():
        with contextlib.suppress(ImportError, AttributeError), _bare_packages() as transforms:
            for name, module in _TRANSFORMS.items():
                found = importlib.import_module(f"albumentations.augmentations.{module}")
                setattr(transforms, name, _made_once(getattr(found, name)))
            return importlib.import_module("img2dataset.resizer").Resizer
    return importlib.import_module("img2dataset.resizer").Resizer


def resize_pixels(resizer: Any, pixels: Pixels) -> tuple[Any, ...]:
    """Return what a Resizer makes of pixels, (height, width, 3) uint8, BGR, as if it had decoded them from a file.

    A file of pixels as they are, which would be written and read for it, takes 6 % of the time of a photograph. One
    thread at a time: the module's `cv2` is another one meanwhile.
    """
    module: Any = sys.modules[type(resizer).__module__]
    module.cv2 = _Decoded(np.ascontiguousarray(pixels))
    try:
        result: tuple[Any, ...] = resizer(io.BytesIO(b"not read"))
    finally:
        module.cv2 = cv2
    return result


class _Decoded:
    """`cv2` with pixels that are decoded already."""

    def __init__(self, pixels: Pixels) -> None:
        self._pixels = pixels

    def imdecode(self, *_: Any) -> Pixels:
        return self._pixels

    def __getattr__(self, name: str) -> Any:
        return getattr(cv2, name)


def _made_once(transform: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that makes a transform once for each choice of arguments.

    The Resizer makes one for each image, whose arguments pydantic checks: 0.1 ms of the 0.4 beside OpenCV's own work.
    A transform keeps nothing of an image.
    """
    made: dict[str, Any] = {}

    def make(**arguments: Any) -> Any:
        which = repr(sorted(arguments.items()))
        if which not in made:
            made[which] = transform(**arguments)
        return made[which]

    return make


@contextlib.contextmanager
def _bare_packages() -> Iterator[types.ModuleType]:
    """Let modules be imported without their packages; yields the one that stands for albumentations.

    Afterwards whoever imports a package gets the whole of it.
    """
    for name in _BARE:
        spec = importlib.util.find_spec(name)
        assert spec is not None
        package = types.ModuleType(name)
        package.__spec__, package.__path__ = spec, list(spec.submodule_search_locations or ())
        sys.modules[name] = package
    albumentations = sys.modules["albumentations"]
    albumentations.__version__ = importlib.metadata.version("albumentations")  # type: ignore[attr-defined]
    try:
        yield albumentations
    finally:
        for name in _BARE:
            del sys.modules[name]
