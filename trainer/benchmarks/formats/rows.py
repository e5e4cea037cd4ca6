"""Rows of JSON Lines, for sets that have no form of their own: few-shot tasks, marks on images, drawing.

```
{"id": "1", "image": "a.png", "question": "...", "answer": "dax", "group": "7"}
{"id": "2", "images": ["a.png", "b.png"], "box": [0.1, 0.2, 0.5, 0.6], "question": "...", "answers": ["two", "2"]}
{"id": "3", "images": ["a.png", "b.png"], "reference": "c.png", "candidates": ["d.png", "e.png"]}
```

Files are named relative to the folder of the rows. Every other key with a text may stand in a prompt, as `{key}`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from model.box_text import Region, is_box
from pipelines.errors import UserError
from pipelines.settings import Settings
from trainer.benchmarks.formats.example import Example
from trainer.benchmarks.formats.questions import answers_of

PLACEHOLDERS = None  # any


class RowData(Settings):
    """Rows of JSON Lines."""

    format: Literal["rows"] = "rows"
    files: tuple[str, ...] = Field(min_length=1, description="files of rows")


def read(data: RowData, root: Path, *, draw: bool, seed: int) -> list[Example]:
    """Read rows; arguments and errors as in `trainer.benchmarks.formats.read`."""
    found = []
    for name in data.files:
        path = root / name
        try:
            lines = path.read_text(encoding="utf-8").split("\n")  # not at U+2028, which JSON may hold
        except OSError as error:
            raise UserError(f"{path}: {(error.strerror or str(error)).lower()}: give its folder by --data") from error
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: rows must be in UTF-8: {error}") from error
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    found.append(_example(json.loads(line), path.parent))
                except (KeyError, TypeError, AttributeError, ValueError) as error:
                    raise UserError(f"{path}, line {number}: not a row: {error}") from error
    return found


def _example(row: Mapping[str, Any], folder: Path) -> Example:
    box = tuple(map(float, row["box"])) if "box" in row else None
    if box is not None and (len(box) != 4 or not is_box(box)):
        raise ValueError(f"the box {row['box']} is not left, top, right, bottom in 0..1")
    objects = tuple(Region(one["phrase"], *map(tuple, one["boxes"])) for one in row.get("objects", ()))
    return Example(
        str(row["id"]),
        images=tuple(folder / name for name in _several(row, "image", "images")),
        video=folder / row["video"] if "video" in row else None,
        texts={key: value for key, value in row.items() if isinstance(value, str)},
        answers=answers_of(row),
        references=tuple(folder / name for name in _several(row, "reference", "references")),
        candidates=tuple(folder / name for name in row.get("candidates", ())),
        objects=objects,
        mark=box,
        group=str(row["group"]) if "group" in row else None,
    )


def _several(row: Mapping[str, Any], one: str, many: str) -> list[str]:
    return [row[one]] if one in row else list(row.get(many, ()))
