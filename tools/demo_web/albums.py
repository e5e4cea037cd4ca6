"""The albums: pages on which images stand between the sentences that depend on them."""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

from tools.demo_web.english import BRIDGES, CLOSINGS, NAMES, OPENINGS
from tools.demo_web.grammar import Rules, say, sentence, tell, with_article
from tools.demo_web.scene import BACKGROUNDS, HELD_OUT, POSITIONS, SEEN, Item, Scene, draw, fit_together, random_item
from tools.demo_web.site import IMAGE_TYPES, NOT_FOUND, Reply, Section, Site, any_extension, escape, image_reply
from tools.demo_web.wording import NUMBERS, ORDINALS, caption, place, plural


@dataclass(frozen=True, slots=True)
class Plate:
    """An image in an album: what it shows, its alt text (may be empty), and its caption, if any."""

    scene: Scene
    alt: str
    caption: str | None


@dataclass(frozen=True, slots=True)
class Album:
    """A title, then paragraphs and plates in reading order."""

    title: str
    blocks: tuple[str | Plate, ...]

    @property
    def plates(self) -> list[Plate]:
        """The images without the paragraphs."""
        return [block for block in self.blocks if isinstance(block, Plate)]


Step = tuple[str, tuple[Item, ...]]
"""Text before an image, and what that image then shows."""
Story = Callable[[random.Random, bool], tuple[list[Step], str]]
"""Steps, and the text after the last of them (may be empty)."""

LEADS: Rules = {
    "shown": (
        "The {nth} picture shows {a_item} {where}",
        "{where} of the {nth} picture you find {a_item}",
        "On the {nth} one there is {a_item}, and it stands {where}",
        "In the {nth} picture {a_item} was painted {where}",
        "Look at the {nth} picture: {where} there is {a_item}",
        "Our {nth} picture has {a_item} {where} and nothing more",
        "{name} put {a_item} {where} of the {nth} picture",
        "As for the {nth} picture, it holds {a_item} {where}",
        "What stands {where} of the {nth} picture is {a_item}",
        "Now comes the {nth} picture with {a_item} {where}",
    ),
    "recoloured": (
        "The {nth} picture repeats the {back} one in {colour}",
        "Then the {shape} of the {back} picture comes again, in the same place, but in {colour}",
        "For the {nth} picture only the colour of the {back} one was changed: the {shape} is {colour} now",
        "Paint the {shape} of the {back} picture {colour} and you have the {nth} one",
        "The {nth} picture is like the {back} one, except that its {shape} has turned {colour}",
    ),
    "moved": (
        "In the {nth} picture the same {shape} has moved, and it is now {where}",
        "The {colour} {shape} goes on, and in the {nth} picture it stands {where}",
        "Next it appears {where}, still {size} and still {colour}",
        "The {nth} picture shows the same {shape} again, this time {where}",
        "A step further, in the {nth} picture, the {size} {shape} has come to rest {where}",
    ),
    "resized": (
        "The {nth} picture shows the {shape} of the {back} one again, but now it is {size}",
        "In the {nth} picture the {colour} {shape} has stayed where it was and has become {size}",
        "The {nth} one differs from the {back} one in size alone: the {shape} is {size}",
        "Then {name} made the {shape} of the {back} picture {size} and kept the rest of it",
    ),
    "reshaped": (
        "The {nth} picture keeps the colour, the size and the place of the {back} one, but it shows a {shape}",
        "Instead of the shape of the {back} picture, the {nth} one has a {shape}, just as {size} and just as {colour}",
        "Put a {shape} where the {back} picture has its shape, in the same colour, and you get the {nth} picture",
    ),
    "again": (
        "The {nth} picture is the {back} one again",
        "At the end {name} shows once more what was on the {back} picture",
        "The {nth} picture repeats the {back} one: the same shape, colour, size and place",
        "And then we see the same as on the {back} picture",
    ),
    "counted": (
        "There are {items} on the {nth} picture",
        "The {nth} picture has {items}",
        "Count the shapes on the {nth} picture, and you will find {items}",
        "{name} drew {items} for the {nth} picture",
    ),
    "fewer": (
        "There is {items} on the {nth} picture",
        "The {nth} picture has {items} and no more",
        "{name} drew {items} for the {nth} picture",
    ),
    "next_count": (
        "The {nth} picture has one more of them",
        "Add one, and you get the {nth} picture",
        "On the {nth} picture there is one more of the same kind",
    ),
    "beside": (
        "The {nth} picture shows {a_first} on the left and {a_second} on the right",
        "On the {nth} picture {a_first} stands left of {a_second}",
        "There are two shapes on the {nth} picture, {a_first} on the left and {a_second} on the right",
    ),
    "swapped": (
        "In the {nth} picture the two have changed places",
        "Then they change places, which gives the {nth} picture",
        "The {nth} picture has the same two the other way round",
    ),
    "asks_colour": ("Question: what colour was the {shape} of the {back} picture? Answer: {colour}",),
    "asks_shape": ("Question: which shape was on the {back} picture? Answer: a {shape}",),
    "asks_size": ("Question: was the shape of the {back} picture small or large? Answer: {size}",),
    "asks_position": ("Question: where was the shape of the {back} picture? Answer: {where}",),
}


