"""A web of hostile hosts: each row of `tests.hostile.table` has a loopback address of its own, all on one port.

What a row sends is bytes as they go over the wire, so that no HTTP library tidies them. A canary listens where no
request may go.
"""

import asyncio
import itertools
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from tests.hostile.names import CANARY, HOME

Unit = Literal["page", "site_file", "element", "media", "video", "track", "document", "cue"]
_MAX_BYTES = 1 << 28  # after which an endless answer ends all the same


class Answer(NamedTuple):
    """What a connection gets: pieces of bytes, with a pause after each; it is closed after the last."""

    pieces: Iterable[bytes] | Callable[[], Iterable[bytes]]
    pause: float = 0.0


Answers = Mapping[str, Answer] | Callable[[str], Answer | None]
"""A host's answers by path, or a function of the path; anything else is 404."""


@dataclass(frozen=True, slots=True)
class Row:
    """One attack: what is asked for, what the host sends, and how it must end.

    `url` may hold `{host}`, the row's own address with the port, `{port}`, `{canary}` and `{secret}`. `unit` and `reasons` say what
    is counted, one of the reasons; none: it is used, or nothing of it is there to be counted.
    """

    name: str
    url: str
    answers: Answers = field(default_factory=dict)
    unit: Unit = "page"
    reasons: tuple[str, ...] = ()
    track: str | None = None  # of a video: the URL of its timed text


def head(status: str = "200 OK", content_type: str = "text/html", **more: str) -> bytes:
    """Return the head of an answer; underscores in names stand for hyphens."""
    fields = {"Content_Type": content_type, "Connection": "close", **more}
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items() if value)
    return f"HTTP/1.1 {status}\r\n{lines}\r\n".encode("latin-1")


def whole(body: bytes | str, content_type: str = "text/html", status: str = "200 OK", **more: str) -> Answer:
    """Return an answer with its length."""
    data = body.encode() if isinstance(body, str) else body
    return Answer([head(status, content_type, Content_Length=str(len(data)), **more) + data])


def redirect(location: str, status: str = "302 Found") -> Answer:
    """Return a redirect; the location is sent as it is."""
    return whole(b"", status=status, Location=location)


NOT_FOUND = whole(b"", "text/plain", "404 Not Found")


class HostileWeb:
    """The hosts of rows, served by one thread.

    Args:
        rows: In their final order, which gives each its address.
        port: A port that is free at all addresses.
        secret: A file that nothing may open.
    """

    def __init__(self, rows: Iterable[Row], port: int, secret: Path) -> None:
        self.port = port
        self._secret = secret
        self._rows = {f"127.0.{6 + i // 249}.{1 + i % 249}": row for i, row in enumerate(rows)}
        self._address = {row.name: address for address, row in self._rows.items()}
        self.requests: list[str] = []
        """First line of each request, behind the address that it came to."""
        self.heads: list[str] = []
        self.sent: Counter[str] = Counter()
        """Bytes sent, by address."""
        self.strangers: list[str] = []
        """What came to the canary, which must stay empty."""

    def filled(self, row: Row, text: str) -> str:
        """Return a text of a row with its own address, the port and the canary's address in it."""
        names = {"{host}": f"{self._address[row.name]}:{self.port}", "{port}": str(self.port), "{canary}": CANARY}
        names["{secret}"] = str(self._secret)
        for name, value in names.items():
            text = text.replace(name, value)
        return text

    def url(self, row: Row) -> str:
        """Return the URL that is asked for."""
        return self.filled(row, row.url)

    def hosts(self) -> list[str]:
        """Return the authorities of all rows."""
        return [f"{address}:{self.port}" for address in self._rows]

    @property
    def addresses(self) -> list[str]:
        """All addresses that are listened on."""
        return [*self._rows, HOME, CANARY, "127.0.0.1", "::1"]

    def __enter__(self) -> "HostileWeb":
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        starting = asyncio.start_server(self._serve, self.addresses, self.port, limit=1 << 20)
        self._server = asyncio.run_coroutine_threadsafe(starting, self._loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _close(self) -> None:
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        address = writer.get_extra_info("sockname")[0]
        row = self._rows.get(address)
        if row is None and address != HOME:
            self.strangers.append(address)
        with suppress(ConnectionError, TimeoutError, asyncio.IncompleteReadError, asyncio.CancelledError):
            asked = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first = asked.partition("\r\n")[0]
            self.requests.append(f"{address} {first}")
            self.heads.append(asked)
            path = first.split(" ")[1]
            if address == HOME:
                row = next((row for row in self._rows.values() if row.url.endswith(f".test:{{port}}{path}")), None)
            if row is not None:
                await self._send(address, row, path, writer)
            elif address == HOME:
                writer.write(b"".join(NOT_FOUND.pieces))  # type: ignore[arg-type]
                await writer.drain()
        writer.close()

    async def _send(self, address: str, row: Row, path: str, writer: asyncio.StreamWriter) -> None:
        found = row.answers(path) if callable(row.answers) else row.answers.get(path)
        pieces = (found or NOT_FOUND).pieces
        for piece in pieces() if callable(pieces) else pieces:
            # Only heads name addresses; a large body is no text.
            data = self.filled(row, piece.decode("latin-1")).encode("latin-1") if len(piece) < 1 << 16 else piece
            data = _with_length(data, len(data) - len(piece))
            writer.write(data)
            await writer.drain()
            self.sent[address] += len(data)
            if self.sent[address] > _MAX_BYTES:
                return
            if found is not None and found.pause:
                await asyncio.sleep(found.pause)


def _with_length(data: bytes, num_more: int) -> bytes:
    """Return an answer whose Content-Length counts what was put in for names."""
    before, mark, rest = data.partition(b"Content-Length: ")
    if not num_more or not mark:
        return data
    length, end, body = rest.partition(b"\r\n")
    return b"%b%b%d%b%b" % (before, mark, len(data.partition(b"\r\n\r\n")[2]), end, body) if length else data


class FileCanary:
    """A named pipe that tells whether anything has opened it: whatever reads it would read a file of this machine."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.num_opened = 0
        os.mkfifo(path)
        self._is_over = False
        self._thread = threading.Thread(target=self._wait, daemon=True)
        self._thread.start()

    def _wait(self) -> None:
        while not self._is_over:
            with open(self.path, "wb"):  # blocks until it is opened to be read
                self.num_opened += not self._is_over

    def close(self) -> None:
        """Stop waiting."""
        self._is_over = True
        os.close(os.open(self.path, os.O_RDONLY | os.O_NONBLOCK))
        self._thread.join(10)


def chunked(*pieces: bytes) -> list[bytes]:
    """Return pieces as chunks, without the last one."""
    return [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces]


def endless(first: bytes, again: bytes) -> Callable[[], Iterable[bytes]]:
    """Return pieces without end."""
    return lambda: itertools.chain([first], itertools.repeat(again))
