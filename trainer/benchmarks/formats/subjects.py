"""DreamBench: 30 subjects, each a folder of photos, to be drawn by 25 prompts each (DreamBooth, arXiv:2208.12242).

```
dataset/prompts_and_classes.txt   the subjects' classes, and the prompts for objects and for live subjects
dataset/<subject>/00.jpg ...
```

An example shows a subject's first photo; `{class}` is what it is, `{caption}` the prompt without DreamBooth's rare
word.
"""

import re
from pathlib import Path
from typing import Literal

from pydantic import Field

from pipelines.errors import UserError
from pipelines.settings import Settings
from trainer.benchmarks.formats.example import Example

PLACEHOLDERS = ("caption", "class", "subject")
_LIVE = ("cat", "dog")
_PROMPT = re.compile(r"""['"]([^'"]*\{0\} \{1\}[^'"]*)['"]\.format""")
_CLASS = re.compile(r"^([a-z0-9_]+),([a-z0-9 ]+)$", re.MULTILINE)
_IMAGES = (".jpg", ".jpeg", ".png", ".webp")


class SubjectData(Settings):
    """Photos of subjects, and prompts for new images of them."""

    format: Literal["dreambench"] = "dreambench"
    folder: str = Field(description="folder of prompts_and_classes.txt and of one folder for each subject")
    images_per_prompt: int = Field(4, ge=1, description="images of each subject and prompt (4, so 3,000 in all)")


def read(data: SubjectData, root: Path, *, draw: bool, seed: int) -> list[Example]:
    """Read subjects and prompts; arguments and errors as in `trainer.benchmarks.formats.read`."""
    path = root / data.folder / "prompts_and_classes.txt"
    try:
        content = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: {(error.strerror or str(error)).lower()}: give its folder by --data") from error
    of_objects, _, of_live = content.partition("Live")
    prompts = {False: _PROMPT.findall(of_objects), True: _PROMPT.findall(of_live)}
    classes = [(subject, kind) for subject, kind in _CLASS.findall(content) if kind != "class"]
    if not classes or not prompts[False]:
        raise UserError(f"{path}: no lines `subject,class`, or no prompts with {{0}} {{1}}, as in DreamBench")
    found = []
    for subject, kind in classes:
        photos = tuple(sorted(p for p in path.parent.joinpath(subject).glob("*") if p.suffix.lower() in _IMAGES))
        if not photos:
            raise UserError(f"{path.parent / subject}: no photos of this subject")
        for number, prompt in enumerate(prompts[kind in _LIVE] or prompts[False]):
            caption = prompt.replace("{0} ", "").replace("{1}", kind)
            texts = {"caption": caption, "class": kind, "subject": subject}
            for copy in range(data.images_per_prompt):
                name = f"{subject}-{number:02}-{copy}"
                found.append(
                    Example(name, images=photos[:1], texts=texts, answers=(caption,), references=photos, group=subject)
                )
    return found
