"""Rows of hostile pages and of the files that govern a site: robots.txt, sitemaps."""

import base64
import gzip
import itertools
import zlib
from collections.abc import Callable

import brotli
import zstandard

from tests.hostile.server import Answer, Row, chunked, endless, head, redirect, whole

_WORDS = "<p>The golden lantern was carried to the harbour, and nobody knew who had lit it before the dawn.</p>"
PAGE = f"<!doctype html><html lang=en><title>A page</title><body>{_WORDS}</body></html>"
_START = PAGE.encode() + b"<!-- "
_ZEROS = bytes(1 << 20)
_AT = "http://{host}"


def gzip_bomb(start: bytes, num_mib: int = 1024) -> bytes:
    """Return a gzip of a beginning and of zeros, a thousandth of their size."""
    member = gzip.compress(_ZEROS, 9, mtime=0)
    return gzip.compress(start, mtime=0) + member * num_mib


def _coded(data: bytes, coding: str, content_type: str = "text/html") -> Answer:
    return whole(data, content_type, Content_Encoding=coding)


def _zstd_bomb(start: bytes) -> bytes:
    compressor = zstandard.ZstdCompressor(level=3)
    frame = compressor.compress(_ZEROS * 64)
    return compressor.compress(start) + frame * 16


def _page(name: str, answer: Answer, *reasons: str, **more: Answer) -> Row:
    others = {f"/{path}": other for path, other in more.items()}
    return Row(name, f"{_AT}/page", {"/page": answer, **others}, "page", reasons)


def _bombs() -> list[Row]:
    brotli_bomb = brotli.compress(_START + _ZEROS * 256, quality=0)
    twice = gzip.compress(gzip_bomb(_START), mtime=0)
    return [
        _page("bomb-gzip", _coded(gzip_bomb(_START), "gzip"), "truncated_page"),
        _page("bomb-brotli", _coded(brotli_bomb, "br"), "truncated_page"),
        _page("bomb-zstd", _coded(_zstd_bomb(_START), "zstd"), "truncated_page"),
        _page("bomb-deflate", _coded(zlib.compress(_START + _ZEROS * 64, 1), "deflate"), "truncated_page"),
        _page("bomb-gzip-twice", _coded(twice, "gzip, gzip"), "truncated_page"),
        _page("bomb-six-codings", _coded(b"x", ", ".join(["gzip"] * 6)), "bad_content_encoding"),
    ]


