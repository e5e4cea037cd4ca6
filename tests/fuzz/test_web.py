"""Fuzz tests of what a web sends: each parser raises only the error that it declares, within a bound, and never lies."""

import gzip
import re
import zlib
from urllib.parse import urlsplit
from xml.sax.saxutils import escape

import brotli
import zstandard
from hypothesis import assume, example, given
from hypothesis import strategies as st

from pipelines.pages.charset import decode_html
from pipelines.pages.html import LEADING, parse_html, parse_leading
from pipelines.pages.parse import parse_links, parse_page
from pipelines.text.encoding_standard import encoding_name, percent_encoded
from pipelines.text.encodings import charset_of, decode_text
from pipelines.web.answers import FetchFailure
from pipelines.web.content_coding import DamagedBodyError, decode_body
from pipelines.web.http_exchange import parse_target
from pipelines.web.licenses import license_id
from pipelines.web.media_types import media_type
from pipelines.web.permission import PolicySettings, Verdict, page_verdict, response_verdict
from pipelines.web.redirects import parse_refresh
from pipelines.web.response_body import ChunkedBody, SizedBody, body_after
from pipelines.web.response_head import repaired_head
from pipelines.web.robots import parse_robots, path_matches
from pipelines.web.sitemaps import parse_sitemap
from pipelines.web.urls import (
    authority,
    canonical_url,
    join,
    parse_srcset,
    registered_domain,
    resolve,
    without_credentials,
    without_secrets,
)
from tests.fuzz import mutations
from tests.fuzz.mutations import bounded, in_time, mutated, pieces_of
from tests.hostile.pages import LAUGHS, OUTSIDE

URL = "https://site.example/page"

# --- robots.txt -----------------------------------------------------------------------------------------------------

_ROBOTS = (
    b"User-agent: *\nDisallow: /a\nAllow: /a/b$\nCrawl-delay: 2\nSitemap: https://site.example/s.xml\n",
    b"User-agent: GPTBot, CCBot/2.0\r\nUser-agent: dromaius\r\nDisallow: /*.jpg\r\nContent-Usage: /x train-ai=n\r\n",
    "User-agent\uff1a *\nDissallow: /\u00e4?b=1#c\nRequest-rate: 1/5\nVisit-time: 0-1\n".encode(),
)
_RULE_WORDS = (
    b"User-agent:",
    b"Disallow:",
    b"Allow:",
    b"Crawl-delay:",
    b"Request-rate:",
    b"*",
    b"$",
    b"/",
    b"1e999",
    b"nan",
)


@given(mutated(_ROBOTS, _RULE_WORDS))
def test_any_robots_txt_gives_a_verdict(body: bytes):
    with in_time():
        robots = parse_robots(body)
        for token in ("dromaius", "*", "gptbot"):
            if (group := robots.group(token)) is not None:
                assert group.allows(f"{URL}/a.jpg?b=1") in (True, False)
                assert group.crawl_delay is None or group.crawl_delay >= 0
                assert all(text in body.decode("utf-8", "replace") or "…" in text or body[:2] in (b"\xff\xfe", b"\xfe\xff")
                           for block in group.evidence(URL, {token}) for text in block.splitlines()[:1])  # fmt: skip
                assert isinstance(group.preferences(URL), list)
    assert all(sitemap for sitemap in robots.sitemaps)


_PATTERN = st.from_regex(r"/[ab*/]{0,5}\$?", fullmatch=True)


def _matches(pattern: str, path: str) -> bool:
    """Return whether a pattern of RFC 9309 matches, by a regular expression."""
    body, end = (pattern[:-1], "$") if pattern.endswith("$") else (pattern, "")
    return re.match(".*".join(map(re.escape, body.split("*"))) + end, path) is not None


