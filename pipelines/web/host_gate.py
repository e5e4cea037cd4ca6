"""One request at a time per host and connection, with a delay between the end of one and the start of the next.

Within a process by one queue per host; between processes of a machine by one lock file per host, which records when
the last request ended. Neither blocks the event loop. A host that nobody asks any more is forgotten, with its file.
"""

import asyncio
import contextlib
import fcntl
import functools
import os
import struct
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from urllib.parse import quote

# CLOCK_MONOTONIC is the same for all processes of a machine. It restarts at a reboot: a time in the future is then a
# leftover, and `_wait` limits it.
_now = time.monotonic
_RECORD = struct.Struct("<dd")  # end of the last request, earliest start of the next, seconds
MAX_IDLE_HOSTS = 10_000  # remembered by a process, with a file for each
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
    delay_seconds: float = 0.0
    num_waiting: int = 0  # for a turn, or in one

    def is_idle(self) -> bool:
        """Return whether nobody waits, and the next request would not have to either."""
        return self.num_waiting == 0 and max(self.ended + self.delay_seconds, self.not_before) < _now()


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
        self._resting: dict[str, float] = {}  # hosts that asked for a pause on one connection get it on all
        self._closed: set[str] = set()
        self._next_sweep = MAX_IDLE_HOSTS
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
        lane = min((_lane(host, i) for i in range(connections)), key=self._num_waiting)
        queue = self._queues.setdefault(lane, _Queue())
        queue.num_waiting += 1
        queue.delay_seconds = max(queue.delay_seconds, delay_seconds)
        try:
            async with self._turn(queue, host, lane, delay_seconds) as turn:
                yield turn
        finally:
            queue.num_waiting -= 1
        if len(self._queues) >= self._next_sweep:
            self._forget_idle_lanes()

    @contextlib.asynccontextmanager
    async def _turn(self, queue: _Queue, host: str, lane: str, delay_seconds: float) -> AsyncIterator[Turn]:
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

    def _num_waiting(self, lane: str) -> int:
        queue = self._queues.get(lane)
        return 0 if queue is None else queue.num_waiting

    def _forget_idle_lanes(self) -> None:
        for lane in [lane for lane, queue in self._queues.items() if queue.is_idle()]:
            if self._folder is not None:
                self._remove_file(self._folder, lane)
            del self._queues[lane]
        self._resting = {host: until for host, until in self._resting.items() if until > _now()}
        self._next_sweep = max(MAX_IDLE_HOSTS, 2 * len(self._queues))

    def _remove_file(self, folder: str, lane: str) -> None:
        """Remove a lane's lock file unless another process uses it, or its next request would have to wait."""
        with contextlib.suppress(OSError):  # it is gone, or locked
            file = os.open(_path(folder, lane), os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                ended, not_before = _read(file)
                if max(ended + self._queues[lane].delay_seconds, not_before) < _now():
                    os.unlink(_path(folder, lane))
            finally:
                os.close(file)

    def _wait(self, host: str, queue: _Queue, delay_seconds: float) -> float:
        ready = max(queue.ended + delay_seconds, queue.not_before, self._resting.get(host, 0.0))
        return min(ready - _now(), self._max_wait_seconds)

    async def _locked_file(self, lane: str) -> int | None:
        """Return the lane's lock file, open and locked; polls, since waiting for a lock would block the event loop."""
        if self._folder is None:
            return None
        seconds = _FIRST_POLL_SECONDS
        while True:
            path = _path(self._folder, lane)
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_at(file, path):
                    return file
            except BlockingIOError:
                pass
            except BaseException:
                os.close(file)
                raise
            os.close(file)
            await asyncio.sleep(seconds)
            seconds = min(2 * seconds, _LAST_POLL_SECONDS)


@functools.lru_cache(maxsize=MAX_IDLE_HOSTS)
def _path(folder: str, lane: str) -> str:
    return os.path.join(folder, quote(lane, safe="")[:200])


def _is_at(file: int, path: str) -> bool:
    """Return whether an open file is the one at a path: another process may have removed it before it was locked."""
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False


def _lane(host: str, number: int) -> str:
    return host if number == 0 else f"{host} {number}"


def _read(file: int) -> tuple[float, float]:
    data = os.pread(file, _RECORD.size, 0)
    if len(data) < _RECORD.size:
        return float("-inf"), 0.0
    ended, not_before = _RECORD.unpack(data)
    return ended, not_before
