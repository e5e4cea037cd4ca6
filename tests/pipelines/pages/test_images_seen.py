"""Tests of images that readers see by other means than `<img src>`: AMP, bare pictures, shadow roots, late loading."""

import time

import pytest

from pipelines.drop_reasons import ELEMENTS
from tests.pipelines.pages.parsed import links_of, num_skipped, parse, shown

GIF = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="


@pytest.mark.parametrize(
    "markup",
    [
        "<amp-img src=a.jpg width=600 height=400 alt='A boat' layout=responsive></amp-img>",
        "<amp-img srcset='b.jpg 320w, a.jpg 1280w' alt='A boat'><noscript><img src=c.jpg></noscript></amp-img>",
        "<amp-anim src=a.jpg alt='A boat'><amp-img placeholder src=p.jpg></amp-img></amp-anim>",
        "<picture alt='A boat'><source srcset='a.jpg 800w'></picture>",
        "<picture data-alt=x alt='A boat'><source data-srcset='a.jpg 800w, b.jpg 400w'></picture>",
        "<object data=a.jpg type=image/jpeg alt='A boat'><img src=b.jpg></object>",
        "<embed src=a.jpg alt='A boat'>",
        "<my-card><template shadowrootmode=open><style>p{}</style><img src=a.jpg alt='A boat'></template></my-card>",
    ],
)
def test_an_image_that_readers_see_is_taken(markup: str) -> None:
    page = parse(f"<p>Before.</p>{markup}<p>After.</p>")
    assert shown(page) == ["Before.", "<a.jpg>", "After."]
    assert page.images[0].alt == "A boat"
    assert page.skipped == ()


def test_a_video_of_amp_is_a_video() -> None:
    page = parse(
        "<amp-video src=a.mp4 width=600><source src=b.webm><track src=en.vtt srclang=en><p fallback>No.</p></amp-video>"
    )
    folder = "http://site.example/folder/"
    assert page.videos[0].sources == (folder + "a.mp4", folder + "b.webm")
    assert [track.lang for track in page.videos[0].tracks] == ["en"]
    assert shown(page) == ["<a.mp4>"]


@pytest.mark.parametrize(
    "markup",
    [
        "<video data-src=a.mp4></video>",
        "<video data-lazy-video=a.mp4 poster=p.jpg data-poster=q.jpg></video>",
        "<video><source data-litespeed-src='a.mp4?v=1'></video>",
        "<video><source src=a.mp4 data-hd=b.mp4></video>",
        "<video src=a.mp4 title=b.mp4></video>",
    ],
)
def test_late_videos_are_found_as_well(markup: str) -> None:
    assert [url.partition("?")[0] for url in parse(markup).videos[0].sources] == ["http://site.example/folder/a.mp4"]


def test_a_shadow_root_shows_its_slots_in_place_of_what_its_host_holds() -> None:
    page = parse(
        "<my-card><template shadowrootmode=open><h2><slot name=title>Untitled</slot></h2><img src=s.jpg>"
        "<p>In the shadow, &gt; <slot name=none>fallback</slot>.</p><div><slot></slot></div></template>"
        "<b slot=title>Boats</b><p>Light.</p><i slot=nowhere>unseen</i> text <img src=l.jpg></my-card><p>End.</p>"
    )
    assert shown(page) == [
        "[heading] Boats", "<s.jpg>", "In the shadow, > fallback.", "Light.", "text", "<l.jpg>", "End.",
    ]  # fmt: skip


def test_shadow_roots_nest_and_other_templates_are_inert() -> None:
    inner = "<x-b data-x='<template>'><template shadowrootmode=CLOSED>(<slot></slot>)</template><slot></slot></x-b>"
    page = (
        f"<x-a><template shadowrootmode=open>[{inner}]</template>word</x-a><template><p>no</p></template>"
        "<x-c><template shadowrootmode=open><a href=/in>first</a></template>"
        "<template shadowrootmode=open>second</template></x-c>"
    )
    assert shown(parse(page)) == ["[(word)]first"]
    assert [link.url for link in links_of(page).links] == ["http://site.example/in"]
    deep = "<x-d><template shadowrootmode=open>" * 400 + "deep"
    assert shown(parse(f"<p>Before.</p>{deep}"))[0] == "Before."


@pytest.mark.parametrize(
    "markup",
    [
        "<li><template shadowrootmode=open>dark</template>light</li>",
        "<x-a><template shadowrootmode>dark</template>light</x-a>",
        "<x-a><template shadowrootmode=yes>dark</template>light</x-a>",
        "<x-a><template shadowroot=open>dark</template>light</x-a>",
        "<section><ul><template shadowrootmode=open>dark</template></ul>light</section>",
    ],
)
def test_a_template_that_browsers_attach_to_nothing_is_inert(markup: str) -> None:
    assert [text.rpartition(" ")[2] for text in shown(parse(markup))] == ["light"]


