"""Many hosts at once, one request at a time per host: the loop inside a worker of a crawl or fetch."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


async def run_queues(
    items: Iterable[tuple[str, T]],
    work: Callable[[T], Awaitable[None]],
    *,
    max_hosts: int,
    max_items: int = 1,
    is_stopped: Callable[[], bool] = lambda: False,
) -> None:
    """Run `work` on every item, started in order within a host, up to `max_hosts` hosts at once.

    Args:
        items: (authority, item) in the order in which a host's items are to run.
        work: Must not raise for failures of the web; an exception ends the run.
        max_hosts: Hosts in flight.
        max_items: Items of a host in flight. If `work` also waits for other things than the host (which has its own
            gate, `HostGate`), 2 lets the host be used meanwhile.
        is_stopped: Whether to begin no further item.

    Raises:
        CancelledError: If it was stopped, once the items that had begun have ended.
    """
    queues: dict[str, list[T]] = defaultdict(list)
    for authority, item in items:
        queues[authority].append(item)
    slots = asyncio.Semaphore(max_hosts)

    async def take(queue: Iterator[T]) -> None:
        for item in queue:
            if is_stopped():
                return
            await work(item)

    async def drain(queue: list[T]) -> None:
        remaining = iter(queue)
        async with slots, asyncio.TaskGroup() as group:
            for _ in range(min(max_items, len(queue))):
                group.create_task(take(remaining))

    # The longest queue determines when the worker finishes, so it begins first.
    ordered = sorted(queues.items(), key=lambda entry: (-len(entry[1]), entry[0]))
    async with asyncio.TaskGroup() as group:
        for _, queue in ordered:
            group.create_task(drain(queue))
    if is_stopped():
        raise asyncio.CancelledError