@given(st.lists(st.tuples(st.booleans(), _PATTERN), max_size=5), st.from_regex(r"/[ab/]{0,5}", fullmatch=True))
def test_the_longest_rule_decides_and_allow_on_a_tie(rules: list[tuple[bool, str]], path: str):
    lines = "".join(f"{'Allow' if allows else 'Disallow'}: {pattern}\n" for allows, pattern in rules)
    group = parse_robots(f"User-agent: *\n{lines}".encode()).group("x")
    matching = [(len(pattern), allows) for allows, pattern in rules if _matches(pattern, path)]
    expected = max(matching, default=(0, True))[1]
    assert group is None or group.allows(f"https://site.example{path}") is expected
    assert all(path_matches(p, f"https://site.example{path}") is _matches(p, path) for _, p in rules)


# --- sitemaps -------------------------------------------------------------------------------------------------------

_SITEMAPS = (
    b'<?xml version="1.0" encoding="UTF-8"?><urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9"><url><loc>'
    b"https://site.example/?a=1&amp;b=2</loc></url></urlset>",
    b"<sitemapindex><sitemap><loc><![CDATA[https://site.example/a.xml]]></loc></sitemap></sitemapindex>",
    b'<feed><entry><link rel="alternate" href="https://site.example/e"/></entry></feed>',
    b"https://site.example/1\nhttps://site.example/2\n",
    gzip.compress(b"<urlset><url><loc>https://site.example/z</loc></url></urlset>", mtime=0),
    f"{LAUGHS}<urlset><url><loc>https://site.example/&j;</loc></url></urlset>".encode(),
    f"{OUTSIDE}<urlset><url><loc>https://site.example/&a;</loc></url></urlset>".encode(),
)
_TAGS = (b"<url>", b"<loc>", b"</loc>", b"<![CDATA[", b"]]>", b"&j;", b"&#xD800;", b"<!DOCTYPE x [", b"<urlset", b"]>")


@given(mutated(_SITEMAPS, _TAGS), st.booleans())
def test_any_sitemap_gives_canonical_urls(body: bytes, is_cut: bool):
    found = bounded(parse_sitemap, body, is_cut=is_cut)
    for url in (*found.urls, *found.sitemaps):
        assert canonical_url(url) == url
        assert "haha" not in url  # no entity is expanded
        assert "root:" not in url
    assert found.urls or found.sitemaps or found.problem


_PATHS = st.text(alphabet=st.characters(blacklist_categories=("Cs", "Cc")), max_size=30)


@given(st.lists(_PATHS, min_size=1, max_size=5), st.booleans())
def test_a_written_sitemap_is_read(paths: list[str], is_compressed: bool):
    urls = [url for path in paths if (url := resolve(f"{URL}/", f"x?{path}")) is not None]
    assume(urls)
    rows = "".join(f"<url><loc>{escape(url)}</loc></url>" for url in urls)
    body = f'<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">{rows}</urlset>'.encode()
    found = parse_sitemap(gzip.compress(body) if is_compressed else body)
    assert found == (tuple(dict.fromkeys(urls)), (), None)


# --- URLs -----------------------------------------------------------------------------------------------------------

_URL_SEEDS = (
    "https://user:pw@Site.Example:443/a/../b;jsessionid=1?utm_source=x&q=1#f",
    "http://[::ffff:127.0.0.1]:80/%7e%2F", "http://0x7f.1/", "http://１２７.0.0.1/", "http://xn--bcher-kva.example/",
    "http://bücher.example/ä?ö", "http://a\\@b/", "//x.example/", "http:/x", "javascript:alert(1)", "data:,x", "/a b",
)  # fmt: skip
_URL_WORDS = (
    "@",
    "\\",
    "%40",
    "%2F",
    "//",
    ":",
    "[",
    "]",
    "#",
    "?",
    "..",
    "%00",
    "\u3002",
    "\u200b",
    "%",
    "xn--",
    "0x",
)


def fetched(url: str) -> str | None:
    """Return the canonical form of a URL, or None."""
    try:
        return canonical_url(url)
    except ValueError:
        return None


