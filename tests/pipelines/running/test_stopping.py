"""Tests of stopping a worker: what runs is cancelled and can put away what it has, what comes is not begun."""

import asyncio
import threading

import pytest

from pipelines.running import stopping
from pipelines.running.stopping import is_stopped, run_stoppable, stop_all
from pipelines.web.host_queues import run_queues


@pytest.fixture(autouse=True)
def _not_stopped(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stopping, "_is_stopped", False)
    monkeypatch.setattr(stopping, "LAST_SECONDS", 0.2)


def test_what_is_not_stopped_gives_its_result():
    async def work() -> int:
        await asyncio.sleep(0)
        return 3

    assert run_stoppable(work()) == 3
    assert not stopping._running


def test_what_runs_is_cancelled_and_puts_away_what_it_has():
    begun, kept = threading.Event(), []

    async def work() -> None:
        begun.set()
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            kept.append("part")
            raise

    def run() -> None:
        with pytest.raises(asyncio.CancelledError):
            run_stoppable(work())
        kept.append("ended")

    thread = threading.Thread(target=run)
    thread.start()
    assert begun.wait(10)
    stop_all(10)
    assert kept[0] == "part", "what was running has put away what it has"
    thread.join(10)
    assert kept == ["part", "ended"]


def test_what_was_begun_may_end_and_nothing_more_begins(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stopping, "LAST_SECONDS", 30)
    begun, told, ended = threading.Event(), threading.Event(), []

    async def request(item: str) -> None:
        begun.set()
        while not told.is_set():
            await asyncio.sleep(0.01)
        ended.append(item)

    async def work() -> None:
        await run_queues([("a", "a0"), ("a", "a1"), ("b", "b0")], request, max_hosts=2, is_stopped=is_stopped)

    def run() -> None:
        with pytest.raises(asyncio.CancelledError):
            run_stoppable(work())

    running = threading.Thread(target=run)
    running.start()
    assert begun.wait(10)
    stop = threading.Thread(target=stop_all, args=(10,))
    stop.start()
    while not is_stopped():
        begun.wait(0.01)
    told.set()
    stop.join(10)
    running.join(10)
    assert sorted(ended) == ["a0", "b0"], "in flight when it was stopped"


def test_nothing_begins_after_the_stop():
    done = []

    async def work() -> None:
        await asyncio.sleep(0)
        done.append(1)

    stop_all(0)
    with pytest.raises(asyncio.CancelledError):
        run_stoppable(work())
    assert not done
