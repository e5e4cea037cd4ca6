"""Tests of candidates from pages: their segments, order and keys, and nothing that must not be stored."""

import hashlib
import io

import pytest
from PIL import Image

from pipelines.candidate import Candidate, MediaRequest, Track
from pipelines.document import Document, Region, Segment, Signal
from pipelines.pages.blocks import License, Page, PageImage, PageRegion, PageText, PageVideo
from pipelines.pages.kinds import (
    PageOrigin,
    PageSettings,
    duplicate_group,
    grounded,
    interleaved,
    pairs,
    text,
    videos,
)
from pipelines.pages.parse import parse_page

URL = "http://site.example/page"
ORIGIN = PageOrigin("crawl", "a.warc.gz", 12, 345, "2026-01-05T10:11:12Z", (Signal("robots.txt", "page", "allow"),))
SETTINGS = PageSettings()
BOX, OTHER_BOX = (0.1, 0.1, 0.5, 0.5), (0.6, 0.6, 0.9, 0.9)


def page_of(*blocks: PageText | PageImage | PageVideo, url: str = URL, canonical_url: str | None = None) -> Page:
    return Page(url, canonical_url, "Title", "en", blocks)


def image(name: str = "a", **fields: object) -> PageImage:
    return PageImage(f"http://site.example/{name}.jpg", **fields)  # type: ignore[arg-type]


def words(candidate: Candidate) -> list[tuple[str, str | None]]:
    """Return (role, text) of text segments, and (role, file name) of the others."""
    document = candidate.document
    return [
        (s.role, s.text if s.type == "text" else str(document.media[s.media or 0].url).rpartition("/")[2])
        for s in document.segments
    ]


# Interleaved


def test_interleaved_keeps_the_order_of_the_page() -> None:
    page = page_of(
        PageText("Boats", "heading"), PageText("One."), PageText("Two."), image("a", alt="A", caption="A boat"),
        PageText("A boat", "caption"), PageText("Three."), image("b"),
    )  # fmt: skip
    (candidate,) = interleaved(page, ORIGIN, "web", SETTINGS)
    assert words(candidate) == [
        ("heading", "Boats"), ("body", "One.\n\nTwo."), ("content", "a.jpg"), ("caption", "A boat"), ("body", "Three."),
        ("content", "b.jpg"),
    ]  # fmt: skip
    assert [m.alt for m in candidate.document.media] == ["A", None]
    assert candidate.requests == (
        MediaRequest("image", "http://site.example/a.jpg", URL),
        MediaRequest("image", "http://site.example/b.jpg", URL),
    )


def test_an_image_shown_again_stands_once() -> None:
    page = page_of(
        image("a"), PageText("One."), image("a", caption="Again"), PageText("Again", "caption"), PageText("Two.")
    )
    (candidate,) = interleaved(page, ORIGIN, "web", SETTINGS)
    assert words(candidate) == [("content", "a.jpg"), ("body", "One.\n\nTwo.")]


def test_no_interleaved_document_without_an_image() -> None:
    assert interleaved(page_of(PageText("One.")), ORIGIN, "web", SETTINGS) == []


def test_no_more_images_than_the_setting() -> None:
    page = page_of(*(image(str(n)) for n in range(5)))
    (candidate,) = interleaved(page, ORIGIN, "web", PageSettings(max_images=3))
    assert len(candidate.requests) == len(candidate.document.media) == 3


# Pairs


def test_a_pair_takes_the_caption_before_the_alt_text() -> None:
    page = page_of(image("a", alt="The alt", caption="The caption"), image("b", alt="Only alt"), image("c"))
    first, second = pairs(page, ORIGIN, "web", SETTINGS)
    assert words(first) == [("content", "a.jpg"), ("caption", "The caption")]
    assert words(second) == [("content", "b.jpg"), ("alt", "Only alt")]
    assert first.document.media[0].alt == "The alt"
    assert len(pairs(page, ORIGIN, "web", PageSettings(use_alt=False))) == 1


