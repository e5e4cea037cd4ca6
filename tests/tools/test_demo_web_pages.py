"""Tests of the demo web's pages: their number and languages, and that held-out pairs stay in held-out pages."""

import html
import io
import json
import re

import av
import numpy as np
import pytest

from pipelines.document import Document, Provenance, Segment
from pipelines.spec import Filters
from pipelines.text.judging import judge_text
from pipelines.text.language import LanguageSettings, identify
from pipelines.video.subtitles import parse_subtitles
from tools.demo_web.albums import album
from tools.demo_web.cinema import clip, rolling_captions, subtitles, video_bytes
from tools.demo_web.galleries import figures
from tools.demo_web.library import text
from tools.demo_web.maps import chart
from tools.demo_web.scene import COLOURS, HELD_OUT, POSITIONS, SEEN, SHAPES, attributes_of
from tools.demo_web.server import sites
from tools.demo_web.site import ADDRESSES, Web
from tools.demo_web.talks import ASKED, talk_of
from tools.demo_web.trap_texts import RUINED_TEXTS
from tools.demo_web.wording import NUMBERS

WEB = Web()
PAIR = re.compile(rf"\b({'|'.join(COLOURS)})\s+({'|'.join(SHAPES)})(?:e?s)?\b", re.IGNORECASE)


@pytest.fixture(scope="module")
def by_name():
    return {site.name: site for site in sites(WEB).values()}


def words_of(page):
    body = re.sub(r"<(script|style)[^>]*>.*?</\1>", lambda m: m[0] if "ld+json" in m[0] else " ", page.body.decode())
    attributes = " . ".join(re.findall(r'alt="([^"]*)"', body))
    return html.unescape(re.sub(r"<[^>]+>", " . ", body) + attributes)


def pairs_of(page):
    return {(colour.lower(), shape.lower()) for colour, shape in PAIR.findall(words_of(page))}


def test_there_are_pages_of_every_kind_in_every_split(by_name):
    counts = {name: site.counts for name, site in by_name.items() if site.counts}
    assert counts == {
        "albums": {"albums": 1450, "held-out/a": 30, "held-out/b": 30},
        "galleries": {"galleries": 300, "held-out/a": 10, "held-out/b": 10},
        "maps": {"maps": 120, "annotated": 70, "held-out/a": 16, "held-out/b": 16},
        "cinema": {"clips": 380, "held-out/a": 20, "held-out/b": 20},
        "library": {"en": 820, "de": 120, "fr": 120, "es": 120},
    }


def test_there_are_ten_thousand_images(by_name):
    counts = by_name["albums"].counts.items()
    keys = [
        (f"{folder}/{n:04}", folder.startswith("held-out/")) for folder, count in counts for n in range(1, count + 1)
    ]
    plates = [len(album(0, key, held_out=held_out).plates) for key, held_out in keys]
    assert {2, 3, 4, 5} == set(plates)
    galleries, maps = (sum(by_name[name].counts.values()) for name in ("galleries", "maps"))
    assert sum(plates) + 12 * galleries + 4 * maps + by_name["maps"].num_grit_rows > 10_000


@pytest.mark.slow
def test_held_out_pairs_stand_on_their_own_pages_and_nowhere_else(by_name):
    num_checked = 0
    for site in (by_name[name] for name in ("albums", "galleries", "maps", "cinema", "library")):
        for path in site.paths():
            if int(path[-9:-5]) % 5 == 0 or path.startswith("/held-out/"):
                found = pairs_of(site.answer(path))
                assert not found & set(SEEN if path.startswith("/held-out/") else HELD_OUT), path
                num_checked += 1
    assert num_checked > 700
    for row in by_name["maps"].answer("/grit/boxes.jsonl").body.decode().splitlines():
        assert not {(c, s) for c, s in PAIR.findall(json.loads(row)["caption"].lower())} & set(HELD_OUT)


@pytest.mark.parametrize("held_out", [False, True])
def test_images_show_held_out_pairs_only_where_they_may(held_out):
    folder = "held-out/a" if held_out else "x"
    items = []
    for n in range(200):
        key = f"{folder}/{n:04}"
        items += [i for plate in album(0, key, held_out=held_out).plates for i in plate.scene.items]
        items += [i for figure in figures(WEB, key, held_out=held_out) for i in figure.scene.items]
        items += chart(WEB, key, held_out=held_out).scene.items
        items += clip(WEB, key, held_out=held_out).states
    assert {(item.colour, item.shape) for item in items} == set(HELD_OUT if held_out else SEEN)


