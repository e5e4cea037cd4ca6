"""Assignment of hosts to workers: all URLs of a host in one bucket, and buckets of similar size.

A bucket is a list of queue files, each small enough for a worker's memory. Every file has its share of every host, so
that none ends with a single host's URLs unless the whole bucket does.
"""

import heapq
import pickle
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.windowed_value import WindowedValue

from pipelines import storage
from pipelines.parts import stable_hash
from pipelines.running.shuffle import GroupByKey, ShuffleFiles, WriteRows, count_keys, key_hash, read_written
from pipelines.running.watch import announce

MAX_BALANCED_HOSTS = 10_000
MAX_QUEUED = 20_000
"""Items in a queue file, on average: some 30 MB of a worker's memory, and minutes of requests."""


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


def read_queues(paths: Iterable[str]) -> Iterator[list[tuple[str, Any]]]:
    """Yield the (authority, item) pairs of queue files, in no order.

    Small files of several buckets are joined: one after another, they would take as long as the slowest host of each.
    """
    found: list[tuple[str, Any]] = []
    for path in sorted(paths, key=lambda path: path.rpartition("-")[::-1]):  # the first of each bucket, then the second
        rows = pickle.loads(storage.read_bytes(path))
        if found and len(found) + len(rows) > MAX_QUEUED:
            yield found
            found = []
        found += rows
    if found:
        yield found


def _to_queue(
    row: tuple[str, Any], plan: tuple[dict[str, int], int], num_buckets: int
) -> tuple[tuple[int, int], tuple[str, Any]]:
    (authority, item), (balanced, total) = row, plan
    bucket = balanced.get(authority)  # of the largest hosts; the others go by hash
    if bucket is None:
        bucket = stable_hash(authority) % num_buckets
    num_files = -(-total // (num_buckets * MAX_QUEUED))
    # What is no host, as the bytes in a part of a list, is read as a whole.
    return (bucket, key_hash(authority if " " in authority else repr(item)) % num_files), row


def _write_queue(grouped: tuple[tuple[int, int], Iterable[tuple[str, Any]]], folder: str) -> tuple[int, str]:
    (bucket, number), rows = grouped
    path = storage.join(folder, f"{bucket:05d}-{number:05d}")
    queued = list(rows)
    storage.write_bytes(path, pickle.dumps(queued, pickle.HIGHEST_PROTOCOL))
    announce(path, len(queued))
    return bucket, path


class _JoinBuckets(beam.DoFn):
    """Yield the queue files of all buckets that came to this worker at once: a cluster spreads several to each."""

    def start_bundle(self) -> None:
        self._paths: list[str] = []

    def process(self, bucket: tuple[int, Iterable[str]]) -> None:
        self._paths += bucket[1]

    def finish_bundle(self) -> Iterator[WindowedValue]:
        if self._paths:
            yield GlobalWindows.windowed_value(self._paths)


class GroupHosts(beam.PTransform):
    """Turn (authority, item) pairs into lists of queue files: what one worker requests.

    Args:
        num_buckets: `Runner.num_buckets`.
        folder: Where all workers write and read queue files, which stay until the caller removes them.
        files: As of `GroupByKey`.
    """

    def __init__(self, num_buckets: int, folder: str, files: ShuffleFiles | None = None) -> None:
        super().__init__()
        self._num_buckets, self._folder, self._files = num_buckets, folder, files

    def expand(self, pairs: beam.PCollection) -> beam.PCollection:
        num_buckets = self._num_buckets
        if self._files is None:
            counts = (
                pairs | "HostOf" >> beam.Map(lambda row: row[0]) | "CountPerHost" >> beam.combiners.Count.PerElement()
            )
        else:  # which are read twice, and must not stay in memory in between
            written = pairs | "WriteItems" >> WriteRows(self._files)
            counts = written | "ByHash" >> beam.GroupByKey() | "CountPerHost" >> beam.FlatMap(count_keys)
            pairs = written | "Spread" >> beam.Reshuffle() | "ReadItems" >> beam.FlatMap(read_written)
        largest = beam.combiners.TopCombineFn(MAX_BALANCED_HOSTS, key=lambda row: (row[1], row[0]))
        plan = (
            counts
            | "WithNumber" >> beam.Map(lambda row: (row, row[1]))
            | "LargestHosts" >> beam.CombineGlobally(beam.combiners.TupleCombineFn(largest, sum)).without_defaults()
            | "BalanceHosts" >> beam.MapTuple(lambda rows, num: (assign_buckets(dict(rows), num_buckets), num))
        )
        return (
            pairs
            | "ToQueue" >> beam.Map(_to_queue, beam.pvalue.AsSingleton(plan), num_buckets)
            | "ByQueue" >> GroupByKey(self._files)
            | "WriteQueues" >> beam.Map(_write_queue, self._folder)
            | "ByBucket" >> beam.GroupByKey()
            | "JoinBuckets" >> beam.ParDo(_JoinBuckets())
        )
