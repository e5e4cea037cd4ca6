"""HTML to documents beside trafilatura: pages per second of processor time, text and images found.

The pages are any folder of HTML files; trafilatura 2 gives its text with tables and images, by its default cascade of
extractors. There is no marked truth for real pages: the words that either finds are what both are held against. Images
are counted beside the rules of OBELICS (arXiv:2306.16527, A.1) for what stands in a page: an `<img>` with a `src` of a
known format, whose address names no logo, button, icon, plugin or widget, and that is on at most ten pages.
"""

import logging
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from urllib.parse import urlsplit

import click
import trafilatura
from resiliparse.parse.html import HTMLTree

from pipelines.pages.charset import decode_html
from pipelines.pages.kinds import PageOrigin, PageSettings, interleaved, text
from pipelines.pages.parse import parse_page
from pipelines.web.urls import BaseUrl
from tools.bench.report import figure, interleave, ratio

ROUNDS = 3
MIN_PAGES = 500  # with fewer, one kind of page decides
URL = "http://127.0.0.1/folder/page.html"

_WORD = re.compile(r"\w+")
_OBELICS_FORMATS = (".jpg", ".jpeg", ".png", ".webp")
_OBELICS_MAX_USES = 10
_OBELICS_REFUSED = ("logo", "button", "icon", "plugin", "widget")


def bench_html(folder: Path) -> None:
    """Print pages/s of both, how much of the text each finds, and how many images."""
    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)  # it reports pages that it finds nothing in
    pages = [path for path in sorted(folder.rglob("*")) if path.suffix in (".html", ".htm")]
    bodies = [path.read_bytes() for path in pages]
    if len(bodies) < MIN_PAGES:
        click.echo(f"html     {len(bodies)} pages in {folder}, of {MIN_PAGES} needed: --pages, or `make real-site`")
        return
    size = sum(map(len, bodies)) / len(bodies)
    ours, theirs = interleave(ROUNDS, lambda: _rate(_document, bodies), lambda: _rate(_of_trafilatura, bodies))
    figure("html", f"{len(bodies):,} pages of {size / 1e3:.0f} kB read into documents", max(ours), "pages/s")
    figure("html", f"trafilatura {trafilatura.__version__}", max(theirs), "pages/s")
    ratio("html", "reading pages, by processor time", ours, theirs)
    _compare_texts(bodies)
    _compare_images(pages)


def _document(body: bytes) -> str:
    """Return the text of a page's document, which is made with its images, as `extract` makes it."""
    page = parse_page(body, URL, content_type="text/html")
    found = interleaved(page, PageOrigin(), "bench", PageSettings()) or text(
        page, PageOrigin(), "bench", PageSettings()
    )
    return found[0].document.text if found else ""


def _of_trafilatura(body: bytes) -> str:
    return trafilatura.extract(body, include_tables=True, include_images=True) or ""


def _rate(work: Callable[[bytes], str], bodies: Iterable[bytes]) -> float:
    """Pages per second of this process's time, which other load on the machine hardly affects."""
    began, num = time.process_time(), 0
    for body in bodies:
        work(body)
        num += 1
    return num / (time.process_time() - began)


def _compare_texts(bodies: list[bytes]) -> None:
    num_ours = num_theirs = num_either = num_both = 0
    for body in bodies:
        ours, theirs = (Counter(_WORD.findall(read(body))) for read in (_document, _of_trafilatura))
        num_ours += ours.total()
        num_theirs += theirs.total()
        num_either += (ours | theirs).total()
        num_both += (ours & theirs).total()
    figure("html", "words that either finds: share that ours finds", num_ours / num_either, "")
    figure("html", "words that either finds: share that trafilatura finds", num_theirs / num_either, "")
    figure("html", "words of trafilatura that ours finds", num_both / num_theirs, "")


def _compare_images(pages: list[Path]) -> None:
    ours: set[tuple[Path, str]] = set()
    theirs: Counter[tuple[Path, str]] = Counter()
    for path in pages:
        body = path.read_bytes()
        found = parse_page(body, URL, content_type="text/html").images
        ours |= {(path.parent, image.url) for image in found if image.url is not None}
        theirs.update((path.parent, url) for url in _obelics_images(body))
    kept = {image for image, num_pages in theirs.items() if num_pages <= _OBELICS_MAX_USES}
    figure("html", "images found, each once a folder", len(ours), "images")
    figure("html", "images by the rules of OBELICS", len(kept), "images")
    figure("html", "images found by both", len(ours & kept), "images")


def _obelics_images(body: bytes) -> set[str]:
    document = HTMLTree.parse(decode_html(body, "text/html").text).document
    sources = [] if document is None else [image.getattr("src") or "" for image in document.query_selector_all("img")]
    found = (BaseUrl(URL).resolve(source) for source in sources if source)
    return {
        url
        for url in found
        if url is not None
        and urlsplit(url).path.lower().endswith(_OBELICS_FORMATS)
        and not any(word in url.lower() for word in _OBELICS_REFUSED)
    }
