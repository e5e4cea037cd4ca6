"""A scene in words: captions, phrases for boxes, and the sentences of an album.

Colours, shapes, sizes and positions always appear under the names of `scene.py`; everything around them varies.
"""

import random
from collections import Counter

from tools.demo_web.grammar import Rules, say, sentence, with_article
from tools.demo_web.scene import POSITIONS, Item, Scene

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
ORDINALS = ("first", "second", "third", "fourth", "fifth")

PLACES: dict[str, tuple[str, ...]] = {
    "left": ("on the left", "at the left edge", "on the left side"),
    "right": ("on the right", "at the right edge", "on the right side"),
    "top": ("at the top", "at the top edge", "near the top"),
    "bottom": ("at the bottom", "at the bottom edge", "near the bottom"),
    "center": ("in the center", "at the center", "exactly in the center"),
}

ONE_ITEM: Rules = {
    "caption": (
        "{a_item} {where}",
        "{a_item} {where}{ground}.",
        "{where}, {a_item}{ground}.",
        "There is {a_item} {where}.",
        "{where} there is {a_item}{ground}.",
        "The picture shows {a_item} {where}.",
        "We see {a_item} {where}{ground}.",
        "{where} you can see {a_item}.",
        "A single {colour} {shape}, {size}, {where}.",
        "This {shape} is {colour} and {size}, and it is {where}.",
        "A {shape} that is {size} and {colour} sits {where}.",
        "Only {a_item} {where}, nothing else.",
        "{a_item} has been drawn {where}.",
        "Somebody painted {a_item} {where}{ground}.",
        "Look {where}: {a_item}.",
        "{a_item} rests {where}{ground}.",
        "The {shape} {where} is {size} and {colour}.",
        "One {colour} {shape} of {size} size {where}.",
        "A picture of {a_item} {where}.",
        "Drawing with {a_item} placed {where}.",
        "{item}, {where}{ground}",
        "{colour} {shape}, {size}, {where}",
        "In this one {a_item} stands {where}.",
        "{a_item} can be found {where}.",
    ),
    "ground": ("", "", " on a {background} background", ", the background is {background}"),
}

TWO_ITEMS: Rules = {
    "caption": (
        "{a_first} {relation} {a_second}",
        "{a_first} {relation} {a_second}.",
        "The picture shows {a_first} {relation} {a_second}.",
        "There is {a_first} {relation} {a_second}.",
        "Two shapes: {a_first} is {relation} {a_second}.",
        "We see {a_first}, and it is {relation} {a_second}.",
        "{a_first} was placed {relation} {a_second}.",
        "Here {a_first} stands {relation} {a_second}.",
    ),
}

SEVERAL_ITEMS: Rules = {
    "caption": (
        "{listed}",
        "{listed}.",
        "The picture shows {listed}.",
        "There are {listed}, {total} shapes in all.",
        "We count {listed}.",
        "{listed} on one picture.",
        "Somebody drew {listed}.",
        "Together on a {background} background: {listed}.",
    ),
}


def place(position: str, rng: random.Random) -> str:
    """Return a position in words: `in the top left corner`."""
    if " " not in position:
        return rng.choice(PLACES[position])
    return rng.choice((f"in the {position} corner", f"at the {position}", f"near the {position} corner"))


def caption(scene: Scene, rng: random.Random) -> str:
    """Return a full caption: the position of one item, the relation of two, or the number of each."""
    if len(scene.items) == 1:
        return _of_one(scene, rng)
    relation = _relation(scene.items[0], scene.items[1], rng) if len(scene.items) == 2 else None
    if relation is None or scene.items[0].name == scene.items[1].name:
        listed = listing(scene.items, rng)
        words = {"listed": listed, "total": NUMBERS[len(scene.items)], "background": scene.background}
        return sentence(say(SEVERAL_ITEMS, "{caption}", rng, **words))
    first, second = (with_article(item.name) for item in scene.items)
    return sentence(say(TWO_ITEMS, "{caption}", rng, a_first=first, a_second=second, relation=relation))


def _of_one(scene: Scene, rng: random.Random) -> str:
    item = scene.items[0]
    words = {
        "item": item.name,
        "a_item": with_article(item.name),
        "colour": item.colour,
        "shape": item.shape,
        "size": item.size,
        "where": place(item.position, rng),
        "background": scene.background,
    }
    return sentence(say(ONE_ITEM, "{caption}", rng, **words))


def _relation(a: Item, b: Item, rng: random.Random) -> str | None:
    """Return how a stands to b, if one word can say it: in one row or in one column."""
    (column_a, row_a), (column_b, row_b) = POSITIONS[a.position], POSITIONS[b.position]
    if row_a == row_b:
        return rng.choice(("left of", "to the left of") if column_a < column_b else ("right of", "to the right of"))
    if column_a == column_b:
        return "above" if row_a < row_b else "below"
    return None


def listing(items: tuple[Item, ...], rng: random.Random) -> str:
    """Return the number of each: `two small red circles and one large blue cross`."""
    counts = Counter(item.name for item in items)
    return in_a_row([f"{NUMBERS[count]} {plural(name) if count > 1 else name}" for name, count in counts.items()])


def in_a_row(phrases: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def plural(name: str) -> str:
    """`red crosses`, `red circles`."""
    return name + ("es" if name.endswith("s") else "s")
