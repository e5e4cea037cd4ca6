"""A web page as text, images and videos in DOM order, without its navigation.

Beyond OBELICS' simplification, lists, tables and code are kept, URLs are resolved as in browsers (base, srcset,
image, lazy loaders, noscript), and captions, credits, licences and named regions are attached to their images.
"""

from pipelines.document import clean_text
from pipelines.pages.block_writer import PageWriter
from pipelines.pages.blocks import License, Link, Page, SkippedElement
from pipelines.pages.boilerplate import main_content, mark_boilerplate
from pipelines.pages.charset import decode_html
from pipelines.pages.html import parse_html
from pipelines.pages.json_ld import read_json_ld
from pipelines.pages.media_elements import image_url
from pipelines.pages.tree import Element
from pipelines.web.redirects import Refresh, parse_refresh
from pipelines.web.urls import BaseUrl, canonical_url

__all__ = ["Page", "parse_page"]

_LICENSE_METAS = ("dcterms.license", "dc.rights", "dcterms.rights", "license")


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
    url = canonical_url(url)
    text, encoding = decode_html(body, content_type, detected_charset=detected_charset)
    root, elements = parse_html(text)
    base = BaseUrl(url, encoding)
    base = next((BaseUrl(b, encoding) for e in elements if e.tag == "base" and (b := _resolved(base, e, "href"))), base)
    statements = read_json_ld(root, base)
    areas: dict[str, list[Element]] = {}
    for element in elements:
        if element.tag == "map":
            areas.setdefault(element.get("name") or element.get("id"), list(element.descendants("area")))
    page_body = next((e for e in elements if e.tag == "body"), root)
    content = main_content(page_body)
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
        base_url=base.url,
        canonical_url=next(
            (c for e in elements if _is_link(e, "canonical") and (c := _resolved(base, e, "href"))), None
        ),
        title=_title(elements) or dict(meta).get("og:title") or None,
        lang=_language(elements),
        blocks=tuple(writer.blocks),
        links=_links(elements, base),
        meta=meta,
        licenses=_licenses(elements, meta, statements.licenses),
        skipped=tuple(sorted(skipped, key=lambda element: (element.reason, element.url or ""))),
        refresh=_refresh(elements, url, base.url),
    )


def _resolved(base: BaseUrl, element: Element, attribute: str) -> str | None:
    reference = element.get(attribute)
    return base.resolve(reference) if reference else None


def _is_link(element: Element, relation: str) -> bool:
    return element.tag == "link" and relation in element.get("rel").lower().split()


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


def _links(elements: list[Element], base: BaseUrl) -> tuple[Link, ...]:
    """Return the targets of anchors, areas and frames of the whole page; nofollow only if every link to one says so."""
    found: dict[str, bool] = {}
    for element in elements:
        attribute = {"a": "href", "area": "href", "iframe": "src", "frame": "src"}.get(element.tag)
        if attribute and (url := _resolved(base, element, attribute)):
            found[url] = found.get(url, True) and "nofollow" in element.get("rel").lower().split()
    return tuple(Link(url, is_nofollow) for url, is_nofollow in found.items())


def _licenses(elements: list[Element], meta: tuple[tuple[str, str], ...], stated: list[str]) -> tuple[License, ...]:
    """Return the licences that the page states for itself; a licence in a figure belongs to the figure."""
    found = [
        License(element.get("href"), f"{element.tag}:rel=license")
        for element in elements
        if element.tag in ("a", "link")
        and "license" in element.get("rel").lower().split()
        and element.get("href")
        and all(a.tag != "figure" for a in element.ancestors())
    ]
    found += [License(text, "json-ld:license") for text in stated]
    found += [License(content, f"meta:{name}") for name, content in meta if name in _LICENSE_METAS and content]
    return tuple(dict.fromkeys(found))
