"""Assignment of hosts to workers: all URLs of a host in one bucket, and buckets of similar size.

A bucket is a list of queue files, each small enough for a worker's memory. Every file has its share of every host, so
that none ends with a single host's URLs unless the whole bucket does.
"""

import heapq
import pickle
from collections.abc import Iterable, Mapping
from typing import Any

import apache_beam as beam

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
        num_buckets: One per worker.
    """
    heap = [(0, bucket) for bucket in range(num_buckets)]
    buckets = {}
    for authority, num in sorted(num_urls.items(), key=lambda item: (-item[1], item[0])):
        load, bucket = heapq.heappop(heap)
        buckets[authority] = bucket
        heapq.heappush(heap, (load + num, bucket))
    return buckets


def read_queue(path: str) -> list[tuple[str, Any]]:
    """Return the (authority, item) pairs of a queue file, in no order."""
    found: list[tuple[str, Any]] = pickle.loads(storage.read_bytes(path))
    return found


def _to_queue(
    row: tuple[str, Any], balanced: dict[str, int], total: int, num_buckets: int
) -> tuple[tuple[int, int], tuple[str, Any]]:
    authority, item = row
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


class GroupHosts(beam.PTransform):
    """Turn (authority, item) pairs into (bucket, paths of queue files): what one worker requests.

    Args:
        num_buckets: One per worker.
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
        balanced = (
            counts
            | "LargestHosts" >> beam.combiners.Top.Of(MAX_BALANCED_HOSTS, key=lambda row: (row[1], row[0]))
            | "BalanceHosts" >> beam.Map(lambda rows: assign_buckets(dict(rows), num_buckets))
        )
        total = counts | "NumItems" >> beam.Values() | "Total" >> beam.CombineGlobally(sum)
        single = beam.pvalue.AsSingleton
        return (
            pairs
            | "ToQueue" >> beam.Map(_to_queue, single(balanced), single(total), num_buckets)
            | "ByQueue" >> GroupByKey(self._files)
            | "WriteQueues" >> beam.Map(_write_queue, self._folder)
            | "ByBucket" >> beam.GroupByKey()
        )