def test_an_albums_words_fit_its_images():
    for n in range(300):
        told = album(0, f"albums/{n:04}", held_out=False)
        before = ""
        for block in told.blocks:
            if isinstance(block, str):
                before = block
                continue
            if len(block.scene.items) == 1 and (
                shown := re.search(r"[^.?]*\b(a|an) (small|large) [^.?]*$", before[:-1])
            ):
                item = block.scene.items[0]
                assert attributes_of(shown[0]) == {
                    "colour": item.colour,
                    "shape": item.shape,
                    "size": item.size,
                    "position": item.position,
                }


def test_pages_are_in_the_language_that_they_say(by_name):
    told = {lang: [" ".join(text(WEB, f"{lang}/{n:04}", lang).paragraphs) for n in range(1, 60)] for lang in TITLES}
    told["en"] += [
        " ".join(b for b in album(0, f"albums/{n:04}", held_out=False).blocks if isinstance(b, str)) for n in range(200)
    ]
    for lang, texts in told.items():
        found = identify(texts)
        assert {language.code for language in found} == {lang}
        assert min(language.score for language in found) > 0.9


TITLES = ("en", "de", "fr", "es")


def judged(paragraphs, kind):
    segments = tuple(Segment("text", text=paragraph) for paragraph in paragraphs)
    document = Document(key="t0", kind=kind, source=Provenance("demo", "r"), segments=segments, media=())
    return judge_text(document, Filters(language=LanguageSettings(languages=TITLES)), kind)


def test_prose_passes_the_rules_of_its_kind():
    for n in range(1, 60):
        assert isinstance(judged(text(WEB, f"en/{n:04}", "en").paragraphs, "text"), Document)
        blocks = album(0, f"albums/{n:04}", held_out=False).blocks
        assert isinstance(judged([b for b in blocks if isinstance(b, str)], "interleaved"), Document)


@pytest.mark.parametrize("name", sorted(RUINED_TEXTS.keys() - {"braces"}))  # refused only by C4's rules
def test_ruined_text_is_refused_for_its_reason(name):
    reasons, paragraphs = RUINED_TEXTS[name]
    assert judged(("A text", *paragraphs), "text").reason in reasons


def test_texts_do_not_resemble_each_other():
    def shingles(n):
        words = " ".join(text(WEB, f"en/{n:04}", "en").paragraphs).lower().split()
        return {tuple(words[i : i + 5]) for i in range(len(words) - 4)}

    sets = [shingles(n) for n in range(1, 120)]
    assert max(len(a & b) / len(a | b) for i, a in enumerate(sets) for b in sets[:i]) < 0.4


def test_boxes_name_phrases_of_their_captions(by_name):
    rows = [json.loads(row) for row in by_name["maps"].answer("/grit/boxes.jsonl").body.decode().splitlines()]
    assert len(rows) == 420
    for row in rows:
        for start, end, x0, y0, x1, y1, score in row["noun_chunks"]:
            assert attributes_of(row["caption"][start:end]).keys() == {"colour", "shape", "size"}
            assert 0 <= x0 < x1 <= 1
            assert 0 <= y0 < y1 <= 1
            assert score == 0.9


