"""The maps: images with named regions: image maps, Web Annotations, and a list of boxes in GRIT's format."""

import json
import re
from dataclasses import dataclass
from functools import lru_cache

from tools.demo_web.grammar import sentence, with_article
from tools.demo_web.scene import BACKGROUNDS, Item, Scene, boxes, draw, fit_together, random_item
from tools.demo_web.site import (
    IMAGE_TYPES,
    NOT_FOUND,
    Reply,
    Section,
    Site,
    Web,
    any_extension,
    escape,
    image_reply,
    text_reply,
)
from tools.demo_web.wording import in_a_row, place

SIDE = 64
MAPS_PER_PAGE = 4
GRIT_ROWS = 420


@dataclass(frozen=True, slots=True)
class Chart:
    """An image, its caption, and for each item the caption's phrase that names it and its box in pixels."""

    scene: Scene
    caption: str
    parts: tuple[tuple[str, tuple[int, int, int, int]], ...]
    path: str


CAPTIONS = (
    "{listed}",
    "{listed}.",
    "There is {listed} on this map.",
    "The map shows {listed}.",
    "On this map you find {listed}.",
    "We marked {listed}.",
    "This one holds {listed}.",
    "Here {listed} can be seen.",
)


@lru_cache(maxsize=4096)
def chart(web: Web, key: str, *, held_out: bool) -> Chart:
    """Return the chart of that name: one to four different items."""
    rng = web.random("chart", key)
    items: list[Item] = []
    wanted = rng.choices((1, 2, 3, 4), (45, 30, 15, 10))[0]
    for _ in range(20):
        item = random_item(rng, held_out=held_out)
        if len(items) < wanted and all(fit_together(item, i) and item.name != i.name for i in items):
            items.append(item)
    scene = Scene(tuple(items), rng.choice(tuple(BACKGROUNDS)), f"{web.seed} {key}")
    with_places = len(items) == 1 or rng.random() < 0.6
    phrases = [with_article(item.name) for item in items]
    listed = in_a_row(
        [f"{a} {place(i.position, rng)}" if with_places else a for a, i in zip(phrases, items, strict=True)]
    )
    text = sentence(rng.choice(CAPTIONS).format(listed=listed))
    file = f"/{key}.{any_extension(rng)}"
    return Chart(scene, text, tuple(zip((i.name for i in items), boxes(scene, SIDE), strict=True)), file)


class Maps(Site):
    """Grounded images: `maps` and held-out pages as image maps or annotations, and `/grit/boxes.jsonl`."""

    name = "maps"
    title = "The Maps"
    about = "Pictures of which every part has a name."
    sections = (
        Section("maps", 120),
        Section("annotated", 70),
        Section("held-out/a", 16),
        Section("held-out/b", 16),
    )

    def page(self, section: Section, key: str, number: int) -> Reply:
        charts = [chart(self.web, f"{key}/{n}", held_out=section.held_out) for n in range(1, MAPS_PER_PAGE + 1)]
        as_annotations = section.folder == "annotated" or (section.held_out and number % 2 == 0)
        if as_annotations:
            return self._annotated(number, charts)
        parts = [
            f'<figure><img src="{c.path}" usemap="#m{n}" width="{SIDE}" height="{SIDE}" alt="{escape(c.caption)}">'
            f'<map name="m{n}">{_areas(c)}{_REST if n == 0 and number % 10 == 0 else ""}</map></figure>'
            for n, c in enumerate(charts)
        ]
        return self.frame(f"Map sheet {number}", f"<p>Point at a shape to see its name.</p>{''.join(parts)}")

    def beside(self, section: Section, key: str, number: int, name: str) -> Reply:
        match = re.fullmatch(rf"([1-{MAPS_PER_PAGE}])\.(\w+)", name)
        if match is None or match[2] not in IMAGE_TYPES:
            return NOT_FOUND
        return image_reply(draw(chart(self.web, f"{key}/{match[1]}", held_out=section.held_out).scene, SIDE), match[2])

    def extra(self, path: str) -> Reply | None:
        if path == "/grit/boxes.jsonl":
            rows = (self._grit_row(n) for n in range(1, self.num_grit_rows + 1))
            return text_reply("".join(json.dumps(row) + "\n" for row in rows), "application/jsonl")
        if match := re.fullmatch(r"/(grit/(\d{4}))\.(jpg|png|webp)", path):
            if 1 <= int(match[2]) <= self.num_grit_rows:
                return image_reply(draw(chart(self.web, match[1], held_out=False).scene, SIDE), match[3])
            return NOT_FOUND
        return None

    @property
    def num_grit_rows(self) -> int:
        """Number of rows of `/grit/boxes.jsonl`."""
        return max(1, round(GRIT_ROWS * self.web.pages_scale))

    def _annotated(self, number: int, charts: list[Chart]) -> Reply:
        figures = "".join(
            f'<figure><img src="{c.path}" width="{SIDE}" height="{SIDE}"><figcaption>{escape(c.caption)}</figcaption>'
            "</figure>"
            for c in charts
        )
        annotations = [
            _annotation(self.url(c.path), phrase, box, nested=number % 3 == 0)
            for c in charts
            for phrase, box in c.parts
        ]
        script = json.dumps(annotations).replace("</", "<\\/")
        return self.frame(
            f"Annotated sheet {number}",
            f"<p>The names of the parts are kept beside the pictures.</p>{figures}",
            head=f'<script type="application/ld+json">{script}</script>',
        )

    def _grit_row(self, n: int) -> dict[str, object]:
        c = chart(self.web, f"grit/{n:04}", held_out=False)
        chunks = []
        for phrase, box in c.parts:
            start = c.caption.lower().index(phrase)
            chunks.append([start, start + len(phrase), *(round(v / SIDE, 4) for v in box), 0.9])
        return {
            "id": 10_000 + n,
            "url": self.url(c.path),
            "caption": c.caption,
            "width": SIDE,
            "height": SIDE,
            "clip_similarity_vitb32": 0.3,
            "clip_similarity_vitl14": 0.25,
            "noun_chunks": chunks,
            "ref_exps": chunks,
        }


_REST = '<area shape="default" nohref>'  # image maps have such a default area; it is not a box


def _areas(c: Chart) -> str:
    areas = [
        f'<area shape="rect" coords="{",".join(map(str, box))}" alt="{escape(phrase)}" href="#">'
        for phrase, box in c.parts
    ]
    return "".join(areas)


def _annotation(url: str, phrase: str, box: tuple[int, int, int, int], *, nested: bool) -> dict[str, object]:
    """Return a Web Annotation of a region of an image: as a fragment of the URL, or as a selector."""
    x0, y0, x1, y1 = box
    region = f"xywh={x0},{y0},{x1 - x0},{y1 - y0}"
    selector = {"type": "FragmentSelector", "conformsTo": "http://www.w3.org/TR/media-frags/", "value": region}
    return {
        "@context": "http://www.w3.org/ns/anno.jsonld",
        "type": "Annotation",
        "motivation": "tagging",
        "body": {"type": "TextualBody", "value": phrase, "purpose": "tagging"},
        "target": {"source": url, "selector": selector} if nested else f"{url}#{region}",
    }
