"""Tests of host buckets: each host is in one bucket, and no bucket is much fuller than the others."""

from collections import Counter

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.web.host_buckets import GroupHosts, assign_buckets


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(st.sampled_from("abcdefghijklmnop"), st.integers(1, 1000)), st.integers(1, 8))
def test_no_bucket_is_fuller_than_the_emptiest_and_one_host(num_urls: dict[str, int], num_buckets: int):
    buckets = assign_buckets(num_urls, num_buckets)
    load = Counter(dict.fromkeys(range(num_buckets), 0))
    for authority, bucket in buckets.items():
        load[bucket] += num_urls[authority]
    assert buckets.keys() == num_urls.keys()
    assert load.keys() == set(range(num_buckets))
    assert max(load.values()) - min(load.values()) <= max(num_urls.values(), default=0)


def test_buckets_do_not_depend_on_the_order_of_hosts():
    num_urls = {"a": 3, "b": 3, "c": 3, "d": 1}
    assert assign_buckets(num_urls, 2) == assign_buckets(dict(reversed(num_urls.items())), 2)


def test_all_urls_of_a_host_meet_in_one_bucket():
    pairs = [(f"host-{i}", f"url-{j}") for i in range(5) for j in range(i + 1)]

    def check(groups: list[list[tuple[str, str]]]) -> None:
        assert sorted(row for rows in groups for row in rows) == sorted(pairs)
        hosts = [host for rows in groups for host in {host for host, _ in rows}]
        assert len(hosts) == len(set(hosts))
        assert sorted(len(rows) for rows in groups) == [7, 8]  # 15 URLs

    options = PipelineOptions(["--direct_num_workers=2", "--direct_running_mode=multi_threading"])
    with beam.Pipeline(runner="FnApiRunner", options=options) as pipeline:
        assert_that(pipeline | beam.Create(pairs) | GroupHosts(2), check)


def test_buckets_that_come_to_one_worker_are_one_queue():
    pairs = [(f"host-{i}", i) for i in range(30)]

    def check(groups: list[list[tuple[str, int]]]) -> None:
        assert [sorted(rows) for rows in groups] == [sorted(pairs)]

    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        assert_that(pipeline | beam.Create(pairs) | GroupHosts(16), check)


def test_no_host_gives_no_bucket():
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        assert_that(pipeline | beam.Create([]) | GroupHosts(2), equal_to([]))
