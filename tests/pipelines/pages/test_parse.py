"""Tests of parsing pages: text, images and videos in DOM order, with the right URLs and the words about them."""

import base64
import io
import json

import pytest
from PIL import Image

from pipelines.candidate import Track
from pipelines.drop_reasons import ELEMENTS
from pipelines.pages.blocks import License, Link, PageImage, PageRegion, PageText, PageVideo
from pipelines.pages.parse import parse_links, parse_page
from pipelines.sources.captions import clean_caption
from tests.pipelines.pages.parsed import URL, links_of, num_skipped, parse, shown

PROSE = "<p>This paragraph is here to be prose, long enough that nobody takes the page for a list of links.</p>"
PROSE_TEXT = PROSE[3:-4]


def only_image(body: str, head: str = "") -> PageImage:
    images = parse(body, head).images
    assert len(images) == 1
    return images[0]


def data_uri(side: int, image_format: str = "png") -> str:
    stream = io.BytesIO()
    Image.new("RGB", (side, side), "red").save(stream, image_format)
    return f"data:image/{image_format};base64,{base64.b64encode(stream.getvalue()).decode()}"


# Text


def test_text_and_images_keep_the_order_of_the_dom() -> None:
    page = parse(
        "<h1>Boats</h1><p>Before <b>the</b>\n boat.</p><img src=boat.jpg alt='A boat'><p>Between."
        "<p>In the <i>middle <img src=oar.jpg> of</i> a line.</p><h2>Oars</h2><div>After<br>a break.</div>"
    )
    assert shown(page) == [
        "[heading] Boats", "Before the boat.", "<boat.jpg>", "Between.", "In the middle", "<oar.jpg>", "of a line.",
        "[heading] Oars", "After\na break.",
    ]  # fmt: skip
    assert page.images[0] == PageImage("http://site.example/folder/boat.jpg", alt="A boat")
    assert (page.title, page.lang) == ("A page", "en")


def test_lists_keep_their_markers_and_nesting() -> None:
    page = parse(
        "<p>Take:</p><ul><li>salt<li><p>oil</p><p>or butter</p><ol start=3><li>olive<li>sunflower</ol></ul>"
        "<ol><li>stir<li><img src=pan.jpg>fry</ol><p>Eat.</p>"
    )
    assert shown(page) == [
        "Take:", "- salt\n- oil\n  or butter\n  3. olive\n  4. sunflower", "1. stir", "<pan.jpg>", "2. fry", "Eat."
    ]  # fmt: skip


def test_definitions_stand_below_their_terms() -> None:
    page = parse("<dl><dt>Bow<dd>The front.<dt>Stern<dd><p>The back.</p><p>Really.</p></dl><p>End.</p>")
    assert shown(page) == ["Bow\nThe front.", "Stern\nThe back.", "Really.", "End."]


def test_terms_within_a_definition_keep_their_own() -> None:
    page = parse("<dl><dt>Sails<dd><dl><dt>Jib<dd><p>The front one.</p><dt>Main<dd>The big one.</dl></dl><p>End.</p>")
    assert shown(page) == ["Sails\nJib\nThe front one.", "Main\nThe big one.", "End."]


def test_tables_are_rows_of_cells() -> None:
    page = parse(
        "<table><caption>Boats</caption><thead><tr><th>Name<th>Length</thead>"
        "<tr><td>Ant<td>3&nbsp;m</tr><tr><td>Bee <b>2</b><td>4 m</tr></table><p>End.</p>"
    )
    assert shown(page) == ["Boats", "Name | Length\nAnt | 3 m\nBee 2 | 4 m", "End."]


def test_an_image_in_a_table_divides_its_row() -> None:
    page = parse("<table><tr><td>Ant<td><img src=ant.jpg><td>3 m</tr><tr><td>Bee<td>none<td>4 m</tr></table>")
    assert shown(page) == ["Ant", "<ant.jpg>", "3 m\nBee | none | 4 m"]


def test_a_table_that_arranges_the_page_leaves_no_bars() -> None:
    page = parse(f"<table><tr><td>{PROSE}<p>More.</p><td><ul><li>one</ul></table><table><tr><td>Note</tr></table>")
    assert shown(page) == [PROSE_TEXT, "More.", "- one", "Note"]


def test_code_keeps_its_lines_and_spaces() -> None:
    page = parse("<p>Type <code>a  b</code>:</p><pre>\n  if x:\n      <b>print</b>(1)\n</pre><p>Done.</p>")
    assert shown(page) == ["Type a b:", "  if x:\n      print(1)", "Done."]


