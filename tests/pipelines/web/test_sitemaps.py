"""Tests of sitemaps as sites write them: in any encoding, not well-formed, cut, compressed, or something else."""

import gzip
import re
import time
import tracemalloc
import zlib
from collections.abc import Callable

import pytest

from pipelines.web import sitemaps
from pipelines.web.sitemaps import Sitemap, parse_sitemap

URLSET = b"""<?xml version="1.0" encoding="UTF-8"?>
<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9" xmlns:image="http://www.google.com/schemas/sitemap-image/1.1">
 <url><loc> https://site.example/page?a=1&amp;b=2 </loc><lastmod>2026-01-05</lastmod>
  <image:image><image:loc>https://cdn.example/boat.jpg</image:loc></image:image></url>
 <url><loc>https://site.example/other</loc></url>
 <url><loc>https://site.example/other#again</loc></url>
 <url><loc>file:///etc/passwd</loc></url>
</urlset>"""
PAGES = ("https://site.example/page?a=1&b=2", "https://site.example/other")


ONE_BAD = "1 of 4 entries are no http(s) URL"


@pytest.mark.parametrize(
    "body",
    [URLSET, b"\xef\xbb\xbf" + URLSET, b"\n " + URLSET, b"\xef\xbb\xbf\r\n\r\n" + URLSET, gzip.compress(URLSET)],
    ids=["plain", "byte order mark", "space before", "both", "gzip"],
)
def test_pages_are_listed_once_and_images_not(body: bytes) -> None:
    assert parse_sitemap(body) == Sitemap(PAGES, (), ONE_BAD)


def made(*entries: str, encoding: str = "UTF-8") -> str:
    """A sitemap with these entries, as they are."""
    locations = "".join(f"<url><loc>{entry}</loc></url>" for entry in entries)
    return f'<?xml version="1.0" encoding="{encoding}"?>\n<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">{locations}</urlset>'


ONE, TWO = "http://a.org/1", "http://a.org/2"


@pytest.mark.parametrize(
    ("label", "codec"),
    [
        ("gb2312", "gb2312"), ("GBK", "gbk"), ("gb18030", "gb18030"), ("Big5", "big5"), ("Shift_JIS", "shift_jis"),
        ("EUC-JP", "euc_jp"), ("iso-2022-jp", "iso2022_jp"), ("euc-kr", "euc_kr"), ("ks_c_5601-1987", "euc_kr"),
        ("windows-1251", "cp1251"), ("koi8-r", "koi8_r"), ("ISO-8859-2", "iso8859_2"), ("us-ascii", "ascii"),
        ("utf8", "utf-8"), ("x-sjis", "shift_jis"), ("windows-31j", "cp932"), ("latin1", "latin-1"),
        ("UTF-16", "utf-16"), ("utf-16le", "utf-16-le"), ("UTF-16BE", "utf-16-be"), ("no-such-code", "ascii"),
    ],
)  # fmt: skip
def test_any_declared_encoding_is_read(label: str, codec: str) -> None:
    assert parse_sitemap(made(ONE, TWO, encoding=label).encode(codec)) == Sitemap((ONE, TWO), ())


def test_characters_are_decoded_as_declared() -> None:
    body = made("http://a.org/日本", encoding="Shift_JIS").encode("cp932")
    assert parse_sitemap(body).urls == ("http://a.org/%E6%97%A5%E6%9C%AC",)
    broken = made(ONE, "http://a.org/\u00e9", TWO).encode("latin-1")  # which is not UTF-8 as declared
    assert parse_sitemap(broken).urls == (ONE, "http://a.org/%EF%BF%BD", TWO)


def test_prefixed_namespaces_and_utf16_are_read() -> None:
    text = '<?xml version="1.0" encoding="UTF-16"?><s:urlset xmlns:s="x"><s:url><s:loc>http://a.org/é</s:loc></s:url></s:urlset>'
    assert parse_sitemap(text.encode("utf-16")) == Sitemap(("http://a.org/%C3%A9",), ())
    undeclared = "<s:urlset><s:url><s:loc>http://a.org/1</s:loc><i:image><i:loc>http://a.org/x</i:loc></i:image></s:url></s:urlset>"
    assert parse_sitemap(undeclared.encode()).urls == (ONE,)


