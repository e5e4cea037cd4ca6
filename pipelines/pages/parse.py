"""A web page as text, images and videos in DOM order, without its navigation; and as what a crawler follows.

Beyond OBELICS' simplification, lists, tables and code are kept, URLs are resolved as in browsers (base, srcset,
image, lazy loaders, noscript), and captions, credits, licences and named regions are attached to their images.
"""

import contextlib
import gc
from collections.abc import Iterator
from typing import NamedTuple

from pipelines.document import clean_text
from pipelines.pages.block_writer import PageWriter
from pipelines.pages.blocks import License, Link, Page, PageLinks, SkippedElement
from pipelines.pages.boilerplate import main_content, mark_boilerplate
from pipelines.pages.charset import decode_html
from pipelines.pages.html import parse_html, parse_leading
from pipelines.pages.json_ld import read_json_ld
from pipelines.pages.media_elements import image_url
from pipelines.pages.references import References
from pipelines.pages.tree import Element
from pipelines.web.redirects import Refresh, parse_refresh
from pipelines.web.urls import BaseUrl, canonical_url

__all__ = ["Page", "PageLinks", "parse_links", "parse_page"]

_LICENSE_METAS = ("dcterms.license", "dc.rights", "dcterms.rights", "license")
_LINK_ATTRIBUTES = {"a": "href", "area": "href", "iframe": "src", "frame": "src"}


class _Source(NamedTuple):
    """A page's canonical URL, its base, its root and all its elements in document order."""

    url: str
    base: References
    root: Element
    elements: list[Element]


def parse_page(body: bytes, url: str, *, content_type: str | None = None, detected_charset: str | None = None) -> Page:
    """Parse the content of a page.

    Args:
        body: The HTML, in any encoding.
        url: URL of the page, after redirects.
        content_type: The HTTP header; its charset takes precedence over the page's own `<meta>`.
        detected_charset: What a crawler took the encoding for, which counts only if nobody declares one.

    Raises:
        ValueError: If `url` is not an absolute http(s) URL.
    """
    with _source(body, url, content_type, detected_charset) as source:
        return _page(source)


def parse_links(
    body: bytes, url: str, *, content_type: str | None = None, detected_charset: str | None = None
) -> PageLinks:
    """Parse only what a crawler follows, in a fraction of the time; arguments and errors of `parse_page`."""
    url = canonical_url(url)
    text, encoding = decode_html(body, content_type, detected_charset=detected_charset)
    elements = parse_leading(text)
    base = _base(elements, url, encoding)
    return PageLinks(base.url, _declared_url(elements, base), _links(elements, base), _refresh(elements, url, base.url))


@contextlib.contextmanager
def _source(body: bytes, url: str, content_type: str | None, detected_charset: str | None) -> Iterator[_Source]:
    """Give a page's elements, and take them apart again.

    They refer to each other in circles, which Python's collector otherwise looks for while they are being made: a third
    of all time.
    """
    is_collecting = gc.isenabled()
    gc.disable()
    elements: list[Element] = []
    try:
        url = canonical_url(url)
        text, encoding = decode_html(body, content_type, detected_charset=detected_charset)
        root, elements = parse_html(text)
        yield _Source(url, _base(elements, url, encoding), root, elements)
    finally:
        for element in elements:
            element.parent = None
        if is_collecting:
            gc.enable()


def _base(elements: list[Element], url: str, encoding: str) -> References:
    """Return what the page's references are relative to."""
    base = BaseUrl(url, encoding)
    stated = (reference for e in elements if e.tag == "base" and (reference := e.get("href")))
    return References(
        next((BaseUrl(found, encoding) for reference in stated if (found := base.resolve(reference))), base)
    )