def test_what_looks_like_a_token_is_text() -> None:
    assert shown(parse("<p>Literal [IMG] and &lt;s&gt; and &amp;amp; stay.</p>")) == [
        "Literal [IMG] and <s> and &amp; stay."
    ]


def test_invisible_text_is_left_out() -> None:
    page = parse(
        "<p>Seen.</p><script>var a = '<p>no</p>';</script><style>p {}</style><template><p>no</p></template>"
        "<p hidden>no</p><p style='display: none'>no</p><span aria-hidden=true>no</span><select><option>no</select>"
        "<noscript>no</noscript><!-- no -->"
    )
    assert shown(page) == ["Seen."]


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("In <st1:City w:st=on>Lyon</st1:City> on <x-time>May 1</x-time><o:p></o:p>.", "In Lyon on May 1."),
        ("So <g-emoji>\U0001f389</g-emoji>, <noindex>a</noindex> <my-term>heron</my-term>.", "So \U0001f389, a heron."),
        ("A <blink>very</blink> <marquee>old</marquee> <label>form</label> <output>5</output>!", "A very old form 5!"),
        ("Half<wbr>way <x-a>to<x-b>geth</x-b>er</x-a> <picture></picture>now.", "Halfway together now."),
        ("<div style='display: inline'>One</div> <p style='margin:0;display:inline'>line.</p>", "One line."),
    ],
)  # fmt: skip
def test_elements_that_browsers_show_in_the_line_break_none(markup: str, text: str) -> None:
    assert shown(parse(f"<div>{markup}</div>")) == [text]
    assert parse(f"<figure><img src=a.jpg><figcaption>{markup}</figcaption></figure>").images[0].caption == text


@pytest.mark.parametrize("tag", ["address", "center", "dd", "details", "summary", "fieldset", "hgroup", "section"])
def test_blocks_break_the_line(tag: str) -> None:
    assert shown(parse(f"One<{tag}>two</{tag}>three")) == ["One", "two", "three"]


def test_furniture_breaks_the_line_and_what_is_hidden_does_not() -> None:
    assert shown(parse("One<nav>two</nav>three<div class=advert>four</div>five<div hidden>six</div>.")) == [
        "One", "three", "five.",
    ]  # fmt: skip


def test_a_style_may_make_a_block() -> None:
    page = parse("<span style='display:block'>One</span><my-line style='color: red; display: flex'>Two</my-line>")
    assert shown(page) == ["One", "Two"]


def test_an_unknown_element_may_be_a_figure() -> None:
    page = parse("<my-figure class=figure><img src=a.jpg><my-text class=caption>A boat.</my-text></my-figure>")
    assert page.images[0].caption == "A boat."


def test_markup_that_browsers_do_not_read_is_no_text() -> None:
    body = (
        "<p>Seen.</p><noframes><p>No <b>frames</b>, see <a href='/x'>x</a>.</p></noframes><noembed><a href=y>y</a>"
        "</noembed>"
        "<xmp><i>raw</i></xmp><iframe src=z.html><p>No frames</p></iframe><progress value=3>30 %</progress>"
        "<p>Also <svg><desc>drawn</desc><text>no</text></svg>seen.</p>"
    )
    assert shown(parse(body)) == ["Seen.", "Also seen."]
    assert links_of(body).links == (Link("http://site.example/folder/z.html"),)


@pytest.mark.parametrize(
    "ruby",
    [
        "<ruby>東京<rt>とうきょう</rt></ruby>へ<ruby>行<rp>(</rp><rt>い</rt><rp>)</rp></ruby>く",
        "<ruby><rb>東京</rb><rp>（</rp><rt>とうきょう</rt><rp>）</rp></ruby>へ行く",
        "<ruby>東<rtc><rt>ひがし</rtc>京<rt>きょう</ruby>へ行く",
    ],
)
def test_readings_of_characters_are_left_out(ruby: str) -> None:
    assert shown(parse(f"<p>{ruby}。</p>")) == ["東京へ行く。"]
    assert parse(f"<figure><img src=a.jpg><figcaption>{ruby}</figcaption></figure>").images[0].caption == "東京へ行く"


