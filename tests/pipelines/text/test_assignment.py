"""Tests of assigning images to sentences: the result of brute force, and documents rebuilt accordingly."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from pipelines.document import Document, Media, Provenance, Region, Score, Segment, Signal
from pipelines.text.assignment import Interleaved, assign, interleave_by_assignment, sentences_of, split_sentences

NAN = math.nan
Image, Text = (lambda i: Segment("image", media=i, role="content")), (lambda t: Segment("text", t))


def brute_force(matrix: np.ndarray, least: float) -> tuple[int, float]:
    """Return the largest number of images with a sentence of their own, and their largest sum."""
    num_images, num_sentences = matrix.shape
    best = (0, 0.0)
    for chosen in itertools.product([None, *range(num_sentences)], repeat=num_images):
        own = [(i, j) for i, j in enumerate(chosen) if j is not None]
        if len({j for _, j in own}) == len(own) and all(matrix[i, j] >= least for i, j in own):
            best = max(best, (len(own), sum(matrix[i, j] for i, j in own)))
    return best


@settings(deadline=None)
@given(
    arrays(
        float,
        array_shapes(min_dims=2, max_dims=2, max_side=4),
        elements=st.sampled_from([NAN, -0.2, 0.0, 0.1, 0.15, 0.2, 0.25, 0.3])
        | st.floats(-1, 1).map(lambda x: round(x, 4)),
    ),
    st.sampled_from([-1.0, 0.0, 0.15]),
)
def test_assignment_is_that_of_brute_force(matrix: np.ndarray, least: float):
    found = assign(matrix, least)
    number, total = brute_force(matrix, least)
    own: dict[int, float] = {}
    for i, j in enumerate(found):
        fits = [x for x in matrix[i] if x >= least]
        assert (j is None) == (not fits)
        if j is not None:
            assert matrix[i, j] >= least
            own[j] = max(own.get(j, -2), matrix[i, j])
    assert len(own) == number
    # An image without a sentence of its own is put at its best one, perhaps with a larger value than the owner's.
    assert sum(own.values()) >= total - 1e-5


def test_sum_is_maximised_not_each_image():
    assert assign([[0.30, 0.29], [0.28, 0.05]]) == [1, 0]


def test_no_image_is_lost_to_a_sentence_that_does_not_fit():
    assert assign([[0.30, 0.10], [0.29, 0.05]], 0.15) == [0, 0]


def test_images_left_over_go_to_their_best_sentence():
    assert assign([[0.1, 0.2], [0.3, 0.1], [0.2, 0.4]]) == [1, 0, 1]
    assert assign([[0.2], [0.4], [0.3]]) == [0, 0, 0]


def test_what_is_unknown_or_too_low_never_matches():
    assert assign([[NAN, NAN], [0.3, NAN]]) == [None, 0]
    assert assign([[None, 0.2]], 0.1) == [1]
    assert assign([[0.14], [0.15]], 0.15) == [None, 0]
    assert assign([[NAN]]) == [None]


@pytest.mark.parametrize("shape", [(3, 3), (3, 7), (2, 40), (30, 100)])
def test_ties_keep_page_order(shape: tuple[int, int]):
    assert assign(np.full(shape, 0.3)) == list(range(shape[0]))


def test_nothing_to_assign():
    assert assign(np.zeros((0, 3))) == []
    assert assign(np.zeros((2, 0))) == [None, None]


@pytest.mark.parametrize(("matrix", "message"), [([0.1, 0.2], "1 dimensions"), ([[math.inf]], "infinite")])
def test_wrong_matrices_are_refused(matrix: list, message: str):
    with pytest.raises(ValueError, match=message):
        assign(matrix)


# --- sentences ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lang", "sentences"),
    [
        ("en", ["One red barn.", "Is it old?", "Yes!", "It stood in 1.5 acres..."]),
        (
            "en",
            [
                "Dr. J. R. Smith vs. Mr. Jones, e.g. in the U.S. Navy, sold No. 5 for $3.50 at 5 p.m. on Jan. 3.",
                "Then no.",
            ],
        ),
        ("en", ["“Stop!” he said.", "(It was late.)", "“Why?”", "She left."]),
        ("en", ["Visit www.example.com now.", "Use GIMP 2.10.34 instead."]),
        ("de", ["Am 3. Oktober kam z. B. Dr. Meier bzw. seine Frau.", "Sie blieb ca. 20 Tage."]),
        ("fr", ["Voici Mme. Dupont, cf. fig. 3.", "Elle part !", "« Oui. »"]),
        ("es", ["El Sr. Pérez llegó.", "¿Quién es?", "¡Hola!"]),
        ("zh", ["今天天气很好。", "我们去公园吧！", "“好的。”", "他说。"]),
        ("ja", ["「はい。」", "と言った。", "行きますか？"]),
        ("hi", ["यह एक घर है।", "वह बड़ा है।"]),
        (None, ["Plain text.", "Two."]),
    ],
)
def test_sentences_are_separated(lang: str | None, sentences: list[str]):
    separator = "" if lang in ("zh", "ja") else " "
    assert split_sentences(separator.join(sentences), lang) == sentences


def test_lines_end_sentences():
    assert split_sentences("A heading\n\n- one\n- two  \n\n") == ["A heading", "- one", "- two"]
    assert split_sentences(" \n ") == []


@pytest.mark.slow
@settings(deadline=None)
@given(st.text(alphabet=" .!?ab AB1\n。”", max_size=40), st.sampled_from(["en", "de", None]))
def test_sentences_hold_all_of_the_text(text: str, lang: str | None):
    assert "".join("".join(split_sentences(text, lang)).split()) == "".join(text.split())


@pytest.mark.timeout(60)  # quadratic would be minutes
@pytest.mark.parametrize("run", [".", ". ", " ", "\n", "。", ".'", "A.", "a"])
def test_long_runs_take_linear_time(run: str):
    assert split_sentences(run * (200_000 // len(run)) + "x")


# --- documents ------------------------------------------------------------------------------------------------------


def page(*segments: Segment, num_media: int = 0) -> Document:
    media = tuple(Media(f"https://a.example/{i}.jpg") for i in range(num_media))
    return Document("interleaved", "i0", segments, media, Provenance("test", "1"), lang="en")


PAGE = page(
    Image(0), Text("A red barn. A blue door. The sea."), Image(1), Text("Two gulls fly."), Image(2), num_media=3
)
SIMILARITY = [[0.1, 0.1, 0.1, 0.3], [0.3, 0.2, 0.1, 0.1], [0.1, 0.1, 0.1, 0.1]]


def test_images_stand_before_their_sentences():
    found = interleave_by_assignment(PAGE, SIMILARITY, min_similarity=0.15, origin="clip@1")
    assert found.document.segments == (
        Image(0),
        Text("A red barn. A blue door. The sea."),
        Image(1),
        Text("Two gulls fly."),
    )
    assert [m.url for m in found.document.media] == ["https://a.example/1.jpg", "https://a.example/0.jpg"]
    assert (found.places, found.dropped) == ((1, 0), (2,))
    assert found.document.scores == (
        Score("matched_sim", "media:0", 0.3, "clip@1"),
        Score("matched_sim", "media:1", 0.3, "clip@1"),
    )


def test_images_stand_after_their_sentences_and_cut_the_text():
    found = interleave_by_assignment(PAGE, SIMILARITY, side="after", min_similarity=0.15)
    assert found.document.segments == (
        Text("A red barn."),
        Image(0),
        Text("A blue door. The sea.\n\nTwo gulls fly."),
        Image(1),
    )


def test_images_of_one_sentence_keep_page_order():
    document = page(Image(0), Image(1), Text("A barn."), num_media=2)
    assert interleave_by_assignment(document, [[0.2], [0.3]]).document.segments == (
        Image(0),
        Image(1),
        Text("A barn."),
    )


def test_headings_and_paragraphs_stay_what_they_are():
    heading = Segment("text", "The barn", role="heading")
    document = page(heading, Text("One. Two.\n\nThree."), Image(0), num_media=1)
    assert sentences_of(document) == ["The barn", "One.", "Two.", "Three."]
    found = interleave_by_assignment(document, [[0, 0, 0.3, 0]]).document
    assert found.segments == (heading, Text("One."), Image(0), Text("Two.\n\nThree."))


def test_grounded_text_is_not_cut_and_its_regions_follow():
    regions = (Region(0, 6, 1, (0, 0, 1, 1)), Region(7, 12, 0, (0, 0, 1, 1)))
    grounded = Segment("text", "A barn. A door.", regions=regions)
    document = page(Image(0), grounded, Image(1), num_media=2)
    found = interleave_by_assignment(document, [[NAN, NAN], [0.1, 0.3]], side="after").document
    assert found.segments == (replace(grounded, regions=(replace(regions[0], media=0),)), Image(0))


def test_signals_and_scores_follow_their_images():
    document = replace(
        PAGE,
        signals=(Signal("robots", "page", ""), Signal("license", "media:1", "x"), Signal("license", "media:2", "y")),
        scores=(
            Score("blur", "media:0", 5.0, "a"),
            Score("len", "segment:1", 1.0, "b"),
            Score("q", "document", 1.0, "c"),
        ),
    )
    found = interleave_by_assignment(document, SIMILARITY, min_similarity=0.15).document
    assert found.signals == (Signal("robots", "page", ""), Signal("license", "media:0", "x"))
    assert found.scores[:2] == (Score("blur", "media:1", 5.0, "a"), Score("q", "document", 1.0, "c"))


def test_page_without_text_loses_its_images():
    document = page(Image(0), num_media=1)
    assert interleave_by_assignment(document, []) == Interleaved(page(), (), (0,))


def test_similarity_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"document i0: similarity is \(3, 3\), not \(3, 4\)"):
        interleave_by_assignment(PAGE, np.zeros((3, 3)))
