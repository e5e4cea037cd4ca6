"""Servers for a spec's folders and commands, on loopback addresses while a crawl or a fetch runs."""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Self

from pydantic import Field, model_validator

from pipelines.errors import UserError
from pipelines.settings import Settings
from pipelines.web.address_guard import is_on_loopback

READY_SECONDS = 60
FREE_SECONDS = 3


class Serve(Settings):
    """A server on loopback addresses while a crawl or a fetch runs: of a folder, or a separate command."""

    addresses: list[str] = Field(description="host:port on loopback", min_length=1)
    folder: str | None = Field(
        None, description="Folder whose files are served, relative to where the command runs; null: a command serves"
    )
    command: list[str] | None = Field(
        None, description="Arguments to Python, such as [-m, tools, demo-web]; null: a folder is served"
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.folder is None) == (self.command is None):
            raise ValueError("needs either 'folder' or 'command'")
        for address in self.addresses:
            _, colon, port = address.rpartition(":")
            if not colon or not port.isdigit() or "[" in address or not is_on_loopback(address):
                raise ValueError(f"{address!r} is not a loopback address such as 127.0.0.1:8080")
        return self


@contextlib.contextmanager
def serving(served: Sequence[Serve]) -> Iterator[None]:
    """Start the servers of a spec, wait until they answer, and stop them after the block.

    Raises:
        UserError: If a folder is missing, an address is taken, or a server does not answer in time.
    """
    running: list[subprocess.Popen[bytes]] = []
    try:
        for serve in served:
            running += _start(serve)
        yield
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()


def _start(serve: Serve) -> list[subprocess.Popen[bytes]]:
    deadline = time.monotonic() + FREE_SECONDS  # the server of a killed run takes a moment to end
    while taken := [address for address in serve.addresses if _answers(address)]:
        if time.monotonic() > deadline:
            raise UserError(f"serve: {taken[0]} is used by another program; stop it, or choose another address")
        time.sleep(0.1)
    if serve.folder is not None:
        if not os.path.isdir(serve.folder):
            raise UserError(f"serve: no folder {serve.folder}; see the first lines of the spec for what it needs")
        commands = [
            # Not http.server: with keep-alive, its responses in two packets wait 40 ms for a delayed acknowledgement.
            ["-m", "aiohttp.web", "-H", host, "-P", port, "pipelines.running.folder_app:folder_app", serve.folder]
            for host, _, port in (address.rpartition(":") for address in serve.addresses)
        ]
    else:
        commands = [serve.command or []]
    running = [
        subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL if serve.folder is not None else None,
            preexec_fn=_end_with_parent,
        )
        for command in commands
    ]
    deadline = time.monotonic() + READY_SECONDS
    while not all(_answers(address) for address in serve.addresses):
        if any(process.poll() is not None for process in running) or time.monotonic() > deadline:
            for process in running:
                process.kill()
            raise UserError(f"serve: {' '.join(commands[0])} does not answer on {', '.join(serve.addresses)}")
        time.sleep(0.05)
    return running


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with socket.socket() as connection:
        connection.settimeout(1)
        return connection.connect_ex((host, int(port))) == 0


def _end_with_parent() -> None:
    """Make a server end when its run is killed (on Linux), so that its address is free for the next run."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