@pytest.mark.parametrize("invisible", ["&shy;", "&#8203;", "&#xfeff;", "&#8288;", "\u00ad\u200b", "\ufeff"])
def test_invisible_characters_are_removed_alike_from_pages_and_captions(invisible: str) -> None:
    written = f"A steam{invisible}boat,{invisible} seen"
    page = parse(
        f"<h1>{written}</h1><p>{written}</p><figure><img src=a.jpg alt='{written}'><figcaption>{written}</figcaption>"
        f"</figure><pre>{written}</pre>"
    )
    expected = "A steamboat, seen"
    assert shown(page) == [f"[heading] {expected}", expected, "<a.jpg>", f"[caption] {expected}", expected]
    assert page.images[0].alt == clean_caption(written) == expected


def test_joiners_and_marks_of_direction_stay() -> None:
    written = "می\u200cخواهم \u200f(1)\u200e \U0001f469\u200d\U0001f680"
    assert shown(parse(f"<p>{written}</p>")) == [written]
    assert clean_caption(written) == written


def test_a_heading_with_nothing_behind_it_is_left_out() -> None:
    assert shown(parse("<p>Text.</p><h2>Empty</h2>")) == ["Text."]


def test_empty_and_hostile_bodies_make_empty_pages() -> None:
    for body in (b"", b"\0\0\0", b"<", b"<frameset><frame src=a.html></frameset>", bytes(range(256))):
        assert parse_page(body, URL).images == ()
    deep = parse_page(b"<div>" * 20_000 + b"<p>deep</p>", URL)
    assert deep.blocks == (PageText("deep"),)
    with pytest.raises(ValueError, match="no http"):
        parse_page(b"", "file:///etc/passwd")


# Boilerplate

FURNITURE = [
    "<nav><a href=a>A</a> and words</nav>",
    "<header><a href=/>Site</a><p>A slogan</p></header>",
    "<header><h1>Site</h1><ul><li><a href=a>A</a></ul></header>",
    "<div id=header><a href=/>Site</a></div>",
    "<footer><p>Imprint of the site, with words</p></footer>",
    "<aside><p>Something else, in passing</p></aside>",
    "<div role=navigation>Go on</div>",
    "<div role=complementary><p>Something else, in passing</p></div>",
    "<div class=navheader><table><tr><td><a href=a><img src=prev.png></a><th>Chapter</table></div>",
    "<ul class='breadcrumb'><li>Home<li>Boats</ul>",
    "<div class='mainNav'>Go on</div>",
    "<div id='cookie-banner'><p>We value your privacy</p></div>",
    "<div class=share-buttons>Share <a href=x>this</a></div>",
    "<section id=comments><p>First! What a page.</p></section>",
    "<ul><li><a href=a>Alpha</a><li><a href=b>Beta</a><li><a href=c>Gamma</a></ul>",
    "<h2>Related articles</h2><div><a href=a>Boats of the north</a></div>",
    "<div><h3>See also</h3><ul><li><a href=a>Boats of the north</a> (a list)</ul></div>",
    "<p>Filed under: <a href=a>aaaaaaaaaa</a> <a href=b>bbbbbbbbbb</a> <a href=c>cccccccccc</a>"
    " <a href=d>dddddddddd</a> <a href=e>eeeeeeeeee</a></p>",
]


@pytest.mark.parametrize("furniture", FURNITURE)
@pytest.mark.parametrize("frame", ["{0}{1}", "{1}{0}"])
def test_furniture_is_removed(furniture: str, frame: str) -> None:
    assert shown(parse(frame.format(furniture, PROSE * 3))) == [PROSE_TEXT] * 3


@pytest.mark.parametrize(
    "content",
    [
        "<div class='sidebar-layout'>{}</div>",
        "<div id='content-with-menu'>{}</div>",
        "<form>{}</form>",
        "<article><header>{}</header></article>",
        "<main class='related'>{}</main>",
        "<div class=header><h1></h1>{}</div>",
        "<blockquote>{}</blockquote>",
    ],
)
def test_prose_survives_by_whatever_name(content: str) -> None:
    assert shown(parse(content.format(PROSE) + "<footer>Imprint</footer>")) == [PROSE_TEXT]


def test_prose_with_links_survives() -> None:
    linked = (
        "<a href=a>Boats</a> of <a href=b>Norway</a>, <a href=c>Sweden</a> and the rest of the north, told in full."
    )
    assert len(parse(f"<p>{linked}</p>").blocks) == 1