@pytest.mark.parametrize(
    ("entry", "url"),
    [
        ("http://a.org/?a=1&b=2&copy=3", "http://a.org/?a=1&b=2&copy=3"),
        ("http://a.org/?a=1&amp;b=2", "http://a.org/?a=1&b=2"),
        ("http://a.org/?a=&#49;&#x32;", "http://a.org/?a=12"),
        ("http://a.org/caf&eacute;", "http://a.org/caf%C3%A9"),
        ("http://a.org/?a&nosuchname;b", "http://a.org/?a&nosuchname;b"),
        ("http://a.org/?a&", "http://a.org/?a"),
        ("http://a.org/?x=&LT;b&GT;&AMP;&QUOT;", "http://a.org/?x=%3Cb%3E&%22"),
        ("http://a.org/?x=&lt;b", "http://a.org/?x=%3Cb"),
        ("<![CDATA[ http://a.org/?a=1&b=2&amp;c ]]>", "http://a.org/?a=1&b=2&amp;c"),
    ],
)
def test_ampersands_are_read_as_they_are_meant(entry: str, url: str) -> None:
    assert parse_sitemap(made(ONE, entry, TWO).encode()) == Sitemap((ONE, url, TWO), ())


@pytest.mark.parametrize(
    "text",
    [
        made(ONE, TWO)[:-9],  # cut behind the last entry
        made(ONE, TWO).replace("</url></urlset>", "</urlset>"),
        made(ONE, TWO).replace("<url>", "<url><title>x</url><url>", 1),
        made(ONE, TWO).replace("</loc>", "\x0b</loc>", 1),
        made(ONE, TWO).replace("<url>", "<url id=1>"),
        made(ONE, TWO).replace("</loc></url>", "</loc><p>a < b</p></url>", 1),
        made(ONE) + made(TWO),
    ],
    ids=[
        "cut",
        "open element",
        "crossed elements",
        "control character",
        "bare attribute",
        "bare bracket",
        "two documents",
    ],
)
def test_what_can_be_read_of_broken_markup_is_read_and_the_rest_is_told(text: str) -> None:
    found = parse_sitemap(text.encode())
    assert set(found.urls) <= {ONE, TWO}
    assert ONE in found.urls
    assert found.problem is not None
    assert "not well-formed" in found.problem


def test_characters_that_are_none_end_nothing() -> None:
    odd = made(ONE, TWO).replace("<url>", "<url><title>&#xD800; &#56320; &#xd83d;&#xde00;</title>")
    assert parse_sitemap(odd.encode()) == Sitemap((ONE, TWO), ())
    open_quote = odd.replace("<urlset", '<urlset x="<![CDATA["').replace("</urlset>", "]]></urlset>")
    assert parse_sitemap(open_quote.encode()).urls == (ONE, TWO)
    assert parse_sitemap(odd.replace("&#56320;", "x").encode().replace(b"x", b"\xed\xa0\x80")).urls == (ONE, TWO)


def test_what_a_program_printed_before_the_sitemap_is_skipped() -> None:
    text = "<br />\n<b>Warning</b>: Undefined variable in <b>x.php</b><br />\n" + made(ONE, TWO)
    assert parse_sitemap(text.encode()).urls == (ONE, TWO)


@pytest.mark.parametrize("case", [str.upper, str.title])
def test_names_of_elements_may_be_in_any_case(case: Callable[[str], str]) -> None:
    text = made(ONE, TWO)
    for name in ("urlset", "url", "loc"):
        text = re.sub(f"(</?){name}(?=[ >])", rf"\g<1>{case(name)}", text)
    assert parse_sitemap(text.encode()) == Sitemap((ONE, TWO), ())


@pytest.mark.parametrize("start", ["\ufeff\n", "\n\ufeff", " \r\n\ufeff\ufeff"])
def test_a_text_may_begin_with_blank_lines_and_marks_in_any_order(start: str) -> None:
    assert parse_sitemap(f"{start}{ONE}\n{TWO}\n".encode()) == Sitemap((ONE, TWO), ())


def test_an_index_lists_sitemaps() -> None:
    body = b"<sitemapindex><sitemap><loc>http://a.org/1.xml.gz</loc></sitemap></sitemapindex>"
    assert parse_sitemap(body) == Sitemap((), ("http://a.org/1.xml.gz",))


def test_plain_text_lists_a_page_a_line() -> None:
    body = b"\xef\xbb\xbfhttp://a.org/1\r\n\r\n  http://a.org/2\t\nnot a url\n"
    assert parse_sitemap(body) == Sitemap((ONE, TWO), (), "1 lines are no URL")


