"""Tests of duplicates by embeddings, on vectors whose angles are known."""

import random
from pathlib import Path

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.testing.util import assert_that, equal_to

from pipelines.decisions.duplicates import Duplicate, DuplicateSettings, Fingerprint, band_rows, link_band
from pipelines.decisions.find_duplicates import FindDuplicates
from pipelines.decisions.semantic import (
    Clusters,
    SemanticDuplicates,
    is_sampled,
    make_clusters,
    near_embeddings,
    sample_position,
    to_embedding,
    vectors_of,
)
from pipelines.running.shuffle import ShuffleFiles

MODEL = {"model": "ViT-B-32", "weights": "w.pt"}
WIDTH = 48


def settings(**more: object) -> SemanticDuplicates:
    return SemanticDuplicates.model_validate({"model": MODEL, "min_similarity": 0.95, **more})


def at(degrees: float, axis: int = 0) -> bytes:
    """Return a unit vector at an angle from an axis, in the plane of that axis and the next one."""
    vector = np.zeros(WIDTH, np.float32)
    vector[2 * axis : 2 * axis + 2] = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return to_embedding(vector)


def blobs(num: int, num_blobs: int, seed: int = 0) -> list[bytes]:
    """Return vectors around as many axes by turns, in a seeded order."""
    rng = np.random.default_rng(seed)
    vectors = np.repeat(np.eye(num_blobs, WIDTH), -(-num // num_blobs), axis=0)[:num]
    vectors = vectors + rng.normal(scale=0.02, size=vectors.shape)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return [to_embedding(v) for v in rng.permutation(vectors).astype(np.float32)]


def test_near_embeddings_are_those_of_the_cosine_whatever_the_rows_that_are_multiplied_at_once():
    rng = np.random.default_rng(1)
    found = [to_embedding(v / np.linalg.norm(v)) for v in rng.normal(size=(600, 3)).astype(np.float32)]
    vectors = vectors_of(found)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = unit @ unit.T
    near = near_embeddings(found, 0.97)
    for i in range(1, 600):
        assert np.array_equal(near(i), cosines[i, :i] >= 0.97)


def test_products_of_embeddings_are_exact():
    vectors = vectors_of(blobs(300, 7))
    whole = vectors @ vectors.T
    by_row = np.stack([[float(np.dot(a[::-1], b[::-1])) for b in vectors] for a in vectors])
    assert np.array_equal(whole, by_row)  # in another order, to the last bit


def test_clusters_are_where_the_embeddings_are():
    sample = blobs(640, 5)
    found = make_clusters(sample, 640, settings(num_clusters=5))
    assert found.num_blocks == (1,) * len(found.centroids)
    nearest = (vectors_of(sample) @ found.centroids.T).argmax(axis=1)
    blob = vectors_of(sample).argmax(axis=1)
    assert len(found.centroids) == 5
    for cluster in set(nearest):  # k-means may leave two blobs together, but takes none apart from its own axis
        assert found.centroids[cluster].max() > 0.6
    for own in range(5):
        assert len(set(nearest[blob == own])) <= 2


def test_there_are_no_more_clusters_than_the_sample_has_images_for():
    assert len(make_clusters(blobs(63, 3), 63, settings()).centroids) == 1
    assert len(make_clusters(blobs(640, 3), 640, settings()).centroids) == 11
    assert len(make_clusters([at(0)], 1, settings()).centroids) == 1


def test_a_large_cluster_is_cut_into_blocks_of_which_each_pair_meets():
    found = make_clusters(blobs(60, 1), 1000, settings(max_compared=100))
    assert found.num_blocks == (20,)
    first, second = found.places("a", at(0)), found.places("b", at(3))
    assert len(first) == len(set(first)) == 20
    assert set(first) & set(second)


def test_the_sample_is_chosen_by_the_seed_and_of_bounded_size():
    keys = [f"p{n:04d}" for n in range(4000)]
    chosen = [key for key in keys if is_sampled(key, 4000, settings(max_sample=400))]
    assert 340 < len(chosen) < 460
    assert all(is_sampled(key, 400, settings(max_sample=400)) for key in keys)
    assert chosen != [key for key in keys if is_sampled(key, 4000, settings(max_sample=400, seed=1))]
    assert max(sample_position(key, settings()) for key in chosen) < 0.1


def edges_of(found: list[Fingerprint], asked: DuplicateSettings) -> set[frozenset[str]]:
    bands: dict[bytes, list] = {}
    for record in found:
        for key, member in band_rows(record, asked):
            bands.setdefault(key, []).append(member)
    return {frozenset(edge) for key, members in bands.items() for edge in link_band(key, members, asked)}


@pytest.mark.parametrize("max_compared", [10_000, 16])
def test_duplicates_are_found_whether_a_cluster_is_compared_at_once_or_in_blocks(max_compared: int):
    asked = settings(max_compared=max_compared)
    embeddings = {f"{axis:02d}{n}": at(8 * n, axis) for axis in range(20) for n in range(3)}  # 8 and 16 degrees apart
    embeddings |= {f"{axis:02d}x": at(60, axis) for axis in range(20)}
    clusters = Clusters(np.ones((1, WIDTH)), (1 if max_compared > 80 else 10,))
    found = [Fingerprint(k, "s", embedding=e, places=clusters.places(k, e)) for k, e in embeddings.items()]
    edges = edges_of(found, DuplicateSettings(exact=False, semantic=asked))
    together: dict[str, set[str]] = {key: {key} for key in embeddings}
    for edge in edges:
        union = set().union(*(together[key] for key in edge))
        for key in union:
            together[key] = union
    assert {frozenset(group) for group in together.values()} == {
        frozenset(group) for axis in range(20) for group in ({f"{axis:02d}{n}" for n in range(3)}, {f"{axis:02d}x"})
    }


@pytest.mark.parametrize("seed", [0, 1])
def test_the_one_with_the_highest_priority_of_those_that_show_the_same_is_kept(seed: int, tmp_path: Path):
    asked = DuplicateSettings(semantic=settings())
    records = [
        Fingerprint("a", "s", embedding=at(0), places=("0 0 0",), priority=1),
        Fingerprint("b", "s", embedding=at(10), places=("0 0 0",), priority=5),
        Fingerprint("c", "s", embedding=at(20), places=("0 0 0",), priority=2),  # near b alone
        Fingerprint("d", "s", embedding=at(20), places=("1 0 0",), priority=9),  # in another cluster
        Fingerprint("e", "s", embedding=at(60), places=("0 0 0",), sha256="x", priority=3),
        Fingerprint("f", "s", embedding=at(61), places=("0 0 0",), sha256="x", priority=2),  # equal as well as near
        Fingerprint("g", "s"),
    ]
    random.Random(seed).shuffle(records)
    files = ShuffleFiles(str(tmp_path), 3_000) if seed else None
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        found = pipeline | beam.Create(records) | FindDuplicates({"s": asked}, files)
        assert_that(
            found,
            equal_to(
                [
                    Duplicate("b", "a", "b", None),
                    Duplicate("a", "a", "b", "semantic_duplicate"),
                    Duplicate("c", "a", "b", "semantic_duplicate"),
                    Duplicate("e", "e", "e", None),
                    Duplicate("f", "e", "e", "exact_duplicate"),
                ]
            ),
        )
