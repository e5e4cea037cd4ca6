"""Bytes of a file, a command or a web server from start to end, in webdataset's forms of URLs.

A read that waits ends when the stream is stopped, and is an error when nothing has come for some time.
"""

import contextlib
import io
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

from webdataset.gopen import Pipe, gopen, gopen_curl, gopen_schemes, rewrite_url

from pipelines.errors import UserError
from trainer.reading.open_files import open_files

_CURL = ("curl", "--connect-timeout", "30", "--retry", "30", "--retry-delay", "2", "-f", "-s", "-L")
_PATIENCE = 5.0  # seconds for a command to end after its last byte
_TICK = 0.25  # seconds after which a read that waits looks whether it is to stop
_FIRST = 512  # bytes of the first read, unless the stream is shorter: what is in it shows in its first bytes


class Stopped(Exception):  # noqa: N818 - not an error: somebody asked for it
    """The stream was stopped."""


class ByteStream(io.RawIOBase):
    """The bytes of a URL.

    Args:
        url: A path, `pipe:` and a command, or a URL that webdataset reads by a command.
        stall_seconds: Seconds without a byte after which the stream counts as broken.
        stopping: Ends reads that wait, when it is set.

    Raises:
        UserError: If there is no such file or program.
    """

    def __init__(self, url: str, stall_seconds: float, stopping: threading.Event) -> None:
        self._stall_seconds, self._stopping = stall_seconds, stopping
        self._process: subprocess.Popen[bytes] | None = None
        self._kill: Callable[[], None] = lambda: None
        self._opened: Any = None  # closes its file when it is forgotten
        self.program = ""
        self._file = self._open(url)
        self._poll = select.poll()
        self._poll.register(self._file.fileno(), select.POLLIN)
        self._begun = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Read what there is, waiting for it.

        Raises:
            Stopped: If `stopping` is set.
            TimeoutError: If nothing comes for too long.
        """
        data = self._read(len(buffer))
        while not self._begun and 0 < len(data) < min(_FIRST, len(buffer)):
            if not (more := self._read(len(buffer) - len(data))):
                break
            data += more
        self._begun = True
        buffer[: len(data)] = data
        return len(data)

    def _read(self, num_bytes: int) -> bytes:
        begun = time.monotonic()
        while self._stopping.is_set() or not self._poll.poll(_TICK * 1000):
            if self._stopping.is_set():
                raise Stopped
            if time.monotonic() - begun >= self._stall_seconds:
                raise TimeoutError(f"no byte for {self._stall_seconds:g} seconds")
        return os.read(self._file.fileno(), num_bytes)

    def finish(self, *, wait: bool) -> int:
        """Close the stream; return the exit code of its program, or 0 if there is none or it had to be stopped.

        Args:
            wait: Whether to give the program some time to end by itself.
        """
        code: int | None = 0
        if self._process is not None:
            code = self._process.poll()
            until = time.monotonic() + _PATIENCE
            while code is None and wait and time.monotonic() < until and not self._stopping.is_set():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    code = self._process.wait(_TICK)
            if code is None:
                self._kill()
                self._process.wait()
        self._file.close()
        self.close()
        return code or 0

    def _open(self, url: str) -> Any:
        rewritten = rewrite_url(url)  # by webdataset's GOPEN_REWRITE
        scheme, colon, rest = rewritten.partition(":")
        if colon and scheme == "pipe":
            return self._run("the command", rest)
        if colon and gopen_schemes.get(scheme) is gopen_curl:
            return self._run("curl", [*_CURL, rewritten])
        found = self._opened = open_files().with_room(lambda: gopen(url))
        if not isinstance(found, Pipe):
            return found
        self.program, self._process, self._kill = "the program", found.proc, found.proc.kill
        return found.stream

    def _run(self, program: str, command: str | list[str]) -> Any:
        """Start a program in a session of its own: all that it starts ends with it, but not by Ctrl-C."""
        process = open_files().with_room(
            lambda: subprocess.Popen(
                command,
                shell=isinstance(command, str),  # the user's own command line
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,
            )
        )
        self.program, self._process = program, process

        def kill() -> None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

        self._kill = kill
        return process.stdout


def open_stream(url: str, name: str, stall_seconds: float, stopping: threading.Event) -> ByteStream:
    """Open the stream of a URL. Arguments as of `ByteStream`, and the name of its tar in messages.

    Raises:
        UserError: If there is no such file or program, or the form of the URL is unknown.
    """
    try:
        return ByteStream(url, stall_seconds, stopping)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error).rpartition(f"{rewrite_url(url)}: ")[2]
        raise UserError(f"data.streams: {name}: {why}") from error