def test_main_goes_before_what_is_around() -> None:
    around = "<div><p>Some words that no rule takes for furniture.</p><img src=other.jpg></div>"
    page = parse(f"{around}<main><h1>Title</h1>{PROSE}</main>{around}")
    assert shown(page) == ["[heading] Title", PROSE_TEXT]
    assert num_skipped(page) == {"boilerplate_image": 2}
    assert len(parse(f"{PROSE * 5}<main></main>").blocks) == 5
    assert shown(parse(f"{around}<article>{PROSE}</article>")) == [PROSE_TEXT]


# Which URL


@pytest.mark.parametrize(
    ("markup", "name"),
    [
        ("<img src='../a b.jpg'>", "/a%20b.jpg"),
        ("<img src=//cdn.example/a.jpg>", "//cdn.example/a.jpg"),
        ("<img src='a.jpg?x=1&amp;y=2'>", "/folder/a.jpg?x=1&y=2"),
        ("<img src=a.jpg srcset='b.jpg 320w, c.jpg 1280w, d.jpg 4000w'>", "/folder/c.jpg"),
        ("<img src=a.jpg srcset='d.jpg 4000w, e.jpg 5000w'>", "/folder/d.jpg"),
        ("<img src=a.jpg srcset='b.jpg, c.jpg 2x'>", "/folder/c.jpg"),
        ("<img srcset='w_300,h_200/a.jpg 300w, w_600,h_400/a.jpg 600w'>", "/folder/w_600,h_400/a.jpg"),
        ("<img src=blank.gif data-src=a.jpg>", "/folder/a.jpg"),
        ("<img src='data:image/gif;base64,R0lGODlhAQABAAAAACw=' data-lazy-src=a.jpg>", "/folder/a.jpg"),
        ("<img src=tiny.jpg class=lazyload data-src=a.jpg>", "/folder/a.jpg"),
        ("<img src=a.jpg data-src=b.jpg>", "/folder/a.jpg"),
        ("<img data-srcset='a.jpg 100w, b.jpg 200w'>", "/folder/b.jpg"),
        ("<img src=placeholder.png><noscript><img src=a.jpg></noscript>", "/folder/a.jpg"),
        ("<noscript><img src=a.jpg></noscript><img class=lazy data-src=b.jpg>", "/folder/b.jpg"),
        ("<noscript><p>No script.</p><img src=a.jpg></noscript>", "/folder/a.jpg"),
        ("<picture><source srcset='a.webp 1x' type=image/webp><img src=b.jpg></picture>", "/folder/a.webp"),
        (
            "<picture><source srcset=n.jpg media='(max-width: 600px)'><source srcset=w.jpg media='(min-width: 601px)'>"
            "<img src=b.jpg></picture>",
            "/folder/w.jpg",
        ),
        ("<picture><source srcset=a.svg type=image/svg+xml><img src=b.jpg></picture>", "/folder/b.jpg"),
        (
            "<picture><source srcset=a.webp><img src=blank.gif></picture><noscript><img src=b.jpg></noscript>",
            "/folder/a.webp",
        ),
        ("<a href=big.jpg><img src=a.jpg></a><img src=big.jpg>", "/folder/a.jpg"),
        ("<button><img src=a.jpg></button>", "/folder/a.jpg"),
    ],
)
def test_an_image_is_found_once_and_at_its_best_url(markup: str, name: str) -> None:
    host = "http:" if name.startswith("//") else "http://site.example"
    assert only_image(markup).url == host + name


def test_the_base_element_moves_all_references() -> None:
    base = "<base href='//other.example/x/'>"
    assert parse("<img src=a.jpg>", base).images[0].url == "http://other.example/x/a.jpg"
    assert links_of("<a href=b.html>b</a>", base).links == (Link("http://other.example/x/b.html"),)
    assert links_of("<a href=b>", base).base_url == "http://other.example/x/"
    assert links_of("<a href=b>", "<base href='javascript:x'>").base_url == URL


