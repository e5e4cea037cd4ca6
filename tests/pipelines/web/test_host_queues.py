"""Tests of host queues: one request per host at a time, in order, and at most the allowed number of hosts at once."""

import asyncio

import pytest

from pipelines.web.host_queues import run_queues

ITEMS = [("a", "a0"), ("b", "b0"), ("a", "a1"), ("c", "c0"), ("a", "a2"), ("b", "b1")]


class Recorder:
    """Work that yields once and records which items were in progress at the same time."""

    def __init__(self) -> None:
        self.began: list[str] = []
        self.under_way: set[str] = set()
        self.most = 0

    async def __call__(self, item: str) -> None:
        assert not {other for other in self.under_way if other[0] == item[0]}, "two requests to one host"
        self.began.append(item)
        self.under_way.add(item)
        self.most = max(self.most, len(self.under_way))
        await asyncio.sleep(0)
        self.under_way.discard(item)


@pytest.mark.parametrize(("max_hosts", "most"), [(1, 1), (2, 2), (3, 3), (9, 3)])
def test_hosts_run_at_once_each_in_its_order(max_hosts: int, most: int):
    work = Recorder()
    asyncio.run(run_queues(ITEMS, work, max_hosts=max_hosts))
    assert sorted(work.began) == sorted(item for _, item in ITEMS)
    for host in "abc":
        assert [i for i in work.began if i[0] == host] == [i for h, i in ITEMS if h == host]
    assert work.most == most


def test_all_hosts_wait_for_each_other_without_a_lock():
    async def scene() -> None:
        everyone = asyncio.Barrier(3)

        async def work(item: str) -> None:
            if item.endswith("0"):
                await everyone.wait()  # passes only if three hosts are in progress at once

        await run_queues(ITEMS, work, max_hosts=3)

    asyncio.run(scene())


def test_the_longest_queue_begins_first():
    work = Recorder()
    asyncio.run(run_queues([("a", "a0"), ("z", "z0"), ("z", "z1")], work, max_hosts=1))
    assert work.began == ["z0", "z1", "a0"]


def test_two_items_of_a_host_may_be_under_way_begun_in_order():
    began: list[str] = []

    async def scene() -> None:
        both = asyncio.Barrier(2)

        async def work(item: str) -> None:
            began.append(item)
            await both.wait()  # passes only if two items are in progress

        await run_queues([("a", f"a{i}") for i in range(4)], work, max_hosts=1, max_items=2)

    asyncio.run(scene())
    assert began == ["a0", "a1", "a2", "a3"]


def test_an_error_ends_the_run():
    work = Recorder()

    async def fail(item: str) -> None:
        await work(item)
        if item == "b0":
            raise OSError(28, "No space left on device")

    with pytest.raises(ExceptionGroup) as raised:
        asyncio.run(run_queues(ITEMS, fail, max_hosts=3))
    assert raised.group_contains(OSError, match="No space left")
    assert "b1" not in work.began


def test_a_second_item_of_a_host_begins_while_the_first_waits_for_something_else():
    began: list[str] = []

    async def scene() -> None:
        second_began = asyncio.Event()

        async def work(item: str) -> None:
            began.append(item)
            if item == "a1":
                second_began.set()
            await second_began.wait()  # passes only if both are in progress at once

        await run_queues([("a", "a0"), ("a", "a1"), ("a", "a2")], work, max_hosts=1, max_items=2)

    asyncio.run(scene())
    assert began == ["a0", "a1", "a2"]
