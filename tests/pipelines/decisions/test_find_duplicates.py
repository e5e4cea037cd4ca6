"""Tests of the Beam transforms for duplicates: exact records for any order and bundling of the input."""

import random
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.pvalue import TaggedOutput
from apache_beam.testing.util import assert_that, equal_to

from pipelines.decisions import find_duplicates
from pipelines.decisions.duplicates import Duplicate, DuplicateSettings, Edge, Fingerprint, minhash
from pipelines.decisions.find_duplicates import FindDuplicates
from pipelines.running.shuffle import ShuffleFiles

SETTINGS = DuplicateSettings(max_phash_distance=5)
SCOPES = {"pages": SETTINGS, "images": SETTINGS, "unmerged": DuplicateSettings(exact=False)}
WORDS = [f"word{i}" for i in range(100)]
NEAR = [*WORDS[:50], "another", *WORDS[51:]]
TOP = 1 << 63  # a phash is unsigned: Beam's integers are not

RECORDS = [
    Fingerprint("e1", "pages", sha256="x", priority=1),
    Fingerprint("e2", "pages", sha256="x", priority=3),
    Fingerprint("e3", "pages", sha256="x", priority=3),
    Fingerprint("f1", "images", sha256="x"),  # another scope
    Fingerprint("p1", "images", phash=TOP | 0b0000, priority=2),
    Fingerprint("p2", "images", phash=TOP | 0b0111, priority=1),
    Fingerprint("p3", "images", phash=TOP | 0b0111, sha256="y", priority=0),
    Fingerprint("p4", "images", phash=~TOP & (2**64 - 1)),
    Fingerprint("p5", "images", phash=0, sha256="y", priority=-1),  # near p1 as well as equal to p3
    Fingerprint("t1", "pages", signature=minhash(" ".join(WORDS), SETTINGS)),
    Fingerprint("t2", "pages", signature=minhash(" ".join(NEAR), SETTINGS)),
    Fingerprint("t3", "pages", signature=minhash(" ".join(reversed(WORDS)), SETTINGS)),
    Fingerprint("u1", "unmerged", sha256="x"),
    Fingerprint("u2", "unmerged", sha256="x"),
]
EXPECTED = [
    Duplicate("e2", "e1", "e2", None),
    Duplicate("e1", "e1", "e2", "exact_duplicate"),
    Duplicate("e3", "e1", "e2", "exact_duplicate"),
    Duplicate("p1", "p1", "p1", None),
    Duplicate("p2", "p1", "p1", "near_duplicate_image"),
    Duplicate("p3", "p1", "p1", "exact_duplicate"),
    Duplicate("p5", "p1", "p1", "exact_duplicate"),
    Duplicate("t1", "t1", "t1", None),
    Duplicate("t2", "t1", "t1", "near_duplicate_text"),
]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_exact_records_in_any_order_of_input(seed: int, tmp_path: Path):
    files = ShuffleFiles(str(tmp_path), 3_000) if seed else None  # with the runner's own grouping at first
    records = list(RECORDS)
    random.Random(seed).shuffle(records)
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        found = pipeline | beam.Create(records) | beam.Reshuffle(num_buckets=seed + 1) | FindDuplicates(SCOPES, files)
        assert_that(found, equal_to(EXPECTED))


def test_nothing_in_gives_nothing():
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        assert_that(pipeline | beam.Create([]) | FindDuplicates(SCOPES), equal_to([]))


def test_an_id_twice_is_an_error():
    with (
        pytest.raises(Exception, match="record e1 has 2 fingerprints"),
        beam.Pipeline(runner="FnApiRunner") as pipeline,
    ):
        _ = pipeline | beam.Create([*RECORDS[:2], RECORDS[0]]) | FindDuplicates(SCOPES)


def members_of(records: list[Fingerprint]) -> tuple[list[tuple[bytes, tuple[str, bytes]]], list[tuple[Edge, int]]]:
    """What a bundle of fingerprints sends to its bands, and the edges that it finds itself."""
    cut = find_duplicates._CutIntoBands(SCOPES)
    cut.start_bundle()
    found: list[object] = [row for record in records for row in cut.process(record)]
    edges = [row.value for row in found if isinstance(row, TaggedOutput)]
    members = [row for row in found if not isinstance(row, TaggedOutput)]
    return [*members, *(row.value for row in cut.finish_bundle())], edges


def test_a_text_that_occurs_a_thousand_times_is_in_each_band_once_a_bundle(monkeypatch: pytest.MonkeyPatch):
    signature = minhash(" ".join(WORDS), SETTINGS)
    records = [Fingerprint(f"{n:04d}", "pages", sha256="x", signature=signature) for n in range(1000, 0, -1)]
    members, edges = members_of(records)
    assert len(members) == 1 + SETTINGS.num_bands
    assert {first for _, (first, _) in members} == {"0001"}
    assert {end for edge, _ in edges for end in edge} == {record.id for record in records}
    assert len({key for key, _ in members}) == len(members)
    monkeypatch.setattr(find_duplicates, "MEMBERS_AT_ONCE", 15)
    assert len(members_of([*records, Fingerprint("a", "pages", sha256="y")])[0]) == 15 * 1000 + 1