@pytest.mark.parametrize("host", ["x-a", "div", "SPAN", "blockquote"])
def test_a_shadow_root_may_have_any_host_of_the_standard(host: str) -> None:
    page = parse(f"<p>Text.</p><{host}><template shadowrootmode=open>dark</template>light</{host}>")
    assert [text.rpartition(" ")[2] for text in shown(page)] == ["Text.", "dark"]


@pytest.mark.parametrize(
    "attributes",
    [
        "data-cfsrc=a.jpg",
        "data-actualsrc=/folder/a.jpg",
        "data-litespeed-src=a.jpg",
        "data-orig-src=a.jpg",
        "data-src=a.jpg data-thumb=t.jpg",
        "data-thumbnail=t.jpg data-hires=a.jpg",
        "nitro-lazy-src=a.jpg",
        "data-ezsrc=a.jpg",
        "data-breeze=a.jpg data-lqip=b.jpg data-error-src=c.jpg data-fallback-image=d.jpg",
        "data-wpfc-original-src=a.jpg",
        "ng-src=a.jpg",
        "ng-srcset='b.jpg 300w, a.jpg 600w'",
        "data-default-src=a.jpg",
        "data-fallback-src=a.jpg data-error-src=b.jpg",
        "data-type-src=a.jpg",
        "data-default-src=b.jpg data-src=a.jpg",
        "data-flickity-lazyload=/folder/a.jpg",
        "rel:animated_src=a.jpg",
        "loadlate=/folder/a.jpg",
        "data-ll-srcset='b.jpg 300w, a.jpg 600w'",
        "data-responsive='b.jpg 1x, a.jpg 2x'",
        "data-src='a_{width}.jpg' data-widths='[180, 360, 1296, 4096]' title='b.jpg'",
        """data-a-dynamic-image='{"b.jpg":[300,200],"a.jpg":[1500,1000]}'""",
        """data-sizes-map='{"320": "b.jpg", "1280": "a.jpg", "9000": "c.jpg"}'""",
        """data-media='{"alt": "b is nice", "image": {"src": "http://site.example/folder/a.jpg"}}'""",
        "data-interchange='[b.jpg, small], [a.jpg, large]'",
    ],
)
@pytest.mark.parametrize("src", [f"src='{GIF}'", "src=spacer.gif", "", "src=loading.svg"])
def test_late_images_are_found_by_what_an_attribute_holds(attributes: str, src: str) -> None:
    page = parse(f"<img {src} {attributes} alt='a boat'>")
    expected = "a_1296.jpg" if "{width}" in attributes else "a.jpg"
    assert [image.url for image in page.images] == [f"http://site.example/folder/{expected}"]


@pytest.mark.parametrize(
    "attributes",
    [
        "data-title='IMG_1.jpg' data-filename=b.jpg",
        "data-src-type=image/jpeg data-src-width=800",
        "data-page-url=/gallery/b data-permalink='https://site.example/b.jpg'",
        "data-lqip=b.jpg data-placeholder=/b.jpg data-low-src=b.jpg",
        "data-src='a_{width}.jpg'",
        "ng-src='{{host}}/a.jpg' data-src='{{ photo.src }}'",
        "ng-click=/a.jpg",
        "data-caption='The boats a.jpg, b.jpg'",
        "data-pin-media=/b.jpg onclick='/b.jpg'",
        "data-image-id=/b/7.jpg data-lazy=true data-original=1",
    ],
)
def test_attributes_that_hold_something_else_are_no_sources(attributes: str) -> None:
    page = parse(f"<p>Text.</p><img src='{GIF}' {attributes}>")
    assert page.images == ()
    assert num_skipped(page) == {"placeholder_image": 1}


def test_a_source_of_its_own_goes_before_late_ones() -> None:
    page = parse("<img src=a.jpg data-large-image=b.jpg data-zoom=c.jpg>")
    assert page.images[0].url == "http://site.example/folder/a.jpg"


