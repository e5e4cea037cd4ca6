"""Duplicates: equal hashes, images with close perceptual hashes or close embeddings, texts that share most words.

Candidate pairs are found by banding (records that share a band's value meet), verified, and joined into clusters; one
record of each cluster is kept. Everything here is plain functions on small rows; find_duplicates.py runs them in Beam.

MinHash: Broder 1997, in bands of rows as in datatrove and FineWeb (arXiv:2406.17557). The verification keeps one byte
of each hash (b-bit minwise hashing, arXiv:0910.3349), so that a row of a band is 112 bytes and not 896.
"""

import functools
import hashlib
import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from pipelines.decisions.semantic import SemanticDuplicates, near_embeddings
from pipelines.drop_reasons import Reason
from pipelines.settings import GrownSettings
from pipelines.text.measures import unspaced_chars
from pipelines.text.ngram_hashes import ngram_hashes

RULES: tuple[Reason, ...] = (
    "exact_duplicate",
    "near_duplicate_image",
    "near_duplicate_text",
    "semantic_duplicate",
)
"""Reasons to drop a record of a cluster: the strictest of the rules that put it there."""

EXACT, IMAGE, TEXT, SEMANTIC = range(4)
PHASH_BITS = 64


class DuplicateSettings(GrownSettings):
    """Criteria for duplicates; null turns one off."""

    LATER = frozenset({"semantic"})

    exact: bool = Field(default=True, description="Equal SHA-256")
    max_phash_distance: int | None = Field(
        default=0,
        ge=0,
        le=16,
        description="Different bits of 64 (COYO, data-juicer: 0; MMC4: 5 of another hash). Drawings collide early",
    )
    min_jaccard: float | None = Field(
        default=0.72,
        gt=0,
        le=1,
        description="Share of common n-grams; FineWeb's bands find 65 % of pairs at 0.72, 92 % at 0.8",
    )
    ngram_words: int = Field(default=5, ge=1, description="Words per n-gram (datatrove, FineWeb: 5)")
    num_bands: int = Field(default=14, ge=1, le=255, description="Bands (datatrove, FineWeb: 14)")
    rows_per_band: int = Field(default=8, ge=1, description="Hashes per band (datatrove, FineWeb: 8)")
    max_anchors: int = Field(
        default=1_000,
        ge=1,
        description="Records of a band that the others are compared with: bounds the work, not the recall",
    )
    semantic: SemanticDuplicates | None = Field(
        default=None, description="Images that show the same, by their CLIP embeddings (SemDeDup); null: not compared"
    )

    @model_validator(mode="after")
    def _hashes_suffice(self) -> Self:
        if self.min_jaccard is not None and self.num_bands * self.rows_per_band < 32:
            raise ValueError("num_bands x rows_per_band must be at least 32, or similarity cannot be estimated")
        return self


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The values by which duplicates of a record are found. Records of different scopes are never compared.

    Args:
        id: Unique over all scopes.
        scope: A source's name, or a finer unit.
        sha256: Hash of what makes two records equal; None: never equal.
        phash: 64 bits, unsigned.
        signature: Result of `minhash`, by the settings of the scope.
        embedding: Of its image, float16.
        places: Groups of the scope in which embeddings are compared.
        priority: The highest of a cluster is kept; among equal ones the smallest id.
    """

    id: str
    scope: str
    sha256: str | None = None
    phash: int | None = None
    signature: bytes | None = None
    embedding: bytes | None = None
    places: tuple[str, ...] = ()
    priority: float = 0.0


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A record with duplicates: `cluster` is the smallest id among them, `kept` the id of the one that is kept.

    `reason` is None for the kept one.
    """

    id: str
    cluster: str
    kept: str
    reason: Reason | None


# --- MinHash --------------------------------------------------------------------------------------------------------

# A word, or one character of a script written without spaces (Han, kana, Thai, Lao, Burmese, Khmer).
_TOKEN = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
    "|[^\\W_\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+"
)
_WORD = re.compile(r"[^\W_]+")
_ASCII_WORDS = "".join(chr(code).lower() if chr(code).isalnum() else " " for code in range(128))
_BLOCK = 2_048  # n-grams hashed at once, so that a book needs no more memory than an article


def minhash(text: str, settings: DuplicateSettings) -> bytes | None:
    """Return the MinHash signature of a text: num_bands x rows_per_band 64-bit hashes, little-endian.

    Case, punctuation and space are ignored. A text shorter than an n-gram is one n-gram; a text without words has no
    signature, and no duplicates.
    """
    words = _words(text)
    if not words:
        return None
    grams = ngram_hashes(words, min(settings.ngram_words, len(words)))
    seeds = _seeds(settings.num_bands * settings.rows_per_band)
    lowest = np.full(len(seeds), np.iinfo(np.uint64).max, np.uint64)
    for start in range(0, len(grams), _BLOCK):
        mixed = _mix(grams[start : start + _BLOCK, None] ^ seeds)  # (n-grams, hashes)
        lowest = np.minimum(lowest, mixed.min(axis=0))
    return lowest.astype("<u8").tobytes()


