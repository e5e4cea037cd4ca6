"""Many hosts at once, one request at a time to each: the loop inside a crawl's or a fetch's worker."""

import asyncio
import heapq
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from pipelines.parts import stable_hash

T = TypeVar("T")

MAX_BALANCED_HOSTS = 10_000


def assign_buckets(num_urls: dict[str, int], num_buckets: int) -> dict[str, int]:
    """Buckets of the largest hosts, so that each worker gets about as much: largest first, to the emptiest bucket.

    Args:
        num_urls: URLs by authority; at most `MAX_BALANCED_HOSTS` are worth giving, the rest go by `bucket_of`.
        num_buckets: One a worker.
    """
    heap = [(0, bucket) for bucket in range(num_buckets)]
    buckets = {}
    for authority, num in sorted(num_urls.items(), key=lambda item: (-item[1], item[0])):
        load, bucket = heapq.heappop(heap)
        buckets[authority] = bucket
        heapq.heappush(heap, (load + num, bucket))
    return buckets


def bucket_of(authority: str, balanced: dict[str, int], num_buckets: int) -> int:
    """A host's bucket: the balanced one, else by its hash."""
    return balanced.get(authority, stable_hash(authority) % num_buckets)


async def run_queues(
    items: Iterable[tuple[str, T]],
    work: Callable[[T], Awaitable[None]],
    *,
    max_hosts: int,
) -> None:
    """Run `work` on every item, in order within a host, up to `max_hosts` hosts at once.

    Args:
        items: (authority, item) in the order in which a host's items are to run.
        work: Must not raise for what the web does; what it raises ends the run.
        max_hosts: Hosts in flight.
    """
    queues: dict[str, list[T]] = defaultdict(list)
    for authority, item in items:
        queues[authority].append(item)
    slots = asyncio.Semaphore(max_hosts)

    async def drain(queue: list[T]) -> None:
        async with slots:
            for item in queue:
                await work(item)

    # The longest queue decides when the worker is done, so it begins first.
    ordered = sorted(queues.items(), key=lambda entry: (-len(entry[1]), entry[0]))
    async with asyncio.TaskGroup() as group:
        for _, queue in ordered:
            group.create_task(drain(queue))
