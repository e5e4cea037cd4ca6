"""Sitemaps: the URLs in one, be it XML, a feed or text, as far as it can be read.

Many are not well-formed, and their readers at search engines are lenient. So is this: the declared encoding may be any
that browsers know, and errors of the markup do not end the parse. What was wrong is told, since URLs may be lost by it.
"""

import html
import re
from collections.abc import Iterator
from typing import NamedTuple

from lxml import etree
from resiliparse.parse.encoding import bytes_to_str, map_encoding_to_html5

from pipelines.web.content_coding import DamagedBodyError, gunzip
from pipelines.web.urls import resolve

MAX_SITEMAP_BYTES = 52_428_800  # uncompressed; sitemaps.org's limit for one file
MAX_SITEMAP_URLS = 50_000  # sitemaps.org's limit as well

_ROOTS = frozenset({"urlset", "sitemapindex", "rss", "rdf", "feed"})
_PIECE = 1 << 16  # characters of one step of the parser, so that it can be stopped
_LONGEST_REFERENCE = 40  # characters, as the expressions below find them
_BYTE_ORDER_MARKS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))
_XML_STARTS = ((b"<\0", "utf-16-le"), (b"\0<", "utf-16-be"))
_DECLARED = re.compile(rb"""<\?xml[^>]{0,200}?\sencoding\s{0,9}=\s{0,9}["']([A-Za-z0-9_:.-]{1,40})""")
_BEGINNING = re.compile(r"<\?xml\s|<(?:[\w-]{1,40}:)?(?:urlset|sitemapindex|rss|RDF|feed)[\s>]", re.IGNORECASE)
_BARE_AMPERSAND = re.compile(r"&(?!(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{0,31});)")
_NAME_OF_HTML = re.compile(r"&(?!(?:amp|lt|gt|quot|apos);)[A-Za-z][A-Za-z0-9]{0,31};")
_NUMBERED = re.compile(r"&#(?:([0-9]{1,7})|[xX]([0-9a-fA-F]{1,6}));")
_SKIPPED = re.compile("[\ufeff \t\r\n]*")
_LINE = re.compile("[^\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]+")  # as of `str.splitlines`
_URL_LINE = re.compile(r"https?://\S+", re.IGNORECASE)


class Sitemap(NamedTuple):
    """Canonical URLs of pages and of further sitemaps, in order, each once; they may lead to other hosts.

    `problem` says why others may be missing; None if the file was read without an error.
    """

    urls: tuple[str, ...]
    sitemaps: tuple[str, ...]
    problem: str | None = None


def parse_sitemap(body: bytes, *, is_cut: bool = False) -> Sitemap:
    """Return the contents of a sitemap, also of one that is cut or damaged up to what can be read.

    No entity of a document type is ever expanded.

    Args:
        body: The file, perhaps compressed with gzip.
        is_cut: Whether the body is known to be incomplete.
    """
    problems = ["the file was cut"] if is_cut else []
    text = _decoded(_uncompressed(body, problems))  # the only copy of the file: what follows takes it piece by piece
    start = _SKIPPED.match(text).end()  # type: ignore[union-attr]  # which also matches nothing
    beginning = _BEGINNING.search(text, start)
    if beginning is not None:
        pages, sitemaps = _parse_xml(text, beginning.start(), problems)
    elif text.startswith("<", start):
        pages, sitemaps = [], []
    else:
        pages, sitemaps = _read_lines(text, start, problems), []
    if not pages and not sitemaps and not problems:
        problems.append("no sitemap")
    return Sitemap(_canonical(pages, problems), _canonical(sitemaps, problems), "; ".join(problems) or None)


def _read_lines(text: str, start: int, problems: list[str]) -> list[str]:
    """Return the URLs of a text with one per line, from an offset on."""
    pages: list[str] = []
    num_others = 0
    for match in _LINE.finditer(text, start):
        line = match[0].strip()
        if not _URL_LINE.fullmatch(line):
            num_others += bool(line)
        elif len(pages) == MAX_SITEMAP_URLS:
            problems.append(f"more than {MAX_SITEMAP_URLS} URLs")
            break
        else:
            pages.append(line)
    if pages and num_others:
        problems.append(f"{num_others} lines are no URL")
    return pages


def _canonical(references: list[str], problems: list[str]) -> tuple[str, ...]:
    urls = [resolve("", reference) for reference in references]
    if num_invalid := urls.count(None):
        problems.append(f"{num_invalid} of {len(urls)} entries are no http(s) URL")
    return tuple(dict.fromkeys(url for url in urls if url is not None))


def _uncompressed(body: bytes, problems: list[str]) -> bytes:
    """Return up to `MAX_SITEMAP_BYTES` of the body, decompressed if gzip by its magic number."""
    is_whole = True
    if body.startswith(b"\x1f\x8b"):
        try:
            body, is_whole = gunzip(body, MAX_SITEMAP_BYTES + 1)
        except DamagedBodyError as error:
            problems.append(str(error))
            return b""
    if len(body) > MAX_SITEMAP_BYTES:
        problems.append(f"more than {MAX_SITEMAP_BYTES} bytes")
    elif not is_whole:
        problems.append("the gzip data end early")
    return body[:MAX_SITEMAP_BYTES]


