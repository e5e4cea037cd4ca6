"""aiohttp's connections, taking response heads as browsers do.

aiohttp gives no access to a head before its parser refuses it, so this relies on `TCPConnector._factory`, which makes
the protocol of a connection. `tests/pipelines/web/test_aiohttp_internals.py` fails if that changes.
"""

import asyncio
import functools
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError

from pipelines.web.response_head import HEAD_END, MAX_HEAD_BYTES, repaired_head

_START = b"HTTP/"


class TolerantConnector(aiohttp.TCPConnector):
    """Connector whose connections repair response heads."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._factory = functools.partial(_handler, asyncio.get_running_loop())


class _TolerantHandler(ResponseHandler):
    """Protocol that hands the head of each response to the parser in one piece, repaired."""

    _head: bytes | None = None  # what has arrived of the head; None outside of heads

    def set_response_params(self, **params: Any) -> None:
        self._head = b""
        super().set_response_params(**params)

    def data_received(self, data: bytes) -> None:
        while self._head is not None and data:
            num_seen = max(0, len(self._head) - 3)  # before which no end can begin
            self._head, data = (self._head + data).lstrip(b"\r\n"), b""
            end = HEAD_END.search(self._head, num_seen)
            if not _START.startswith(self._head[: len(_START)].upper()):
                data, self._head = self._head, None
            elif (len(self._head) if end is None else end.end()) > MAX_HEAD_BYTES:
                self._refuse(f"more than {MAX_HEAD_BYTES} bytes of header")
                return
            elif end is not None:
                head, data = repaired_head(self._head[: end.start()]), self._head[end.end() :]
                if _is_interim(head):
                    self._head = b""
                    super().data_received(head)
                else:  # with what follows, or an error in there would find no one waiting for it
                    self._head, data = None, head + data
            else:
                return
        if data:
            super().data_received(data)

    def _refuse(self, what: str) -> None:
        self._head = None
        if self.transport is not None:
            self.transport.close()
        self.set_exception(HttpProcessingError(code=400, message=what))


def _handler(loop: asyncio.AbstractEventLoop) -> ResponseHandler:
    return _TolerantHandler(loop)


def _is_interim(head: bytes) -> bool:
    """Return whether another head follows: of a 1xx response, unless it changes the protocol."""
    code = head[9:12]
    return code.startswith(b"1") and code != b"101"
