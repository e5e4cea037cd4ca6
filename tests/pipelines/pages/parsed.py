"""Parsing of short pages in tests, and their blocks in short form."""

from collections import Counter

from pipelines.drop_reasons import Reason
from pipelines.pages.blocks import Page, PageImage, PageLinks, PageText
from pipelines.pages.parse import parse_links, parse_page

URL = "http://site.example/folder/page.html"


def parse(body: str, head: str = "", url: str = URL) -> Page:
    return parse_page(_whole(body, head), url)


def links_of(body: str, head: str = "") -> PageLinks:
    return parse_links(_whole(body, head), URL)


def _whole(body: str, head: str) -> bytes:
    html = f"<!doctype html><html lang='en'><head><title>A page</title>{head}</head><body>{body}</body></html>"
    return html.encode()


def num_skipped(page: Page) -> dict[Reason, int]:
    """Return how many elements were skipped, by reason."""
    return dict(Counter(element.reason for element in page.skipped))


def shown(page: Page) -> list[str]:
    """Return the blocks in short form: text, `[heading] text`, `<file name>` for images and videos."""
    lines = []
    for block in page.blocks:
        if isinstance(block, PageText):
            lines.append(block.text if block.role == "body" else f"[{block.role}] {block.text}")
        else:
            url = block.url if isinstance(block, PageImage) else block.sources[0]
            lines.append(f"<{(url or 'inline').rpartition('/')[2]}>")
    return lines
