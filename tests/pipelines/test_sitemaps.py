"""Sitemaps: XML, index, feeds, text and gzip are read; bombs and error pages give nothing."""

import gzip
import zlib

import pytest

from pipelines import sitemaps
from pipelines.sitemaps import Sitemap, parse_sitemap

URLSET = b"""<?xml version="1.0" encoding="UTF-8"?>
<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9" xmlns:image="http://www.google.com/schemas/sitemap-image/1.1">
 <url><loc> https://site.example/page?a=1&amp;b=2 </loc><lastmod>2026-01-05</lastmod>
  <image:image><image:loc>https://cdn.example/boat.jpg</image:loc></image:image></url>
 <url><loc>https://site.example/other</loc></url>
 <url><loc>https://site.example/other#again</loc></url>
 <url><loc>file:///etc/passwd</loc></url>
</urlset>"""
PAGES = ("https://site.example/page?a=1&b=2", "https://site.example/other")


@pytest.mark.parametrize(
    "body",
    [URLSET, b"\xef\xbb\xbf" + URLSET, b"\n " + URLSET, gzip.compress(URLSET), URLSET.replace(b"</urlset>", b"")],
    ids=["plain", "byte order mark", "space before", "gzip", "cut short"],
)
def test_pages_are_listed_once_and_pictures_not(body: bytes) -> None:
    assert parse_sitemap(body) == Sitemap(PAGES, ())


def test_prefixed_namespaces_and_utf16_are_read() -> None:
    text = '<?xml version="1.0" encoding="UTF-16"?><s:urlset xmlns:s="x"><s:url><s:loc>http://a.org/é</s:loc></s:url></s:urlset>'
    assert parse_sitemap(text.encode("utf-16")).urls == ("http://a.org/%C3%A9",)


def test_an_index_lists_sitemaps() -> None:
    body = b"<sitemapindex><sitemap><loc>http://a.org/1.xml.gz</loc></sitemap></sitemapindex>"
    assert parse_sitemap(body) == Sitemap((), ("http://a.org/1.xml.gz",))


def test_plain_text_lists_a_page_a_line() -> None:
    body = b"\xef\xbb\xbfhttp://a.org/1\r\nhttp://a.org/2\nnot a url\n"
    assert parse_sitemap(body).urls == ("http://a.org/1", "http://a.org/2")


def test_feeds_list_their_items() -> None:
    rss = b"<rss><channel><link>http://a.org/</link><item><link>http://a.org/1</link></item></channel></rss>"
    atom = b"<feed><entry><link rel='self' href='http://a.org/x'/><link href='http://a.org/2'/></entry></feed>"
    assert parse_sitemap(rss).urls == ("http://a.org/1",)
    assert parse_sitemap(atom).urls == ("http://a.org/2",)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<!DOCTYPE html><html><body><url><loc>http://a.org/</loc></url></body></html>",
        b"<html><url><loc>http://a.org/</loc></url></html>",
        b'<!DOCTYPE x [<!ENTITY e "http://a.org/">]><urlset><url><loc>&e;</loc></url></urlset>',
        b"<urlset><url><loc>http://a.org/1",
        b"\x1f\x8b broken",
        bytes(range(256)),
    ],
    ids=["empty", "error page", "error page without type", "entity", "cut in the first", "no gzip", "noise"],
)
def test_what_is_no_sitemap_gives_nothing(body: bytes) -> None:
    assert parse_sitemap(body) == Sitemap((), ())


def test_a_gzip_bomb_is_read_up_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sitemaps, "MAX_BYTES", 100_000)
    body = URLSET.replace(b"</urlset>", b"<!--" + b" " * 3_000_000)
    compressor = zlib.compressobj(9, wbits=31)
    bomb = compressor.compress(body) + compressor.flush()
    assert parse_sitemap(bomb) == Sitemap(PAGES, ())


def test_no_more_pages_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sitemaps, "MAX_URLS", 1)
    assert parse_sitemap(URLSET).urls == PAGES[:1]
