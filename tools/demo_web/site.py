"""Parts that all sites of the demo web share: replies, sections of numbered pages, lists, sitemaps, the page frame."""

import html
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

import cv2

from tools.demo_web.scene import Picture

ADDRESSES = {
    "start": "127.0.1.1",
    "albums": "127.0.1.2",
    "galleries": "127.0.1.3",
    "maps": "127.0.1.4",
    "cinema": "127.0.1.5",
    "library": "127.0.1.6",
    "noise": "127.0.1.7",
    "hostile": "127.0.1.8",
    "unavailable": "127.0.1.9",
    "reserved": "127.0.1.10",
    "no-media": "127.0.1.11",
    "no-training": "127.0.1.12",
    "broken": "127.0.1.13",
    "maze": "127.0.1.14",
    "elsewhere": "127.0.1.15",
    "slow": "127.0.1.16",
    "closed": "127.0.1.17",
    "patient": "127.0.1.18",
    "talks": "127.0.1.19",
}
"""Loopback address of each site. Pages link to `elsewhere`, but a crawl's scope should exclude it."""

PAGES_PER_LIST = 80
LINK_LIST = 'class="listing"'

Manner = Literal["whole", "trickle", "endless", "cut", "busy_once"]


@dataclass(frozen=True, slots=True)
class Reply:
    """A response. `manner` is how the body is sent: whole, drop by drop, over and over, cut short, or not at once."""

    body: bytes = b""
    content_type: str = "text/html; charset=utf-8"
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    manner: Manner = "whole"


NOT_FOUND = Reply(b"not here\n", "text/plain; charset=utf-8", 404)


@dataclass(frozen=True, slots=True)
class Web:
    """Settings that, with the URL, determine every byte of the demo web."""

    seed: int = 0
    port: int = 8700
    pages_scale: float = 1.0

    def url(self, site: str, path: str = "/") -> str:
        """The absolute URL of a path on a site."""
        return f"http://{ADDRESSES[site]}:{self.port}{path}"

    def random(self, *names: object) -> random.Random:
        """Return a random generator seeded by the names."""
        return random.Random(f"{self.seed} {' '.join(map(str, names))}")


@dataclass(frozen=True, slots=True)
class Section:
    """Numbered pages below one folder: `/<folder>/0001.html` and their files, `/<folder>/0001/2.jpg`."""

    folder: str
    count: int

    @property
    def held_out(self) -> bool:
        """True if its pages show only held-out pairs."""
        return self.folder.startswith("held-out/")


