"""Redirects of a page that do without a 3xx status: the `Refresh` header, and the `<meta>` element that equals it."""

import re
from typing import NamedTuple

from pipelines.web.urls import canonical_url, resolve

MAX_REFRESH_SECONDS = 100.0  # a page that is shown for longer is a page: Scrapy's METAREFRESH_MAXDELAY

# HTML, "shared declarative refresh steps": a time, then a separator, then the URL, perhaps behind `url=`.
_REFRESH = re.compile(r"\s*([\d.]+)(?:\s*[;,]\s*|\s+)(?:url\s*=\s*)?(.*)", re.IGNORECASE | re.DOTALL)


class Refresh(NamedTuple):
    """Another page that a browser goes to after some seconds, by its canonical URL."""

    seconds: float
    url: str

    @property
    def is_redirect(self) -> bool:
        """True if the delay is so short that the page is not there to be read."""
        return self.seconds < MAX_REFRESH_SECONDS


def parse_refresh(value: str | None, page_url: str, base_url: str | None = None) -> Refresh | None:
    """Return what a `Refresh` header or element says; None if it names no other page.

    Args:
        value: As in the header, or in the element's `content`.
        page_url: URL of the page; a refresh to this is a reload.
        base_url: Base of relative references, if it is not the page's URL.
    """
    match = _REFRESH.match(value or "")
    if match is None:
        return None
    reference = match[2].strip()
    if reference[:1] in ("'", '"'):
        reference = reference[1:].partition(reference[0])[0]
    target = resolve(base_url or page_url, reference) if reference else None
    if target is None or target == canonical_url(page_url):
        return None
    whole = match[1].partition(".")[0]  # browsers ignore the fraction
    return Refresh(float(whole[:9] or 0), target)
