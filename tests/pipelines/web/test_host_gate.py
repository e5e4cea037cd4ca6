"""Tests of turns at a host: one at a time, separated by a delay, across processes."""

import asyncio
import itertools
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.web import host_gate
from pipelines.web.host_gate import HostClosedError, HostGate

DELAY = 0.03

WORKER = """
import asyncio, sys, time
from pipelines.web.host_gate import HostGate

async def main(folder, delay):
    gate = HostGate(folder, 10.0)
    async def one():
        async with gate.turn("h.example", delay):
            begun = time.monotonic()
            await asyncio.sleep(0.005)
            print(begun, time.monotonic())
    await asyncio.gather(*(one() for _ in range(6)))

asyncio.run(main(sys.argv[1], float(sys.argv[2])))
"""


def assert_apart(spans: list[tuple[float, float]], delay: float) -> None:
    spans.sort()
    gaps = [begun - ended for (_, ended), (begun, _) in itertools.pairwise(spans)]
    assert min(gaps) >= delay


def test_turns_of_one_host_are_apart_and_other_hosts_do_not_wait(tmp_path: Path) -> None:
    spans: dict[str, list[tuple[float, float]]] = {"a": [], "b": []}

    async def main() -> None:
        gate = HostGate(str(tmp_path), 10.0)

        async def one(host: str) -> None:
            async with gate.turn(host, DELAY):
                begun = time.monotonic()
                await asyncio.sleep(0.002)
                spans[host].append((begun, time.monotonic()))

        await asyncio.gather(*(one(host) for host in "ab" * 4))

    asyncio.run(main())
    assert_apart(spans["a"], DELAY)
    assert_apart(spans["b"], DELAY)
    assert spans["b"][0][0] < spans["a"][1][0]


@pytest.mark.slow
def test_processes_that_share_a_folder_take_turns(tmp_path: Path) -> None:
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, str(tmp_path), str(DELAY)], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    lines = [line for worker in workers for line in worker.communicate()[0].splitlines()]
    assert [worker.returncode for worker in workers] == [0, 0, 0]
    spans = [(float(begun), float(ended)) for begun, ended in map(str.split, lines)]
    assert len(spans) == 18
    assert_apart(spans, DELAY)


def test_a_turn_may_postpone_the_next() -> None:
    async def main() -> float:
        gate = HostGate(None, 10.0)
        async with gate.turn("h", 0.0) as turn:
            turn.postpone_next(DELAY)
            begun = time.monotonic()
        async with gate.turn("h", 0.0):
            return time.monotonic() - begun

    assert asyncio.run(main()) >= DELAY


def test_a_time_left_over_from_before_a_reboot_holds_nobody_for_long(tmp_path: Path) -> None:
    (tmp_path / "h").write_bytes(struct.pack("<dd", time.monotonic() + 1e6, time.monotonic() + 1e6))

    async def main() -> None:
        async with HostGate(str(tmp_path), DELAY).turn("h", 0.0):
            pass

    asyncio.run(asyncio.wait_for(main(), timeout=5))


@pytest.mark.parametrize("content", [b"", b"\0" * 7])
def test_an_empty_or_torn_lock_file_is_no_obstacle(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "h").write_bytes(content)

    async def main() -> None:
        async with HostGate(str(tmp_path), 10.0).turn("h", 60.0):
            pass

    asyncio.run(asyncio.wait_for(main(), timeout=5))


def test_a_closed_host_turns_away_all_who_wait_without_their_delay() -> None:
    async def main() -> list[object]:
        gate = HostGate(None, 1000.0)

        async def one() -> None:
            async with gate.turn("h", 500.0):
                gate.close("h")

        return await asyncio.wait_for(asyncio.gather(*(one() for _ in range(5)), return_exceptions=True), timeout=5)

    outcomes = asyncio.run(main())
    assert outcomes[0] is None
    assert [type(outcome) for outcome in outcomes[1:]] == [HostClosedError] * 4


def test_whoever_gives_up_waiting_leaves_the_turn_to_others(tmp_path: Path) -> None:
    async def main() -> None:
        first, second = HostGate(str(tmp_path), 10.0), HostGate(str(tmp_path), 10.0)
        async with first.turn("h", 0.0):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(DELAY), second.turn("h", 0.0):
                    pass
        async with asyncio.timeout(5), second.turn("h", 0.0):
            pass

    asyncio.run(main())


def test_hosts_that_nobody_asks_are_forgotten_with_their_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_gate, "MAX_IDLE_HOSTS", 10)

    async def main() -> None:
        gate, other = HostGate(str(tmp_path), 10.0), HostGate(str(tmp_path), 10.0)
        async with other.turn("held", 0.0):
            async with gate.turn("slow", 60.0):
                pass
            for i in range(40):
                async with gate.turn(f"host-{i}", 0.0):
                    pass
            gate.close("host-3")
            names = {path.name for path in tmp_path.iterdir()}
            assert {"slow", "held"} <= names
            assert len(names) < 25
            with pytest.raises(HostClosedError):
                async with gate.turn("host-3", 0.0):
                    pass
        assert gate._wait("slow", gate._queues["slow"], 60.0) == 10.0  # the longest wait: it is remembered

    asyncio.run(main())


def test_a_file_that_was_removed_before_it_was_locked_is_opened_again(tmp_path: Path) -> None:
    async def main() -> None:
        first, second = HostGate(str(tmp_path), 10.0), HostGate(str(tmp_path), 10.0)
        begun: list[float] = []

        async def late() -> None:
            async with second.turn("a", 0.0):
                begun.append(time.monotonic())

        async with first.turn("a", 0.0):
            waiting = asyncio.create_task(late())
            await asyncio.sleep(0.01)
            (tmp_path / "a").unlink()
        await waiting
        assert begun
        assert (tmp_path / "a").stat().st_size == 16

    asyncio.run(main())