def test_feeds_list_their_items() -> None:
    rss = b"<rss><channel><link>http://a.org/</link><item><link>http://a.org/1</link></item></channel></rss>"
    atom = b"<feed><entry><link rel='self' href='http://a.org/x'/><link href='http://a.org/2'/></entry></feed>"
    assert parse_sitemap(rss) == Sitemap((ONE,), ())
    assert parse_sitemap(atom) == Sitemap((TWO,), ())


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\n\n",
        b"<!DOCTYPE html><html><body><url><loc>http://a.org/</loc></url></body></html>",
        b"<html><url><loc>http://a.org/</loc></url></html>",
        b'<!DOCTYPE x [<!ENTITY e "http://a.org/">]><urlset><url><loc>&e;</loc></url></urlset>',
        b'<!DOCTYPE x [<!ENTITY e "http://a.org/">]><feed><entry><link href="&e;"/></entry></feed>',
        b"<urlset><url><loc>http://a.org/1",
        b"\x1f\x8b broken",
        bytes(range(256)),
    ],
    ids=["empty", "blank", "error page", "error page without type", "entity", "entity in an attribute",
         "cut in the first", "no gzip", "noise"],
)  # fmt: skip
def test_what_is_no_sitemap_gives_nothing_and_says_so(body: bytes) -> None:
    found = parse_sitemap(body)
    assert found[:2] == ((), ()) or body.endswith(b"/1")  # whose only entry is all there is
    assert found.problem


def test_a_document_type_does_not_hide_the_pages() -> None:
    body = b"<!DOCTYPE urlset SYSTEM 'http://a.org/sitemap.dtd' [<!ENTITY e 'x'>]>" + made(ONE, TWO).encode()[39:]
    assert parse_sitemap(body) == Sitemap((ONE, TWO), ())


def test_a_gzip_bomb_is_read_up_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sitemaps, "MAX_SITEMAP_BYTES", 100_000)
    body = URLSET.replace(b"</urlset>", b"<!--" + b" " * 3_000_000)
    compressor = zlib.compressobj(9, wbits=31)
    bomb = compressor.compress(body) + compressor.flush()
    found = parse_sitemap(bomb)
    assert found.urls == PAGES
    assert found.problem is not None
    assert found.problem.startswith("more than 100000 bytes")


def test_a_file_that_is_cut_says_so() -> None:
    whole = gzip.compress(made(*(f"http://a.org/{n}" for n in range(2000))).encode())
    found = parse_sitemap(whole[:-500])
    assert found.urls[0] == "http://a.org/0"
    assert found.problem is not None
    assert "the gzip data end early" in found.problem
    assert parse_sitemap(f"{ONE}\n{TWO}".encode(), is_cut=True) == Sitemap((ONE, TWO), (), "the file was cut")


def test_no_more_pages_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sitemaps, "MAX_SITEMAP_URLS", 1)
    assert parse_sitemap(URLSET) == Sitemap(PAGES[:1], (), "more than 1 URLs")


def test_no_more_lines_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sitemaps, "MAX_SITEMAP_URLS", 1)
    assert parse_sitemap(f"x\n{ONE}\n{TWO}\ny".encode()) == Sitemap((ONE,), (), "more than 1 URLs; 1 lines are no URL")


REFERENCES = "a&b&amp;c&#49;&#x32;&eacute;&LT;&#xD800;<![CDATA[&d&#xD800;]]>&" + "e" * 33 + ";&"


@pytest.mark.parametrize("piece", [41, 42, 50, 57, 64, 99])
def test_pieces_of_any_length_are_read_alike(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    bodies = [made(f"http://a.org/{'x' * n}{REFERENCES * 3}", TWO).encode() for n in range(12)]
    whole = [parse_sitemap(body) for body in bodies]
    assert {found.problem for found in whole} == {None}
    monkeypatch.setattr(sitemaps, "_PIECE", piece)
    assert [parse_sitemap(body) for body in bodies] == whole


@pytest.mark.parametrize(
    "body",
    ["<urlset>" + "&a" * 500_000, "x\n" * 100_000, "<urlset>" + "<![CDATA[&]]>" * 20_000],
    ids=lambda body: repr(body[:12]),
)
def test_memory_is_that_of_the_decoded_file(body: str) -> None:
    data = body.encode()
    tracemalloc.start()
    try:
        parse_sitemap(data)
        assert tracemalloc.get_traced_memory()[1] < 4 * len(data) + (1 << 20)
    finally:
        tracemalloc.stop()


@pytest.mark.slow
@pytest.mark.parametrize(
    "body",
    [
        "\n" * 1_000_000,
        " \n" * 500_000 + "http://a.org/1",
        "http://a.org/1 \n" * 100_000,
        "<" * 1_000_000,
        "<?xml " * 100_000,
        "<urlset>" + "&" * 1_000_000,
        "<urlset>" + "&a" * 500_000,
        "<urlset>" + "<![CDATA[" * 100_000,
        "<urlset>" + "<url>" * 200_000,
        "<urlset " + "a='b' " * 100_000 + ">",
        "<urlset>" + "<url><loc>" + "a" * 12_000_000 + "</loc></url><url><loc>http://a.org/1</loc></url></urlset>",
    ],
    ids=lambda body: repr(body[:12]),
)
def test_time_does_not_grow_faster_than_the_file(body: str) -> None:
    begun = time.process_time()
    parse_sitemap(body.encode())
    assert time.process_time() - begun < 3
