"""The command: serve a corpus on an address of this machine, or write a part of it as files."""

import contextlib
import errno
import ipaddress
import os
import signal
import socket
import sys
import threading
from types import FrameType
from typing import NoReturn

import uvicorn
from starlette.applications import Starlette

from pipelines.command_line import printable
from pipelines.errors import UserError
from pipelines.shards.manifest import load_manifest
from tools.browse.app import LOOPBACK, Browser, make_app
from tools.browse.training import RunRecord

_SECONDS_TO_END = 3


def browse(corpus: str, run: str | None, host: str, port: int) -> None:
    """Serve the pages of a corpus until Ctrl-C.

    Args:
        corpus: Its folder, local or an fsspec URL.
        run: Folder of a run that was trained on it, or None.
        host: Name or address to listen on.
        port: Port; 0 takes any free one.

    Raises:
        UserError: If there is no corpus, the run is of another one, or the address cannot be used.
    """
    manifest = load_manifest(corpus)
    record = None if run is None else RunRecord(run, corpus, manifest)
    with _listening(host, port) as listener:
        browser = Browser(corpus, manifest, record)
        address, used_port = listener.getsockname()[:2]
        is_loopback = ipaddress.ip_address(address).is_loopback
        app = make_app(browser, sorted({*LOOPBACK, host.lower(), address}) if is_loopback else None)
        with contextlib.suppress(UserError):  # a page says so
            browser.catalogue()
        shown = f"[{host}]" if ":" in host else host
        if not is_loopback:
            print("warning: whoever reaches this address can see the whole corpus", file=sys.stderr)
        print(f"{printable(corpus)}: http://{shown}:{used_port}/ until Ctrl-C", flush=True)
        browser.prepare()
        try:
            _serve(app, listener)
        finally:
            browser.close()
    print("stopped", flush=True)
    if any(thread.daemon for thread in threading.enumerate()):
        os._exit(0)  # what a thread is at is written whole or not at all, and may take long


def _listening(host: str, port: int) -> socket.socket:
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


def _serve(app: Starlette, listener: socket.socket) -> None:
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
