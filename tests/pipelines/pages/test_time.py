"""Tests of the time that pages of a hundred thousand characters take, whatever they are made of."""

import time

import pytest

from pipelines.pages.html import parse_html
from pipelines.pages.kinds import PageOrigin, PageSettings, grounded, interleaved, pairs, text, videos
from pipelines.pages.parse import parse_page

N = 20_000
MAX_SECONDS = 10.0  # a sound parse of the slowest takes half a second on an idle machine
FIGURE = "<figure><img src=/p.jpg><figcaption>{}</figcaption></figure>"
BODIES = {
    "digits in file names": "".join(f"<p>A boat.<img src='/img/{name}{'1' * 4000}.avif' alt='a boat on the lake'>"
                                    for name in ("pixel", "blank", "spacer-", "lazyload_")),
    "digits in captions": "".join(FIGURE.format(f"{word} {'1' * N} of the harbour") for word in ("Image", "图")),
    "numbers in captions": FIGURE.format("Figure " + "1." * N + " of the harbour"),
    "words in file names": f"<img src='/{'pixelimg' * 900}.avif' alt='a boat on the lake'>",
    "attributes": "<p " + " ".join(f"a{i}=b" for i in range(5 * N)) + ">x</p>",
    "attributes with brackets": "<p " + " ".join(f'a{i}=">"' for i in range(3 * N)) + ">x</p>",
    "attributes in quotes that end nowhere": "<p " + " ".join(f"a{i}='b" for i in range(3 * N)) + ">x</p>",
    "nested elements": "<div>" * N + "x",
    "nested noscript": "<noscript><img src=a.jpg>" * 5000,
    "nested tables": "<table><tr><td>" * 5000 + "x",
    "images": "".join(f"<img src=/{i}.jpg alt='a boat {i}'>" for i in range(N // 4)),
    "images that load late": "<img src=/a.jpg><noscript><img src=/b.jpg></noscript>" * 5000,
    "candidates of an image": "<img src=/a.jpg srcset='" + "a.png 1x, " * N + "(" * N + "'>",
    "icons": "".join(f"<p>{'press <img src=/i.png width=16 height=16 alt=Save> ' * 60}</p>" for _ in range(100)),
    "areas": "<map name=m>" + "<area coords='1,2,3,4' alt=x>" * 3000 + "</map>" + "<img src=/a.jpg usemap='#m'>" * 500,
    "links": "".join(f"<a href=x{i}>y</a>" for i in range(N)),
    "line breaks": "<p>" + "\n" * N + "x<br>" * N,
    "spaces": "<p>" + " \u00a0" * (5 * N) + "</p><pre>" + " \n" * (5 * N) + "</pre>",
    "brackets": "<" * (5 * N) + "<!--" * N + "<![CDATA[" * N,
    "JSON": "<script type='application/ld+json'>" + "[" * (5 * N) + "</script>",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", BODIES)
def test_no_page_takes_long(name: str):
    begun = time.process_time()
    page = parse_page(f"<!doctype html><html><body>{BODIES[name]}".encode(), "http://a.example/")
    for kind in (interleaved, pairs, grounded, videos, text):
        kind(page, PageOrigin(), "source", PageSettings())
    assert time.process_time() - begun < MAX_SECONDS


@pytest.mark.parametrize("tail", ["", "<p>" + "after " * 20_000])
def test_an_element_keeps_its_first_thousand_attributes(tail: str):
    many = " ".join(f"a{i}='>'" for i in range(3000))
    (paragraph,) = list(parse_html(f"<p {many} last=b>x</p>{'<!-- -->' * 10_000}").root.descendants("p"))
    assert list(paragraph.attributes) == [f"a{i}" for i in range(1000)]
    assert paragraph.text() == "x"


def test_long_tags_of_few_attributes_are_left_as_they_are():
    data = "data:image/png;base64," + "A" * 60_000
    (image,) = list(parse_html(f"<img alt='a > b' src={data} title=\"it's\">").root.descendants("img"))
    assert image.attributes == {"alt": "a > b", "src": data, "title": "it's"}