def _page(source: _Source) -> Page:
    url, base, root, elements = source
    statements = read_json_ld(elements, base)
    areas: dict[str, list[Element]] = {}
    for element in elements:
        if element.tag == "map":
            areas.setdefault(element.get("name") or element.get("id"), list(element.descendants("area")))
    page_body = next((e for e in elements if e.tag == "body"), root)
    content = main_content(page_body, elements)
    mark_boilerplate(content)
    writer = PageWriter(base, statements, areas)
    writer.write(content)

    skipped = [
        *writer.skipped,
        *(SkippedElement("boilerplate_image", image_url(image, base)) for image in page_body.images(without=content)),
        *(SkippedElement("invalid_json_ld") for _ in range(statements.num_invalid)),
        *(SkippedElement("invalid_region", of) for of in statements.invalid_regions),
        *(SkippedElement("region_without_image", of) for of, left in statements.annotations.items() for _ in left),
    ]
    metas = [(e.get("name") or e.get("property"), e.get("content")) for e in elements if e.tag == "meta"]
    meta = tuple((name.lower(), content) for name, content in metas if name)
    return Page(
        url=url,
        canonical_url=_declared_url(elements, base),
        title=_title(elements) or dict(meta).get("og:title") or None,
        lang=_language(elements),
        blocks=tuple(writer.blocks),
        meta=meta,
        licenses=_licenses(elements, meta, statements.licenses),
        skipped=tuple(sorted(skipped, key=lambda element: (element.reason, element.url or ""))),
    )


def _declared_url(elements: list[Element], base: References) -> str | None:
    """Return the URL that a page declares for itself."""
    declared = (e.get("href") for e in elements if e.tag == "link" and "canonical" in e.get("rel").lower().split())
    return next((url for reference in declared if reference and (url := base.resolve(reference))), None)


def _title(elements: list[Element]) -> str | None:
    for element in elements:
        if element.tag == "title" and element.parent is not None and element.parent.tag != "svg":
            return clean_text(element.text()) or None
    return None


def _refresh(elements: list[Element], url: str, base: str) -> Refresh | None:
    """Return where a `<meta>` element sends browsers; those without scripts are sent elsewhere, and do not count."""
    for element in elements:
        if element.tag == "meta" and element.get("http-equiv").lower() == "refresh":
            found = parse_refresh(element.get("content"), url, base)
            if found is not None and all(ancestor.tag != "noscript" for ancestor in element.ancestors()):
                return found
    return None


def _language(elements: list[Element]) -> str | None:
    """Return the page's declared language, unparsed: `lang` of `<html>`, else a `<meta>`."""
    for element in elements:
        if element.tag == "html" and (lang := element.get("lang") or element.get("xml:lang")):
            return lang
        if element.tag == "meta" and element.get("http-equiv").lower() == "content-language" and element.get("content"):
            return element.get("content").partition(",")[0].strip()
    return None


def _links(elements: list[Element], base: References) -> tuple[Link, ...]:
    """Return the targets of anchors, areas and frames of the whole page; nofollow only if every link to one says so."""
    found: dict[str, bool] = {}
    for element in elements:
        attribute = _LINK_ATTRIBUTES.get(element.tag)
        if attribute and (reference := element.get(attribute)) and (url := base.resolve(reference)):
            is_nofollow = "rel" in element.attributes and "nofollow" in element.get("rel").lower().split()
            found[url] = found.get(url, True) and is_nofollow
    return tuple(Link(url, is_nofollow) for url, is_nofollow in found.items())


def _licenses(elements: list[Element], meta: tuple[tuple[str, str], ...], stated: list[str]) -> tuple[License, ...]:
    """Return the licences that the page states for itself; a licence in a figure belongs to the figure."""
    found = [
        License(element.get("href"), f"{element.tag}:rel=license")
        for element in elements
        if "rel" in element.attributes
        and element.tag in ("a", "link")
        and "license" in element.get("rel").lower().split()
        and element.get("href")
        and all(a.tag != "figure" for a in element.ancestors())
    ]
    found += [License(text, "json-ld:license") for text in stated]
    found += [License(content, f"meta:{name}") for name, content in meta if name in _LICENSE_METAS and content]
    return tuple(dict.fromkeys(found))