def _decoded(body: bytes) -> str:
    """Decode by byte order mark, else by the XML declaration as browsers understand its label, else as UTF-8."""
    for mark, encoding in _BYTE_ORDER_MARKS:
        if body.startswith(mark):
            return body[len(mark) :].decode(encoding, "replace")
    for start, encoding in _XML_STARTS:
        if body.startswith(start):
            return body.decode(encoding, "replace")
    declared = _DECLARED.search(body, 0, 1024)
    found = map_encoding_to_html5(declared[1].decode("ascii"), False) if declared else None
    if found is None or found.startswith("utf-16"):  # in which the declaration would not have been found
        found = "utf-8"
    return bytes_to_str(body, found, errors="replace", fallback_encodings=())


class _StopReadingError(Exception):
    """Raised inside the parser to stop it: the rest is not wanted."""


class _Collector:
    """Parser target that collects `url/loc`, `sitemap/loc` and the links of RSS and Atom feeds."""

    def __init__(self) -> None:
        self.pages: list[str] = []
        self.sitemaps: list[str] = []
        self._path: list[str] = []
        self._text: list[str] | None = None

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        local = tag.rpartition("}")[2].rpartition(":")[2].lower()
        if not self._path and local not in _ROOTS:
            raise _StopReadingError
        parent = self._path[-1] if self._path else ""
        self._path.append(local)
        self._text = [] if (parent, local) in (("url", "loc"), ("sitemap", "loc"), ("item", "link")) else None
        if (parent, local) == ("entry", "link") and attributes.get("rel", "alternate") == "alternate":
            self.pages.append(attributes.get("href", ""))
        if len(self.pages) + len(self.sitemaps) > MAX_SITEMAP_URLS:
            raise _StopReadingError

    def data(self, text: str) -> None:
        if self._text is not None:
            self._text.append(text)

    def end(self, _: str) -> None:
        self._path.pop()
        if self._text is not None:
            found = self.sitemaps if self._path[-1:] == ["sitemap"] else self.pages
            found.append("".join(self._text).strip())
            self._text = None

    def close(self) -> None:
        """Take the end of the file, as lxml demands of a target."""


def _parse_xml(text: str, start: int, problems: list[str]) -> tuple[list[str], list[str]]:
    collector = _Collector()
    parser = etree.XMLParser(
        target=collector,
        encoding="utf-8",  # whatever the declaration says
        recover=True,
        resolve_entities=False,
        load_dtd=False,
        no_network=True,
    )
    try:
        for piece in _without_bare_ampersands(text, start):
            parser.feed(piece.encode("utf-8", "replace"))
        parser.close()
    except _StopReadingError:
        if len(collector.pages) + len(collector.sitemaps) > MAX_SITEMAP_URLS:
            problems.append(f"more than {MAX_SITEMAP_URLS} URLs")
    except etree.XMLSyntaxError as error:  # also in recovery, for a document without any element
        problems.append(f"not well-formed: {error.msg}")
    else:
        errors = parser.feed_error_log.filter_from_errors().filter_domains([etree.ErrorDomains.PARSER])
        if errors:
            problems.append(f"not well-formed: line {errors[0].line}: {' '.join(errors[0].message.split())}")
    return collector.pages[:MAX_SITEMAP_URLS], collector.sitemaps[:MAX_SITEMAP_URLS]


def _without_bare_ampersands(text: str, start: int) -> Iterator[str]:
    """Yield pieces of a text in which ampersands that begin no reference of XML, outside of CDATA, are escaped.

    Names of HTML's are resolved. Bare ampersands are the most frequent error, and recovery would drop a parameter of
    the URL for each.
    """
    while start < len(text):
        literal = text.find("<![CDATA[", start)
        end = text.find("]]>", literal) if literal >= 0 else -1
        for piece in _pieces(text, start, literal if end >= 0 else len(text)):
            yield _NUMBERED.sub(_numbered, _with_references(piece))
        if end < 0:
            return
        for piece in _pieces(text, literal, end):
            yield _NUMBERED.sub(_numbered, piece)
        start = end


def _pieces(text: str, start: int, end: int) -> Iterator[str]:
    """Yield pieces of a part of a text; none ends within a reference."""
    while start < end:
        stop = min(start + _PIECE, end)
        if stop < end and (at := text.rfind("&", stop - _LONGEST_REFERENCE, stop)) > start:
            stop = at
        yield text[start:stop]
        start = stop


def _with_references(text: str) -> str:
    return _NAME_OF_HTML.sub(_character, _BARE_AMPERSAND.sub("&amp;", text))


def _numbered(match: re.Match[str]) -> str:
    """Return a reference to a character by its number; half a surrogate pair, on which lxml fails, is none."""
    number = int(match[1]) if match[1] else int(match[2], 16)
    return "\ufffd" if 0xD800 <= number <= 0xDFFF else match[0]


def _character(match: re.Match[str]) -> str:
    return html.escape(html.unescape(match[0]))  # `&LT;` is one of them