def _words(text: str) -> list[str]:
    """Return the words of a text in lower case, the way that is fastest for its characters."""
    if text.isascii():
        return text.translate(_ASCII_WORDS).split()
    return (_TOKEN if unspaced_chars(text) else _WORD).findall(text.lower())


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Mix 64 bits bijectively, each depending on all: MurmurHash3's finaliser without its first shift."""
    values = values * np.uint64(0xFF51AFD7ED558CCD)
    values ^= values >> np.uint64(32)
    values *= np.uint64(0xC4CEB9FE1A85EC53)
    values ^= values >> np.uint64(32)
    return values


@functools.cache
def _seeds(number: int) -> NDArray[np.uint64]:
    digests = b"".join(hashlib.sha256(f"minhash {i}".encode()).digest()[:8] for i in range(number))
    return np.frombuffer(digests, "<u8").astype(np.uint64)


def estimate_jaccard(first: bytes, second: bytes) -> float:
    """Estimate the share of common n-grams from two signatures; standard error sqrt(J (1 - J) / number of hashes)."""
    return float(np.mean(np.frombuffer(first, "<u8") == np.frombuffer(second, "<u8")))


# --- bands ----------------------------------------------------------------------------------------------------------


class Member(NamedTuple):
    """A record in a band, in order of ids; pairs are verified by their sketches."""

    id: str
    sketch: bytes


Edge = tuple[str, str]
"""The ids of two records that are duplicates."""


