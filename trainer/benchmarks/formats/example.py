"""One question of a benchmark with its true answers, whatever form its data were published in."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model.box_text import Region
from model.segment import Box
from pipelines.errors import UserError


@dataclass(frozen=True, slots=True)
class Example:
    """One question, or one request for an image.

    Attributes:
        id: Unique within the benchmark; that of the published set where there is one.
        images: Files of the images that it shows.
        video: A file, or a folder of frames; None if it shows none.
        texts: What may stand in a prompt, by the names of placeholders: `question`, `caption`, `class` and others.
        answers: True answers, as many as people gave; empty if the set does not publish them.
        references: Files of true images, where an image is asked for.
        candidates: Files of images among which the first reference is to be told from the others.
        objects: Phrases with boxes, for the placeholder `{objects}`.
        mark: Box that is drawn on the first image.
        group: What its shots share with it, for `shots.same_group`.
    """

    id: str
    images: tuple[Path, ...] = ()
    video: Path | None = None
    texts: Mapping[str, str] = field(default_factory=dict)
    answers: tuple[str, ...] = ()
    references: tuple[Path, ...] = ()
    candidates: tuple[Path, ...] = ()
    objects: tuple[Region, ...] = ()
    mark: Box | None = None
    group: str | None = None

    @property
    def has_truth(self) -> bool:
        """True if there is something to compare an answer with."""
        return bool(self.answers or self.references or self.objects)

    @property
    def shows(self) -> frozenset[Path]:
        """The files that it shows: two examples with one of them in common are about the same thing."""
        return frozenset((*self.images, *(() if self.video is None else (self.video,))))


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        UserError: If it is missing or no JSON.
    """
    try:
        return json.loads(read_bytes(path))
    except ValueError as error:
        raise UserError(f"{path}: not JSON: {error}") from error


def read_bytes(path: Path) -> bytes:
    """Return the content of a file of a set.

    Raises:
        UserError: If it is missing.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {(error.strerror or str(error)).lower()}: give its folder by --data") from error


def read_rows(path: Path, read: Callable[[Any], Any], form: str) -> list[Any]:
    """Return `read(content)` of a JSON file.

    Raises:
        UserError: If the file is missing or no JSON, or `read` does not find what it looks for.
    """
    content = read_json(path)
    try:
        return list(read(content))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{path}: not {form}: {type(error).__name__}: {error}") from error
