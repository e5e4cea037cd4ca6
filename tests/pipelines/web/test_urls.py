"""Tests of URLs: one spelling, resolution as in browsers, no secrets, srcset by its standard, safe sitemaps."""

import gzip
import zlib

import pytest

from pipelines.web import urls
from pipelines.web.urls import (
    MAX_URL_CHARS,
    BaseUrl,
    Sitemap,
    authority,
    canonical_url,
    parse_sitemap,
    parse_srcset,
    registered_domain,
    resolve,
    without_credentials,
)


@pytest.mark.parametrize(
    ("url", "canonical"),
    [
        ("HTTP://EXAMPLE.com:80", "http://example.com/"),
        ("https://example.com:443/A", "https://example.com/A"),
        ("http://example.com:8080/", "http://example.com:8080/"),
        ("http://user:pw@example.com/", "http://example.com/"),
        ("http://example.com./", "http://example.com/"),
        ("http://bücher.example/ü?q=ü", "http://xn--bcher-kva.example/%C3%BC?q=%C3%BC"),
        ("http://[0:0::1]:8000/a", "http://[::1]:8000/a"),
        ("http://x.org/a/./b/../c", "http://x.org/a/c"),
        ("http://x.org/../a/..", "http://x.org/"),
        ("http://x.org/%2e%2e/b", "http://x.org/b"),
        ("http://x.org/%7euser/%c3%a9", "http://x.org/~user/%C3%A9"),
        ("http://x.org/a%2Fb", "http://x.org/a%2Fb"),
        ("http://x.org/50%off a", "http://x.org/50%25off%20a"),
        ("http://x.org/p?b=2&a=1#part", "http://x.org/p?b=2&a=1"),
        ("http://x.org/p?utm_source=n&id=7&gclid=1&fbclid=2", "http://x.org/p?id=7"),
        ("http://x.org/p?utm_source=n", "http://x.org/p"),
        ("http://x.org/p;jsessionid=9A?PHPSESSID=3&id=7", "http://x.org/p?id=7"),
        ("http://x.org//double//", "http://x.org//double//"),
        (" http://x.org/\n a", "http://x.org/%20a"),
    ],
)
def test_each_url_has_one_spelling(url: str, canonical: str) -> None:
    assert canonical_url(url) == canonical
    assert canonical_url(canonical) == canonical


@pytest.mark.parametrize(
    "url",
    [
        "ftp://x.org/",
        "/relative",
        "http:///path",
        "http://x.org:99999/",
        "http://[bad/",
        "http://a b/",
        "http://..x/",
        "http://x.org/" + "a" * MAX_URL_CHARS,
    ],
)
def test_what_is_no_http_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        canonical_url(url)


@pytest.mark.parametrize(
    ("reference", "url"),
    [
        ("d.png", "http://a.org/b/d.png"),
        ("./d.png", "http://a.org/b/d.png"),
        ("../e", "http://a.org/e"),
        ("../../../e", "http://a.org/e"),
        ("/f", "http://a.org/f"),
        ("//cdn.example/y", "http://cdn.example/y"),
        ("?q=1", "http://a.org/b/c.html?q=1"),
        ("#part", "http://a.org/b/c.html"),
        ("", "http://a.org/b/c.html"),
        ("\\x\\y?z=\\", "http://a.org/x/y?z=%5C"),
        ("ht\ntp://q.org/", "http://q.org/"),
    ],
)
def test_references_resolve_as_in_browsers(reference: str, url: str) -> None:
    assert resolve("http://a.org/b/c.html", reference) == url


@pytest.mark.parametrize(
    "reference",
    [
        "javascript:void(0)",
        "mailto:a@b.org",
        "file:///etc/passwd",
        "data:,x",
        "http://",
        "http://[bad",
        "ftp://a/b",
    ],
)
def test_only_http_is_followed(reference: str) -> None:
    assert resolve("http://a.org/b/c.html", reference) is None


@pytest.mark.parametrize(
    ("host", "canonical"),
    [
        ("faß.de", "xn--fa-hia.de"),  # not fass.de: UTS 46 without transition
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("☃.net", "xn--n3h.net"),
        ("i❤.ws", "xn--i-7iq.ws"),
        ("日本語。ＪＰ", "xn--wgv71a119e.jp"),
        ("%C3%BC.example", "xn--tda.example"),
        ("İstanbul.example", "xn--istanbul-o0e.example"),
        ("so\u00adft.zero\u200b.example", "soft.zero.example"),
        ("½.example", "xn--12-c6t.example"),
        ("ü_b.example", "xn--_b-wka.example"),
        ("ab--c.example", "ab--c.example"),
        ("127.1", "127.0.0.1"),
        ("0x7F.1", "127.0.0.1"),
        ("0177.0.0.1", "127.0.0.1"),
        ("2130706433", "127.0.0.1"),
        ("１２７.０.０.１", "127.0.0.1"),
        ("0x.0.0", "0.0.0.0"),
        ("foo.0x7g", "foo.0x7g"),
    ],
)
def test_hosts_are_those_that_browsers_ask_for(host: str, canonical: str) -> None:
    assert canonical_url(f"http://{host}/") == f"http://{canonical}/"