def band_rows(fingerprint: Fingerprint, settings: DuplicateSettings) -> Iterator[tuple[bytes, Member]]:
    """Yield the bands of a record: their keys, which name rule and scope, and the record as a member."""
    scope, key = fingerprint.scope.encode(), fingerprint.id
    if settings.exact and fingerprint.sha256 is not None:
        yield _band_key(EXACT, scope, 0, fingerprint.sha256.encode()), Member(key, b"")
    if settings.max_phash_distance is not None and fingerprint.phash is not None:
        sketch = fingerprint.phash.to_bytes(PHASH_BITS // 8, "little")
        for i, value in enumerate(_phash_bands(fingerprint.phash, settings.max_phash_distance)):
            yield _band_key(IMAGE, scope, i, value), Member(key, sketch)
    if settings.min_jaccard is not None and fingerprint.signature is not None:
        size = 8 * settings.rows_per_band
        if len(fingerprint.signature) != settings.num_bands * size:
            raise ValueError(
                f"record {key}: a signature of {len(fingerprint.signature)} bytes, but the settings of scope "
                f"{fingerprint.scope!r} make {settings.num_bands * size}; compute it again"
            )
        sketch = fingerprint.signature[::8]
        for i in range(settings.num_bands):
            yield _band_key(TEXT, scope, i, fingerprint.signature[i * size : (i + 1) * size]), Member(key, sketch)
    if settings.semantic is not None and fingerprint.embedding is not None:
        for place in fingerprint.places:
            yield _band_key(SEMANTIC, scope, 0, place.encode()), Member(key, fingerprint.embedding)


def _band_key(rule: int, scope: bytes, band: int, value: bytes) -> bytes:
    return b"%c%s\0" % (rule, scope) + hashlib.blake2b(b"%d %s" % (band, value), digest_size=12).digest()


def read_band_key(key: bytes) -> tuple[int, str]:
    """Return the rule (`EXACT`, `IMAGE`, `TEXT` or `SEMANTIC`) and the scope in a band's key."""
    return key[0], key[1:-13].decode()


def _phash_bands(phash: int, max_distance: int) -> Iterator[bytes]:
    """Yield values of which two hashes within the distance share at least one.

    Of d + 2 blocks d differing bits leave two unchanged: a band is a pair of blocks, 18 bits wide at d = 5. With d + 1
    blocks one is unchanged, but at 10 bits a thousand unrelated images share every band of a million images.
    """
    if max_distance == 0:
        yield b"%d" % phash
        return
    num_blocks = max_distance + 2
    cuts = [PHASH_BITS * i // num_blocks for i in range(num_blocks + 1)]
    blocks = [(phash >> a) & ((1 << (b - a)) - 1) for a, b in itertools.pairwise(cuts)]
    for pair in itertools.combinations(range(num_blocks), 2):
        yield b"%d %d" % (blocks[pair[0]], blocks[pair[1]])


def link_band(key: bytes, members: Iterable[Member], settings: DuplicateSettings) -> Iterator[Edge]:
    """Yield edges that join the duplicates in a band, as few as necessary: never one for every pair.

    Members are compared with the first `max_anchors` in order of ids, so that the time is proportional to the size of
    the band; equal ones are merged beforehand. Embeddings, whose bands are many, are compared with all.
    """
    ids_by_sketch: dict[bytes, list[str]] = {}
    for member in sorted(members):
        ids_by_sketch.setdefault(member.sketch, []).append(member.id)
    for first, *others in ids_by_sketch.values():
        yield from ((first, other) for other in others if other != first)
    if len(ids_by_sketch) > 1:
        ids = [equal[0] for equal in ids_by_sketch.values()]
        yield from _link_similar(ids, _near_before(read_band_key(key)[0], list(ids_by_sketch), settings))


_IsNear = Callable[[NDArray[np.uint8], NDArray[np.uint8]], NDArray[np.bool_]]


def _near_before(rule: int, sketches: list[bytes], settings: DuplicateSettings) -> Callable[[int], NDArray[np.bool_]]:
    """Return a function that says which of the sketches before one, by its index, are near it."""
    if rule == SEMANTIC:
        assert settings.semantic is not None
        return near_embeddings(sketches, settings.semantic.min_similarity)
    values = np.frombuffer(b"".join(sketches), np.uint8).reshape(len(sketches), -1)
    is_near = _is_near_image(settings) if rule == IMAGE else _is_near_text(settings)
    return lambda i: is_near(values[: min(i, settings.max_anchors)], values[i])


def _link_similar(ids: list[str], near_before: Callable[[int], NDArray[np.bool_]]) -> Iterator[Edge]:
    cluster = np.arange(len(ids))  # index of the first member of each one's cluster
    for i in range(1, len(ids)):
        near = np.flatnonzero(near_before(i))
        if len(near):
            met = np.unique(cluster[near])
            cluster[i] = met[0]
            if len(met) > 1:
                cluster[np.isin(cluster, met[1:])] = met[0]
    yield from ((ids[first], ids[i]) for i, first in enumerate(cluster) if first != i)


_EDGES_PER_BATCH = 1 << 16
_NUM_BITS = np.array([i.bit_count() for i in range(256)], np.uint8)


def _is_near_image(settings: DuplicateSettings) -> _IsNear:
    most = settings.max_phash_distance or 0
    return lambda many, one: _NUM_BITS[many ^ one].sum(axis=1) <= most


def _is_near_text(settings: DuplicateSettings) -> _IsNear:
    # Unequal hashes agree in one byte by chance in 1 of 256 cases.
    least = 1 / 256 + (settings.min_jaccard or 0.0) * 255 / 256
    return lambda many, one: (many == one).mean(axis=1) >= least - 1e-9


# --- clusters -------------------------------------------------------------------------------------------------------


class ClusterMember(NamedTuple):
    """A record in a cluster; `rule` is the strictest that joins it to another one, as an index into `RULES`."""

    id: str
    priority: float
    rule: int


def connected_components(edges: Iterable[Edge]) -> Iterator[tuple[str, str]]:
    """Yield (id, smallest id of its component) for every id in the edges, in order of ids.

    One process loads all edges, as numpy arrays: of ids of 21 characters some 100 bytes per edge and 50 per id; beyond
    2^31 ids it raises an error.
    """
    import scipy.sparse  # slow, and needed only here

    left = iter(edges)
    batches: list[NDArray[np.bytes_]] = []
    while batch := list(itertools.islice(left, _EDGES_PER_BATCH)):
        batches.append(np.array([end.encode() for edge in batch for end in edge]))
    if not batches:
        return
    ids, places = np.unique(np.concatenate(batches), return_inverse=True)
    del batches
    pairs = places.astype(np.int32).reshape(-1, 2)
    del places
    graph = scipy.sparse.coo_matrix(
        (np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(len(ids), len(ids))
    )
    _, labels = scipy.sparse.csgraph.connected_components(graph, directed=False)
    _, first = np.unique(labels, return_index=True)  # ids are sorted: the first of a component is its smallest
    for start in range(0, len(ids), _EDGES_PER_BATCH):
        some = slice(start, start + _EDGES_PER_BATCH)
        roots = ids[first[labels[some]]]
        yield from ((one.decode(), root.decode()) for one, root in zip(ids[some].tolist(), roots.tolist(), strict=True))


def choose_kept(cluster: str, members: Iterable[ClusterMember]) -> Iterator[Duplicate]:
    """Yield a cluster's records, the one to keep first: highest priority, among equal ones the smallest id.

    Args:
        cluster: Smallest id of the cluster.
        members: All its records.
    """
    ordered = sorted(members, key=lambda member: (-member.priority, member.id))
    kept = ordered[0].id
    for member in ordered:
        yield Duplicate(member.id, cluster, kept, None if member.id == kept else RULES[member.rule])
