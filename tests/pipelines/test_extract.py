"""Tests of extract: the pages that become candidates, one per canonical URL, if licence and signals allow it."""

from dataclasses import replace
from typing import Any

import pytest

from pipelines.candidate import MediaRequest, requests_of
from pipelines.crawling.fetched_pages import PagePlace
from pipelines.crawling.ledger import LedgerRow
from pipelines.document import Document, Drop, Provenance, Signal
from pipelines.extract import _Duplicate, _duplicates
from pipelines.pages.blocks import SkippedElement
from pipelines.part_candidates import PartCandidates, element_drop
from pipelines.spec import CorpusSpec
from pipelines.web.permission import UNASKED
from tests.pipelines.stage_records import candidate, document, image, spec, text

OWN = "https://a.example/x"
WORDS = "The harbour was quiet and the lantern was golden, and nobody knew who had lit it in the night."


def dropped(*places: PagePlace, own: str = OWN) -> list[tuple[str, _Duplicate]]:
    return list(_duplicates((f"web {own}", places)))


def test_the_page_at_its_own_address_is_kept_then_the_nearest_to_a_seed():
    near, own = PagePlace(0, "https://a.example/x?print=1", "t1", 5), PagePlace(3, OWN, "t2", 7)
    other = PagePlace(1, "https://a.example/x?s=2", "t0", 9)
    assert dropped(near, own) == [("t1", _Duplicate(5, OWN))]
    assert dropped(near, other) == [("t0", _Duplicate(9, "https://a.example/x?print=1"))]
    assert dropped(own) == []


def test_of_captures_of_one_url_one_is_kept_whatever_their_order():
    places = [PagePlace(0, OWN, task, offset) for task, offset in (("t1", 0), ("t1", 90), ("t0", 40))]
    expected = [("t1", _Duplicate(0, OWN)), ("t1", _Duplicate(90, OWN))]
    assert dropped(*places) == dropped(*reversed(places)) == expected


def test_a_drop_shows_where_its_text_came_from_and_how_it_begins_masked():
    found = PartCandidates(spec({"x": {"kind": "text"}}))
    refused = document("text", text(f"Write to anna.berg@posteo.example today. {WORDS * 9}"))
    found.add("x", [replace(candidate(refused), record="list.jsonl 12")])
    (drop,) = found.tally.drops
    assert (drop.stage, drop.unit, drop.key, drop.record) == ("extract", "document", refused.key, "list.jsonl 12")
    assert drop.excerpt.startswith("Write to <EMAIL> today. The harbour")
    assert len(drop.excerpt) == 500


def test_an_excerpt_is_not_masked_where_samples_are_not():
    found = PartCandidates(spec({"x": {"kind": "text", "filters": {"mask_personal_data": False}}}))
    found.add("x", [candidate(document("text", text("Write to anna.berg@posteo.example")))])
    (drop,) = found.tally.drops
    assert drop.excerpt == "Write to anna.berg@posteo.example"


def test_the_drop_of_an_element_has_its_own_address_without_secrets():
    row = LedgerRow("https://a.example/p?token=s", 0, "fetched", warc="a.warc.gz", offset=7)
    drop = element_drop("web", row, SkippedElement("small_image", "https://a.example/i.png?sig=s&w=9"))
    assert (drop.unit, drop.reason, drop.record) == ("element", "small_image", "a.warc.gz 7")
    assert (drop.url, drop.page_url) == ("https://a.example/i.png?w=9", "https://a.example/p")
    assert element_drop("web", row, SkippedElement("canvas")).url is None


def test_what_a_list_loses_of_a_row_is_counted_beside_what_it_keeps():
    folder = {"kind": "video", "input": {"format": "storyboard", "files": ["x.mhtml"]}}
    policy = {"user_agent": "Dromaius (mail@example.org)"}
    found = PartCandidates(spec({"x": folder, "pages": {"kind": "text"}}, policy=policy))
    lost = Drop(source="x", stage="extract", reason="malformed_cue", unit="cue", excerpt="call 0171-5550199 now")
    spoken = text(WORDS, t0=1.0, t1=2.0, role="subtitle")
    found.add("x", [lost, candidate(document("video", image(0), spoken, image(1), num_media=2))])
    assert [drop.excerpt for drop in found.tally.drops] == ["call <PHONE> now"]
    counts = {c.unit: (c.kept, c.dropped) for c in found.tally.counts()}
    assert counts["element"] == (2, {})
    assert counts["track"] == (1, {})
    assert counts["cue"] == (1, {"malformed_cue": 1})


