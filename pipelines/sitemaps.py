"""Sitemaps: the pages that a host wishes to be found, as XML, feed or plain text, gzipped or not."""

import contextlib
import re
import zlib
from typing import NamedTuple
from xml.parsers import expat

from pipelines.urls import resolve

MAX_BYTES = 52_428_800  # uncompressed; sitemaps.org's limit for one file
MAX_URLS = 50_000  # the same


class Sitemap(NamedTuple):
    """Canonical URLs of pages and of further sitemaps, in order, each once. They may lead to other hosts."""

    urls: tuple[str, ...]
    sitemaps: tuple[str, ...]


def parse_sitemap(body: bytes) -> Sitemap:
    """What a sitemap lists; nothing where the body is none (an error page served under its name).

    A document type ends the reading, so no entity is ever expanded. A truncated file gives what stood before the cut.
    """
    body = _uncompressed(body)
    if body.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<") or body[:2] in (b"\xff\xfe", b"\xfe\xff"):
        pages, sitemaps = _parse_xml(body)
    else:
        pages, sitemaps = re.findall(r"^\s*(https?://\S+)\s*$", body.decode("utf-8-sig", "replace"), re.M), []
    return Sitemap(_canonical(pages), _canonical(sitemaps))


def _canonical(references: list[str]) -> tuple[str, ...]:
    urls = (resolve("", reference) for reference in references)
    return tuple(dict.fromkeys(url for url in urls if url is not None))[:MAX_URLS]


def _uncompressed(body: bytes) -> bytes:
    """The first `MAX_BYTES` of what a gzip, told by its magic number, holds; any other body up to there."""
    if not body.startswith(b"\x1f\x8b"):
        return body[:MAX_BYTES]
    plain = bytearray()
    while body.startswith(b"\x1f\x8b") and len(plain) < MAX_BYTES:
        member = zlib.decompressobj(wbits=31)
        try:
            plain += member.decompress(body, MAX_BYTES - len(plain))
        except zlib.error:
            break
        body = member.unused_data
    return bytes(plain)


class _StopReadingError(Exception):
    """Raised out of the parser: what follows is not wanted."""


class _Collector:
    """Collects `url/loc`, `sitemap/loc` and the links of RSS and Atom feeds."""

    def __init__(self) -> None:
        self.pages: list[str] = []
        self.sitemaps: list[str] = []
        self._path: list[str] = []
        self._text: list[str] | None = None

    def start(self, name: str, attributes: dict[str, str]) -> None:
        local = name.rpartition(":")[2]
        if not self._path and local not in ("urlset", "sitemapindex", "rss", "RDF", "feed"):
            raise _StopReadingError
        parent = self._path[-1] if self._path else ""
        self._path.append(local)
        self._text = [] if (parent, local) in (("url", "loc"), ("sitemap", "loc"), ("item", "link")) else None
        if (parent, local) == ("entry", "link") and attributes.get("rel", "alternate") == "alternate":
            self.pages.append(attributes.get("href", ""))

    def data(self, text: str) -> None:
        if self._text is not None:
            self._text.append(text)

    def end(self, name: str) -> None:
        self._path.pop()
        if self._text is not None:
            found = self.sitemaps if self._path[-1] == "sitemap" else self.pages
            found.append("".join(self._text).strip())
            self._text = None
        if len(self.pages) >= MAX_URLS:
            raise _StopReadingError

    def refuse(self, *_: object) -> None:
        raise _StopReadingError


def _parse_xml(body: bytes) -> tuple[list[str], list[str]]:
    collector = _Collector()
    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = collector.refuse
    parser.EntityDeclHandler = collector.refuse
    parser.StartElementHandler = collector.start
    parser.CharacterDataHandler = collector.data
    parser.EndElementHandler = collector.end
    with contextlib.suppress(expat.ExpatError, _StopReadingError):  # cut short, or no sitemap: what was read stands
        parser.Parse(body.lstrip(b" \t\r\n"), True)
    return collector.pages, collector.sitemaps
