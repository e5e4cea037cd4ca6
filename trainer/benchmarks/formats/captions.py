"""Captions of images in COCO's JSON (COCO, NoCaps, TextCaps), or in Karpathy's (COCO and Flickr30k in his splits).

```
COCO      {"images": [{"id": 9, "file_name": "000000000009.jpg"}], "annotations": [{"image_id": 9, "caption": "..."}]}
Karpathy  {"images": [{"cocoid": 9, "filename": "...", "split": "test", "sentences": [{"raw": "..."}]}]}
```

An example shows an image and is answered by a caption; where an image is wanted, one of its captions asks for it.
"""

import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from pipelines.settings import Settings
from trainer.benchmarks.formats.example import Example, read_rows

PLACEHOLDERS = ("caption",)


class CaptionData(Settings):
    """Images with captions."""

    format: Literal["captions"] = "captions"
    annotations: str = Field(description="JSON file of COCO's or Karpathy's form")
    images: str = Field(description="folder of the images")
    split: str | None = Field(None, description="of Karpathy's: val, test, train; null: all")


def read(data: CaptionData, root: Path, *, draw: bool, seed: int) -> list[Example]:
    """Read a set of captions; arguments and errors as in `trainer.benchmarks.formats.read`."""
    folder = root / data.images

    def examples(content: Any) -> Iterator[Example]:
        captions: dict[Any, list[str]] = defaultdict(list)
        for row in content.get("annotations", ()):
            captions[row["image_id"]].append(row["caption"])
        for row in content["images"]:
            if "sentences" in row:
                if data.split not in (None, row["split"]):
                    continue
                path, name = folder / row.get("filepath", "") / row["filename"], row.get("cocoid", row.get("imgid"))
                path = path if path.exists() else folder / row["filename"]
                found = [sentence["raw"] for sentence in row["sentences"]]
            else:
                path, name, found = folder / row["file_name"], row["id"], captions[row["id"]]
            true = tuple(caption.strip() for caption in found if caption.strip())
            yield Example(str(name), images=(path,), texts={"caption": true[0] if true else ""}, answers=true)

    found = read_rows(root / data.annotations, examples, "a file of captions in COCO's or Karpathy's form")
    return [_drawn(example, seed) for example in found] if draw else found


def _drawn(example: Example, seed: int) -> Example:
    """Return the request for an image by one of its captions, whose truth is the image."""
    if not example.answers:
        return replace(example, images=(), references=())
    caption = random.Random(f"{seed} {example.id}").choice(example.answers)
    return replace(example, images=(), references=example.images, texts={"caption": caption}, answers=(caption,))
