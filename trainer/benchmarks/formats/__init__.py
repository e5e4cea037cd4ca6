"""Forms in which benchmarks are published: one module each, which reads `Example`s.

```
captions.py   COCO, NoCaps, Flickr30k: captions of images
questions.py  VQAv2, OK-VQA, GQA, TextVQA, VizWiz
videos.py     MSVD-QA, MSRVTT-QA, NExT-QA
boxes.py      COCO's boxes, for drawings of what stands where
referring.py  RefCOCO, RefCOCO+, RefCOCOg
subjects.py   DreamBench
rows.py       JSON Lines, for all else
```
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from trainer.benchmarks.formats import boxes, captions, questions, referring, rows, subjects, videos
from trainer.benchmarks.formats.example import Example

BenchmarkData = Annotated[
    captions.CaptionData
    | questions.QuestionData
    | videos.VideoData
    | boxes.BoxData
    | referring.ReferringData
    | subjects.SubjectData
    | rows.RowData,
    Field(discriminator="format"),
]

_MODULES: dict[str, Any] = {
    "captions": captions,
    "vqa": questions,
    "video_qa": videos,
    "boxes": boxes,
    "referring": referring,
    "dreambench": subjects,
    "rows": rows,
}


def read(data: BenchmarkData, root: Path, *, draw: bool = False, seed: int = 0) -> list[Example]:
    """Read the examples of a set, in the order of its files.

    Args:
        data: The set.
        root: Folder to which its paths are relative.
        draw: Whether images are asked for, by what otherwise would be answered.
        seed: Seed of the choice of one caption per image.

    Raises:
        UserError: If a file is missing or has another form.
    """
    reader: Callable[..., list[Example]] = _MODULES[data.format].read
    return reader(data, root, draw=draw, seed=seed)


def placeholders(data: BenchmarkData) -> tuple[str, ...] | None:
    """Return the names that may stand in a prompt beside `image` and `answer`; None if any may."""
    names: tuple[str, ...] | None = _MODULES[data.format].PLACEHOLDERS
    return names