@given(mutations.texts(_URL_SEEDS, _URL_WORDS))
def test_the_host_that_is_judged_is_the_host_that_is_asked(url: str):
    found = bounded(fetched, url)
    if found is None:
        return
    assert canonical_url(found) == found
    assert found.isascii()
    try:
        target = parse_target(found)
    except FetchFailure as failure:
        reason = failure.reason
        assert reason == "invalid_url"
        return
    parts = urlsplit(found)
    assert (target.raw_host, target.port) == (parts.hostname, parts.port or {"http": 80, "https": 443}[parts.scheme])
    assert "@" not in parts.netloc
    assert authority(found) == parts.netloc
    assert (parts.hostname or "").endswith(registered_domain(found))


@given(mutations.texts(_URL_SEEDS, _URL_WORDS), mutations.texts(_URL_SEEDS, _URL_WORDS))
def test_a_reference_gives_a_canonical_url_or_none(base: str, reference: str):
    found = bounded(resolve, base, reference)
    assert found is None or canonical_url(found) == found
    try:
        join(base, reference)
    except ValueError:
        assert found is None


@given(mutations.texts(_URL_SEEDS, (*_URL_WORDS, "&token=", "?sig=", "%26password%3D", "https://u:p@x/")))
def test_what_is_fit_to_publish_stays_as_it_is(url: str):
    shown = bounded(without_credentials, url)
    assert without_credentials(shown) == shown
    masked = bounded(without_secrets, url)
    assert without_secrets(masked) == masked


_SRCSETS = ("a.jpg 1x, b.jpg 2x", "a.jpg 640w 480h,b.jpg", "data:image/png;base64,AA== 1x, c,d.jpg 2.5x", "a( , )b 1x")


@given(mutations.texts(_SRCSETS, (",", " 1x", " 99w", "(", ")")))
def test_any_srcset_gives_candidates(value: str):
    for candidate in bounded(parse_srcset, value):
        assert candidate.reference in value
        assert candidate.reference.strip() == candidate.reference != ""


_REFERENCE = st.from_regex(r"[a-z/][a-z0-9/,._-]{0,20}[a-z0-9]", fullmatch=True)


@given(st.lists(st.tuples(_REFERENCE, st.integers(1, 9999)), max_size=6))
def test_a_written_srcset_is_read(candidates: list[tuple[str, int]]):
    found = parse_srcset(", ".join(f"{reference} {width}w" for reference, width in candidates))
    assert [(c.reference, c.width, c.density) for c in found] == [(r, w, None) for r, w in candidates]


# --- HTTP -----------------------------------------------------------------------------------------------------------

_HEADS = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 5\r\n\r\n",
    b"HTTP 404\r\nTransfer-Encoding: chunked\r\nContent-Length: x\r\nno field\r\n folded\r\n",
    b"ICY 200 OK\nX : y\nContent-Length: 5, 5\n",
)
_FIELDS = (b"Content-Length: ", b"Transfer-Encoding: chunked", b"\r\n", b"\n ", b":", b"HTTP/1.1 ", b", ")


@given(mutated(_HEADS, _FIELDS))
def test_a_repaired_head_stays_as_it_is(head: bytes):
    repaired = bounded(repaired_head, head)
    assert repaired_head(repaired) == repaired
    if repaired != head:
        assert re.match(rb"HTTP/1\.[01] [1-9]\d\d ", repaired)
        assert repaired.endswith(b"\r\n\r\n")
        assert all(b":" in line for line in repaired.split(b"\r\n")[1:-2])
    if (body := body_after(repaired)) is not None:
        assert body.take(b"") == (b"", b"")


@given(st.data(), st.lists(st.binary(min_size=1, max_size=40), max_size=5), st.binary(max_size=10))
def test_chunks_are_the_same_however_they_arrive(data: st.DataObject, contents: list[bytes], beyond: bytes):
    whole = b"".join(b"%x;ext=1\r\n%b\r\n" % (len(content), content) for content in contents) + b"0\r\n\r\n"
    body, found, rest = ChunkedBody(), b"", b""
    for piece in data.draw(st.composite(pieces_of)(whole + beyond)):
        taken, left = body.take(piece)
        found, rest = found + taken, rest + left
    plain = b"".join(b"%x\r\n%b\r\n" % (len(content), content) for content in contents) + b"0\r\n\r\n"
    assert found == plain
    assert rest == b"\r\n" + beyond