def test_images_in_the_page_are_decoded() -> None:
    image = only_image(f"<p>Look:</p><img src='{data_uri(64)}' alt=Red>")
    assert (image.url, image.width, image.height, image.alt) == (None, 64, 64, "Red")
    assert image.data is not None
    assert image.data.startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("markup", "reason"),
    [
        ("<img src=a.gif width=1 height=1>", "tracking_pixel"),
        ("<img src=a.gif style='width:1px;height:1px'>", "tracking_pixel"),
        ("<img src=a.png width=32 height=200>", "small_image"),
        ("<img src=site-logo.png>", "chrome_image"),
        ("<img src=/icons/a.png>", "chrome_image"),
        ("<img src=a.png class=user-avatar>", "chrome_image"),
        ("<span class=guiicon><img src=a.png></span>", "chrome_image"),
        ("<img src=a.png role=presentation>", "chrome_image"),
        ("<a href='https://www.facebook.com/sharer?u=x'><img src=f.png></a>", "chrome_image"),
        ("<div class=note><img src=note.png alt='[Note]'></div>", "chrome_image"),
        ("<img src=spacer.gif>", "placeholder_image"),
        ("<img alt='nothing'>", "placeholder_image"),
        ("<img src='javascript:x'>", "placeholder_image"),
        (f"<img src='{data_uri(8)}'>", "placeholder_image"),
        ("<img src='data:image/png;base64,AAAA'>", "invalid_data_uri"),
        ("<img src='data:image/png;base64'>", "invalid_data_uri"),
        ("<img src='data:image/svg+xml,<svg/>'>", "vector_image"),
        ("<img src=drawing.svg>", "vector_image"),
        ("<img src=x.jpg><img src=x.jpg>", "repeated_image"),
        ("<svg><title>no</title></svg>", "inline_svg"),
        ("<canvas>no</canvas>", "canvas"),
        ("<div style='background: url(a.jpg)'></div>", "css_background"),
        ("<iframe src=a.html></iframe>", "embedded_frame"),
        ("<nav><img src=x.jpg></nav>", "boilerplate_image"),
        ("<video><source></video>", "video_without_source"),
        ("<script type=application/ld+json>{</script>", "invalid_json_ld"),
        ("<img src=x.jpg usemap='#m'><map name=m><area coords='1,2,3,4' alt=a></map>", "region_without_size"),
        (
            "<img src=x.jpg usemap='#m' width=90 height=90><map name=m><area shape=default alt=a>"
            "<area coords='95,95,99,99' alt=b><area coords='5,5,9,9'></map>",
            "invalid_region",
        ),
    ],
)
def test_what_is_left_out_is_counted(markup: str, reason: str) -> None:
    page = parse(PROSE + markup)
    number = 3 if reason == "invalid_region" else 1
    assert num_skipped(page) == {reason: number}
    assert shown(page) in ([PROSE_TEXT], [PROSE_TEXT, "<x.jpg>"])
    assert reason in ELEMENTS


def test_the_name_of_a_file_is_no_reason_in_a_captioned_figure() -> None:
    markup = "<figure><img src=logo-of-1960.png><figcaption>The logo of 1960</figcaption></figure>"
    assert only_image(markup).caption == "The logo of 1960"


# What belongs to an image


@pytest.mark.parametrize(
    "markup",
    [
        "<figure><img src=a.jpg><figcaption>A <b>boat</b>.</figcaption></figure>",
        "<figure><figcaption>A boat.</figcaption><a href=b.html><img src=a.jpg></a></figure>",
        "<div class=wp-caption><img src=a.jpg><p class=wp-caption-text>A boat.</p></div>",
        "<div class=figure><p class=title><b>A boat.</b></p><div class=mediaobject><img src=a.jpg></div></div>",
        "<div class=mediaobject><img src=a.jpg><div class=caption><p>A boat.</p></div></div>",
        "<div class=imageblock><div class=content><img src=a.jpg></div><div class=title>A boat.</div></div>",
        "<div><img src=a.jpg></div><p class=caption>A boat.</p>",
    ],
)
def test_a_caption_stands_behind_its_image(markup: str) -> None:
    page = parse(f"<p>One.</p>{markup}<p>Two.</p>")
    assert shown(page) == ["One.", "<a.jpg>", "[caption] A boat.", "Two."]
    assert page.images[0].caption == "A boat."


def test_title_and_caption_of_one_image_are_joined() -> None:
    page = parse(
        "<div class=figure><p class=title>Figure 2. Boats</p><div class=mediaobject><img src=a.jpg>"
        "<div class=caption>Seen from the shore</div></div></div>"
    )
    assert shown(page) == ["<a.jpg>", "[caption] Figure 2. Boats. Seen from the shore"]
    assert page.images[0].caption == "Figure 2. Boats. Seen from the shore"


