"""How much a request may ask for, and how many requests may wait for the model."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request may ask for at most.

    Attributes:
        body: Bytes of its body.
        images: Images in its messages.
        pixels: Pixels of an image.
        new_tokens: Tokens of an answer.
        drawn: Images of an answer.
        waiting: Requests that wait for the model or use it.
    """

    body: int = 32 << 20
    images: int = 32
    pixels: int = 50_000_000
    new_tokens: int = 2048
    drawn: int = 4
    waiting: int = 16


class ApiError(HTTPException):
    """A request that is refused, with the status and the words of its answer."""


def error_response(error: HTTPException) -> JSONResponse:
    """Return the answer to a request that is refused, in OpenAI's form."""
    kind = "invalid_request_error" if error.status_code < 500 and error.status_code != 429 else "server_error"
    content = {"message": error.detail, "type": kind, "param": None, "code": None}
    return JSONResponse({"error": content}, error.status_code, error.headers)


class Turn:
    """Lets one request at a time use the model, and a bounded number wait.

    Args:
        waiting: Requests that may wait or use it.
    """

    def __init__(self, waiting: int) -> None:
        self._waiting, self._most = 0, waiting
        self._lock = asyncio.Lock()

    def check(self) -> None:
        """Refuse a request while too many wait.

        Raises:
            ApiError: 429.
        """
        if self._waiting >= self._most:
            raise ApiError(429, f"{self._most} requests wait already; try again", {"retry-after": "5"})

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[None]:
        """Wait for the model, and keep it meanwhile."""
        self._waiting += 1
        try:
            async with self._lock:
                yield
        finally:
            self._waiting -= 1


class BodyLimit:
    """Answers 413 to a body that is larger than allowed, before it is read whole.

    Args:
        app: What gets the other requests.
        most: Bytes of a body at most.
    """

    def __init__(self, app: ASGIApp, most: int) -> None:
        self.app, self.most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        error = ApiError(413, f"the body is larger than {self.most:,} bytes")
        declared = Headers(scope=scope).get("content-length", "0")
        if not declared.isascii() or not declared.isdigit() or int(declared) > self.most:
            await error_response(error)(scope, receive, send)
            return
        num_bytes = 0

        async def counted() -> Message:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > self.most:
                raise error
            return message

        await self.app(scope, counted, send)
