"""The galleries: images with captions or alt texts, in every way in which HTML can refer to an image."""

import base64
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product

from tools.demo_web.grammar import Rules, say, sentence
from tools.demo_web.scene import BACKGROUNDS, POSITIONS, SEEN, Item, Scene, draw, random_item
from tools.demo_web.site import IMAGE_TYPES, NOT_FOUND, Reply, Section, Site, Web, encode, escape, image_reply
from tools.demo_web.wording import caption

FIGURES_PER_PAGE = 12
BLANK_GIF = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"


@dataclass(frozen=True, slots=True)
class Figure:
    """An image, its text, and the location of its file."""

    scene: Scene
    text: str
    path: str  # without the extension
    host: str  # host:port

    @property
    def alt(self) -> str:
        """The text escaped for an attribute."""
        return escape(self.text)


def _captioned(f: Figure) -> str:
    return f'<figure><img src="{f.path}.jpg" alt=""><figcaption>{f.alt}</figcaption></figure>'


def _alt_only(f: Figure) -> str:
    return f'<p><img src="{f.path}.png" alt="{f.alt}"></p>'


def _srcset(f: Figure) -> str:
    sizes = f"{f.path}-32.jpg 32w, {f.path}-48.jpg 48w, {f.path}.jpg 64w"
    return f'<figure><img srcset="{sizes}" sizes="64px" src="{f.path}-32.jpg" alt="{f.alt}"></figure>'


def _density(f: Figure) -> str:
    return f'<p><img src="{f.path}-32.jpg" srcset="{f.path}.jpg 2x" alt="{f.alt}"></p>'


def _picture(f: Figure) -> str:
    sources = f'<source srcset="{f.path}.webp" type="image/webp"><source srcset="{f.path}.png" type="image/png">'
    return f'<figure><picture>{sources}<img src="{f.path}.jpg"></picture><figcaption>{f.alt}</figcaption></figure>'


def _lazy(f: Figure) -> str:
    return f'<p><img class="lazy" src="{BLANK_GIF}" data-src="{f.path}.jpg" loading="lazy" alt="{f.alt}"></p>'


def _lazy_srcset(f: Figure) -> str:
    sizes = f"{f.path}-32.jpg 32w, {f.path}.jpg 64w"
    return f'<p><img src="{BLANK_GIF}" data-srcset="{sizes}" alt="{f.alt}"></p>'


def _noscript(f: Figure) -> str:
    fallback = f'<noscript><img src="{f.path}.jpg" alt="{f.alt}"></noscript>'
    return f'<p><img class="lazy" src="{BLANK_GIF}" data-original="{f.path}.jpg" alt="{f.alt}">{fallback}</p>'


def _inline(f: Figure) -> str:
    data = base64.b64encode(encode(draw(f.scene), "jpg")).decode()
    return f'<figure><img src="data:image/jpeg;base64,{data}"><figcaption>{f.alt}</figcaption></figure>'


def _commas(f: Figure) -> str:
    path = f"{f.path}/w_64,h_64,c_fill"
    return f'<p><img srcset="{path}.jpg, {path}.jpg 2x" src="{path}.jpg" alt="{f.alt}"></p>'


def _protocol_relative(f: Figure) -> str:
    return f'<figure><img src="//{f.host}{f.path}.jpg"><figcaption>{f.alt}</figcaption></figure>'


def _query(f: Figure) -> str:
    return f'<figure><img src="{f.path}.jpg?width=64&amp;fit=crop"><figcaption>{f.alt}</figcaption></figure>'


def _relative(f: Figure) -> str:
    # Against the page's <base href="/">
    return f'<figure><img src="{f.path.removeprefix("/")}.webp"><figcaption>{f.alt}</figcaption></figure>'


OPPOSITE_PLACES = [  # in one row or column, far enough apart for two large items
    (a, b)
    for (a, (column_a, row_a)), (b, (column_b, row_b)) in product(POSITIONS.items(), repeat=2)
    if sorted((abs(column_a - column_b), abs(row_a - row_b))) == [0, 2]
]

