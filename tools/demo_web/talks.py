"""The talks: lists of conversations in LLaVA's form: questions about images, dialogues, edits, boxes, and subjects.

Each list is at `/<list>.jsonl`, its images at `/<list>/0001.jpg`, changed ones at `/<list>/0001-after.jpg`. Each row
has an image of its own, and every answer follows from its scene.
"""

import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from pipelines.images.cutting import cut_out
from tools.demo_web.scene import (
    BACKGROUNDS,
    COLOURS,
    HELD_OUT,
    POSITIONS,
    SIZES,
    Item,
    Picture,
    Scene,
    boxes,
    draw,
    fit_together,
    random_item,
)
from tools.demo_web.site import NOT_FOUND, Reply, Site, Web, image_reply, text_reply
from tools.demo_web.wording import NUMBERS

SIDE = 64
_IMAGE = re.compile(r"/(\w+)/(\d{4})(-after)?\.jpg")

ASKED: dict[str, tuple[str, ...]] = {
    "colour": (
        "What colour is the {shape}?",
        "Which colour does the {shape} have?",
        "Name the colour of the {shape}.",
        "The {shape} {where}: what colour is it?",
    ),
    "position": (
        "Where is the {colour} {shape}?",
        "Where do you see the {shape}?",
        "In which part of the picture is the {colour} {shape}?",
        "Name the place of the {shape}.",
    ),
    "size": (
        "Is the {shape} small or large?",
        "What size is the {colour} {shape}?",
        "How large is the {shape}: small or large?",
        "Name the size of the {shape}.",
    ),
    "count": (
        "How many shapes are there?",
        "How many shapes do you see?",
        "Count the shapes.",
        "What is the number of shapes in the picture?",
    ),
    "shape": (
        "What shape is {colour}?",
        "Which shape do you see {where}?",
        "Name the {colour} shape.",
    ),
}
"""Questions by what they ask for."""

CHANGES: dict[str, tuple[str, ...]] = {
    "colour": ("Make it {colour}.", "Paint the {shape} {colour}.", "It should be {colour}."),
    "size": ("Make it {size}.", "The {shape} should be {size}.", "Draw it {size}."),
    "position": ("Move it to the {position}.", "Put the {shape} at the {position}.", "It belongs to the {position}."),
}
"""Instructions by what they change."""

FINDING = ("Where is the {name}?", "Show me the {name}.", "Find the {name}.", "Point at the {name}.")
PLACING = ("Draw {phrase}.", "Please draw {phrase}.", "I want to see {phrase}.")
SHOWING = (
    "Draw this at the {position}, and make it {size}.",
    "Now draw it {size}, at the {position}.",
    "Put this at the {position}; it should be {size}.",
)
"""Instructions to draw a subject that is shown alone."""


@dataclass(frozen=True, slots=True)
class Talk:
    """A conversation: the scenes of its images by the ending of their names, and its turns, the user first.

    Of the image with the ending `cut` only the first item is shown, on white.
    """

    scenes: dict[str, Scene]
    turns: tuple[str, ...]
    cut: str | None = None

    def picture(self, ending: str) -> Picture | None:
        """Return one of its images, or None if there is none with this ending."""
        scene = self.scenes.get(ending)
        if scene is None:
            return None
        if ending != self.cut:
            return draw(scene, SIDE)
        side = 4 * SIDE  # so that the part has about the size of a whole image
        x0, y0, x1, y1 = (value / side for value in boxes(scene, side)[0])
        return cut_out(draw(scene, side), (x0, y0, x1, y1))


def answer_to(asked: str, scene: Scene) -> str:
    """Return the answer to a question about a scene; of several items the first is asked about."""
    item = scene.items[0]
    return NUMBERS[len(scene.items)] if asked == "count" else str(getattr(item, asked))


def _question(asked: str, scene: Scene, rng: random.Random) -> str:
    item = scene.items[0]
    where = f"at the {item.position}"
    return rng.choice(ASKED[asked]).format(shape=item.shape, colour=item.colour, where=where)


def _single(web: Web, key: str, rng: random.Random) -> Scene:
    return Scene((random_item(rng),), rng.choice(tuple(BACKGROUNDS)), f"{web.seed} {key}")


def _several(web: Web, key: str, rng: random.Random) -> Scene:
    """Return a scene of one to four small items, each number equally often, no two of one shape or colour."""
    items: list[Item] = []
    wanted = rng.randint(1, 4)
    while len(items) < wanted:
        item = replace(random_item(rng), size="small")
        is_other = all(item.shape != other.shape and item.colour != other.colour for other in items)
        if is_other and all(fit_together(item, other) for other in items):
            items.append(item)
    return Scene(tuple(items), rng.choice(tuple(BACKGROUNDS)), f"{web.seed} {key}")


def _asked(asked: str) -> Callable[[Web, str, random.Random], Talk]:
    def talk(web: Web, key: str, rng: random.Random) -> Talk:
        scene = (_several if asked == "count" else _single)(web, key, rng)
        return Talk({"": scene}, (f"<image>\n{_question(asked, scene, rng)}", answer_to(asked, scene)))

    return talk


