"""One request at a time per host and connection, with a delay between the end of one and the start of the next.

Within a process by one queue per host; between processes of a machine by one lock file per host, which records when
the last request ended. Neither blocks the event loop.
"""

import asyncio
import contextlib
import fcntl
import os
import struct
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from urllib.parse import quote

# CLOCK_MONOTONIC is the same for all processes of a machine. It restarts at a reboot: a time in the future is then a
# leftover, and `_wait` limits it.
_now = time.monotonic
_RECORD = struct.Struct("<dd")  # end of the last request, earliest start of the next, seconds
_FIRST_POLL_SECONDS, _LAST_POLL_SECONDS = 0.002, 0.05


class HostClosedError(Exception):
    """No further requests may go to this host."""


@dataclass(slots=True)
class Turn:
    """Exclusive access to a host for one request."""

    not_before: float = 0.0

    def postpone_next(self, seconds: float) -> None:
        """Block the host for this many seconds from now (Retry-After)."""
        self.not_before = _now() + seconds


@dataclass(slots=True)
class _Queue:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    ended: float = float("-inf")
    not_before: float = 0.0


class HostGate:
    """Gate that gives each host's requests their turns.

    Args:
        folder: A local folder for lock files, shared by the processes of a machine; None: this process only.
        max_wait_seconds: Upper limit of a wait, whatever a lock file says.
    """

    def __init__(self, folder: str | None, max_wait_seconds: float) -> None:
        self._folder = folder
        self._max_wait_seconds = max_wait_seconds
        self._queues: dict[str, _Queue] = {}  # by lane: a host, or one of its connections
        self._waiting: Counter[str] = Counter()
        self._resting: dict[str, float] = {}  # hosts that asked for a pause on one connection get it on all
        self._closed: set[str] = set()
        if folder is not None:
            os.makedirs(folder, exist_ok=True)

    @contextlib.asynccontextmanager
    async def turn(self, host: str, delay_seconds: float, connections: int = 1) -> AsyncIterator[Turn]:
        """Wait for the host's turn, and keep it until the block ends.

        Args:
            host: Name of the host.
            delay_seconds: Between two turns.
            connections: Turns that there are at once; each waits for its own predecessor.

        Raises:
            HostClosedError: If the host is closed; raised at once in all who wait.
        """
        lane = min((_lane(host, i) for i in range(connections)), key=lambda name: self._waiting[name])
        queue = self._queues.setdefault(lane, _Queue())
        self._waiting[lane] += 1
        try:
            async with self._turn_of(queue, host, lane, delay_seconds) as turn:
                yield turn
        finally:
            self._waiting[lane] -= 1

    @contextlib.asynccontextmanager
    async def _turn_of(self, queue: _Queue, host: str, lane: str, delay_seconds: float) -> AsyncIterator[Turn]:
        async with queue.lock:
            if host in self._closed:
                raise HostClosedError
            file = await self._locked_file(lane)
            try:
                if file is not None:
                    queue.ended, queue.not_before = _read(file)
                if (seconds := self._wait(host, queue, delay_seconds)) > 0:
                    await asyncio.sleep(seconds)
                turn = Turn()
                try:
                    yield turn
                finally:
                    queue.ended, queue.not_before = _now(), turn.not_before
                    self._resting[host] = max(self._resting.get(host, 0.0), turn.not_before)
                    if file is not None:
                        os.pwrite(file, _RECORD.pack(queue.ended, queue.not_before), 0)
            finally:
                if file is not None:
                    os.close(file)  # releases the lock

    def close(self, host: str) -> None:
        """Refuse all further requests of this process to the host."""
        self._closed.add(host)

    def _wait(self, host: str, queue: _Queue, delay_seconds: float) -> float:
        ready = max(queue.ended + delay_seconds, queue.not_before, self._resting.get(host, 0.0))
        return min(ready - _now(), self._max_wait_seconds)

    async def _locked_file(self, lane: str) -> int | None:
        """Return the lane's lock file, open and locked; polls, since waiting for a lock would block the event loop."""
        if self._folder is None:
            return None
        file = os.open(
            os.path.join(self._folder, quote(lane, safe="")[:200]), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644
        )
        seconds = _FIRST_POLL_SECONDS
        try:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return file
                except BlockingIOError:
                    await asyncio.sleep(seconds)
                    seconds = min(2 * seconds, _LAST_POLL_SECONDS)
        except BaseException:
            os.close(file)
            raise


def _lane(host: str, number: int) -> str:
    return host if number == 0 else f"{host} {number}"


def _read(file: int) -> tuple[float, float]:
    data = os.pread(file, _RECORD.size, 0)
    if len(data) < _RECORD.size:
        return float("-inf"), 0.0
    ended, not_before = _RECORD.unpack(data)
    return ended, not_before