@given(st.data(), mutated((b"5\r\nhello\r\n6;a=b\r\n world\r\n0\r\nTrailer: x\r\n\r\n",), (b"\r\n", b"ffff", b"-1")))
def test_damaged_chunks_are_the_same_however_they_arrive(data: st.DataObject, sent: bytes):
    def taken(pieces: list[bytes]) -> bytes:
        body = ChunkedBody()
        return b"".join(body.take(piece)[0] for piece in pieces)

    assert taken(data.draw(st.composite(pieces_of)(sent))) == taken([sent])


@given(st.integers(0, 50), st.lists(st.binary(max_size=20), max_size=6))
def test_a_body_has_as_many_bytes_as_its_head_says(size: int, pieces: list[bytes]):
    body, whole = SizedBody(size), b"".join(pieces)
    taken = [body.take(piece) for piece in pieces]
    assert b"".join(found for found, _ in taken) == whole[:size]
    assert b"".join(rest for _, rest in taken) == whole[size:]


def _raw_deflate(data: bytes) -> bytes:
    coder = zlib.compressobj(wbits=-15)
    return coder.compress(data) + coder.flush()


CODERS = {
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "deflate": zlib.compress,
    "raw": _raw_deflate,
    "br": brotli.compress,
    "zstd": zstandard.compress,
}


