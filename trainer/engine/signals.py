"""Signals to a run: they are noted when they come, and acted on between two steps."""

import ctypes
import os
import signal
import sys
from types import TracebackType
from typing import Any, Self

_STOPPING = b"stopping after this step and a save; press Ctrl-C again to stop at once\n"


_PR_SET_PDEATHSIG = 1  # of Linux's prctl(2)


def end_with_launcher() -> None:
    """Have Linux send SIGTERM to this process when the torchrun that started it is killed.

    torchrun gives each process a session of its own. Without a parent it would go on, and keep its GPU, beside the
    processes that are started in its place.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class Signals:
    """Signals that a run has received; inside this context they only set flags.

    Args:
        speaks: Whether to answer Ctrl-C; on in one process only.

    Attributes:
        stop: Save and end, to be started again: SIGTERM or SIGUSR1.
        interrupted: Save and end: Ctrl-C. A second one ends the process at once.
        reread: Read the mixture again: SIGHUP. Who reads it sets it back.
    """

    def __init__(self, *, speaks: bool) -> None:
        self.stop = self.interrupted = self.reread = False
        self._speaks = speaks
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        chosen = {
            signal.SIGINT: self._on_interrupt,
            signal.SIGTERM: self._on_stop,
            signal.SIGUSR1: self._on_stop,
            signal.SIGHUP: self._on_reread,
        }
        self._before = {number: signal.signal(number, handler) for number, handler in chosen.items()}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_interrupt(self, number: int, frame: object) -> None:
        self.interrupted = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if self._speaks:
            os.write(2, _STOPPING)  # a handler may interrupt a print

    def _on_stop(self, number: int, frame: object) -> None:
        self.stop = True

    def _on_reread(self, number: int, frame: object) -> None:
        self.reread = True
