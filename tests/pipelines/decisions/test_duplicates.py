"""Tests of duplicates: equal and similar records are found, with as few edges as possible, limited only by settings."""

import itertools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipelines.decisions.duplicates import (
    EXACT,
    IMAGE,
    SEMANTIC,
    TEXT,
    ClusterMember,
    Duplicate,
    DuplicateSettings,
    Fingerprint,
    Member,
    band_rows,
    choose_kept,
    connected_components,
    estimate_jaccard,
    link_band,
    minhash,
    read_band_key,
)
from pipelines.drop_reasons import DUPLICATES

SETTINGS = DuplicateSettings(max_phash_distance=5)
VOCABULARY = [f"word{i}" for i in range(2_000)]


def clusters_of(fingerprints: list[Fingerprint], settings: DuplicateSettings = SETTINGS) -> dict[str, str]:
    """Find clusters in a loop, as find_duplicates.py does in Beam."""
    bands: dict[bytes, list[tuple[str, bytes]]] = {}
    for fingerprint in fingerprints:
        for key, member in band_rows(fingerprint, settings):
            bands.setdefault(key, []).append(member)
    edges = (edge for key, members in bands.items() for edge in link_band(key, members, settings))
    return dict(connected_components(edges))


def near_texts(rng: random.Random, num: int, num_copies: int, share: float) -> list[str]:
    """Return texts, and copies of each with a share of other words."""
    texts = []
    for _ in range(num):
        words = rng.choices(VOCABULARY, k=200)
        for copy in range(num_copies + 1):
            changed = list(words)
            for place in rng.sample(range(len(words)), int(share * len(words)) if copy else 0):
                changed[place] = rng.choice(VOCABULARY)
            texts.append(" ".join(changed))
    return texts


def n_grams(text: str) -> set[tuple[str, ...]]:
    words = text.split()
    return {tuple(words[i : i + 5]) for i in range(len(words) - 4)}


def jaccard(first: str, second: str) -> float:
    a, b = n_grams(first), n_grams(second)
    return len(a & b) / len(a | b)


# --- MinHash --------------------------------------------------------------------------------------------------------


def test_signature_is_pinned():
    """Signatures are stored in features of earlier runs: with other values, comparisons would silently fail."""
    signature = minhash("The quick brown fox jumps over the lazy dog.", SETTINGS)
    assert signature is not None
    assert len(signature) == 112 * 8
    assert np.frombuffer(signature, "<u8")[:2].tolist() == [128441453473369751, 1684101182947282306]


def test_signature_estimates_jaccard():
    rng = random.Random(1)
    for share in (0.01, 0.03, 0.1):
        first, second = near_texts(rng, 1, 1, share)
        estimate = estimate_jaccard(minhash(first, SETTINGS) or b"", minhash(second, SETTINGS) or b"")
        assert estimate == pytest.approx(jaccard(first, second), abs=0.15)  # 3 standard errors


def test_case_punctuation_and_space_do_not_count():
    assert minhash("A red barn, by the SEA.\n", SETTINGS) == minhash("a red   barn by the sea", SETTINGS)
    assert minhash("a red barn by the sea", SETTINGS) != minhash("a red barn by the bay", SETTINGS)
    assert minhash("A_red barn;by (the) SEA2", SETTINGS) == minhash("a red… barn by the «sea2»", SETTINGS)


def test_short_text_is_one_n_gram():
    assert minhash("red barn", SETTINGS) == minhash("Red barn!", SETTINGS)
    assert minhash("red barn", SETTINGS) != minhash("blue barn", SETTINGS)


def test_text_without_words_is_like_no_other():
    assert minhash(" … !", SETTINGS) is None
    assert clusters_of([Fingerprint("a", "s"), Fingerprint("b", "s")]) == {}


def test_texts_without_spaces_are_cut_into_characters():
    first = minhash("今天天气很好我们一起去公园散步吧公园里有很多花", SETTINGS)
    second = minhash("今天天气很好我们一起去公园散步吧公园里有很多人", SETTINGS)
    assert 0.8 < estimate_jaccard(first or b"", second or b"") < 1


def test_long_text_is_hashed_in_blocks_of_the_same_result(monkeypatch: pytest.MonkeyPatch):
    text = near_texts(random.Random(2), 1, 0, 0)[0]
    whole = minhash(text, SETTINGS)
    monkeypatch.setattr("pipelines.decisions.duplicates._BLOCK", 7)
    assert minhash(text, SETTINGS) == whole