@given(st.binary(max_size=3000), st.sampled_from(sorted(CODERS)), st.integers(0, 4000), st.binary(max_size=9))
def test_a_coded_body_is_decoded_up_to_the_limit(data: bytes, coding: str, limit: int, trailer: bytes):
    headers = [("Content-Encoding", "deflate" if coding == "raw" else coding)]
    coded = CODERS[coding](data)
    found = decode_body(coded, headers, limit, is_archived=False)
    assert found.body == data[:limit]
    assert found.is_over_limit == (len(data) > limit)
    assert found.early_end is None
    cut = decode_body(coded[: len(coded) // 2], headers, limit, is_archived=False)
    assert data.startswith(cut.body)
    assert cut.early_end == headers[0][1] or cut.is_over_limit or len(coded) < 2


_CODED = tuple(CODERS[coding](b"words " * 300) for coding in sorted(CODERS))


@given(mutated(_CODED), st.sampled_from(["gzip", "deflate", "br", "zstd", "gzip, br", "zstd, zstd"]), st.booleans())
def test_a_damaged_coding_is_told_and_never_grows(body: bytes, coding: str, is_archived: bool):
    headers = [("Content-Encoding", coding), ("Transfer-Encoding", "chunked"), ("Content-Length", "99")]
    with in_time():
        try:
            found = decode_body(body, headers, 1000, is_archived=is_archived)
        except DamagedBodyError:
            return
    assert len(found.body) <= 1000


_TYPES = ("text/html; charset=utf-8", "text/plain, text/html", 'text/html; charset="windows-1252', "IMAGE/JPEG")
_STATEMENTS = ("train-ai=n", "search=yes, ai-train=no", "gptbot: noai, unavailable_after: x", "1", "noindex;noimageai")


@given(mutations.texts(_TYPES, ("charset=", ";", ",", "/")), st.binary(max_size=60))
def test_any_content_type_is_read(value: str, body: bytes):
    type_ = bounded(media_type, value, body)
    assert type_ is None or re.fullmatch(r"[^\s;,]+/[^\s;,]+", type_)
    assert encoding_name(charset_of(value)) is None or isinstance(decode_text(body, charset_of(value)), str)


@given(st.lists(st.tuples(st.sampled_from(["X-Robots-Tag", "TDM-Reservation", "Content-Usage", "Content-Signal"]),
                          mutations.texts(_STATEMENTS, (",", ";", ":", "=", "noai"))), max_size=4))  # fmt: skip
def test_any_statement_gives_a_verdict_and_is_kept_as_evidence(headers: list[tuple[str, str]]):
    policy = PolicySettings()
    found = bounded(response_verdict, Verdict(), headers, "page", policy)
    page = bounded(page_verdict, found, [("robots", value) for _, value in headers], policy)
    assert set(found.reasons) <= set(page.reasons) | {"tdm_reserved"}
    assert {signal.kind for signal in found.signals} == {name.lower() for name, _ in headers}
    for _, value in headers:
        assert license_id(value) is None or isinstance(license_id(value), str)


@given(
    mutations.texts(("0; url=/next", "5;URL='https://x.example/'", "0 /x", "1.5,http://a/"), (";", "url=", "'", "9"))
)
def test_any_refresh_leads_to_a_canonical_url_or_nowhere(value: str):
    found = bounded(parse_refresh, value, URL)
    assert found is None or (canonical_url(found.url) == found.url and found.seconds >= 0)


# --- pages ----------------------------------------------------------------------------------------------------------

_PAGES = (
    b'<!doctype html><html lang=en><head><meta charset=utf-8><title>T</title><base href="/b/"><link rel=canonical '
    b'href=/c><script type="application/ld+json">{"@type":"Article","image":"/i.jpg"}</script></head><body><h1>Head</h1>'
    b'<p>Some words of a page.</p><figure><img src="a.jpg" srcset="a.jpg 1x, b.jpg 2x" alt="An image" width=600 '
    b'height=400 usemap="#m"><figcaption>A caption</figcaption></figure><map name=m><area shape=rect '
    b'coords="0,0,9,9" alt="A part"></map><table><tr><th>a<td>1</table><ul><li>x</ul><video controls><source src=v.mp4>'
    b'<track src=t.vtt kind=captions></video><math><mi>x</mi></math><img src="data:image/gif;base64,R0lGODlhAQAB">',
    '<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"><body><p>\u202eHidden\u200b words</p></body></html>'.encode("utf-16"),
    b'<meta charset="shift_jis"><p>\x83\x65\x83\x58\x83\x67</p><template shadowrootmode=open><p>shadow</template>',
)  # fmt: skip
_HTML_WORDS = (
    b"<div>", b"</div>", b"<p>", b"<table>", b"<template>", b"<svg>", b"<math>", b"<!--", b"-->", b"<script>",
    b"</script>", b'<img src="x.jpg" alt="', b'">', b"&#0;", b"&#xD800;", b"&lt", b"<select>", b"<frameset>", b"<plaintext>",
)  # fmt: skip


@given(mutated(_PAGES, _HTML_WORDS), st.sampled_from([None, "text/html; charset=utf-16", "text/html; charset=gbk"]))
def test_any_page_gives_blocks_that_can_be_stored(body: bytes, content_type: str | None):
    with in_time():
        page = parse_page(body, URL, content_type=content_type)
        links = parse_links(body, URL, content_type=content_type)
    decoded = decode_html(body, content_type)
    decoded.text.encode()
    of_tree = [element for element in parse_html(decoded.text).elements if element.tag in LEADING]
    assert [(e.tag, e.attributes) for e in parse_leading(decoded.text)] == [(e.tag, e.attributes) for e in of_tree]
    for link in links.links:
        assert canonical_url(link.url) == link.url
    for image in page.images:
        assert image.data is not None or canonical_url(image.url) == image.url
    assert page.canonical_url is None or canonical_url(page.canonical_url) == page.canonical_url
    for block in page.blocks:
        str(block).encode()


@given(
    st.text(max_size=40), st.sampled_from(["utf-8", "windows-1252", "shift_jis", "gb18030", "euc-kr", "iso-2022-jp"])
)
def test_a_query_is_escaped_in_the_encoding_of_its_page(text: str, encoding: str):
    assert percent_encoded(text, encoding).isascii() or max(text) >= "\ud800" or encoding == "utf-8"


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\0\ufeff\x1b"), min_size=1, max_size=80))
@example("\u00e9")
def test_utf_8_is_recognised_without_any_label(text: str):
    assume(not text.isascii())
    assert decode_text(text.encode()) == text
