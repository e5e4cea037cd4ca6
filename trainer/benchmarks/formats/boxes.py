"""Boxes of objects in COCO's JSON, for drawings of what stands where.

```
{"images": [{"id": 9, "file_name": "...", "width": 640, "height": 480}], "categories": [{"id": 1, "name": "person"}],
 "annotations": [{"image_id": 9, "category_id": 1, "bbox": [left, top, width, height]}]}
```
"""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from model.box_text import Region, is_box
from model.segment import Box
from pipelines.settings import Settings
from trainer.benchmarks.formats.example import Example, read_rows

PLACEHOLDERS = ("objects",)


class BoxData(Settings):
    """Images with the boxes of the objects in them."""

    format: Literal["boxes"] = "boxes"
    annotations: str = Field(description="JSON file of COCO's instances")
    images: str = Field(description="folder of the images")
    min_area: float = Field(0.02, ge=0, le=1, description="smallest box, as a fraction of the image (layout-to-image)")
    max_objects: int = Field(
        8, ge=1, description="images with more boxes of that size are left out (8, layout-to-image)"
    )


def read(data: BoxData, root: Path, *, draw: bool, seed: int) -> list[Example]:
    """Read a set of boxes; arguments and errors as in `trainer.benchmarks.formats.read`."""

    def examples(content: Any) -> Iterator[Example]:
        names = {row["id"]: row["name"] for row in content["categories"]}
        boxes: dict[Any, list[tuple[str, list[float]]]] = defaultdict(list)
        for row in content["annotations"]:
            if not row.get("iscrowd"):
                boxes[row["image_id"]].append((names[row["category_id"]], row["bbox"]))
        for row in content["images"]:
            found = [(name, of_image(box, row["width"], row["height"])) for name, box in boxes[row["id"]]]
            large = [(name, box) for name, box in found if is_box(box) and _area(box) >= data.min_area]
            if 1 <= len(large) <= data.max_objects:
                objects = tuple(Region(name, box) for name, box in large)
                path = root / data.images / row["file_name"]
                yield Example(str(row["id"]), references=(path,), objects=objects)

    return read_rows(root / data.annotations, examples, "a file of boxes in the form of COCO's instances")


def of_image(bbox: list[float], width: int, height: int) -> Box:
    """Return a box of COCO's, which has its width and height, as left, top, right, bottom in 0..1."""
    x, y, w, h = bbox
    return (max(0.0, x / width), max(0.0, y / height), min(1.0, (x + w) / width), min(1.0, (y + h) / height))


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