@pytest.mark.parametrize(
    ("markup", "reason"),
    [
        ("<responsive-image src=x.jpg></responsive-image>", "custom_image"),
        ("<my-photo data-full='https://cdn.example/x'></my-photo>", "custom_image"),
        ("<div data-bg=x.jpg></div>", "css_background"),
        ("<div class=lazyload data-src=/x.jpg></div>", "css_background"),
        ("<div data-image-src=x.jpg></div>", "css_background"),
        ("<span role=img data-src=x.jpg></span>", "css_background"),
        ("<a href=/x data-thumbnail-src=x.jpg></a>", "css_background"),
        ("""<div data-images='["/a.jpg", "/b.jpg"]'></div>""", "css_background"),
        ("<model-viewer src=x.glb poster=x.jpg></model-viewer>", "custom_image"),
        ("<section data-background-image='url(x.jpg)'></section>", "css_background"),
        ("<table background=x.gif></table>", "css_background"),
        ("<object data=film.swf></object>", "embedded_frame"),
        ("<svg><image href=x.jpg></image></svg>", "inline_svg"),
        ("<input type=image src=x.jpg>", "chrome_image"),
    ],
)
def test_images_that_are_not_taken_are_counted(markup: str, reason: str) -> None:
    page = parse(f"<p>Text.</p>{markup}")
    assert page.images == ()
    assert num_skipped(page) == {reason: 1}
    assert reason in ELEMENTS


def test_long_attributes_take_little_time() -> None:
    start = time.process_time()
    for value in ("a" * 20_000, "a.jpg 1x, " * 2_000, "[" * 20_000, "a.jpg," * 3_000, "{width}" * 2_000, " 1w" * 6_000):
        parse(f"<p>Text.</p><img data-src='{value}'><x-y data-image='{value}'></x-y>")
    assert time.process_time() - start < 2


def test_images_of_a_preformatted_text_follow_it_unless_they_are_hidden() -> None:
    markup = "<pre>one<noscript><img src=n.jpg></noscript><b hidden><img src=h.jpg></b> <img src=c.jpg> two</pre>"
    assert shown(parse(markup)) == ["one  two", "<c.jpg>"]


@pytest.mark.parametrize("around", ["b", "noscript", "button"])
def test_an_image_in_a_caption_is_shown(around: str) -> None:
    page = parse(f"<figure><figcaption>A boat<{around}><img src=a.jpg></{around}></figcaption></figure>")
    assert [image.url for image in page.images] == ["http://site.example/folder/a.jpg"]


def test_rows_of_a_hidden_part_of_a_table_are_not_shown() -> None:
    page = parse("<table><tbody hidden><tr><td>a<td>b</tbody><tbody><tr><td>c<td>d<tr><td>e<td>f</table>")
    assert shown(page) == ["c | d\ne | f"]


def skipped(markup: str, head: str = "") -> list[tuple[str, str | None]]:
    """Return reason and file name of each element that is skipped."""
    found = parse(f"{markup}<p>Some text of the page.</p>", head).skipped
    return [(element.reason, element.url and element.url.rpartition("/")[2]) for element in found]


