"""Words that a text has in common with evaluation sets: n-grams of words, as GPT-3's decontamination compares them.

Of the sets only 64-bit hashes of their n-grams are kept in memory, 8 bytes each.
"""

import functools
import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from pydantic import Field

from pipelines import storage
from pipelines.errors import UserError
from pipelines.settings import Settings
from pipelines.text.ngram_hashes import Hashes, ngram_hashes

_WORD = re.compile(r"\w+")


class EvaluationSets(Settings):
    """Evaluation sets that no text may contain."""

    files: list[str] = Field(
        min_length=1,
        description="Text files in UTF-8, an item per line, or JSON Lines (.jsonl), an item per object with all texts "
        "in it; fsspec URLs too",
    )
    ngram: int = Field(13, ge=2, description="Words in a row, in lower case and without punctuation (GPT-3: 13)")
    min_overlap: int = Field(1, ge=1, description="Different n-grams in common by which a text is dropped (GPT-3: 1)")


class _Set(NamedTuple):
    name: str
    hashes: Hashes  # sorted


def find_overlap(text: str, settings: EvaluationSets) -> tuple[str, int] | None:
    """Return the name of the first set with enough n-grams of a text, and how many; None if no set has.

    Raises:
        UserError: If a file of the sets cannot be read, or has no n-gram.
    """
    own = _different(text, settings.ngram)
    if not len(own):
        return None
    for name, hashes in _sets(tuple(settings.files), settings.ngram):
        places = np.searchsorted(hashes, own)
        num = int(np.count_nonzero(hashes[np.minimum(places, len(hashes) - 1)] == own))
        if num >= settings.min_overlap:
            return name, num
    return None


def _different(text: str, ngram: int) -> Hashes:
    """Return the sorted, different hashes of the n-grams of a text's words."""
    return np.unique(ngram_hashes(_WORD.findall(text.lower()), ngram))


@functools.lru_cache(maxsize=4)
def _sets(files: tuple[str, ...], ngram: int) -> list[_Set]:
    """Read the sets, once per process."""
    found: list[_Set] = []
    for path in files:
        grams = [_different(item, ngram) for item in _items(path)]
        hashes = np.unique(np.concatenate([np.zeros(0, np.uint64), *grams]))
        if not len(hashes):
            raise UserError(f"{path}: no item of the evaluation set has {ngram} words")
        found.append(_Set(path.rpartition("/")[2], hashes))
    return found


def _items(path: str) -> Iterator[str]:
    try:
        text = storage.read_bytes(path).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as an evaluation set: {storage.error_line(error)}") from error
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or not path.endswith((".jsonl", ".ndjson")):
            yield line
            continue
        try:
            yield "\n".join(_texts(json.loads(line)))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}: line {number}: no JSON: an evaluation set must be read whole") from error


def _texts(value: Any) -> Iterator[str]:
    """Yield all texts in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)
