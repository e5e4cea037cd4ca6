"""Images of evaluation sets, by their perceptual hashes: no image of a corpus may be nearly the same as one of them."""

import functools
import re

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pipelines import storage
from pipelines.errors import UserError
from pipelines.images.normalise import perceptual_hash
from pipelines.settings import Settings
from pipelines.sources.files import expand

_HASH = re.compile(r"[0-9a-f]{16}")
_NUM_BITS = np.array([i.bit_count() for i in range(1 << 16)], np.uint8)


class EvaluationImages(Settings):
    """Images that a corpus may not contain."""

    files: list[str] = Field(
        min_length=1,
        description="Images (JPEG, PNG, WebP), or text files (.txt) of their perceptual hashes, one per line; globs, "
        "fsspec URLs",
    )
    max_distance: int = Field(
        5, ge=0, le=16, description="Bits of 64 in which the hashes of nearly equal images may differ"
    )


def is_evaluation_image(phash: int, settings: EvaluationImages) -> bool:
    """Return whether an image is nearly the same as one of the evaluation sets.

    Args:
        phash: Its perceptual hash, 64 bits.
        settings: The sets.

    Raises:
        UserError: If a file of them cannot be read.
    """
    differing = (_hashes(tuple(settings.files)) ^ np.uint64(phash)).view(np.uint16).reshape(-1, 4)
    return bool((_NUM_BITS[differing].sum(axis=1) <= settings.max_distance).any())


def evaluation_content(settings: EvaluationImages) -> list[tuple[str, str]]:
    """Return path and hash of the content of each file of the sets.

    Raises:
        UserError: If one is missing.
    """
    return [(path, storage.sha256(path)) for path, _ in expand(settings.files)]


@functools.lru_cache(maxsize=4)
def _hashes(files: tuple[str, ...]) -> NDArray[np.uint64]:
    """Read the sets, once per process."""
    found: set[int] = set()
    for path, _ in expand(list(files)):
        data = storage.read_bytes(path)
        if path.endswith(".txt"):
            found |= _listed(path, data.decode("utf-8", "replace"))
            continue
        try:
            found.add(perceptual_hash(data))
        except ValueError as error:
            raise UserError(f"{path}: cannot be read as an image of an evaluation set: {error}") from error
    return np.array(sorted(found), np.uint64)


def _listed(path: str, text: str) -> set[int]:
    lines = [line.strip().lower() for line in text.splitlines() if line.strip()]
    wrong = next((line for line in lines if not _HASH.fullmatch(line)), None)
    if wrong is not None or not lines:
        shown = f"{wrong[:40]!r} is none" if wrong is not None else "it is empty"
        raise UserError(f"{path}: a list of perceptual hashes has 16 hexadecimal digits per line; {shown}")
    return {int(line, 16) for line in lines}