@pytest.mark.parametrize(
    "host",
    [
        "℀.example",
        "aשלום.example",
        "\u0301a.example",
        "नी\u200c.com",
        "xn--iñ.com",
        "256.1.1.1",
        "08.1.1.1",
        "1.2.3.4.5",
        "a.0x1ffffffff",
        f"{'ü' * 60}.example",
    ],
)
def test_hosts_that_browsers_refuse_are_refused(host: str) -> None:
    with pytest.raises(ValueError, match=r"host|IPv4|netloc"):
        canonical_url(f"http://{host}/")


def test_a_query_is_written_in_the_encoding_of_its_page() -> None:
    base = BaseUrl("http://a.org/b", "windows-1251")
    assert base.resolve("ё?q=мир&r=%D0#ё") == "http://a.org/%D1%91?q=%EC%E8%F0&r=%D0"
    assert base.resolve("#?q=мир") == "http://a.org/b"
    assert BaseUrl("http://a.org/b").resolve("?q=мир") == "http://a.org/b?q=%D0%BC%D0%B8%D1%80"


def test_authority_names_a_port_that_is_not_the_default() -> None:
    assert authority("http://A.org:8080/x") == "a.org:8080"
    assert authority("https://A.org:443/x") == "a.org"


@pytest.mark.parametrize(
    ("url", "domain"),
    [
        ("http://news.example.co.uk/x", "example.co.uk"),
        ("http://someone.github.io/", "someone.github.io"),
        ("http://127.0.0.1:8000/", "127.0.0.1"),
        ("http://[::1]/", "::1"),
        ("http://localhost:9/", "localhost"),
        ("http://www.site.example/", "site.example"),
        ("http://co.uk/", "co.uk"),
    ],
)
def test_registered_domain_follows_the_public_suffix_list(url: str, domain: str) -> None:
    assert registered_domain(url) == domain


@pytest.mark.parametrize(
    ("url", "stored"),
    [
        ("http://user:pw@x.org/a?b=1", "http://x.org/a?b=1"),
        ("http://x.org/a?token=1&b=2&api_key=3&APIKEY=4&apiKey=5", "http://x.org/a?b=2"),
        ("http://x.org/a?X-Amz-Signature=1&X-Amz-Credential=2&w=3", "http://x.org/a?w=3"),
        ("http://x.org/a?accessToken=1&user%5Fpassword=2&client_secret=3", "http://x.org/a"),
        ("http://x.org/a?monkey=1&design=2&author=3&key=4", "http://x.org/a?monkey=1&design=2&author=3&key=4"),
        ("http://x.org/a#access_token=1", "http://x.org/a"),
        ("http://u:p@[bad/a?token=1", "[bad/a"),
    ],
)
def test_stored_urls_carry_no_credentials(url: str, stored: str) -> None:
    assert without_credentials(url) == stored


@pytest.mark.parametrize(
    ("value", "candidates"),
    [
        ("", []),
        ("a.png", [("a.png", None, 1.0)]),
        ("a.png 1x, b.png 2.5x", [("a.png", None, 1.0), ("b.png", None, 2.5)]),
        ("a.png 320w,\n b.png 640w 480h", [("a.png", 320, None), ("b.png", 640, None)]),
        (
            "https://x/w_300,h_200/a.jpg 300w, https://x/w_600,h_400/a.jpg 600w",
            [("https://x/w_300,h_200/a.jpg", 300, None), ("https://x/w_600,h_400/a.jpg", 600, None)],
        ),
        ("a.png, b.png", [("a.png", None, 1.0), ("b.png", None, 1.0)]),
        (", ,a.png 2x,,", [("a.png", None, 2.0)]),
        ("a.png 2x 3w, b.png 0w, c.png bad, d.png (1, 2), e.png 1x", [("e.png", None, 1.0)]),
    ],
)
def test_srcset_is_read_by_the_html_algorithm(
    value: str, candidates: list[tuple[str, int | None, float | None]]
) -> None:
    assert [tuple(c) for c in parse_srcset(value)] == candidates


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
def test_pages_are_listed_once_and_images_not(body: bytes) -> None:
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
    monkeypatch.setattr(urls, "MAX_SITEMAP_BYTES", 100_000)
    body = URLSET.replace(b"</urlset>", b"<!--" + b" " * 3_000_000)
    compressor = zlib.compressobj(9, wbits=31)
    bomb = compressor.compress(body) + compressor.flush()
    assert parse_sitemap(bomb) == Sitemap(PAGES, ())


def test_no_more_pages_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urls, "MAX_SITEMAP_URLS", 1)
    assert parse_sitemap(URLSET).urls == PAGES[:1]