@pytest.mark.parametrize("caption", ["x y", "oneword", "w " * 501, "Figure 3.2.", "  "])
def test_a_poor_caption_gives_way_to_the_alt_text(caption: str) -> None:
    (candidate,) = pairs(page_of(image("a", alt="Good alt text", caption=caption)), ORIGIN, "web", SETTINGS)
    assert words(candidate)[1] == ("alt", "Good alt text")


@pytest.mark.parametrize("alt", ["IMG_0001.jpg", "photo", "", None])
def test_an_image_without_usable_words_makes_no_pair(alt: str | None) -> None:
    assert pairs(page_of(image("a", alt=alt)), ORIGIN, "web", SETTINGS) == []


def test_characters_count_as_words_where_no_spaces_are_written() -> None:
    (candidate,) = pairs(page_of(image("a", alt="海の上の船")), ORIGIN, "web", SETTINGS)
    assert words(candidate)[1] == ("alt", "海の上の船")


@pytest.mark.parametrize(
    ("caption", "kept"),
    [
        ("Figure 14.62. A boat at sea", "A boat at sea"),
        ("Figure A.20. A boat at sea", "A boat at sea"),
        ("Fig. 3a) A boat at sea", "A boat at sea"),
        ("Abbildung 3: Ein Boot auf See", "Ein Boot auf See"),
        ("Picture 4: A boat at sea", "A boat at sea"),
        ("Figure skating on ice", "Figure skating on ice"),
        ("Photo 3 of 9 boats", "Photo 3 of 9 boats"),
    ],
)
def test_the_number_of_a_figure_is_no_caption(caption: str, kept: str) -> None:
    page = page_of(image("a", caption=caption))
    assert words(pairs(page, ORIGIN, "web", SETTINGS)[0])[1] == ("caption", kept)
    assert words(pairs(page, ORIGIN, "web", PageSettings(strip_figure_numbers=False))[0])[1] == ("caption", caption)


def test_a_shared_caption_gives_way_to_an_alt_text_of_ones_own() -> None:
    page = page_of(image("a", alt="The red boat", caption="Two boats"), image("b", caption="Two boats"))
    assert [words(c)[1] for c in pairs(page, ORIGIN, "web", SETTINGS)] == [
        ("alt", "The red boat"),
        ("caption", "Two boats"),
    ]


def test_pairs_of_one_page_have_different_images() -> None:
    page = page_of(image("a"), image("b", alt="Another boat"), image("a", caption="The first boat"))
    found = pairs(page, ORIGIN, "web", SETTINGS)
    assert [words(c) for c in found] == [
        [("content", "a.jpg"), ("caption", "The first boat")],
        [("content", "b.jpg"), ("alt", "Another boat")],
    ]


# Grounded


def test_phrases_of_the_caption_get_their_boxes() -> None:
    caption = "Größe: A red circle left of two blue squares, a red circle."
    regions = (
        PageRegion("blue squares", BOX), PageRegion("blue squares", OTHER_BOX), PageRegion("a red circle", BOX),
        PageRegion("a red circle", OTHER_BOX), PageRegion("red", BOX), PageRegion("circles", BOX),
    )  # fmt: skip
    (candidate,) = grounded(page_of(image("a", caption=caption, regions=regions)), ORIGIN, "web", SETTINGS)
    segment = candidate.document.segments[1]
    assert (segment.text, segment.role, segment.origin) == (caption, "caption", "source")
    assert [(caption[r.start : r.end], r.start, r.box) for r in segment.regions] == [
        ("A red circle", 7, BOX),
        ("red", 9, BOX),
        ("blue squares", 32, BOX),
        ("blue squares", 32, OTHER_BOX),
        ("a red circle", 46, OTHER_BOX),
    ]
    assert {r.media for r in segment.regions} == {0}


