"""aiohttp's connections, taking responses as browsers do.

aiohttp gives no access to a head before its parser refuses it, so this relies on `TCPConnector._factory`, which makes
the protocol of a connection. `tests/pipelines/web/test_aiohttp_internals.py` fails if that changes.
"""

import asyncio
import functools
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError

from pipelines.web.response_body import Body, body_after
from pipelines.web.response_head import HEAD_END, MAX_HEAD_BYTES, STARTS, repaired_head


class TolerantConnector(aiohttp.TCPConnector):
    """Connector whose connections repair responses."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._factory = functools.partial(_handler, asyncio.get_running_loop())


class _TolerantHandler(ResponseHandler):
    """Protocol that hands the head of each response to the parser in one piece, repaired, and no more than its body."""

    _head: bytes | None = None  # what has arrived of the head; None outside of heads
    _body: Body | None = None  # what follows the head; None if that is all until the connection ends
    _has_body = True

    def set_response_params(self, *, skip_payload: bool = False, **params: Any) -> None:
        self._head, self._body, self._has_body = b"", None, not skip_payload
        super().set_response_params(skip_payload=skip_payload, **params)

    def data_received(self, data: bytes) -> None:
        while self._head is not None and data:
            num_seen = max(0, len(self._head) - 3)  # before which no end can begin
            self._head, data = (self._head + data).lstrip(b"\r\n"), b""
            end = HEAD_END.search(self._head, num_seen)
            if not any(start.startswith(self._head[: len(start)].upper()) for start in STARTS):
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
                    self._head, self._body = None, body_after(head, is_expected=self._has_body)
                    self._pass_on(data, head)
                    return
            else:
                return
        self._pass_on(data)

    def _pass_on(self, data: bytes, head: bytes = b"") -> None:
        """Give the parser what belongs to the body; bytes beyond it are no beginning of another response."""
        if self._body is None:
            super().data_received(head + data)
            return
        found, rest = self._body.take(data)
        if head or found or not data:
            super().data_received(head + found)
        if rest.strip(b"\r\n") and self.transport is not None:
            self.transport.close()

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
