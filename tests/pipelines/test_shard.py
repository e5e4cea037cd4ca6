"""Tests of the shard stage: limits of shards, consecutive numbers, and an order that depends only on the seed."""

import random
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.document import Kind, Region
from pipelines.shard import SampleSize, _bucket, _Plan, shard_starts, shuffled_position
from pipelines.shards.tar_samples import tar_end
from pipelines.shards.writer import finish_document, largest_tar_bytes
from pipelines.spec import Sharding
from tests.pipelines.corpus_builder import KINDS, sample

MIB = 1 << 20
SIZES = st.lists(st.integers(1, 2 * MIB), max_size=40)


def limits(max_samples: int, max_bytes: int = MIB) -> Sharding:
    return Sharding(max_samples=max_samples, max_bytes=max_bytes)


@settings(deadline=None, max_examples=100)
@given(SIZES, st.integers(1, 10), st.randoms())
def test_no_shard_is_beyond_its_limits_nor_could_it_take_the_next_sample(sizes, max_samples: int, rng: random.Random):
    rows = [SampleSize(shuffled_position(0, str(i)), size) for i, size in enumerate(sizes)]
    starts = shard_starts(rows, limits(max_samples))
    ordered = sorted(rows)
    rng.shuffle(rows)
    assert shard_starts(rows, limits(max_samples)) == starts
    assert starts == sorted(set(starts))
    cuts = [next(i for i, row in enumerate(ordered) if row[0] == start) for start in starts]
    shards = [ordered[a:b] for a, b in pairwise([*cuts, len(ordered)])]
    assert [row for shard in shards for row in shard] == ordered
    for i, shard in enumerate(shards):
        num_bytes = sum(size for _, size in shard)
        assert 1 <= len(shard) <= max_samples
        assert num_bytes + len(tar_end(num_bytes)) <= MIB or len(shard) == 1  # a larger sample is alone in its shard
        if i + 1 < len(shards):
            more = num_bytes + shards[i + 1][0][1]
            assert len(shard) == max_samples or more + len(tar_end(more)) > MIB


def test_the_order_is_a_shuffle_that_the_seed_decides():
    keys = [f"key {i}" for i in range(200)]
    orders = [sorted(keys, key=lambda key: shuffled_position(seed, key)) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert orders[0] != keys
    assert all(0 <= shuffled_position(0, key) < 1 << 63 for key in keys)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 60), st.integers(1, 4), st.integers(1, 7))
def test_numbers_are_dense_and_the_order_runs_through_all_buckets(num: int, num_buckets: int, max_samples: int):
    rows = [{"source": "a", "split": ("train", "val")[i % 5 == 0], "key": str(i)} for i in range(num)]
    placed = [(_bucket(row, place := shuffled_position(7, row["key"]), {"a": num_buckets}), place) for row in rows]
    sizes: dict = {}
    for bucket, place in placed:
        assert 0 <= bucket[2] < num_buckets
        sizes.setdefault(bucket, []).append(SampleSize(place, 1))
    plan = _Plan((bucket, shard_starts(found, limits(max_samples))) for bucket, found in reversed(sizes.items()))
    for split in ("train", "val"):
        numbers = [plan.shard_number(bucket, place) for bucket, place in sorted(placed) if bucket[1] == split]
        assert sorted(set(numbers)) == list(range(len(set(numbers))))
        assert numbers == [n for _, n in sorted((p, plan.shard_number(b, p)) for b, p in placed if b[1] == split)]
        assert numbers == sorted(numbers)
        assert all(numbers.count(n) <= max_samples for n in set(numbers))


@pytest.mark.parametrize("kind", KINDS)
def test_no_sample_is_larger_than_it_was_planned_to_be(kind: Kind):
    done = sample(kind, 5)
    blobs = [data for part, data in done.parts if part not in ("json", "txt")]
    media = tuple(replace(m, part=None, stored_sha256=None, bytes=None) for m in done.document.media)
    regions = tuple(Region(0, 5, 0, (0.123456, 0.2, 0.654321, 0.9), 0.7654) for _ in range(40))
    segments = tuple(
        s if s.text is None else replace(s, text=f'{s.text} é"\n' * 60, regions=regions if s.regions else ())
        for s in done.document.segments
    )
    planned = replace(done.document, media=media, segments=segments, extras={})
    built = replace(planned.build, pipeline="1.2.3", config_sha256="f" * 64)
    finished = finish_document(replace(planned, build=built), blobs)
    most = largest_tar_bytes(planned, planned.to_json(), [len(data) for data in blobs])
    assert finished.tar_bytes <= most <= 1.3 * finished.tar_bytes + 3072