def test_the_alt_text_serves_where_it_names_more() -> None:
    regions = (PageRegion("a red circle", BOX), PageRegion("a blue square", OTHER_BOX))
    page = page_of(image("a", caption="A red circle", alt="A red circle, a blue square", regions=regions))
    (candidate,) = grounded(page, ORIGIN, "web", SETTINGS)
    assert candidate.document.segments[1].text == "A red circle, a blue square"
    assert len(candidate.document.segments[1].regions) == 2


def test_names_make_a_caption_where_there_is_none() -> None:
    regions = (PageRegion("a red circle", BOX), PageRegion("a blue square", BOX), PageRegion("a red circle", OTHER_BOX))
    (candidate,) = grounded(page_of(image("a", caption="Shapes in a row", regions=regions)), ORIGIN, "web", SETTINGS)
    assert candidate.document.segments[1] == Segment(
        "text",
        text="a red circle; a blue square",
        role="caption",
        origin="derived",
        regions=(Region(0, 12, 0, BOX), Region(0, 12, 0, OTHER_BOX), Region(14, 27, 0, BOX)),
    )


def test_an_image_without_regions_is_not_grounded() -> None:
    assert grounded(page_of(image("a", caption="A red circle")), ORIGIN, "web", SETTINGS) == []


# Videos and text


def test_a_video_has_its_caption_first_and_its_tracks_asked_for() -> None:
    tracks = (Track("http://site.example/en.vtt", "en"),)
    video = PageVideo(("http://site.example/a.mp4", "http://site.example/a.webm"), tracks, "A boat sails", "Film")
    captioned, titled, tracked = videos(
        page_of(
            video,
            video,
            PageVideo(("http://site.example/b.mp4",), (), None, "Film"),
            PageVideo(("http://site.example/c.mp4",), tracks),
            PageVideo(("http://site.example/d.mp4",)),
        ),
        ORIGIN,
        "web",
        SETTINGS,
    )
    assert words(captioned) == [("caption", "A boat sails")]
    assert captioned.requests == (MediaRequest("video", "http://site.example/a.mp4", URL, tracks),)
    assert captioned.document.media == ()
    assert words(titled) == [("title", "Film")]
    assert words(tracked) == []


def test_text_is_headings_and_body_in_one_piece() -> None:
    page = page_of(
        PageText("Boats", "heading"),
        PageText("Figure 1", "title"),
        image("a"),
        PageText("A boat", "caption"),
        PageText("One.\n- two"),
    )
    (candidate,) = text(page, ORIGIN, "web", SETTINGS)
    assert candidate.document.segments == (Segment("text", text="Boats\n\nOne.\n- two"),)
    assert (candidate.document.media, candidate.requests) == ((), ())
    assert text(page_of(image("a")), ORIGIN, "web", SETTINGS) == []


# Provenance


def test_samples_tell_where_they_come_from() -> None:
    page = page_of(
        image("a", alt="A boat at sea"), image("b", alt="Another boat"), canonical_url="http://www.site.example/p"
    )
    _, candidate = pairs(page, ORIGIN, "web", SETTINGS)
    source = candidate.document.source
    assert (source.dataset, source.record, source.page_url) == ("web", f"{URL}#1", URL)
    assert source.canonical_url == "http://www.site.example/p"
    assert (source.crawl, source.warc_file, source.warc_offset, source.warc_length) == ("crawl", "a.warc.gz", 12, 345)
    assert candidate.document.signals == ORIGIN.signals
    assert Document.from_json(candidate.document.to_json()) == candidate.document


def test_keys_differ_by_kind_source_page_and_number_and_by_nothing_else() -> None:
    def keys(url: str, source: str, origin: PageOrigin) -> set[str]:
        page = page_of(PageText("One."), image("a", alt="A boat at sea"), image("b", alt="Another boat"), url=url)
        kinds = (interleaved, pairs, text)
        return {c.document.key for make in kinds for c in make(page, origin, source, SETTINGS)}

    assert keys(URL, "web", ORIGIN) == keys(URL, "web", PageOrigin())
    assert len(keys(URL, "web", ORIGIN) | keys(URL, "web2", ORIGIN) | keys(URL + "2", "web", ORIGIN)) == 12


