"""The parsed page of an archive's record: HTML, the text of a WET file, or what a WAT file lists of a page."""

import html
import json
from collections.abc import Iterator
from typing import Any

from pipelines.document import Kind, clean_text
from pipelines.pages.blocks import Page, PageLinks, PageText
from pipelines.pages.parse import parse_links, parse_page
from pipelines.sources.warc import CrawledPage
from pipelines.text.encodings import decode_text

_TEXT_ONLY: frozenset[Kind] = frozenset({"text"})
_IMAGES_ONLY: frozenset[Kind] = frozenset({"pair"})


def kinds_of(record: CrawledPage) -> frozenset[Kind] | None:
    """Return the kinds of samples that a record can give; None for all.

    WET has a page's text without its images, WAT its images and alt texts without the text around them.
    """
    if record.is_text:
        return _TEXT_ONLY
    return _IMAGES_ONLY if record.record_type == "metadata" else None


def parse_record(record: CrawledPage, url: str) -> Page:
    """Return the page of a record.

    Args:
        record: Without a refusal.
        url: Its URL, absolute http(s).
    """
    if record.is_text:
        text = clean_text(decode_text(record.body, record.identified_charset))
        return Page(url, None, None, None, (PageText(text, "body"),) if text else ())
    body, content_type, detected = _html(record)
    return parse_page(body, url, content_type=content_type, detected_charset=detected)


def parse_record_links(record: CrawledPage, url: str) -> PageLinks:
    """Return where the page of a record leads, and the URL that it declares; arguments of `parse_record`."""
    if record.is_text:
        return PageLinks(url, None)
    body, content_type, detected = _html(record)
    return parse_links(body, url, content_type=content_type, detected_charset=detected)


def _html(record: CrawledPage) -> tuple[bytes, str | None, str | None]:
    """Return the HTML of a record, its `Content-Type`, and what a crawler took its encoding for."""
    if record.record_type == "metadata":
        return "".join(_listed(json.loads(record.body))).encode(), "text/html; charset=utf-8", None
    return record.body, record.header("content-type"), record.identified_charset


def _listed(listing: Any) -> Iterator[str]:
    """Yield the elements that a WAT file lists of a page: rules for URLs and placeholders are those of any page."""
    head = listing.get("Head") if isinstance(listing, dict) else None
    head = head if isinstance(head, dict) else {}
    if isinstance(head.get("Base"), str):
        yield _tag("base", {"href": head["Base"]})
    for meta in _mappings(head.get("Metas")):
        yield _tag("meta", meta)
    for link in _mappings(head.get("Link")):
        yield _tag("link", {"href": link.get("url"), "rel": link.get("rel")})
    yield "<body>"
    for link in _mappings(listing.get("Links") if isinstance(listing, dict) else None):
        if str(link.get("path")).startswith("IMG@/src"):
            yield _tag("img", {"src": link.get("url"), "alt": link.get("alt"), "title": link.get("title")})


def _mappings(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _tag(name: str, attributes: dict[str, Any]) -> str:
    stated = (
        f' {key}="{html.escape(value)}"'
        for key, value in attributes.items()
        if isinstance(value, str) and key.replace("-", "").isalpha()
    )
    return f"<{name}{''.join(stated)}>"