def lead(rng: random.Random, rule: str, item: Item, **given: str) -> str:
    """Return one sentence about an item, by a rule of LEADS."""
    words = {
        "a_item": with_article(item.name),
        "colour": item.colour,
        "shape": item.shape,
        "size": item.size,
        "where": place(item.position, rng),
        "name": "{name}",  # the album fills it in
    }
    return sentence(say(LEADS, f"{{{rule}}}", rng, **{**words, **given})) + "."


def _distinct(rng: random.Random, count: int, held_out: bool) -> list[Item]:
    """Return items of which no two share both colour and shape."""
    items: dict[tuple[str, str], Item] = {}
    while len(items) < count:
        item = random_item(rng, held_out=held_out)
        items.setdefault((item.colour, item.shape), item)
    return list(items.values())


def _other(rng: random.Random, options: tuple[str, ...], taken: str) -> str:
    return rng.choice([option for option in options if option != taken])


def _collection(rng: random.Random, held_out: bool) -> tuple[list[Step], str]:
    items = _distinct(rng, 4 if held_out else rng.choice((4, 5)), held_out)
    return [(lead(rng, "shown", item, nth=ORDINALS[n]), (item,)) for n, item in enumerate(items)], ""


def _quiz(rng: random.Random, held_out: bool) -> tuple[list[Step], str]:
    items = _distinct(rng, rng.choice((2, 3)), held_out)
    steps: list[Step] = [(lead(rng, "shown", item, nth=ORDINALS[n]), (item,)) for n, item in enumerate(items)]
    asked = rng.randrange(len(items))
    about = rng.choice(("colour", "shape", "size", "position"))
    answer = lead(rng, f"asks_{about}", items[asked], back=ORDINALS[asked])
    repeat = lead(rng, "again", items[asked], nth=ORDINALS[len(items)], back=ORDINALS[asked])
    return [*steps, (f"{answer} {repeat}", (items[asked],))], ""


def _walk(rng: random.Random, held_out: bool) -> tuple[list[Step], str]:
    item = random_item(rng, held_out=held_out)
    steps: list[Step] = [(lead(rng, "shown", item, nth="first"), (item,))]
    for n in range(1, rng.choice((4, 5))):
        item = replace(item, position=_other(rng, tuple(POSITIONS), item.position))
        steps.append((lead(rng, "moved", item, nth=ORDINALS[n]), (item,)))
    return steps, ""


def _growth(rng: random.Random, held_out: bool) -> tuple[list[Step], str]:
    first, second = _distinct(rng, 2, held_out)
    resized = replace(first, size=_other(rng, ("small", "large"), first.size))
    return [
        (lead(rng, "shown", first, nth="first"), (first,)),
        (lead(rng, "shown", second, nth="second"), (second,)),
        (lead(rng, "resized", resized, nth="third", back="first"), (resized,)),
    ], ""


def _recolouring(rng: random.Random, held_out: bool) -> tuple[list[Step], str]:
    first, second = _distinct(rng, 2, held_out)
    colours = [c for c, shape in SEEN if shape == first.shape and c != first.colour]
    recoloured = replace(first, colour=rng.choice(colours))
    steps: list[Step] = [(lead(rng, "shown", first, nth="first"), (first,))]
    if between := rng.random() < 0.6:
        steps.append((lead(rng, "shown", second, nth="second"), (second,)))
    nth = "third" if between else "second"
    steps.append((lead(rng, "recoloured", recoloured, nth=nth, back="first"), (recoloured,)))
    return steps, ""


def _reshaping(rng: random.Random, held_out: bool) -> tuple[list[Step], str]:
    first, second = _distinct(rng, 2, held_out)
    shapes = [s for colour, s in SEEN if colour == first.colour and s != first.shape]
    reshaped = replace(first, shape=rng.choice(shapes))
    return [
        (lead(rng, "shown", first, nth="first"), (first,)),
        (lead(rng, "shown", second, nth="second"), (second,)),
        (lead(rng, "reshaped", reshaped, nth="third", back="first"), (reshaped,)),
    ], ""


def _counting(rng: random.Random, held_out: bool) -> tuple[list[Step], str]:
    kind = replace(random_item(rng, held_out=held_out), size="small")
    places = rng.sample(tuple(POSITIONS), 4)
    start = rng.choice((1, 2))
    steps: list[Step] = []
    for n, count in enumerate(range(start, 5 if start == 2 else 4)):
        items = tuple(replace(kind, position=position) for position in places[:count])
        words = f"{NUMBERS[count]} {plural(kind.name) if count > 1 else kind.name}"
        rule = "next_count" if n else "counted" if count > 1 else "fewer"
        steps.append((lead(rng, rule, kind, nth=ORDINALS[n], items=words), items))
    total = NUMBERS[sum(len(items) for _, items in steps)]
    return steps, f"On all the pictures together there are {total} {plural(kind.shape)}."


