"""Tests of host buckets: each host is in one bucket, and no bucket is much fuller than the others."""

from collections import Counter
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.running import host_buckets
from pipelines.running.host_buckets import GroupHosts, assign_buckets, read_queues
from pipelines.running.shuffle import ShuffleFiles


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


@pytest.mark.parametrize("through_files", [True, False])
def test_all_urls_of_a_host_meet_in_one_bucket(through_files: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    files = ShuffleFiles(str(tmp_path)) if through_files else None
    monkeypatch.setattr(host_buckets, "MAX_QUEUED", 3)  # so that a bucket has several files
    pairs = [(f"host-{i}", f"url-{j}") for i in range(5) for j in range(i + 1)]

    def check(listed: list[list[str]]) -> None:
        groups = [[row for queue in read_queues(paths) for row in queue] for paths in listed]
        assert sorted(row for rows in groups for row in rows) == sorted(pairs)
        hosts = [host for rows in groups for host in {host for host, _ in rows}]
        assert len(hosts) == len(set(hosts))
        assert all(len(paths) > 1 for paths in listed)
        assert sorted(len(rows) for rows in groups) == [7, 8]  # 15 URLs

    options = PipelineOptions(["--direct_num_workers=2", "--direct_running_mode=multi_threading"])
    with beam.Pipeline(runner="FnApiRunner", options=options) as pipeline:
        assert_that(pipeline | beam.Create(pairs) | GroupHosts(2, str(tmp_path), files), check)


def test_buckets_that_come_to_one_worker_are_one_queue(tmp_path: Path):
    pairs = [(f"host-{i}", i) for i in range(30)]

    def check(listed: list[list[str]]) -> None:
        assert [sorted(queue) for paths in listed for queue in read_queues(paths)] == [sorted(pairs)]

    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        assert_that(pipeline | beam.Create(pairs) | GroupHosts(16, str(tmp_path)), check)


def test_queues_are_read_a_bounded_number_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(host_buckets, "MAX_QUEUED", 5)
    pairs = [("host", i) for i in range(40)]

    def check(listed: list[list[str]]) -> None:
        queues = [queue for paths in listed for queue in read_queues(paths)]
        assert sorted(row for queue in queues for row in queue) == pairs
        assert len(queues) > 3

    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        assert_that(pipeline | beam.Create(pairs) | GroupHosts(1, str(tmp_path)), check)


def test_no_host_gives_no_bucket(tmp_path: Path):
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        assert_that(pipeline | beam.Create([]) | GroupHosts(2, str(tmp_path)), equal_to([]))
