"""Samples that are taken down: not trained on from the moment on that this is known, not even by a run that goes on."""

import time

from pipelines import storage
from pipelines.layout import excluded_keys_path

REASON = "taken_down"
_SECONDS = 10.0  # between two looks at the file


class ExcludedKeys:
    """The keys in `excluded_keys.txt` of a corpus, which is read again when it has changed.

    Args:
        corpus: Folder of the corpus.
    """

    def __init__(self, corpus: str) -> None:
        self._path = excluded_keys_path(corpus)
        self._keys: frozenset[str] = frozenset()
        self._stamp: list[object] | None = None
        self._next = 0.0

    def __contains__(self, key: str) -> bool:
        if (now := time.monotonic()) >= self._next:
            self._next = now + _SECONDS
            self._refresh()
        return key in self._keys

    def _refresh(self) -> None:
        stamp = storage.stamp(self._path) if storage.exists(self._path) else None
        if stamp != self._stamp:
            content = storage.read_bytes(self._path) if stamp is not None else b""
            self._keys, self._stamp = frozenset(content.decode().split()), stamp