@pytest.mark.parametrize(
    ("markup", "expected"),
    [
        ("<img src=a.png width=20>", [("small_image", "a.png")]),
        ("<img src=blank.gif>", [("placeholder_image", "blank.gif")]),
        ("<img src=blank.gif data-src=a.svg>", [("vector_image", "a.svg")]),
        ("<img class=logo src=data:image/gif;base64,R0lGOD data-src=a.jpg>", [("chrome_image", "a.jpg")]),
        ("<img src=data:image/gif;base64,R0lGOD>", [("invalid_data_uri", None)]),
        ("<img>", [("placeholder_image", None)]),
        ("<img src=blank.gif><noscript><img></noscript>", [("placeholder_image", "blank.gif")]),
        ("<img src=a.jpg><img src=a.jpg>", [("repeated_image", "a.jpg")]),
        (
            "<nav><a href=/><img src=a.png></a><noscript><img src=no.png></noscript><img srcset='b.png 2x'></nav>",
            [("boilerplate_image", "a.png"), ("boilerplate_image", "b.png")],
        ),
        (
            "<table><tr><td>a<td>b<tr hidden><td>c<td><img src=a.png><tr><td>d<td>e</table>",
            [("boilerplate_image", "a.png")],
        ),
        ("<iframe src=a.html></iframe>", [("embedded_frame", "a.html")]),
        ("<iframe data-src=a.html></iframe>", [("embedded_frame", "a.html")]),
        ("<iframe src='javascript:x()'></iframe>", [("embedded_frame", None)]),
        ("<object data=a.swf></object>", [("embedded_frame", "a.swf")]),
        ("<embed src=a.swf>", [("embedded_frame", "a.swf")]),
        ("<iframe src=about:blank data-src=a.html></iframe>", [("embedded_frame", "a.html")]),
        ("<video poster=a.jpg></video>", [("video_without_source", "a.jpg")]),
        ("<my-image srcset='a.jpg 1x, b.jpg 2x'></my-image>", [("custom_image", "b.jpg")]),
        ("<my-image data-src=b.jpg></my-image>", [("custom_image", "b.jpg")]),
        (
            "<pre>one<noscript><img src=n.jpg></noscript><b hidden><img src=h.jpg></b> <svg></svg>"
            "<img class=tex alt=x src=f.png></pre>",
            [("boilerplate_image", "h.jpg"), ("formula_image", "f.png"), ("inline_svg", None)],
        ),
        (
            "<figure><figcaption>A <img class=tex alt=x src=f.png> <svg></svg><iframe src=a.html></iframe>"
            "<b hidden><img src=h.jpg></b></figcaption></figure>",
            [
                ("boilerplate_image", "h.jpg"),
                ("embedded_frame", "a.html"),
                ("formula_image", "f.png"),
                ("inline_svg", None),
            ],
        ),
        ("<p>A <b aria-hidden=true><mjx-container></mjx-container></b></p>", [("unread_formula", None)]),
        ("<nav><mjx-container></mjx-container></nav>", []),
        (
            "<table><tbody hidden><tr><td>a<td><img src=a.png></tbody><tbody><tr><td>d<td>e</tbody></table>",
            [("boilerplate_image", "a.png")],
        ),
        ("<div style='filter:url(#blur)'>a</div>", []),
        ("<div style='filter:url(#blur);background:url(a.jpg)'>a</div>", [("css_background", "a.jpg")]),
        ("<div style='background:url(a.jpg), url(b.jpg)'>a</div>", [("css_background", None)]),
        ("<div data-bg='url(a.jpg), url(b.jpg)'>a</div>", [("css_background", None)]),
        ("<div data-bg='a.jpg,b.jpg'>a</div>", [("css_background", None)]),
        ("<div data-bg='a.jpg?v=1,b.jpg'>a</div>", [("css_background", None)]),
        ("<div data-bg='/f_auto,q_auto/a.jpg'>a</div>", [("css_background", "a.jpg")]),
        ("<canvas></canvas><svg></svg>", [("canvas", None), ("inline_svg", None)]),
        ("<form><input type=image src=a.png></form>", [("chrome_image", "a.png")]),
        ("<div style='background: URL( \"a.jpg\" )'></div>", [("css_background", "a.jpg")]),
        ("<div data-bg='url(a.jpg)'></div>", [("css_background", "a.jpg")]),
        ("<div data-background=a.jpg>x</div>", [("css_background", "a.jpg")]),
        ("<div data-bg='{\"wide\": \"a.jpg\"}'>x</div>", [("css_background", None)]),
        ("<div class=lazyload data-src=a.jpg></div>", [("css_background", "a.jpg")]),
        ("<x-image src=a.jpg></x-image>", [("custom_image", "a.jpg")]),
        ("<x-image data-image=a.jpg></x-image>", [("custom_image", "a.jpg")]),
        ("<img class=tex src=a.png alt='x^2'>", [("formula_image", "a.png")]),
        ("<video></video>", [("video_without_source", None)]),
        ("<figure><img src=a.jpg><figcaption>A <img class=icon src=b.png></figcaption></figure>",
         [("chrome_image", "b.png")]),
        ("<img src=a.jpg usemap=#m><map name=m><area alt=A coords=0,0,9,9></map>", [("region_without_size", "a.jpg")]),
    ],
)  # fmt: skip
def test_a_skipped_element_says_where_it_is(markup: str, expected: list[tuple[str, str | None]]) -> None:
    assert skipped(markup) == expected


def test_images_outside_the_content_say_where_they_are() -> None:
    prose = "<main><p>The text of the page, which is all that there is to read.</p><img src=a.jpg></main>"
    assert skipped(f"<div><img src=b.jpg></div>{prose}<img src=c.jpg>") == [
        ("boilerplate_image", "b.jpg"),
        ("boilerplate_image", "c.jpg"),
    ]


def test_annotations_without_a_box_or_an_image_say_what_they_are_of() -> None:
    def annotation(name: str, fragment: str) -> str:
        target = f"http://site.example/{name}#{fragment}"
        return f'{{"@type": "Annotation", "bodyValue": "A", "target": "{target}"}}'

    listed = f"[{annotation('a.jpg', 'x=1')}, {annotation('b.jpg', 'xywh=1,1,9,9')}]"
    assert skipped("", f"<script type=application/ld+json>{listed}</script>") == [
        ("invalid_region", "a.jpg"),
        ("region_without_image", "b.jpg"),
    ]


def test_images_in_code_come_after_it() -> None:
    page = parse("<pre>one\n<img src=a.jpg> two\n<img src=b.png width=9></pre><p>three</p>")
    assert shown(page) == ["one\n two", "<a.jpg>", "three"]
    assert num_skipped(page) == {"small_image": 1}