def _bodies() -> list[Row]:
    plain = PAGE.encode()
    stated = head(Content_Length=str(len(plain) + 1000))
    in_chunks = head(Transfer_Encoding="chunked")
    coded = gzip.compress(plain)
    return [
        _page("body-endless", Answer(endless(head() + _START, _ZEROS[:65536])), "truncated_page"),
        _page("body-trickling", Answer(endless(stated + plain[:10], b" "), 0.1), "timeout"),
        _page("body-never", Answer(endless(stated, b""), 0.1), "timeout"),
        _page("body-short-of-length", Answer([stated + plain]), "incomplete_body"),
        _page("body-beyond-length", Answer([head(Content_Length=str(len(plain))) + plain + b"<script>" * 9])),
        _page("body-length-negative", Answer([head(Content_Length="-1") + plain])),
        _page("body-lengths-differ", Answer([head(Content_Length="5\r\nContent-Length: 50") + plain]), "bad_response"),
        _page("body-cut-gzip", _coded(coded[: len(coded) // 2], "gzip"), "incomplete_body"),
        _page("body-not-gzip", _coded(plain, "gzip"), "bad_content_encoding"),
        _page("body-cut-chunks", Answer([in_chunks, *chunked(plain)]), "incomplete_body"),
        _page("body-damaged-chunks", Answer([in_chunks, b"zz\r\nno\r\n"]), "bad_response", "incomplete_body"),
        _page("body-huge-chunk", Answer([in_chunks, b"ffffffffffffffff\r\nno"]), "incomplete_body", "bad_response"),
        _page("body-empty-reply", Answer([]), "connection_failed"),
        _page("body-no-http", Answer([b"SSH-2.0-OpenSSH_9.0\r\n"]), "bad_response", "connection_failed"),
        _page("body-no-head", Answer([plain]), "bad_response"),
        _page("body-none-allowed", Answer([head("204 No Content") + plain]), "http_204"),
        _page("body-a-part", Answer([head("206 Partial Content", Content_Range="bytes 0-9/99") + plain]), "http_206"),
    ]


def _heads() -> list[Row]:
    many = {f"X-{i}": "y" for i in range(5000)}
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    return [
        _page("head-huge-field", whole(PAGE, X="y" * 300_000), "bad_response"),
        _page("head-many-fields", whole(PAGE, **many)),
        _page("head-endless", Answer(endless(b"HTTP/1.1 200 OK\r\n", b"X-Y: z\r\n" * 1000)), "bad_response"),
        _page("head-endless-interim", Answer(endless(interim, interim * 100), 0.01), "timeout"),
        _page("head-trickling", Answer(endless(b"HTTP/1.1 200 OK\r\nX: ", b"y"), 0.1), "timeout"),
        _page(
            "head-control-characters",
            Answer([b"HTTP/1.1 200 OK\r\nX: \x00\x1b[2J\r\n" + head()[17:] + PAGE.encode()]),
            "bad_response",
        ),
        _page("head-status-no-number", Answer([b"HTTP/1.1 9e9 OK\r\n\r\n" + PAGE.encode()]), "bad_response"),
        _page("head-status-unknown", whole(PAGE, status="999 No"), "http_999"),
    ]


def _redirects() -> list[Row]:
    def chain(path: str) -> Answer:
        number = int(path[1:]) if path[1:].isdecimal() else 0
        return redirect(f"/{number + 1}")

    def to(name: str, location: str, *reasons: str) -> Row:
        return _page(f"redirect-{name}", redirect(location), *reasons)

    return [
        Row("redirect-thousands", f"{_AT}/1", chain, "page", ("too_deep",)),
        _page("redirect-loop", redirect("/other"), "redirected", other=redirect("/page")),
        to("itself", "/page", "redirected"),
        to("file", "file:///etc/passwd", "redirect_refused"),
        to("ftp", "ftp://{canary}/", "redirect_refused"),
        to("data", f"data:text/html;base64,{base64.b64encode(PAGE.encode()).decode()}", "redirect_refused"),
        to("javascript", "javascript:alert(1)", "redirect_refused"),
        to("nowhere", "", "redirect_refused", "redirected"),
        to("to-the-canary", "http://{canary}:{port}/", "redirected"),
        to("to-metadata", "http://169.254.169.254/latest/meta-data/iam/security-credentials/", "redirected"),
        to("long", f"/{'x' * 100_000}", "redirect_refused"),
        _page("refresh-loop", whole('<meta http-equiv="refresh" content="0; url=/page?a=1">' + PAGE), "redirected"),
        _page("refresh-file", whole(PAGE, Refresh="0; url=file:///etc/passwd")),
        _page(
            "refresh-canary",
            whole(f'<meta http-equiv="refresh" content="0;http://{{canary}}:{{port}}/">{PAGE}'),
            "redirected",
        ),
    ]


LAUGHS = (
    '<!DOCTYPE x [<!ENTITY a "ha">'
    + "".join(f'<!ENTITY {new} "{f"&{old};" * 10}">' for old, new in itertools.pairwise("abcdefghij"))
    + "]>"
)
OUTSIDE = '<!DOCTYPE x [<!ENTITY a SYSTEM "http://{canary}:{port}/a"><!ENTITY j SYSTEM "file:///etc/passwd">]>'


def _contents() -> list[Row]:
    jpeg = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00" + bytes(100)
    xhtml = "application/xhtml+xml"
    hidden = (
        "<p>The \u202egolden lantern\u202c was carried\u200b to the har\u00adbour,\ufeff and nobody knew it.</p>" * 9
    )
    svg = '<svg xmlns="http://www.w3.org/2000/svg"><script>fetch("http://{canary}:{port}/")</script><image href="http://{canary}:{port}/x.jpg"/></svg>'
    return [
        _page("xml-billion-laughs", whole(f"{LAUGHS}<html><body>{_WORDS}&j;</body></html>", xhtml)),
        _page("xml-external-entities", whole(f"{OUTSIDE}<html><body>{_WORDS}&a;&j;</body></html>", xhtml)),
        _page("deep-nesting", whole("<div>" * 200_000 + PAGE)),
        _page("many-attributes", whole(f"<p {' '.join(f'a{i}=1' for i in range(100_000))}>{PAGE}")),
        _page("many-links", whole(PAGE + "<a href='http://{canary}:{port}/x'>x</a>" * 1000)),
        _page("bidi-and-invisible", whole(f"<!doctype html>{hidden}", "text/html; charset=utf-8")),
        _page("lying-html-as-jpeg", whole(PAGE, "image/jpeg"), "not_html"),
        _page("lying-html-as-pdf", whole(PAGE, "application/pdf"), "not_html"),
        _page("lying-jpeg-as-html", whole(jpeg, "text/html")),
        _page("lying-zip-as-html", whole(b"PK\x03\x04" + bytes(100), "text/html")),
        _page("lying-charset", whole(PAGE, "text/html; charset=utf-7")),
        _page("lying-charset-unknown", whole(PAGE, "text/html; charset=" + "x" * 1000)),
        _page("no-type-at-all", whole(b"\x00\x01\x02", ""), "not_html"),
        _page("svg-page", whole(svg, "image/svg+xml"), "not_html"),
        _page("base-elsewhere", whole(f'<base href="file:///etc/"><img src="passwd" alt="x">{PAGE}')),
        _page("canonical-elsewhere", whole(f'<link rel="canonical" href="http://{{canary}}:{{port}}/">{PAGE}')),
    ]


def _elements() -> list[Row]:
    def holding(name: str, element: str, *reasons: str) -> Row:
        return Row(f"element-{name}", f"{_AT}/page", {"/page": whole(PAGE + element)}, "element", reasons)

    large = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(3 << 20)).decode()
    svg = '<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script><image href="http://{canary}:{port}/x"/></svg>'
    return [
        holding(
            "data-large", f'<img src="data:image/png;base64,{large}" alt="x">', "invalid_data_uri", "placeholder_image"
        ),
        holding("data-damaged", '<img src="data:image/png;base64,@@@" alt="x">', "invalid_data_uri"),
        holding("data-svg", f"<img src='data:image/svg+xml,{svg}' alt='x'>", "vector_image"),
        holding("data-html", '<iframe src="data:text/html,<script>alert(1)</script>"></iframe>', "embedded_frame"),
        holding("svg-inline", svg, "inline_svg"),
        holding("svg-file", '<img src="http://{canary}:{port}/x.svg" alt="A drawing">', "vector_image"),
        holding("file", '<img src="file:///etc/passwd" alt="A file of this machine">'),
        holding("javascript", '<img src="javascript:alert(1)" alt="A script">'),
        holding("frame", '<iframe src="http://{canary}:{port}/"></iframe>', "embedded_frame"),
        holding("json-ld", '<script type="application/ld+json">' + "[" * 50_000 + "</script>", "invalid_json_ld"),
        holding("video-file", '<video src="file:///etc/passwd"></video>', "video_without_source"),
    ]


def _traps() -> list[Row]:
    def calendar(path: str) -> Answer | None:
        number = int("0" + "".join(filter(str.isdecimal, path[:20])))
        links = "".join(f'<a href="/day/{number * 7 + i}">next</a> ' for i in range(1, 8))
        return whole(PAGE + links) if path.startswith("/day") else None

    def sessions(path: str) -> Answer | None:
        links = f'<a href="/page;jsessionid={len(path)}?PHPSESSID={path[-9:]}x">again</a>'
        return whole(PAGE + links) if path.startswith("/page") else None

    def relative(path: str) -> Answer | None:
        return whole(PAGE + '<a href="a/b/c/">deeper</a>') if path.startswith("/page") else None

    return [
        Row("trap-calendar", f"{_AT}/day/1", calendar, "page", ("over_page_cap",)),
        Row("trap-sessions", f"{_AT}/page", sessions),
        Row("trap-deeper", f"{_AT}/page/", relative, "page", ("too_deep",)),
    ]


def _robots() -> list[Row]:
    def governed(name: str, answer: Answer, *reasons: str) -> Row:
        return Row(f"robots-{name}", f"{_AT}/page", {"/robots.txt": answer, "/page": whole(PAGE)}, "page", reasons)

    wildcards = "User-agent: *\n" + "".join(f"Disallow: /*{'a*' * 20}{i}$\n" for i in range(8000))
    line = b"Disallow: /nothing\n" * 4000
    return [
        governed("100-mb", Answer(endless(head(content_type="text/plain") + b"User-agent: *\n", line))),
        governed("trickling", Answer(endless(head(content_type="text/plain"), b"\n"), 0.1), "robots_unreachable"),
        governed(
            "bomb", _coded(gzip_bomb(b"User-agent: *\nDisallow: /page\n"), "gzip", "text/plain"), "robots_disallowed"
        ),
        governed("wildcards", whole(wildcards, "text/plain")),
        governed("redirect-loop", redirect("/robots.txt")),
        governed("redirect-to-metadata", redirect("http://169.254.169.254/robots.txt"), "robots_unreachable"),
        governed("redirect-to-file", redirect("file:///etc/robots.txt"), "robots_unreachable"),
        governed("binary", whole(bytes(range(256)) * 100, "text/plain")),
        governed("crawl-delay", whole("User-agent: *\nCrawl-delay: 1e308\n", "text/plain"), "crawl_delay_too_long"),
    ]


def _sitemaps() -> list[Row]:
    names = 'xmlns="http://www.sitemaps.org/schemas/sitemap/0.9"'

    def named(name: str, sitemap: Answer | Callable[[str], Answer], *reasons: str) -> Row:
        def answers(path: str) -> Answer | None:
            if path == "/robots.txt":
                return whole("Sitemap: http://{host}/sitemap.xml\n", "text/plain")
            if path == "/page":
                return whole(PAGE)
            is_sitemap = path.startswith("/sitemap")
            return (sitemap(path) if callable(sitemap) else sitemap) if is_sitemap else None

        # The page is there to be crawled; what is counted is the file.
        return Row(f"sitemap-{name}", f"{_AT}/page", answers, "site_file", reasons)

    def index(*urls: str) -> Answer:
        rows = "".join(f"<sitemap><loc>{url}</loc></sitemap>" for url in urls)
        return whole(f"<sitemapindex {names}>{rows}</sitemapindex>", "text/xml")

    def again(path: str) -> Answer:
        return index(*(f"http://{{host}}{path}{i}" for i in range(30))) if len(path) < 20 else index()

    def urls(*found: str, doctype: str = "") -> Answer:
        rows = "".join(f"<url><loc>{url}</loc></url>" for url in found)
        return whole(f"{doctype}<urlset {names}>{rows}</urlset>", "text/xml")

    start = f"<urlset {names}>".encode()
    return [
        named("loop", index("http://{host}/sitemap.xml", "http://{host}/sitemap.xml?a")),
        named("index-bomb", again, "malformed_sitemap"),
        named("bomb", whole(gzip_bomb(start), "application/gzip"), "malformed_sitemap"),
        named("coded-bomb", _coded(gzip_bomb(start), "gzip", "text/xml"), "malformed_sitemap"),
        named(
            "endless",
            Answer(endless(head(content_type="text/xml") + start, b" " * 65536)),
            "malformed_sitemap",
            "timeout",
        ),
        named("billion-laughs", urls("http://{host}/page&j;", doctype=LAUGHS)),
        named("external-entities", urls("http://{host}/page&a;&j;", doctype=OUTSIDE)),
        named("files", urls("file:///etc/passwd", "javascript:1", "ftp://{canary}/"), "malformed_sitemap"),
        named("elsewhere", urls("http://{canary}:{port}/", "http://169.254.169.254/")),
        named("index-elsewhere", index("http://{canary}:{port}/sitemap.xml")),
        named("deep", whole("<urlset>" + "<url>" * 100_000, "text/xml"), "malformed_sitemap"),
        named("html", whole(PAGE), "malformed_sitemap"),
    ]


def page_rows() -> list[Row]:
    """Return all rows that a crawl meets."""
    return [
        row
        for rows in (_bombs, _bodies, _heads, _redirects, _contents, _elements, _traps, _robots, _sitemaps)
        for row in rows()
    ]