def test_all_samples_of_a_page_share_a_group() -> None:
    page = page_of(PageText("One."), image("a", alt="A boat at sea"), canonical_url="http://www.site.example/p")
    groups = {
        c.document.build.dedup_group for make in (interleaved, pairs, text) for c in make(page, ORIGIN, "w", SETTINGS)
    }
    assert groups == {duplicate_group(page_of(url="http://www.site.example/p"))}
    elsewhere = page_of(canonical_url="http://other.example/")
    assert duplicate_group(elsewhere) == duplicate_group(page_of())


def test_stored_urls_carry_no_secrets_but_requests_work() -> None:
    signed = PageImage("http://site.example/a.jpg?X-Amz-Signature=abc&w=3", alt="A boat at sea")
    (candidate,) = pairs(page_of(signed, url=URL + "?token=abc"), ORIGIN, "web", SETTINGS)
    assert "abc" not in candidate.document.to_json()
    assert candidate.document.media[0].url == "http://site.example/a.jpg?w=3"
    assert candidate.requests[0].url == signed.url


def test_licences_are_spdx_ids_and_a_page_gives_none_to_its_images() -> None:
    by = "https://creativecommons.org/licenses/by/4.0/"
    licensed = image("a", alt="A boat at sea", license=by, license_evidence="figure:rel=license", credit="Kim")
    page = page_of(
        licensed, image("b", alt="Another boat", license="Ask the harbour", license_evidence="x"), image("c")
    )
    page = Page(**{f: getattr(page, f) for f in page.__slots__} | {"licenses": (License(by + "#", "a:rel=license"),)})
    (candidate,) = interleaved(page, ORIGIN, "web", SETTINGS)
    assert [(m.license, m.license_evidence, m.credit) for m in candidate.document.media] == [
        ("CC-BY-4.0", "figure:rel=license", "Kim"),
        ("Ask the harbour", "x", None),
        (None, "none-found", None),
    ]
    assert candidate.document.source.license == "CC-BY-4.0"


def test_images_in_the_page_are_known_by_their_hash() -> None:
    stream = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(stream, "png")
    inline = PageImage(None, stream.getvalue(), alt="A red square")
    (candidate,) = pairs(page_of(inline, inline), ORIGIN, "web", SETTINGS)
    digest = hashlib.sha256(stream.getvalue()).hexdigest()
    assert candidate.requests == (MediaRequest("image", None, URL, inline_sha256=digest),)
    assert candidate.inline == ((digest, stream.getvalue()),)
    assert (candidate.document.media[0].url, candidate.document.media[0].fetched_at) == (None, ORIGIN.fetched_at)


def test_a_page_gives_candidates_of_every_kind() -> None:
    html = """<html lang=en><main><h1>Shapes</h1><p>Literal [IMG] and &lt;s&gt; stay text.</p>
    <figure><img src=a.png width=100 height=50 usemap="#m" alt="Two shapes"><figcaption>A red circle and a blue square.
    </figcaption></figure><map name=m><area coords="10,10,30,30" alt="a red circle"><area coords="50,10,90,40"
    alt="a blue square"></map><figure><video src=v.mp4><track src=v.vtt srclang=en></video><figcaption>It moves.
    </figcaption></figure></main></html>"""
    page = parse_page(html.encode(), URL)
    found = [make(page, ORIGIN, "web", SETTINGS) for make in (interleaved, pairs, grounded, videos, text)]
    assert [len(candidates) for candidates in found] == [1, 1, 1, 1, 1]
    assert words(found[0][0])[1] == ("body", "Literal [IMG] and <s> stay text.")
    assert found[2][0].document.segments[1].regions == (
        Region(0, 12, 0, (0.1, 0.2, 0.3, 0.6)),
        Region(17, 30, 0, (0.5, 0.2, 0.9, 0.8)),
    )