def _neighbours(rng: random.Random, held_out: bool) -> tuple[list[Step], str]:
    first, second = _distinct(rng, 2, held_out)
    first, second = replace(first, position="left"), replace(second, position="right")
    swapped = (replace(second, position="left"), replace(first, position="right"))
    names = {"a_first": with_article(first.name), "a_second": with_article(second.name)}
    return [
        (lead(rng, "beside", first, nth="first", **names), (first, second)),
        (lead(rng, "swapped", first, nth="second"), swapped),
    ], ""


STORIES: tuple[Story, ...] = (
    _collection, _collection, _walk, _walk, _quiz, _growth, _recolouring, _reshaping, _counting, _neighbours,
)  # fmt: skip
HELD_OUT_STORIES: tuple[Story, ...] = (_collection, _collection, _walk, _quiz, _growth, _counting, _neighbours)
"""Stories in which no image changes its colour or shape, so that none leaves the held-out pairs."""

TITLES: Rules = {
    "title": (
        "{name} and the {mood} {thing}",
        "A {mood} row of pictures",
        "The drawer of {name}",
        "What {name} saw in {place}",
        "Pictures from {place}",
        "{name} explains a {thing}",
        "A visit to {place}",
        "The {mood} album of {name}",
    ),
}


@lru_cache(maxsize=4096)
def album(seed: int, name: str, *, held_out: bool) -> Album:
    """Return the album of that name: one story with an opening, remarks between the images, and an end."""
    rng = random.Random(f"album {seed} {name}")
    steps, ending = rng.choice(HELD_OUT_STORIES if held_out else STORIES)(rng, held_out)
    person = rng.choice(NAMES)
    opening = [*tell(OPENINGS, "opening", 1, rng, name=person), *tell(OPENINGS, "second", 2, rng, name=person)]
    remarks = tell(BRIDGES, "bridge", len(steps), rng, name=person)
    closing = tell(CLOSINGS, "closing", 2, rng, name=person)
    blocks: list[str | Plate] = [" ".join(_stopped(s) for s in opening)]
    for n, ((said, items), remark) in enumerate(zip(steps, remarks, strict=True)):
        assert all(fit_together(a, b) for i, a in enumerate(items) for b in items[:i])
        assert held_out or not any((item.colour, item.shape) in HELD_OUT for item in items)
        scene = Scene(items, rng.choice(tuple(BACKGROUNDS)), f"{seed} {name} {n}")
        alt = caption(scene, rng) if rng.random() < 0.8 else ""
        below = caption(scene, rng) if rng.random() < 0.25 else None
        blocks += [said.replace("{name}", person), Plate(scene, alt, below), remark + "."]
    blocks.append(" ".join([*filter(None, [ending]), *(_stopped(s) for s in closing)]))
    title = say({**OPENINGS, **TITLES}, "{title}", rng, name=person)
    return Album(sentence(title), tuple(_joined(blocks)))


def _stopped(text: str) -> str:
    return text if text[-1] in ".?!" else text + "."


def _joined(blocks: list[str | Plate]) -> list[str | Plate]:
    """Merge neighbouring paragraphs: the text after one image and the text before the next."""
    result: list[str | Plate] = []
    for block in blocks:
        if isinstance(block, str) and len(result) > 1 and isinstance(result[-1], str):
            result[-1] = f"{result[-1]} {block}"
        else:
            result.append(block)
    return result


class Albums(Site):
    """Interleaved pages: each image stands after the sentence that describes it."""

    name = "albums"
    title = "The Albums"
    about = "Pictures in a row, and what is said between them."
    sections = (Section("albums", 1450), Section("held-out/a", 30), Section("held-out/b", 30))

    def page(self, section: Section, key: str, number: int) -> Reply:
        told = album(self.web.seed, key, held_out=section.held_out)
        rng = self.web.random("markup", key)
        parts = []
        n = 0
        for block in told.blocks:
            if isinstance(block, str):
                parts.append(f"<p>{escape(block)}</p>")
                continue
            n += 1
            image = f'<img src="/{key}/{n}.{any_extension(rng)}" alt="{escape(block.alt)}" width="64" height="64">'
            if block.caption is None:
                parts.append(f'<div class="plate">{image}</div>')
            else:
                parts.append(f"<figure>{image}<figcaption>{escape(block.caption)}</figcaption></figure>")
        following = number % self.counts[section.folder] + 1
        more = f'<aside class="related"><h2>More albums</h2><a href="{following:04}.html">No. {following}</a></aside>'
        return self.frame(told.title, f"<article>{''.join(parts)}</article>{more}")

    def beside(self, section: Section, key: str, number: int, name: str) -> Reply:
        plates = album(self.web.seed, key, held_out=section.held_out).plates
        match = re.fullmatch(r"([1-9])\.(\w+)", name)
        if match is None or match[2] not in IMAGE_TYPES or int(match[1]) > len(plates):
            return NOT_FOUND
        return image_reply(draw(plates[int(match[1]) - 1].scene), match[2])
