"""What takes long is made once, by a thread, while pages say that it is being made."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from pipelines import storage
from pipelines.errors import UserError

PATIENCE_SECONDS = 2.0
"""Seconds for which a page waits for what is being made, before it says so."""

T = TypeVar("T")


class NotReadyError(Exception):
    """Something is still being made; the words say what."""


class Making(Generic[T]):
    """Something that is made when it is first asked for; may be asked by several threads.

    Args:
        what: What is being done, in words for people.
        make: Makes it.
    """

    def __init__(self, what: str, make: Callable[[], T]) -> None:
        self._what, self._make = what, make
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._made: list[T] = []
        self._error: UserError | None = None

    def get(self, seconds: float | None) -> T:
        """Return it, after waiting for some seconds at most, or as long as it takes.

        Raises:
            NotReadyError: If it takes longer.
            UserError: If it cannot be made; the next call tries again.
        """
        with self._lock:
            if not self._made and self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._what, daemon=True)
                self._thread.start()
            thread = self._thread
        if thread is not None:
            thread.join(seconds)
        with self._lock:
            if self._made:
                return self._made[0]
            if thread is not None and thread.is_alive():
                raise NotReadyError(self._what)
            self._thread = None
            raise self._error or UserError(f"{self._what}: not done")

    def _run(self) -> None:
        try:
            self._made.append(self._make())
        except UserError as error:
            self._error = error
        except Exception as error:  # of a thread, nobody else would hear of it
            self._error = UserError(f"{self._what}: {storage.error_line(error)}")