def _dialogue(web: Web, key: str, rng: random.Random) -> Talk:
    """Return two to four questions about one image."""
    scene = _several(web, key, rng)
    turns: list[str] = []
    for asked in rng.sample(tuple(ASKED), rng.randint(2, 4)):
        turns += [_question(asked, scene, rng), answer_to(asked, scene)]
    return Talk({"": scene}, (f"<image>\n{turns[0]}", *turns[1:]))


def _edit(web: Web, key: str, rng: random.Random) -> Talk:
    """Return an image, what to change, and the changed image: everything else stays as it was."""
    scene = _single(web, key, rng)
    (item,) = scene.items
    what = rng.choice(tuple(CHANGES))
    choices: Sequence[str] = {"colour": tuple(COLOURS), "size": tuple(SIZES), "position": tuple(POSITIONS)}[what]
    changed = [replace(item, **{what: value}) for value in choices if value != getattr(item, what)]
    after = rng.choice([one for one in changed if (one.colour, one.shape) not in HELD_OUT])
    words = rng.choice(CHANGES[what]).format(
        shape=after.shape, colour=after.colour, size=after.size, position=after.position
    )
    return Talk({"": scene, "-after": replace(scene, items=(after,))}, (f"<image>\n{words}", "<image>"))


def _subject(web: Web, key: str, rng: random.Random) -> Talk:
    """Return an item cut out of one scene, and another scene in which it is to be drawn."""
    shown = _single(web, f"{key} shown", rng)
    (item,) = shown.items
    wanted = replace(item, size=rng.choice(tuple(SIZES)), position=rng.choice(tuple(POSITIONS)))
    after = Scene((wanted,), rng.choice(tuple(BACKGROUNDS)), f"{web.seed} {key}")
    words = rng.choice(SHOWING).format(size=wanted.size, position=wanted.position)
    return Talk({"": shown, "-after": after}, (f"<image>\n{words}", "<image>"), cut="")


def _box(web: Web, key: str, rng: random.Random) -> Talk:
    """Return a question that a box answers, or a box in which something is to be drawn."""
    scene = _several(web, key, rng) if rng.random() < 0.5 else _single(web, key, rng)
    item = scene.items[0]
    x0, y0, x1, y1 = (round(1000 * value / SIDE) for value in boxes(scene, SIDE)[0])
    phrase = f"<ref>the {item.colour} {item.shape}</ref><box>({x0},{y0}),({x1},{y1})</box>"
    if len(scene.items) == 1:
        drawn = phrase.replace("<ref>the", "<ref>a" if item.colour[0] not in "aeiou" else "<ref>an")
        return Talk({"": scene}, (rng.choice(PLACING).format(phrase=drawn), "<image>"))
    return Talk({"": scene}, (f"<image>\n{rng.choice(FINDING).format(name=f'{item.colour} {item.shape}')}", phrase))


_LISTS: dict[str, tuple[int, Callable[[Web, str, random.Random], Talk]]] = {
    **{asked: (900, _asked(asked)) for asked in ASKED},
    "count": (2400, _asked("count")),  # harder than what is asked about a single shape, as are the next
    "dialogues": (1800, _dialogue),
    "edits": (900, _edit),
    "boxes": (1800, _box),
    "subjects": (900, _subject),
}
"""Rows and content of each list."""


@lru_cache(maxsize=8192)
def talk_of(web: Web, name: str, number: int) -> Talk:
    """Return a conversation of a list."""
    key = f"talks {name} {number:04}"
    return _LISTS[name][1](web, key, web.random(key))


class Talks(Site):
    """Lists of conversations, and their images; no page."""

    name = "talks"
    title = "The Talks"
    about = "Questions, and what was answered."
    sections = ()

    def num_rows(self, name: str) -> int:
        """Number of rows of a list."""
        return max(1, round(_LISTS[name][0] * self.web.pages_scale))

    def extra(self, path: str) -> Reply | None:
        if (name := path.removeprefix("/").removesuffix(".jsonl")) in _LISTS and path.endswith(".jsonl"):
            rows = (self._row(name, number) for number in range(1, self.num_rows(name) + 1))
            return text_reply("".join(json.dumps(row) + "\n" for row in rows), "application/jsonl")
        match = _IMAGE.fullmatch(path)
        if match is None or match[1] not in _LISTS:
            return None
        if not 1 <= int(match[2]) <= self.num_rows(match[1]):
            return NOT_FOUND
        picture = talk_of(self.web, match[1], int(match[2])).picture(match[3] or "")
        return image_reply(picture, "jpg") if picture is not None else NOT_FOUND

    def _row(self, name: str, number: int) -> dict[str, object]:
        talk = talk_of(self.web, name, number)
        sides = ("human", "gpt")
        return {
            "id": f"{name}-{number:04}",
            "image": [self.url(f"/{name}/{number:04}{ending}.jpg") for ending in talk.scenes],
            "conversations": [{"from": sides[i % 2], "value": turn} for i, turn in enumerate(talk.turns)],
        }
