"""Tests of URLs: one spelling, resolution as in browsers, no secrets, srcset by its standard."""

import random
import time
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.web import urls
from pipelines.web.urls import (
    MAX_URL_CHARS,
    BaseUrl,
    authority,
    canonical_url,
    parse_srcset,
    registered_domain,
    resolve,
    without_credentials,
    without_secrets,
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
        ("http://x.org/a;jsession%69d=1;%6Asessionid=2/b", "http://x.org/a/b"),
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
        "http://[::1%25eth0]/",
        "http://[fe80::1%eth0]/",
        "http://a b/",
        "http://..x/",
        "http://x.org/" + "a" * MAX_URL_CHARS,
        "http://x.org/" + "\u00e9" * (MAX_URL_CHARS // 6),
        "http://x.org/?" + "<" * (MAX_URL_CHARS // 3),
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


ODD = [
    "http", "https", ":", "/", "//", "@", "[", "]", "%", "%25", "%2541", "%E9", "%00", "xn--", "a", "b.com", "::1",
    "..", "fe80::1%25eth0", ".", "?", "#", "&", "=", "-", "_", "*", "|", "\\", "utm_source=x", ";jsessionid=1",
    "127.0.0.1", "0x7f.1", "\u00e9", "\u00df", "\u200b", "b\uff0ecom", "\u3002", "\u0663", "\u2460", "\u0130", "\t",
    "\n", " ", "\ud800", "\u65e5\u672c", "\u212a", "\u00e9" * 1400, "<" * 2700,
]  # fmt: skip


@pytest.mark.slow
def test_what_resolves_is_in_its_one_spelling_and_has_an_authority() -> None:
    rng = random.Random(0)
    for _ in range(20_000):
        start = rng.choice(["http://", "https://", "HTTP:/", "http:", "//", ""])
        url = resolve("", start + "".join(rng.choices(ODD, k=rng.randint(1, 8))))
        if url is not None:
            assert canonical_url(url) == url
            assert authority(url)
            assert registered_domain(url)


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
        ("http://x.org/a#state=1&access_token=2", "http://x.org/a#state=1"),
        ("http://x.org/a#session-token", "http://x.org/a#session-token"),
        ("http://x.org/a#/route?token=1", "http://x.org/a#/route"),
        ("http://x.org/a?id=1;token=2;3&b=4", "http://x.org/a?id=1&b=4"),
        ("http://x.org/a;token=1?b=2", "http://x.org/a?b=2"),
        ("http://x.org/login?next=%2Fdoc%3Ftoken%3Dabc&b=2", "http://x.org/login?next=%2Fdoc&b=2"),
        ("http://x.org/login?next=/doc%3Fa%3D1%26token%3Dabc", "http://x.org/login?next=/doc%3Fa%3D1"),
        ("http://x.org/?u=http%253A%252F%252Fu%253Ap%2540y.org%252F", "http://x.org/?u=http%253A%252F%252Fy.org%252F"),
        ("http://x.org/?u=%2F%2Fy.org%2F%3Fto%3Dj%40z.org", "http://x.org/?u=%2F%2Fy.org%2F%3Fto%3Dj%40z.org"),
        ("ftp://u:p@x.org/a", "ftp://x.org/a"),
        ("//u:p@x.org/a", "//x.org/a"),
        ("http://u:p@[bad/a?token=1", "[bad/a"),
    ],
)
def test_stored_urls_carry_no_credentials(url: str, stored: str) -> None:
    assert without_credentials(url) == stored


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("at http://u:p@x.org/a?token=1&b=2: gone", "at http://x.org/a?b=2: gone"),
        ("http://x.org/a?w=1,2&token=3,a caption", "http://x.org/a?w=1,2&token=…,a caption"),
        (r'{"url": "https:\/\/u:p@x.org\/a?b=1&sig=2"}', r'{"url": "https://x.org/a?b=1"}'),
        ("//x.org/a?token=1|/b?X-Amz-Signature=2", "//x.org/a?token=…|/b?X-Amz-Signature=…"),
        ("to /login?next=%2Fdoc%3Ftoken%3Dabc now", "to /login?next=%2Fdoc%3Ftoken%3D… now"),
        ("/callback#access_token=abc", "/callback#access_token=…"),
        ("myapp://cb#state=1&access_token=abc", "myapp://cb#state=1&access_token=…"),
        ("ftp://user:pw@host/a or //u:p@x.org/a", "ftp://host/a or //x.org/a"),
        ("?id=1;token=abc", "?id=1;token=…"),
        ("https://u:p;w@x.org/", "https://x.org/"),
        ("mail joe@x.org; // 5 #1 = a", "mail joe@x.org; // 5 #1 = a"),
        ("is 1 & token = 2?", "is 1 & token = 2?"),
        ("", ""),
    ],
)
def test_stored_texts_carry_no_credentials(text: str, stored: str) -> None:
    assert without_secrets(text) == stored