FORMS: tuple[Callable[[Figure], str], ...] = (
    _captioned, _captioned, _captioned, _alt_only, _alt_only, _srcset, _density, _picture, _lazy, _lazy_srcset,
    _noscript, _inline, _commas, _protocol_relative, _query,
)  # fmt: skip

INTRODUCTIONS: Rules = {
    "introduction": (
        "These are the {thing} of the week, sorted by nobody in particular.",
        "A wall of {thing}, each with a line that says what it shows.",
        "The next {thing} came in by post and were hung up as they came.",
        "Here are some more {thing}, with thanks to all who sent them.",
        "We put these {thing} on the wall this morning.",
    ),
    "thing": ("pictures", "drawings", "prints", "cards", "tiles"),
}


def random_scene(web: Web, key: str, *, held_out: bool) -> Scene:
    """Return a scene that one caption can describe: mostly one item, sometimes two in relation, or a few to count."""
    rng = web.random("scene", key)
    kind = "one" if held_out else rng.choices(("one", "two", "several"), (80, 10, 10))[0]
    first = random_item(rng, held_out=held_out)
    items: tuple[Item, ...] = (first,)
    if kind == "two":
        here, there = rng.choice(OPPOSITE_PLACES)
        others = [pair for pair in SEEN if pair != (first.colour, first.shape)]
        items = (replace(first, position=here), replace(random_item(rng, pairs=others), position=there))
    elif kind == "several":
        places = rng.sample(tuple(POSITIONS), rng.choice((2, 3, 3, 4)))
        second = random_item(rng)
        alike = rng.randint(2, len(places))
        kinds = [first] * alike + [second] * (len(places) - alike)
        items = tuple(Item(item.colour, item.shape, "small", place) for item, place in zip(kinds, places, strict=True))
    return Scene(items, rng.choice(tuple(BACKGROUNDS)), f"{web.seed} {key}")


@lru_cache(maxsize=512)
def figures(web: Web, key: str, *, held_out: bool) -> tuple[Figure, ...]:
    host = web.url("galleries").split("/")[2]
    scenes = [random_scene(web, f"{key} {n}", held_out=held_out) for n in range(1, FIGURES_PER_PAGE + 1)]
    return tuple(
        Figure(scene, caption(scene, web.random("caption", key, n)), f"/{key}/{n}", host)
        for n, scene in enumerate(scenes, 1)
    )


class Galleries(Site):
    """Pages of twelve images with one text each."""

    name = "galleries"
    title = "The Galleries"
    about = "Pictures on walls, with a line below each."
    sections = (Section("galleries", 300), Section("held-out/a", 10), Section("held-out/b", 10))

    def page(self, section: Section, key: str, number: int) -> Reply:
        rng = self.web.random("markup", key)
        shown = figures(self.web, key, held_out=section.held_out)
        with_base = rng.random() < 0.15
        parts = [(_relative if with_base else rng.choice(FORMS))(figure) for figure in shown]
        introduction = say(INTRODUCTIONS, "{introduction}", rng)
        head = '<base href="/">' if with_base else ""
        return self.frame(sentence(f"wall {number}"), f"<p>{introduction}</p>{''.join(parts)}", head=head)

    def beside(self, section: Section, key: str, number: int, name: str) -> Reply:
        match = re.fullmatch(r"(\d+)(?:-(32|48)|/w_64,h_64,c_fill)?\.(\w+)", name)
        if match is None or match[3] not in IMAGE_TYPES or not 1 <= int(match[1]) <= FIGURES_PER_PAGE:
            return NOT_FOUND
        figure = figures(self.web, key, held_out=section.held_out)[int(match[1]) - 1]
        return image_reply(draw(figure.scene, side=int(match[2] or 64)), match[3])
