"""Assignment of hosts to workers: all URLs of a host in one bucket, and buckets of similar size."""

import heapq
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.windowed_value import WindowedValue

from pipelines.parts import stable_hash

MAX_BALANCED_HOSTS = 10_000


def assign_buckets(num_urls: Mapping[str, int], num_buckets: int) -> dict[str, int]:
    """Return the buckets of the largest hosts: largest first, to the emptiest bucket.

    Args:
        num_urls: URLs by authority.
        num_buckets: `Runner.num_buckets`.
    """
    heap = [(0, bucket) for bucket in range(num_buckets)]
    buckets = {}
    for authority, num in sorted(num_urls.items(), key=lambda item: (-item[1], item[0])):
        load, bucket = heapq.heappop(heap)
        buckets[authority] = bucket
        heapq.heappush(heap, (load + num, bucket))
    return buckets


def _to_bucket(row: tuple[str, Any], balanced: dict[str, int], num_buckets: int) -> tuple[int, tuple[str, Any]]:
    authority = row[0]
    bucket = balanced.get(authority)  # of the largest hosts; the others go by hash
    return stable_hash(authority) % num_buckets if bucket is None else bucket, row


class _JoinBuckets(beam.DoFn):
    """Yield all pairs of the buckets that came to this worker at once.

    A cluster spreads buckets by a hash, so there are several for each worker. One after another, they would take as
    long as the slowest host of each of them.
    """

    def start_bundle(self) -> None:
        self._pairs: list[tuple[str, Any]] = []

    def process(self, bucket: tuple[int, Iterable[tuple[str, Any]]]) -> None:
        self._pairs += bucket[1]

    def finish_bundle(self) -> Iterator[WindowedValue]:
        if self._pairs:
            yield GlobalWindows.windowed_value(self._pairs)


class GroupHosts(beam.PTransform):
    """Turn (authority, item) pairs into lists of them: one worker's queue of hosts each."""

    def __init__(self, num_buckets: int) -> None:
        super().__init__()
        self._num_buckets = num_buckets

    def expand(self, pairs: beam.PCollection) -> beam.PCollection:
        num_buckets = self._num_buckets
        balanced = (
            pairs
            | "HostOf" >> beam.Map(lambda row: row[0])
            | "CountPerHost" >> beam.combiners.Count.PerElement()
            | "LargestHosts" >> beam.combiners.Top.Of(MAX_BALANCED_HOSTS, key=lambda row: (row[1], row[0]))
            | "BalanceHosts" >> beam.Map(lambda rows: assign_buckets(dict(rows), num_buckets))
        )
        return (
            pairs
            | "ToBucket" >> beam.Map(_to_bucket, beam.pvalue.AsSingleton(balanced), num_buckets)
            | "ByBucket" >> beam.GroupByKey()
            | "JoinBuckets" >> beam.ParDo(_JoinBuckets())
        )