SECRET = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~%+/=", min_size=12, max_size=40)
NAMES = ["token", "access_token", "X-Amz-Signature", "apiKey", "password"]


@settings(deadline=None)
@given(
    secret=SECRET.map(lambda text: quote(text, safe="")),
    name=st.sampled_from(NAMES),
    place=st.sampled_from(
        [
            "{base}?{name}={secret}&b=2",
            "{base}?a=1&{name}={secret}",
            "{base}?a=1;{name}={secret}",
            "{base};{name}={secret}",
            "{base}#{name}={secret}",
            "{base}#a=1&{name}={secret}",
            "{base}#/a?{name}={secret}",
        ]
    ),
    base=st.sampled_from(["https://x.org/a", "/a", "//x.org/a", "ftp://x.org/a", "myapp://cb", "a", "https://x.org"]),
    outer=st.lists(st.sampled_from(["https://x.org/?next={}", "/login?a=1&service={}#b", "//y.org/#to={}&c=3"])),
)
def test_no_secret_stays_wherever_it_stands(secret: str, name: str, place: str, base: str, outer: list[str]) -> None:
    url = place.format(base=base, name=name, secret=secret)
    for around in outer[:4]:
        url = around.format(quote(url, safe=""))
        secret = quote(secret, safe="")
    assert secret in url
    assert secret not in without_credentials(url)
    for text in (url, f"at {url}: gone", f'{{"to": "{url}"}}', f"<{url}>"):
        assert secret not in without_secrets(text)
        assert without_secrets(without_secrets(text)) == without_secrets(text)


@pytest.mark.parametrize(
    "part", ["?", ";", "//", "//@", "%3F", "%2F%2F", "%25", "%2525", "?a", "?token=", "#token%3D", "\\/"]
)
def test_long_texts_take_little_time(part: str) -> None:
    began = time.process_time()
    without_secrets(part * 200_000)
    without_credentials("https://x.org/" + part * 200_000)
    assert time.process_time() - began < 4


@settings(deadline=None)
@given(
    user=st.text("abcxyzABC0123456789-._~%!$&()*+,;=:@", min_size=12, max_size=40),
    scheme=st.sampled_from(["https:", "ftp:", "", "postgres+ssl:"]),
    depth=st.integers(0, 3),
)
def test_no_userinfo_stays_wherever_it_stands(user: str, scheme: str, depth: int) -> None:
    url = f"{scheme}//{user}@x.org/a"
    for _ in range(depth):
        url, user = f"https://y.org/?next={quote(url, safe='')}", quote(user, safe="")
    for found in (without_credentials(url), without_secrets(url), without_secrets(f"at {url}, {url}.")):
        assert user not in found


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


def test_what_is_told_at_once_is_what_parsing_gives(monkeypatch: pytest.MonkeyPatch):
    hosts = (
        "example.org",
        "a.b-c.example",
        "xn--bcher-kva.example",
        "-.org",
        "127.0.0.1",
        "1.2.3.256",
        "a..b",
        "0x7f.org",
    )
    ends = ("", ":8080", ":80", ":443", ":0080", ":99999")
    paths = (
        "",
        "/",
        "/a/b-1_2.~x",
        "/.",
        "/a/../b",
        "/a..b/",
        "//a",
        "/a;b=c",
        "/a?b",
        "/a#b",
        "/%7Ea",
        "/" + "a" * 200,
    )
    addresses = [f"{s}://{h}{e}{p}" for s in ("http", "https", "HTTP") for h in hosts for e in ends for p in paths]

    def found() -> list[tuple[str | None, str]]:
        urls.canonical_url.cache_clear()
        urls.without_credentials.cache_clear()
        return [(canonical_or_none(url), urls.without_credentials(url)) for url in addresses]

    at_once = found()
    monkeypatch.setattr(urls, "_plain", lambda url: None)
    assert at_once == found()
    assert (
        at_once[addresses.index("http://a.b-c.example:8080/a/b-1_2.~x")]
        == ("http://a.b-c.example:8080/a/b-1_2.~x",) * 2
    )


def canonical_or_none(url: str) -> str | None:
    try:
        return urls.canonical_url(url)
    except ValueError:
        return None