@pytest.mark.slow
def test_near_texts_are_found_as_by_brute_force():
    texts = near_texts(random.Random(3), 40, 3, 0.02)  # Jaccard about 0.7 to 0.9
    ids = [f"t{i:03d}" for i in range(len(texts))]
    clusters = clusters_of(
        [Fingerprint(i, "s", signature=minhash(t, SETTINGS)) for i, t in zip(ids, texts, strict=True)]
    )
    near = [(i, j) for i, j in itertools.combinations(range(len(texts)), 2) if jaccard(texts[i], texts[j]) >= 0.8]
    found = sum(clusters.get(ids[i], i) == clusters.get(ids[j], j) for i, j in near)
    assert len(near) > 40
    assert found >= 0.9 * len(near)  # the bands give 92 % at 0.8
    strangers = [(i, j) for i, j in itertools.combinations(range(len(texts)), 2) if i // 4 != j // 4]
    assert not any(clusters.get(ids[i], i) == clusters.get(ids[j], j) for i, j in strangers)


def test_signature_of_other_settings_is_refused():
    signature = minhash("a red barn", DuplicateSettings(num_bands=20))
    with pytest.raises(
        ValueError, match=r"record a: a signature of 1280 bytes, but the settings of scope 's' make 896"
    ):
        list(band_rows(Fingerprint("a", "s", signature=signature), SETTINGS))


# --- perceptual and exact -------------------------------------------------------------------------------------------


def flipped(phash: int, bits: list[int]) -> int:
    for bit in bits:
        phash ^= 1 << bit
    return phash


@settings(deadline=None)
@given(
    st.integers(0, 2**64 - 1), st.lists(st.integers(0, 63), unique=True, max_size=9), st.sampled_from([0, 1, 3, 5, 8])
)
def test_images_are_the_same_within_the_distance_and_not_beyond(phash: int, bits: list[int], distance: int):
    settings = DuplicateSettings(max_phash_distance=distance)
    images = [Fingerprint("a", "s", phash=phash), Fingerprint("b", "s", phash=flipped(phash, bits))]
    assert (clusters_of(images, settings) != {}) == (len(bits) <= distance)


def test_near_images_are_clustered_exactly_as_by_brute_force():
    rng = random.Random(4)
    hashes = [rng.getrandbits(64) | 1 << 63 for _ in range(60)]
    hashes += [flipped(rng.choice(hashes), rng.sample(range(64), rng.randint(0, 8))) for _ in range(140)]
    ids = [f"p{i:03d}" for i in range(len(hashes))]
    near = [
        (ids[i], ids[j])
        for i, j in itertools.combinations(range(len(ids)), 2)
        if (hashes[i] ^ hashes[j]).bit_count() <= 5
    ]
    expected = dict(connected_components(near))
    assert clusters_of([Fingerprint(i, "s", phash=h) for i, h in zip(ids, hashes, strict=True)]) == expected


def test_equal_hashes_are_the_same_within_a_scope():
    records = [Fingerprint(i, scope, sha256="x") for i, scope in (("a", "s"), ("b", "s"), ("c", "other"), ("d", "s"))]
    assert clusters_of(records) == {"a": "a", "b": "a", "d": "a"}


def test_rules_that_are_off_give_no_band():
    off = DuplicateSettings(exact=False, max_phash_distance=None, min_jaccard=None)
    record = Fingerprint("a", "s", "x", 7, minhash("a red barn", off))
    assert list(band_rows(record, off)) == []
    rules = {read_band_key(key) for key, _ in band_rows(record, SETTINGS)}
    assert rules == {(EXACT, "s"), (IMAGE, "s"), (TEXT, "s")}


def test_hot_band_gives_one_edge_a_member_and_does_not_depend_on_order():
    rng = random.Random(5)
    centre = rng.getrandbits(64)
    sketches = [flipped(centre, rng.sample(range(40, 64), 2)).to_bytes(8, "little") for _ in range(3_000)]
    key = next(key for key, _ in band_rows(Fingerprint("a", "s", phash=centre), SETTINGS))
    members = [Member(f"p{i:04d}", sketch) for i, sketch in enumerate(sketches)]
    settings = SETTINGS.model_copy(update={"max_anchors": 50})
    edges = list(link_band(key, members, settings))
    assert len(edges) == len(members) - 1
    rng.shuffle(members)
    assert sorted(link_band(key, members, settings)) == sorted(edges)


# --- clusters -------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcdefghij"), st.sampled_from("abcdefghij")), max_size=20))
def test_components_are_those_of_a_walk(edges: list[tuple[str, str]]):
    expected = {}
    for start in {i for edge in edges for i in edge}:
        reached, frontier = {start}, [start]
        while frontier:
            here = frontier.pop()
            near = {b for a, b in edges if a == here} | {a for a, b in edges if b == here}
            frontier += near - reached
            reached |= near
        expected[start] = min(reached)
    assert dict(connected_components(edges)) == expected


def test_kept_one_has_the_highest_priority_then_the_smallest_id():
    rows = [("c", 1.0, TEXT), ("b", 5.0, EXACT), ("a", 1.0, IMAGE), ("d", 5.0, EXACT), ("e", 0.0, SEMANTIC)]
    members = [ClusterMember(*row) for row in rows]
    expected = [
        Duplicate("b", "a", "b", None),
        Duplicate("d", "a", "b", "exact_duplicate"),
        Duplicate("a", "a", "b", "near_duplicate_image"),
        Duplicate("c", "a", "b", "near_duplicate_text"),
        Duplicate("e", "a", "b", "semantic_duplicate"),
    ]
    for order in itertools.permutations(members):
        assert list(choose_kept("a", order)) == expected
    assert {d.reason for d in expected[1:]} == set(DUPLICATES)


def test_too_few_hashes_are_refused():
    with pytest.raises(ValidationError, match="must be at least 32"):
        DuplicateSettings(num_bands=2, rows_per_band=8)
