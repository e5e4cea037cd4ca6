"""Few-shot tasks on images of the demo web, whose rule is only in the shots.

new_words      each group has two made-up words, for two colours: which is it?
languages      each group has a language, in which a colour and a shape are to be named
next_in_row    each group is a row of images of one colour and shape; the next one is to be drawn

Each is a file of rows with its images, as `format: rows` of benchmarks reads them.
"""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from tools.demo_web.library import LANGUAGES
from tools.demo_web.scene import BACKGROUNDS, COLOURS, POSITIONS, SEEN, SIZES, Item, Scene, draw

_GROUPS = 24  # of made-up words, and of rows of images
_EXAMPLES = 10  # per group, so that there are at least 8 shots for each
_SYLLABLES = ("ba", "do", "ki", "lu", "me", "no", "pa", "ri", "su", "ta", "vo", "wi", "xe", "za")
Row = dict[str, Any]


@dataclass(slots=True)
class _Images:
    """Draws the images of one task into its folder."""

    folder: Path
    seed: int
    num: int = 0

    def draw(self, item: Item, rng: random.Random) -> str:
        """Write an image of an item; return its name."""
        self.num += 1
        scene = Scene((item,), rng.choice(tuple(BACKGROUNDS)), f"few-shot {self.seed} {self.folder.name} {self.num}")
        name = f"{self.num:05}.png"
        Image.fromarray(draw(scene)).save(self.folder / name)
        return name


def write_few_shot_tasks(folder: str, seed: int = 0) -> dict[str, int]:
    """Write the rows and images of all tasks into `<folder>/<task>/`; return the number of rows of each."""
    found = {}
    for name, rows in {"new_words": _new_words, "languages": _languages, "next_in_row": _next_in_row}.items():
        place = Path(folder, name)
        place.mkdir(parents=True, exist_ok=True)
        lines = [
            json.dumps(row, ensure_ascii=False) for row in rows(_Images(place, seed), random.Random(f"{name} {seed}"))
        ]
        (place / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        found[name] = len(lines)
    return found


def made_up_words(rng: random.Random, num: int) -> list[str]:
    """Return different words of two syllables that no language of the demo web has."""
    return ["".join(pair) for pair in rng.sample([(a, b) for a in _SYLLABLES for b in _SYLLABLES if a != b], num)]


def _new_words(images: _Images, rng: random.Random) -> Iterator[Row]:
    for group in range(_GROUPS):
        meanings = dict(zip(rng.sample(tuple(COLOURS), 2), made_up_words(rng, 2), strict=True))
        for number in range(_EXAMPLES):
            colour = list(meanings)[number % 2]
            image = images.draw(_item(rng, colour=colour), rng)
            yield {"id": f"{group}-{number}", "image": image, "answer": meanings[colour], "group": str(group)}


def _languages(images: _Images, rng: random.Random) -> Iterator[Row]:
    for name, language in LANGUAGES.items():
        for number in range(3 * _EXAMPLES):
            item = _item(rng)
            answer = language.one[(item.colour, item.shape)]
            yield {"id": f"{name}-{number}", "image": images.draw(item, rng), "answer": answer, "group": name}


def _next_in_row(images: _Images, rng: random.Random) -> Iterator[Row]:
    for group in range(_GROUPS):
        first = _item(rng)
        for number in range(_EXAMPLES // 2):
            item = Item(first.colour, first.shape, first.size, rng.choice(tuple(POSITIONS)))
            others = [colour for colour, shape in SEEN if shape == item.shape and colour != item.colour]
            candidates = [images.draw(Item(colour, item.shape, item.size, item.position), rng) for colour in others]
            reference = images.draw(item, rng)
            yield {"id": f"{group}-{number}", "reference": reference, "candidates": candidates, "group": str(group)}


def _item(rng: random.Random, *, colour: str | None = None) -> Item:
    kind, shape = rng.choice([pair for pair in SEEN if colour in (None, pair[0])])
    return Item(kind, shape, rng.choice(tuple(SIZES)), rng.choice(tuple(POSITIONS)))