def test_a_long_table_of_contents_leaves_the_introduction_beside_it() -> None:
    contents = "".join(f"<li><a href={n}.html>{n}. A chapter on boats and what makes them float</a>" for n in range(20))
    page = parse(f"<div><h1>Boats</h1><div><ul>{contents}</ul></div><div>{PROSE}</div></div>")
    assert shown(page) == ["[heading] Boats", PROSE_TEXT]
    dated = "".join(f"<div><a href={n}.html>An older article on boats and harbours</a> {n} May</div>" for n in range(9))
    assert shown(parse(f"<div>{dated}</div>")) == []


def test_a_title_over_captioned_images_begins_the_caption_of_each() -> None:
    media = "<div class=mediaobject><img src={0}.jpg><div class=caption>Image {0}</div></div>"
    page = parse(f"<div class=figure><p class=title>Two boats</p>{media.format('a')}{media.format('b')}</div>")
    assert shown(page) == ["[title] Two boats", "<a.jpg>", "[caption] Image a", "<b.jpg>", "[caption] Image b"]
    assert [image.caption for image in page.images] == ["Two boats. Image a", "Two boats. Image b"]


def test_a_caption_may_hold_an_icon() -> None:
    page = parse(
        "<div class=mediaobject><img src=a.jpg><div class=caption>The <span class=guiicon><img src=i.png alt=Sail>"
        "</span> button is pressed</div></div>"
    )
    assert shown(page) == ["<a.jpg>", "[caption] The button is pressed"]
    assert page.images[0].caption == "The button is pressed"
    assert num_skipped(page) == {"chrome_image": 1}


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("<p>Press <img class=icon src=s.png alt=Save>, then wait.</p>", "Press Save, then wait."),
        ("<p>Fine weather <img class=emoji src=1f603.png alt='\U0001f603'></p>", "Fine weather \U0001f603"),
        ("<p>Press <img width=16 height=16 src=s.png alt=Save>.</p>", "Press Save."),
        ("<p>Press <img class=icon src=s.png>.</p>", "Press ."),
        ("<p>Press <img class=icon src=s.png alt=save-icon.png>.</p>", "Press ."),
        ("<p>Press <img class=icon src=s.png alt=Save aria-hidden=true>.</p>", "Press ."),
        ("<p>Photo by <img class=avatar src=k.png alt=Kim> Kim</p>", "Photo by Kim"),
        ("<p><img class=icon src=pdf.png alt=PDF> Download the report</p>", "Download the report"),
        (f"<p>Press <img class=icon src=s.png alt='{'long ' * 9}'>.</p>", "Press ."),
        ("<p>Press <img width=1 height=1 src=s.png alt=Save>.</p>", "Press ."),
    ],
)
def test_an_icon_within_a_line_is_the_words_it_stands_for(markup: str, text: str) -> None:
    assert shown(parse(markup)) == [text]


def test_images_share_the_caption_of_their_figure() -> None:
    page = parse("<figure><img src=a.jpg><img src=b.jpg><figcaption>Boats</figcaption></figure>")
    assert shown(page) == ["<a.jpg>", "<b.jpg>", "[caption] Boats"]
    assert [image.caption for image in page.images] == ["Boats", "Boats"]


def test_the_caption_of_a_listing_is_text() -> None:
    page = parse("<figure><pre>a = 1</pre><figcaption>A listing</figcaption></figure>")
    assert shown(page) == ["a = 1", "A listing"]


def test_credit_and_licence_of_a_figure_are_its_images() -> None:
    page = parse(
        "<figure><img src=a.jpg><figcaption>A boat <span class=photo-credit>Photo: Kim</span>"
        "<a rel=license href='https://creativecommons.org/licenses/by/4.0/'></a></figcaption></figure>"
        "<img src=b.jpg><footer><a rel=license href='https://creativecommons.org/publicdomain/zero/1.0/'>CC0</a></footer>"
    )
    first, second = page.images
    assert (first.caption, first.credit) == ("A boat", "Photo: Kim")
    assert (first.license, first.license_evidence) == (
        "https://creativecommons.org/licenses/by/4.0/",
        "figure:rel=license",
    )
    assert (second.license, second.license_evidence) == (None, "none-found")
    assert page.licenses == (License("https://creativecommons.org/publicdomain/zero/1.0/", "a:rel=license"),)