@pytest.mark.parametrize("extension", ["mp4", "webm"])
def test_a_film_shows_what_is_said_second_by_second(extension):
    shown = clip(WEB, "clips/0001", held_out=False)
    data = video_bytes(WEB, "clips/0001", False, extension)
    with av.open(io.BytesIO(data)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 8 * len(shown.states)
    for second, state in enumerate(shown.states):
        away = np.linalg.norm(frames[8 * second + 1].astype(float) - np.array(COLOURS[state.colour]), axis=2)
        ys, xs = np.nonzero(away < 70)
        column, row = POSITIONS[state.position]
        assert np.allclose([xs.mean() / 64, ys.mean() / 64], [0.23 + 0.27 * column, 0.23 + 0.27 * row], atol=0.07)
    assert len(data) < 20_000


def test_subtitles_of_both_kinds_give_the_same_words():
    shown = clip(WEB, "clips/0001", held_out=False)
    plain, rolling = (parse_subtitles(f(shown).encode()) for f in (subtitles, rolling_captions))
    assert rolling.is_rolling
    assert not plain.is_rolling
    assert [c.text.lower().rstrip(".") for c in plain.cues] == [c.text for c in rolling.cues] == list(shown.lines)


def test_films_are_told_in_all_three_ways():
    told = [clip(WEB, f"clips/{n:04}", held_out=False).told_by for n in range(1, 381)]
    assert {way: told.count(way) > 30 for way in set(told)} == {"cues": True, "rolling": True, "caption": True}


def test_every_site_has_an_address_of_its_own(by_name):
    assert by_name.keys() == ADDRESSES.keys()
    assert len(set(ADDRESSES.values())) == len(ADDRESSES)


# --- the talks ------------------------------------------------------------------------------------------------------


def rows_of(name: str, web: Web = WEB) -> list[dict[str, object]]:
    return [json.loads(line) for line in sites(web)[ADDRESSES["talks"]].answer(f"/{name}.jsonl").body.splitlines()]


@pytest.mark.parametrize("asked", ASKED)
def test_every_answer_follows_from_what_its_image_shows(asked: str):
    answers = []
    for number, row in enumerate(rows_of(asked), 1):
        (scene,) = talk_of(WEB, asked, number).scenes.values()
        question, answer = (turn["value"] for turn in row["conversations"])
        assert question.startswith("<image>\n")
        named = attributes_of(question.removeprefix("<image>\n"))
        found = [item for item in scene.items if all(getattr(item, k) == v for k, v in named.items() if k != "size")]
        if asked == "count":
            assert answer == NUMBERS[len(scene.items)]
        else:
            assert [getattr(item, asked) for item in found] == [answer]  # and no other item is meant
        answers.append(answer)
    most = max(map(answers.count, set(answers))) / len(answers)
    assert most < 1.6 / len(set(answers))  # none is so frequent that guessing would do


def test_an_edit_changes_the_one_thing_that_it_names():
    for number, row in enumerate(rows_of("edits"), 1):
        scenes = talk_of(WEB, "edits", number).scenes
        (before,), (after,) = scenes[""].items, scenes["-after"].items
        changed = [
            name for name in ("colour", "shape", "size", "position") if getattr(before, name) != getattr(after, name)
        ]
        asked = attributes_of(row["conversations"][0]["value"])
        assert len(changed) == 1
        assert asked[changed[0]] == getattr(after, changed[0])
        assert (scenes[""].background, scenes[""].variation) == (
            scenes["-after"].background,
            scenes["-after"].variation,
        )


def test_a_subject_is_shown_alone_and_drawn_in_another_scene():
    places = set()
    for number, row in enumerate(rows_of("subjects"), 1):
        talk = talk_of(WEB, "subjects", number)
        (shown,), (wanted,) = talk.scenes[""].items, talk.scenes["-after"].items
        assert (shown.colour, shown.shape) == (wanted.colour, wanted.shape)
        assert talk.scenes[""].variation != talk.scenes["-after"].variation
        asked = attributes_of(row["conversations"][0]["value"])
        assert asked == {"size": wanted.size, "position": wanted.position}  # the rest is only in the image
        places.add(wanted.position != shown.position)
    assert places == {True, False}
    cut, whole = talk.picture(""), talk.picture("-after")
    assert cut.shape[0] == cut.shape[1] != whole.shape[0]
    rows, _, _ = np.nonzero((cut < 255).any(-1, keepdims=True))
    assert rows.max() - rows.min() > 40  # pixels of the subject, which its square holds entirely
    assert talk.picture("-other") is None


def test_the_talks_images_are_served_and_nothing_else_is():
    site = sites(WEB)[ADDRESSES["talks"]]
    for name in ("colour", "edits", "boxes", "subjects"):
        for url in rows_of(name)[0]["image"]:
            assert site.answer(url.partition(":8700")[2]).content_type == "image/jpeg"
    for path in ("/colour/0000.jpg", "/colour/9999.jpg", "/colour/0001-after.jpg", "/other.jsonl", "/other/0001.jpg"):
        assert site.answer(path).status == 404
