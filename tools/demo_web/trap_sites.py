"""The sites that contain the traps: their robots.txt and other site-wide files, and the links to each trap."""

import json
import re
from urllib.parse import urlsplit

from tools.demo_web.galleries import random_scene
from tools.demo_web.site import NOT_FOUND, Reply, Site, Web, escape, link_list, text_reply
from tools.demo_web.trap_table import TRAPS
from tools.demo_web.wording import caption

PICTURES_PER_PAGE = 8
MAZE_LINKS = 3  # on each page of the maze: depth d has 3^d pages

ALLOW_ALL = "User-agent: *\nAllow: /\nCrawl-delay: 0\n"

TITLES = {
    "noise": "The Market",
    "hostile": "The Harbour",
    "slow": "The Post Office",
    "closed": "Closed",
    "broken": "The Old Mill",
    "unavailable": "No Robots Known",
    "reserved": "All Rights Reserved",
    "no-media": "Words Only",
    "no-training": "Not for Training",
    "patient": "The Patient Site",
    "maze": "The Maze",
    "elsewhere": "Elsewhere",
}

ROBOTS = {
    "noise": (
        "User-agent: *\nDisallow: /private/\nAllow: /private/open.html\nDisallow: /*.secret$\nCrawl-delay: 0\n"
        "Content-Usage: /unused/ train-ai=n\n"
    ),
    "reserved": "User-agent: *\nAllow: /\nContent-Signal: search=yes, ai-train=no\n",
    "no-training": "User-agent: *\nAllow: /\n\nUser-agent: GPTBot\nUser-agent: CCBot\nDisallow: /\n",
    "patient": "User-agent: *\nAllow: /\nCrawl-delay: 86400\n",
}

TDMREP = [
    {"location": "/reserved/open.html", "tdm-reservation": 0},
    {"location": "/reserved/*", "tdm-reservation": 1, "tdm-policy": "/reserved/policy.json"},
]
AI_TXT = (
    "User-Agent: *\nDisallow: *.jpg\nDisallow: *.png\nDisallow: *.webp\nDisallow: *.mp4\nDisallow: /\nDisallow: *\n"
)


class TrapSite(Site):
    """A site whose pages are rows of `TRAPS`. The first page links to them, and to the pages that show its images."""

    sections = ()
    about = "Things that a careful visitor leaves where they are."

    def __init__(self, web: Web, name: str) -> None:
        self.name = name
        self.title = TITLES[name]
        super().__init__(web)
        self._traps = {trap.path: trap for trap in TRAPS if trap.site == name}

    def extra(self, path: str) -> Reply | None:
        bare = urlsplit(path).path
        if bare == "/robots.txt":
            if self.name == "unavailable":
                return Reply(b"later\n", "text/plain", 503)
            return text_reply(ROBOTS.get(self.name, ALLOW_ALL))
        if bare == "/.well-known/tdmrep.json" and self.name == "noise":
            return text_reply(json.dumps(TDMREP), "application/json")
        if bare == "/ai.txt" and self.name == "no-media":
            return text_reply(AI_TXT)
        if trap := self._traps.get(bare):
            return trap.make(self)
        if bare == "/":
            return self._first_page()
        if match := re.fullmatch(r"/wall-(\d+)\.html", bare):
            return self._wall(int(match[1]))
        return None

    def _first_page(self) -> Reply:
        pictures = sum(trap.shown == "picture" for trap in self._traps.values())
        links = [trap.path for trap in self._traps.values() if trap.shown == "link"]
        links += [f"/wall-{n}.html" for n in range(1, (pictures - 1) // PICTURES_PER_PAGE + 2)]
        if "/texts/variants.html" in self._traps:
            links += [
                "/texts/variants.html?utm_source=market&utm_medium=list",
                "/texts/variants.html#middle",
                "/texts/../texts/variants.html",
                "/texts/%76ariants.html",
                self.url("/texts/variants.html").replace("http:", "HTTP:"),
            ]
        body = f"<p>{self.about}</p>{link_list([(path, path) for path in links])}"
        return self.frame(self.title, body)

    def _wall(self, n: int) -> Reply:
        pictures = [trap for trap in self._traps.values() if trap.shown == "picture"]
        shown = pictures[(n - 1) * PICTURES_PER_PAGE : n * PICTURES_PER_PAGE]
        if not shown or n < 1:
            return NOT_FOUND
        figures = []
        for trap in shown:
            scene = random_scene(self.web, f"caption {trap.site} {trap.path}", held_out=False)
            words = caption(scene, self.web.random("caption", trap.site, trap.path))
            figures.append(f'<figure><img src="{trap.path}"><figcaption>{escape(words)}</figcaption></figure>')
        return self.frame(f"{self.title}, wall {n}", f"<p>A few things that were found here.</p>{''.join(figures)}")


class Maze(TrapSite):
    """A site without end: every page links to more pages, as calendars do."""

    def extra(self, path: str) -> Reply | None:
        bare = urlsplit(path).path
        if bare == "/" or re.fullmatch(r"(/\d+)+/", bare):
            links = [(f"{bare}{n}/", f"Door {n}") for n in range(1, MAZE_LINKS + 1)]
            return self.frame(self.title, f"<p>Every room has {MAZE_LINKS} doors.</p>{link_list(links)}")
        return super().extra(path)


def trap_sites(web: Web) -> list[Site]:
    """Return the sites of all traps."""
    return [Maze(web, name) if name == "maze" else TrapSite(web, name) for name in TITLES]