def test_licences_in_json_ld_go_to_their_image() -> None:
    statement = {
        "@context": "https://schema.org",
        "@graph": [
            {"@type": "ImageObject", "contentUrl": "/folder/a.jpg", "license": "https://l.example/1",
             "creditText": "Kim", "acquireLicensePage": "https://l.example/buy"},
            {"@type": ["Article"], "license": "https://l.example/2"},
        ],
    }  # fmt: skip
    head = f"<script type='application/ld+json'>{json.dumps(statement)}</script><meta name=dcterms.license content=CC0>"
    page = parse("<img src=a.jpg><img src=b.jpg>", head)
    assert [(i.license, i.license_evidence, i.credit) for i in page.images] == [
        ("https://l.example/1", "json-ld:ImageObject.license", "Kim"),
        (None, "none-found", None),
    ]
    assert page.licenses == (License("https://l.example/2", "json-ld:license"), License("CC0", "meta:dcterms.license"))


def test_areas_become_regions_in_fractions() -> None:
    image = only_image(
        "<map name=m><area shape=rect coords='20,10,100,50' alt='a red circle'>"
        "<area shape=circle coords='100,50,20' title='a dot'>"
        "<area shape=poly coords='0,0,0,50,100,100' alt='a corner'>"
        "<area coords='190, 90, 300, 300' alt='the edge'></map>"
        "<img src=a.jpg width=200 height=100 usemap='#m'>"
    )
    assert image.regions == (
        PageRegion("a red circle", (0.1, 0.1, 0.5, 0.5)),
        PageRegion("a dot", (0.4, 0.3, 0.6, 0.7)),
        PageRegion("a corner", (0.0, 0.0, 0.5, 1.0)),
        PageRegion("the edge", (0.95, 0.9, 1.0, 1.0)),
    )


def test_web_annotations_become_regions() -> None:
    def annotation(body: object, target: object) -> dict[str, object]:
        return {"@context": "http://www.w3.org/ns/anno.jsonld", "type": "Annotation", "body": body, "target": target}

    words = {"type": "TextualBody", "value": "a boat"}
    selector = {"type": "FragmentSelector", "value": "xywh=pixel:10,10,20,20"}
    image = "http://site.example/folder/a.jpg"
    statements = [
        annotation(words, f"{image}#xywh=percent:10,20,30,40"),
        annotation([words], {"source": "a.jpg", "selector": selector}),
        annotation(words, {"source": {"id": image, "width": 400, "height": 100}, "selector": [selector]}),
        annotation(words, f"{image}#xywh=50,50,50,50"),
        annotation(words, "http://site.example/elsewhere.jpg#xywh=percent:1,1,1,1"),
        annotation(words, f"{image}#svg"),
        annotation({"type": "Image"}, f"{image}#xywh=1,1,1,1"),
    ]
    head = f"<script type='application/ld+json'>{json.dumps(statements)}</script>"
    page = parse("<img src=a.jpg width=100 height=100>", head)
    assert page.images[0].regions == (
        PageRegion("a boat", (0.1, 0.2, 0.4, 0.6)),
        PageRegion("a boat", (0.1, 0.1, 0.3, 0.3)),
        PageRegion("a boat", (0.025, 0.1, 0.075, 0.3)),
        PageRegion("a boat", (0.5, 0.5, 1.0, 1.0)),
    )
    assert num_skipped(page) == {"invalid_region": 2, "region_without_image": 1}


def test_annotations_find_an_image_by_any_of_its_urls() -> None:
    annotation = {"type": "Annotation", "bodyValue": "a boat", "target": "a.jpg#xywh=percent:0,0,50,50"}
    head = f"<script type='application/ld+json'>{json.dumps(annotation)}</script>"
    assert only_image("<img src=a.jpg srcset='b.jpg 800w'>", head).regions == (PageRegion("a boat", (0, 0, 0.5, 0.5)),)


# Videos and the rest of the page


def test_videos_have_sources_tracks_and_a_caption() -> None:
    page = parse(
        "<figure><video poster=p.jpg title='A film' width=320><source src=a.webm><source src=b.mp4>"
        "<track src=de.vtt srclang=de><track src=en.vtt srclang=EN kind=captions default label='English'>"
        "<track src=fr.vtt srclang=fr label='French (auto-generated)'><track src=ch.vtt kind=chapters>"
        "<p>No video.</p></video><figcaption>A boat sails.</figcaption></figure>"
    )
    folder = "http://site.example/folder/"
    assert page.videos == (
        PageVideo(
            (folder + "a.webm", folder + "b.mp4"),
            (
                Track(folder + "en.vtt", "en", "captions"),
                Track(folder + "de.vtt", "de"),
                Track(folder + "fr.vtt", "fr", is_automatic=True),
            ),
            "A boat sails.",
            "A film",
            folder + "p.jpg",
        ),
    )
    assert shown(page) == ["<a.webm>", "[caption] A boat sails."]


