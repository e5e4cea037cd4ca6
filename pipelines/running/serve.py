"""Serving a spec's folders and commands on loopback addresses while a crawl or a fetch runs."""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

from pipelines.errors import UserError
from pipelines.spec import CorpusSpec, Serve

READY_SECONDS = 60
FREE_SECONDS = 3


@contextlib.contextmanager
def serving(spec: CorpusSpec) -> Iterator[None]:
    """Start everything that the spec serves, wait until it answers, and end it with the block.

    Raises:
        UserError: If a folder is missing, an address is taken, or a server does not answer in time.
    """
    running: list[subprocess.Popen[bytes]] = []
    try:
        for serve in spec.serve:
            running += _start(serve)
        yield
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()


def _start(serve: Serve) -> list[subprocess.Popen[bytes]]:
    deadline = time.monotonic() + FREE_SECONDS  # the server of a run that was killed takes a moment to end
    while taken := [address for address in serve.addresses if _answers(address)]:
        if time.monotonic() > deadline:
            raise UserError(f"serve: {taken[0]} is taken by another program; end it, or choose another address")
        time.sleep(0.1)
    if serve.folder is not None:
        if not os.path.isdir(serve.folder):
            raise UserError(f"serve: no folder {serve.folder}; the spec's first lines say what it needs")
        commands = [
            # Not http.server: with keep-alive, its answers in two packets wait 40 ms for a delayed acknowledgement.
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
    """On Linux, a server ends when the run that started it is killed, so that its address is free for the next."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