class Site:
    """A site of numbered pages. Subclasses provide the content of a page and of its files."""

    name: str
    title: str
    about: str
    sections: tuple[Section, ...]  # with their full counts

    def __init__(self, web: Web) -> None:
        self.web = web
        self.counts = {s.folder: max(1, round(s.count * web.pages_scale)) for s in self.sections}
        folders = "|".join(re.escape(folder) for folder in self.counts)
        self._page = re.compile(rf"/({folders})/(\d{{4}})\.html")
        self._beside = re.compile(rf"/({folders})/(\d{{4}})/(.+)")
        self._list = re.compile(rf"/({folders})/list-(\d+)\.html")

    def page(self, section: Section, key: str, number: int) -> Reply:
        """The page of a section with that number; `key` is `<folder>/<number>`."""
        raise NotImplementedError

    def beside(self, section: Section, key: str, number: int, name: str) -> Reply:
        """Return a file that belongs to the page."""
        raise NotImplementedError

    def extra(self, path: str) -> Reply | None:
        """Return the reply for a path outside the sections, if the site has it."""
        return None

    def answer(self, path: str) -> Reply:
        """Return the reply to a request for a path (with its query, if there is one)."""
        bare = urlsplit(path).path
        if (found := self.extra(path)) is not None:
            return found
        for pattern, make in ((self._page, self._page_reply), (self._beside, self._beside_reply)):
            if match := pattern.fullmatch(bare):
                return make(*match.groups())
        if match := self._list.fullmatch(bare):
            return self._list_reply(match[1], int(match[2]))
        if bare == "/":
            return self._home()
        if bare == "/robots.txt":
            return text_reply(f"User-agent: *\nAllow: /\nCrawl-delay: 0\n\nSitemap: {self.url('/sitemap.xml')}\n")
        if bare == "/sitemap.xml":
            return sitemap([self.url(path) for path in ("/", *self.paths())])
        return NOT_FOUND

    def url(self, path: str) -> str:
        """The absolute URL of a path of this site."""
        return self.web.url(self.name, path)

    def lists(self) -> list[str]:
        """Paths of the pages that list the site's pages."""
        return [
            f"/{folder}/list-{n}.html"
            for folder, count in self.counts.items()
            for n in range(1, (count - 1) // PAGES_PER_LIST + 2)
        ]

    def paths(self) -> Iterator[str]:
        """Paths of all numbered pages."""
        for folder, count in self.counts.items():
            yield from (f"/{folder}/{number:04}.html" for number in range(1, count + 1))

    def _section(self, folder: str) -> Section:
        return next(section for section in self.sections if section.folder == folder)

    def _page_reply(self, folder: str, digits: str) -> Reply:
        number = int(digits)
        if not 1 <= number <= self.counts[folder]:
            return NOT_FOUND
        return self.page(self._section(folder), f"{folder}/{digits}", number)

    def _beside_reply(self, folder: str, digits: str, name: str) -> Reply:
        number = int(digits)
        if not 1 <= number <= self.counts[folder]:
            return NOT_FOUND
        return self.beside(self._section(folder), f"{folder}/{digits}", number, name)

    def _list_reply(self, folder: str, n: int) -> Reply:
        first = (n - 1) * PAGES_PER_LIST + 1
        last = min(n * PAGES_PER_LIST, self.counts[folder])
        if not 1 <= first <= last:
            return NOT_FOUND
        links = [(f"/{folder}/{number:04}.html", f"No. {number}") for number in range(first, last + 1)]
        return self.frame(f"{self.title}, {first} to {last}", link_list(links))

    def _home(self) -> Reply:
        links = [(path, path.strip("/").removesuffix(".html")) for path in self.lists()]
        return self.frame(self.title, f"<p>{self.about}</p>{link_list(links)}")

    def frame(
        self, title: str, body: str, *, lang: str = "en", head: str = "", headers: tuple[tuple[str, str], ...] = ()
    ) -> Reply:
        """Return a page: the site's header and menu, the body as the main part, the footer."""
        menu = "".join(f'<li><a href="{self.web.url(site)}">{site}</a></li>' for site in ADDRESSES if site in _MENU)
        text = (
            f'<!doctype html>\n<html lang="{lang}"><head><meta charset="utf-8"><title>{escape(title)}</title>{head}'
            f'<link rel="stylesheet" href="{self.web.url("start", "/style.css")}"></head>\n<body>\n'
            f'<header class="site-header"><img src="{self.web.url("start", "/logo.png")}" alt="logo">'
            f'<a href="/">{escape(self.title)}</a>'
            f'<nav class="navigation"><ul>{menu}</ul></nav></header>\n'
            f"<main>\n<h1>{escape(title)}</h1>\n{body}\n</main>\n"
            '<footer class="footer"><p>Imprint · Privacy · Contact</p><p>All pages of this web are made up.</p>'
            "</footer>\n</body></html>\n"
        )
        return Reply(text.encode(), headers=headers)


_MENU = ("start", "albums", "galleries", "maps", "cinema", "library")

escape = html.escape


def link_list(links: Sequence[tuple[str, str]]) -> str:
    """Return links (address, words) as a list that readers can tell from prose."""
    rows = "".join(f'<li><a href="{escape(address)}">{escape(words)}</a></li>' for address, words in links)
    return f"<ul {LINK_LIST}>{rows}</ul>"


def text_reply(text: str, content_type: str = "text/plain; charset=utf-8") -> Reply:
    return Reply(text.encode(), content_type)


def sitemap(addresses: Sequence[str], *, index: bool = False) -> Reply:
    """A sitemap of pages, or an index of sitemaps."""
    outer, inner = ("sitemapindex", "sitemap") if index else ("urlset", "url")
    rows = "".join(f"<{inner}><loc>{escape(address)}</loc></{inner}>\n" for address in addresses)
    return text_reply(
        f'<?xml version="1.0" encoding="UTF-8"?>\n<{outer} xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n'
        f"{rows}</{outer}>\n",
        "application/xml",
    )


IMAGE_TYPES = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp"}


def encode(picture: Picture, extension: str) -> bytes:
    """Return an image as JPEG, PNG or WebP."""
    options = {"jpg": [cv2.IMWRITE_JPEG_QUALITY, 90], "png": [], "webp": [cv2.IMWRITE_WEBP_QUALITY, 90]}
    done, data = cv2.imencode(f".{extension}", picture[:, :, ::-1], options[extension])
    if not done:
        raise ValueError(f"no {extension} of a picture of shape {picture.shape}")
    return bytes(data.tobytes())


def image_reply(picture: Picture, extension: str) -> Reply:
    return Reply(encode(picture, extension), IMAGE_TYPES[extension])


def any_extension(rng: random.Random) -> str:
    """Return a file type with the frequencies of the web: mostly JPEG."""
    return rng.choices(("jpg", "png", "webp"), (80, 12, 8))[0]