def free(kind: str, **policy: object) -> CorpusSpec:
    return spec({"x": {"kind": kind, "filters": {"text": {"min_words": 1}}}}, policy=policy)


def reasons(given: CorpusSpec, license: str | None, kind: str) -> list[str]:
    shown = (image(0),) if kind == "pair" else ()
    made = document(kind, *shown, text(WORDS), num_media=len(shown))
    found = PartCandidates(given)
    source = Provenance("x", "1", page_url="http://127.0.0.1:8000/1", license=license)
    found.add("x", [candidate(replace(made, source=source))])
    assert len(found.rows) + len(found.tally.drops) == 1
    return [drop.reason for drop in found.tally.drops]


@pytest.mark.parametrize(
    ("kind", "license", "expected"),
    [
        ("text", "CC-BY-4.0", []),
        ("text", "CC-BY-NC-4.0", ["license_not_allowed"]),
        ("text", None, ["license_not_allowed"]),
        ("pair", None, []),  # its image has its own licence, known only when fetched
    ],
)
def test_a_pages_words_need_an_allowed_licence(kind: str, license: str | None, expected: list[str]):
    assert reasons(free(kind, licenses=["CC-BY-4.0"]), license, kind) == expected
    assert reasons(free(kind), license, kind) == []


ROBOTS = Signal("robots.txt", "page", "HTTP 404", "2026-01-01T00:00:00Z", "http://a.example/robots.txt")
NOT_ASKED = Signal("robots.txt", "page", UNASKED, None, "http://a.example/robots.txt")
OF_IMAGE = replace(ROBOTS, target="media:0")


@pytest.mark.parametrize("kind", ["video", "pair", "text", "interleaved"])
@pytest.mark.parametrize(
    ("asks", "signals", "is_asked"),
    [
        ("nobody", (), False),
        ("nobody", (ROBOTS,), False),
        ("unasked", (), True),
        ("unasked", (ROBOTS,), False),
        ("unasked", (NOT_ASKED,), True),  # built by another policy
        ("unasked", (OF_IMAGE,), True),
        ("all", (ROBOTS,), True),
    ],
)
def test_a_page_that_others_fetched_is_asked_for_whatever_its_kind(
    kind: str, asks: Any, signals: tuple[Signal, ...], is_asked: bool
):
    """The frames of a storyboard or of a video in a tar are taken from a page just like an image."""
    media = () if kind == "text" else (image(0),)
    made = document(kind, *media, text(WORDS), num_media=len(media), signals=signals)
    made = replace(made, source=Provenance("x", "1", page_url="http://a.example/1"))
    given = replace(candidate(made), requests=(MediaRequest("image", None, inline_sha256="0" * 64),) * len(media))
    for policy in ("asked", "unasked"):
        found = PartCandidates(free(kind, robots_of_others=policy, user_agent="Test (mail@example.org)"))
        found.add("x", [given], asks=asks)
        (row,) = found.rows
        types = [request.type for request in requests_of(row["requests"])]
        kept = Document.from_json(row["document"])
        assert types == ["image"] * len(media) + ["site"] * (is_asked and policy == "asked")
        if not is_asked:
            assert kept.signals == signals
        elif policy == "asked":
            assert kept.signals == tuple(s for s in signals if s != NOT_ASKED), (
                "what is asked now is not called unasked"
            )
        else:
            assert [s for s in kept.signals if s.value == UNASKED] == [NOT_ASKED]


def test_a_video_that_is_to_be_fetched_is_asked_for_itself():
    made = replace(document("video", text(WORDS)), source=Provenance("x", "1", page_url="http://a.example/1"))
    given = replace(candidate(made), requests=(MediaRequest("video", "http://a.example/v.mp4"),))
    found = PartCandidates(free("video"))
    found.add("x", [given], asks="unasked")
    (row,) = found.rows
    assert [request.type for request in requests_of(row["requests"])] == ["video"]


@pytest.mark.parametrize(("format_", "kind"), [("storyboard", "video"), ("webdataset", "video"), ("video_list", None)])
def test_a_spec_says_whether_pages_of_others_are_asked_for(format_: str, kind: str | None):
    source = {"kind": "video", "input": {"format": format_, "files": ["x"]}}
    tree = {"user_agent": "Test (mail@example.org)"}
    assert spec({"x": source, "y": {"kind": "text"}}, policy=tree).asks_for_others is (kind is not None)
