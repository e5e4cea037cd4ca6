"""A server on an address of this machine, until Ctrl-C."""

import contextlib
import errno
import signal
import socket
from types import FrameType
from typing import NoReturn

import uvicorn
from starlette.types import ASGIApp

from pipelines.errors import UserError

LOOPBACK = ("127.0.0.1", "localhost", "::1")

_SECONDS_TO_END = 3


def listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens on an address.

    Raises:
        UserError: If there is no such address, or its port is in use or may not be used.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise UserError(f"--host {host}: no such address: {getattr(error, 'strerror', None) or error}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that was just stopped may still close
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        listener.close()
        remedy = "name another --port, or 0 for any free one" if error.errno != errno.EADDRNOTAVAIL else "name another"
        raise UserError(f"{host}:{port}: cannot listen there: {error.strerror}; {remedy}") from error
    return listener


def serve_until_stopped(app: ASGIApp, listener: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM, which are the way to end it."""
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=_SECONDS_TO_END,
    )

    def end(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)  # uvicorn sends itself the signal again, once it has ended
    try:
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])
    finally:
        signal.signal(signal.SIGTERM, before)
