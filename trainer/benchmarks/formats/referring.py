"""Referring expressions and the boxes that they mean: RefCOCO, RefCOCO+ and RefCOCOg in their published files.

```
refs(unc).p     [{"ann_id": 1, "image_id": 9, "split": "val", "sentences": [{"sent_id": 0, "sent": "left cat"}]}]
instances.json  COCO's: {"images": [{"id": 9, "file_name": "...", ...}], "annotations": [{"id": 1, "bbox": [...]}]}
```

Each sentence is an example of its own. A pickle may run any code when it is read, so that of anything but lists,
mappings, texts and numbers is refused.
"""

import io
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NoReturn

from pydantic import Field

from model.box_text import Region
from pipelines.errors import UserError
from pipelines.settings import Settings
from trainer.benchmarks.formats.boxes import of_image
from trainer.benchmarks.formats.example import Example, read_bytes, read_rows

PLACEHOLDERS = ("expression",)


class ReferringData(Settings):
    """Referring expressions with boxes."""

    format: Literal["referring"] = "referring"
    expressions: str = Field(description="pickle of the expressions: refs(unc).p, refs(umd).p of RefCOCOg")
    instances: str = Field(description="JSON file of the boxes, in the form of COCO's instances")
    images: str = Field(description="folder of the images")
    split: str | None = Field(None, description="val, test, testA, testB or train; null: all")


def read(data: ReferringData, root: Path, *, draw: bool, seed: int) -> list[Example]:
    """Read a set of expressions; arguments and errors as in `trainer.benchmarks.formats.read`."""
    path = root / data.expressions
    try:
        references = _Plain(io.BytesIO(read_bytes(path)), encoding="latin1").load()  # Python 2 wrote them
    except (pickle.UnpicklingError, EOFError, ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a pickle of RefCOCO's expressions: {error}") from error

    def examples(content: Any) -> Iterator[Example]:
        images = {row["id"]: row for row in content["images"]}
        boxes = {row["id"]: row["bbox"] for row in content["annotations"]}
        for reference in references:
            if data.split not in (None, reference["split"]):
                continue
            image = images[reference["image_id"]]
            box = of_image(boxes[reference["ann_id"]], image["width"], image["height"])
            for sentence in reference["sentences"]:
                said = sentence["sent"].strip()
                yield Example(
                    str(sentence["sent_id"]),
                    images=(root / data.images / image["file_name"],),
                    texts={"expression": said},
                    objects=(Region(said, box),),
                )

    return read_rows(root / data.instances, examples, f"a file of the boxes of {data.expressions}")


class _Plain(pickle.Unpickler):
    """Reads no classes and no functions."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is not read")