def test_links_are_absolute_and_each_once() -> None:
    found = links_of(
        "<nav><a href=/b?utm_source=x#part>B</a></nav><a href=c rel=nofollow>C</a><a href=d rel='ugc nofollow'>D</a>"
        "<a href=d>D</a><a href='mailto:x@y.example'>M</a><a name=top>T</a><map name=m><area href=e></map>"
        "<iframe src=f></iframe>"
    )
    assert found.links == (
        Link("http://site.example/b"),
        Link("http://site.example/folder/c", True),
        Link("http://site.example/folder/d"),
        Link("http://site.example/folder/e"),
        Link("http://site.example/folder/f"),
    )


def test_metas_and_canonical_url_are_returned_unchanged() -> None:
    page = parse(
        PROSE,
        "<link rel=canonical href=/page><meta name=Robots content='noai, noimageai'>"
        "<meta name=tdm-reservation content=1><meta charset=utf-8><meta property=og:title content=T>",
    )
    assert page.canonical_url == "http://site.example/page"
    assert page.meta == (("robots", "noai, noimageai"), ("tdm-reservation", "1"), ("og:title", "T"))


def test_language_and_title_have_second_sources() -> None:
    body = b"<meta http-equiv=content-language content='de, en'><meta property=og:title content='Boote'><p>x</p>"
    page = parse_page(body, URL)
    assert (page.lang, page.title) == ("de", "Boote")


# A page of the GIMP manual, in its markup (DocBook XHTML), with other words

DOCBOOK = """<?xml version="1.0" encoding="UTF-8"?><!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Transitional//EN" "x">
<html xmlns="http://www.w3.org/1999/xhtml"><head><title>3.4. Sails</title></head><body>
<div class="navheader"><table width="100%" summary="Navigation header"><tr><th colspan="3">3.4. Sails</th></tr>
<tr><td><a accesskey="p" href="hulls.html"><img src="images/prev.png" alt="Prev" /></a></td><th>3. Parts</th>
<td><a accesskey="n" href="oars.html"><img src="images/next.png" alt="Next" /></a></td></tr></table><hr /></div>
<div class="sect2"><div class="titlepage"><div><div><h3 class="title"><a id="sails"></a>3.4. Sails</h3></div></div>
</div>
<a id="i1" class="indexterm"></a>
<div class="figure"><a id="f1"></a><p class="title"><strong>Figure 1.2. A sail</strong></p>
<div class="figure-contents"><div class="mediaobject"><img src="images/sail.png" alt="A sail" /></div></div></div>
<br class="figure-break" /><p>
    A sail catches the <span class="quote">“<span class="quote">wind</span>”</span>.
  </p>
<div class="note"><table border="0" summary="Note"><tr><td rowspan="2" width="25"><img alt="[Note]" 
src="images/note.png" /></td><th align="left">Note</th></tr><tr><td><p>Mind the boom.</p></td></tr></table></div>
<div class="variablelist"><dl class="variablelist"><dt><span class="term">Jib</span></dt><dd><p>The sail in front.
<span class="guiicon"><img src="images/stock-22.png" /></span></p><div class="informalfigure"><div class="mediaobject">
<img src="images/jib.png" /><div class="caption"><p>A jib</p></div></div></div></dd></dl></div></div>
<div class="navfooter"><hr /><table summary="Navigation footer"><tr><td><a href="hulls.html">Prev</a></td>
<td><a href="index.html"><img src="images/home.png" alt="Home" /></a></td></tr></table>
<a href="http://bugs.example/" class="reportbug">Report a bug</a></div></body></html>"""


def test_a_docbook_page_comes_right() -> None:
    page = parse_page(DOCBOOK.encode(), URL)
    assert shown(page) == [
        "[heading] 3.4. Sails", "<sail.png>", "[caption] Figure 1.2. A sail", "A sail catches the “wind”.",
        "Note", "Mind the boom.", "Jib\nThe sail in front.", "<jib.png>", "[caption] A jib",
    ]  # fmt: skip
    assert num_skipped(page) == {"boilerplate_image": 3, "chrome_image": 2}
    assert len(parse_links(DOCBOOK.encode(), URL).links) == 4
