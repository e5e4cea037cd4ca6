"""Media type of a response: what its server states, or what the bytes are if it states nothing of use."""

import re

HTML_TYPES = frozenset({"text/html", "application/xhtml+xml"})
XML_TYPES = frozenset({"text/xml", "application/xml", "application/rss+xml", "application/atom+xml"})

_ESSENCE = re.compile(r"[!#$&^_.+a-z0-9-]{1,127}/[!#$&^_.+a-z0-9-]{1,127}")  # RFC 6838, 4.2
_UNKNOWN = frozenset({"unknown/unknown", "application/unknown"})  # WHATWG MIME Sniffing, 5.1: as if nothing was stated
_SNIFFED_BYTES = 1445  # WHATWG MIME Sniffing, 5.2
# WHATWG MIME Sniffing, 7.1; a byte order mark before them, at which it would stop, is skipped.
_HTML_START = re.compile(
    rb"(?:\xef\xbb\xbf)?[\t\n\f\r ]*"
    rb"<(?:!--|(?:!doctype html|html|head|script|iframe|h1|div|font|table|a|style|title|b|body|br|p)[\t\n\f\r >])",
    re.IGNORECASE,
)
_XML_START = re.compile(rb"(?:\xef\xbb\xbf)?[\t\n\f\r ]*<\?xml")
_HTML_IN_XML = re.compile(rb"<!doctype html|<html[\t\n\f\r >]", re.IGNORECASE)


def media_type(content_type: str | None, body: bytes) -> str | None:
    """Return the media type in lower case without parameters, or None if neither header nor bytes tell it.

    Args:
        content_type: The header. Of a list the first type counts.
        body: The decoded body, from which HTML and XML are recognised if the header states no type.
    """
    stated = stated_type(content_type)
    return stated if stated is not None else _sniffed_type(body[:_SNIFFED_BYTES])


def stated_type(content_type: str | None) -> str | None:
    """Return the first media type in a header; None if there is none, or one that says that it is unknown."""
    for part in re.split(r"[;,\s]+", (content_type or "").lower()):
        if _ESSENCE.fullmatch(part):
            return None if part in _UNKNOWN else part
    return None


def _sniffed_type(head: bytes) -> str | None:
    if _HTML_START.match(head):
        return "text/html"
    if _XML_START.match(head):
        return "application/xhtml+xml" if _HTML_IN_XML.search(head) else "text/xml"
    return None
