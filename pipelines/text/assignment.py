"""Assignment of images to sentences: MMC4's linear assignment (arXiv:2304.06939), as an alternative to page order.

Each sentence takes at most one image, so that the sum of similarities is largest; the remaining images go to their
best sentence. An image that fits no sentence well enough is dropped.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from pipelines.document import Document, Score, Segment, merge_text, with_media
from pipelines.drop_reasons import Reason

UNMATCHED: Reason = "image_without_sentence"
"""Reason to drop an image: no sentence of its page is similar enough."""

SIMILARITY = "matched_sim"
"""Score of an image with its assigned sentence."""

_TIE = 1e-6  # the most that page order may cost in the sum of similarities, which have 4 decimals


def assign(similarity: ArrayLike, min_similarity: float | None = None) -> list[int | None]:
    """Return the sentence of each image.

    As many images as possible get a sentence of their own, by the assignment with the largest sum of similarities;
    among equal ones earlier images go to earlier sentences. The other images share: each goes to its best sentence, the
    first of equal ones. (MMC4's minimum similarity is 0.15, of CLIP ViT-L/14.)

    Args:
        similarity: Images x sentences, in page order; NaN or None never matches.
        min_similarity: Lower values never match; None: all match.

    Returns:
        For each image a sentence, or None if nothing matches.

    Raises:
        ValueError: If `similarity` is not a matrix or contains an infinite number.
    """
    from scipy.optimize import linear_sum_assignment  # slow, and needed only here

    matrix = np.asarray(similarity, dtype=float)
    if matrix.ndim != 2 and matrix.size:
        raise ValueError(f"similarity has {matrix.ndim} dimensions; expected two, images x sentences")
    if np.isinf(matrix).any():
        raise ValueError("similarity contains an infinite number")
    if matrix.size == 0:
        return [None] * len(matrix)
    matches = ~np.isnan(matrix)
    if min_similarity is not None:
        matches &= matrix >= min_similarity
    if not matches.any():
        return [None] * len(matrix)
    num_images, num_sentences = matrix.shape
    # A match outweighs any similarity: first the number of matches counts, then their sum. The sum of squared distances
    # from the diagonal is smallest if order is kept.
    span = matrix[matches].max() - matrix[matches].min() + 1.0
    places = (np.arange(num_images)[:, None] - np.arange(num_sentences)) ** 2
    tie = _TIE / (min(matrix.shape) * max(places.max(), 1))
    value = np.where(matches, matrix - matrix[matches].min() + (min(matrix.shape) + 1) * span - tie * places, 0.0)
    own = {
        int(image): int(sentence)
        for image, sentence in zip(*linear_sum_assignment(value, maximize=True), strict=True)
        if matches[image, sentence]
    }
    best = np.where(matches, matrix, -np.inf).argmax(axis=1)
    return [own.get(i, int(best[i]) if matches[i].any() else None) for i in range(num_images)]


# --- sentences ------------------------------------------------------------------------------------------------------

_END = re.compile(
    r"(?P<cjk>[。！？｡]+[」』”’）]*)"  # needs no space after it
    r"|(?P<latin>(?:(?<![.!?…])[.!?…]++|[।۔؟])[\"'”’»)\]]*+(?:[ \u00a0\u202f]»)?)(?=\s|\Z)"
    r"|\n+"
)
_OPENING = "\"'“‘«(["
_WORD_BEFORE = re.compile(r"[^\s\"'“‘«(\[]+$")  # only ever searched for in a few characters
_INITIALS = re.compile(r"(?:\w\.)+\w")  # U.S, z.B, p.m
_ABBREVIATIONS = {
    "en": "mr mrs ms dr prof rev hon st sr jr vs etc cf al fig figs nos vol pp sec eq approx est inc ltd co corp jan "
    "feb mar apr jun jul aug sep sept oct nov dec mt ave dept gen capt lt sgt gov sen rep eds",
    "de": "dr prof hr fr bzw usw etc ca vgl abb bd nr abs art str tel jh jhd geb gest inkl evtl ggf sog min mio mrd",
    "fr": "mm mme mmes mlle dr pr st ste pp fig vol av env etc cf ex chap éd hab",
    "es": "sr sra srta dr dra dña prof ud uds pág págs fig núm vol av etc ej aprox cap ed",
    "it": "sig dott dr prof avv ing pag pagg fig vol ecc cfr cap ed",
    "pt": "sr sra dr dra prof profa pág págs fig núm vol av etc ex aprox cap ed",
    "nl": "dhr mevr mw dr prof ir ing bijv bv enz etc ca blz fig nr vgl jl",
}
_ABBREVIATIONS_OF = {lang: frozenset(words.split()) for lang, words in _ABBREVIATIONS.items()}


def split_sentences(text: str, lang: str | None = None) -> list[str]:
    """Split a text into sentences without surrounding space; a line end also ends a sentence.

    Full stops do not end a sentence inside numbers and names, after initials and abbreviations of the language (of
    English if it has no list), and before a lower-case letter.
    """
    return [text[start:end] for start, end in _sentence_spans(text, lang)]


def _sentence_spans(text: str, lang: str | None) -> list[tuple[int, int]]:
    spans = []
    start = 0
    for match in _END.finditer(text):
        if match["latin"] is not None and not _ends(text, match, lang):
            continue
        spans.append((start, match.end()))
        start = match.end()
    spans.append((start, len(text)))
    trimmed = []
    for start, end in spans:
        piece = text[start:end]
        start += len(piece) - len(piece.lstrip())
        end = start + len(piece.strip())
        if start < end:
            trimmed.append((start, end))
    return trimmed


def _ends(text: str, match: re.Match[str], lang: str | None) -> bool:
    """Return whether punctuation that may end a sentence does."""
    follows = text[match.end() : match.end() + 40].lstrip().lstrip(_OPENING)[:1]
    if follows.islower():
        return False
    if match["latin"] != ".":
        return True
    before = _WORD_BEFORE.search(text, max(match.start() - 40, 0), match.start())
    word = before[0] if before else ""
    if (len(word) == 1 and word.isalpha() and word != "I") or _INITIALS.fullmatch(word):
        return False  # J. R. R. Tolkien, z. B.
    if lang == "de" and word.isdigit() and len(word) <= 2:
        return False  # am 3. Oktober
    if word.lower() in ("no", "p", "n", "art") and follows.isdigit():
        return False  # No. 5
    abbreviations = _ABBREVIATIONS_OF.get(lang or "en", _ABBREVIATIONS_OF["en"])
    return word.lower() not in abbreviations


# --- documents ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Interleaved:
    """A reordered document. `places` are the old indices of its images, in their new order; `dropped` the others'."""

    document: Document
    places: tuple[int, ...]
    dropped: tuple[int, ...]


def sentences_of(document: Document) -> list[str]:
    """Return all sentences of a document, segment by segment: the columns of its similarity matrix."""
    return [s for g in document.segments if g.text is not None for s in split_sentences(g.text, document.lang)]


def interleave_by_assignment(
    document: Document,
    similarity: ArrayLike,
    *,
    side: Literal["before", "after"] = "before",
    min_similarity: float | None = None,
    origin: str = "derived",
) -> Interleaved:
    """Return the document with each image next to its sentence instead of its position on the page.

    Text keeps its order and is split where an image is inserted, except text with times or regions, which gets images
    only at its ends. Media are renumbered in their new order; scores of segments are dropped, as the segments change.

    Args:
        document: Interleaved.
        similarity: Media of the document x `sentences_of(document)`; a row of NaN drops its image.
        side: Where an image is put, before or after its sentence.
        min_similarity: Images without a sentence of this similarity are dropped; None: only those with NaN.
        origin: Id of the model that computed the similarity, for the score `matched_sim`.

    Raises:
        ValueError: If `similarity` is of another shape.
    """
    matrix = np.asarray(similarity, dtype=float)
    num_media, num_sentences = len(document.media), len(sentences_of(document))
    if num_media and num_sentences and matrix.shape != (num_media, num_sentences):
        raise ValueError(f"document {document.key}: similarity is {matrix.shape}, not {(num_media, num_sentences)}")
    shown = {s.media: s for s in reversed(document.segments) if s.media is not None}  # the first segment of each
    chosen = assign(matrix, min_similarity) if num_sentences else [None] * num_media
    images: dict[int, list[int]] = {}
    for media, sentence in enumerate(chosen):
        if sentence is not None:
            images.setdefault(sentence, []).append(media)
    segments: list[Segment] = []
    first = 0
    for segment in document.segments:
        if segment.text is None:
            continue
        spans = _sentence_spans(segment.text, document.lang)
        here = {i: images[first + i] for i in range(len(spans)) if first + i in images}
        segments += _around(segment, spans, here, shown, side)
        first += len(spans)
    places = tuple(s.media for s in segments if s.media is not None)
    dropped = tuple(i for i, sentence in enumerate(chosen) if sentence is None)
    best = [float(matrix[i, chosen[i]]) for i in places]
    scores = [Score(SIMILARITY, f"media:{new}", value, origin) for new, value in enumerate(best)]
    found = with_media(document, merge_text(tuple(segments)), places)
    return Interleaved(replace(found, scores=(*found.scores, *scores)), places, dropped)


def _around(
    segment: Segment,
    spans: Sequence[tuple[int, int]],
    images: dict[int, list[int]],
    shown: dict[int, Segment],
    side: Literal["before", "after"],
) -> list[Segment]:
    """Return a text segment with the images of its sentences."""
    assert segment.text is not None
    is_whole = bool(segment.regions) or segment.t0 is not None
    result: list[Segment] = []
    start = 0
    for i in sorted(images):
        cut = spans[i][0] if side == "before" else spans[i][1]
        cut = (0 if side == "before" else len(segment.text)) if is_whole else cut
        if text := segment.text[start:cut].strip():
            result.append(segment if is_whole else replace(segment, text=text))
        start = max(cut, start)
        result += [shown.get(media, Segment("image", media=media, role="content")) for media in images[i]]
    if text := segment.text[start:].strip():
        result.append(segment if is_whole else replace(segment, text=text))
    return result
