"""Images that show the same, by their CLIP embeddings: SemDeDup (Abbas et al. 2023, arXiv:2303.09540).

Embeddings are cut into clusters by k-means on the sphere, and compared within each. Which of those that are near one
another is kept is decided as among other duplicates. Products of float16 vectors are summed in 64 bits, where they are
exact: neither the number of rows nor the machine changes a result. Everything here is plain functions on vectors;
find_clusters.py runs the first step in Beam.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pipelines.images.text_match import MatchSettings
from pipelines.parts import stable_hash
from pipelines.settings import Settings

SAMPLED_PER_CLUSTER = 64
"""Images of the sample for each cluster at least (faiss asks for 39)."""

_NUM_ITERATIONS = 20
_ROWS_AT_ONCE = 256
_TOLERANCE = 1e-9

Vectors = NDArray[np.float64]
"""(N, width), the values of float16."""


class SemanticDuplicates(Settings):
    """Criteria for images that show the same; pairs and grounded samples alone are compared, each by its image."""

    model: MatchSettings
    min_similarity: float = Field(
        0.99, gt=0, le=1, description="Cosine of two embeddings (NeMo Curator: 0.99; SemDeDup: 1 - epsilon)"
    )
    num_clusters: int = Field(
        1000, ge=1, le=10_000, description="Clusters at most; one for each 64 images of the sample"
    )
    max_sample: int = Field(100_000, ge=64, description="Images from which the clusters are made")
    seed: int = Field(0, ge=0, description="Of the choice of these images")
    max_compared: int = Field(
        10_000,
        ge=2,
        description="Images that are compared with one another at once: bounds the memory, not the recall. A larger "
        "cluster is cut into blocks, of which each pair is compared",
    )


@dataclass(frozen=True, slots=True)
class Clusters:
    """Clusters of a source's images: the centre of each, and into how many blocks it is cut."""

    centroids: Vectors
    num_blocks: tuple[int, ...]

    def places(self, id_: str, embedding: bytes) -> tuple[str, ...]:
        """Return the names of the groups in which an image is compared with others."""
        cluster = int(_nearest(self.centroids, vectors_of([embedding]))[0])
        num_blocks = self.num_blocks[cluster]
        own = stable_hash(f"block {id_}") % num_blocks
        return tuple(f"{cluster} {min(own, other)} {max(own, other)}" for other in range(num_blocks))


def to_embedding(vector: NDArray[np.float32]) -> bytes:
    """Return a unit vector as float16, little-endian."""
    return vector.astype("<f2").tobytes()


def vectors_of(embeddings: Sequence[bytes]) -> Vectors:
    """Return embeddings of one width as rows."""
    return np.frombuffer(b"".join(embeddings), "<f2").reshape(len(embeddings), -1).astype(np.float64)


def is_sampled(key: str, num_images: int, settings: SemanticDuplicates) -> bool:
    """Return whether an image is among those from which clusters are made: about `max_sample`, by hash.

    Args:
        key: Of its document.
        num_images: Number of the source's images.
        settings: Those of the source.
    """
    return sample_position(key, settings) * num_images < settings.max_sample


def sample_position(key: str, settings: SemanticDuplicates) -> float:
    """Return an image's place in the order of the sample, in 0..1."""
    return stable_hash(f"sample {settings.seed} {key}") / 2**64


def make_clusters(sample: Sequence[bytes], num_images: int, settings: SemanticDuplicates) -> Clusters:
    """Make clusters by k-means on the sphere, which begins with the first images of the sample.

    Args:
        sample: Embeddings in the order of the sample, one at least.
        num_images: Number of the source's images, from which the sizes of clusters are estimated.
        settings: Those of the source.
    """
    vectors = vectors_of(sample)
    num = min(settings.num_clusters, 1 + len(vectors) // SAMPLED_PER_CLUSTER)
    centroids, nearest = vectors[:num], np.zeros(0, np.int64)
    for _ in range(_NUM_ITERATIONS):
        before, nearest = nearest, _nearest(centroids, vectors)
        if np.array_equal(before, nearest):
            break
        sums = np.zeros_like(centroids)
        np.add.at(sums, nearest, vectors)
        norms = np.linalg.norm(sums, axis=1, keepdims=True)
        moved = np.divide(sums, norms, out=centroids.copy(), where=norms > 0)  # one without images stays
        centroids = moved.astype("<f2").astype(np.float64)
    expected = np.bincount(_nearest(centroids, vectors), minlength=num) * num_images / len(vectors)
    half = settings.max_compared / 2
    blocks = [1 if size <= settings.max_compared else int(-(-size // half)) for size in expected]
    return Clusters(centroids, tuple(blocks))


def near_embeddings(embeddings: Sequence[bytes], min_similarity: float) -> Callable[[int], NDArray[np.bool_]]:
    """Return a function that says which of the embeddings before one, by its index, are near it.

    It is to be called with the indices in order: products are computed for many rows at once.
    """
    vectors = vectors_of(embeddings)
    norms = np.sqrt((vectors * vectors).sum(axis=1))
    found: dict[int, NDArray[np.bool_]] = {}

    def near(index: int) -> NDArray[np.bool_]:
        start = index - index % _ROWS_AT_ONCE
        if start not in found:
            found.clear()
            some = slice(start, start + _ROWS_AT_ONCE)
            products = vectors[some] @ vectors[: some.stop].T
            found[start] = products >= min_similarity * norms[some, None] * norms[None, : some.stop] - _TOLERANCE
        return found[start][index - start, :index]

    return near


def _nearest(centroids: Vectors, vectors: Vectors) -> NDArray[np.int64]:
    """Return the index of the nearest centroid of each vector, of equally near ones the first."""
    starts = itertools.count(0, _ROWS_AT_ONCE)
    chunks = itertools.takewhile(len, (vectors[start : start + _ROWS_AT_ONCE] for start in starts))
    return np.concatenate([(chunk @ centroids.T).argmax(axis=1) for chunk in chunks])
