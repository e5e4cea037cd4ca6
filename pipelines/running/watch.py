"""What a step of a build has done so far, read from the files that it writes.

The counts of a part are in its receipt, which is read once: a poll lists the folder and reads what is new.
"""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from pipelines import storage
from pipelines.drop_reasons import FETCHED


@dataclass(frozen=True, slots=True)
class Work:
    """Finished work of a step: units done and in all (None is unknown), drops by reason, and bytes in its folder."""

    done: int
    total: int | None
    dropped: dict[str, int] = field(default_factory=dict)
    num_bytes: int = 0


class Watch:
    """The folder of a step, whose finished files are counted.

    Args:
        folder: Folder of parts, or of other files.
        total: Number of parts; None: unknown.
        suffix: Ending of the files that are counted; those that end in `.json` are receipts.
        queues: Folder of queues, of which each is announced. Then not parts are counted but requests since the watch
            began.
        alarms: Folder in which workers leave warnings; None: they leave none.
        step: Name of the step, where a pipeline has several.
    """

    def __init__(
        self,
        folder: str,
        total: int | None = None,
        *,
        suffix: str = ".json",
        queues: str | None = None,
        alarms: str | None = None,
        step: str = "",
    ) -> None:
        self.step = step
        self.unit = "parts" if queues is None else "requests"
        self.alarms = alarms
        self._folder, self._total, self._suffix, self._queues = folder, total, suffix, queues
        self._read: set[str] = set()
        self._requests = 0
        self._dropped: Counter[str] = Counter()

    def begin(self) -> None:
        """Forget what workers announced in earlier runs, and of requests what was made before."""
        for folder in filter(None, (self._queues, self.alarms)):
            storage.remove(folder)
        if self._queues is not None:
            self._read = set(self._counted(storage.list_stamps(self._folder)))

    def poll(self) -> Work:
        """Return what is done by now."""
        stamps = storage.list_stamps(self._folder)
        counted = self._counted(stamps)
        if self._suffix == ".json":
            for path in counted:
                if path not in self._read:
                    self._take(json.loads(storage.read_bytes(path)))
                    self._read.add(path)
        num_bytes = sum(int(stamp[0] or 0) for stamp in stamps.values())
        done, total = (len(counted), self._total) if self._queues is None else (self._requests, self._announced())
        return Work(done, total, dict(self._dropped), num_bytes)

    def new_alarms(self) -> list[str]:
        """Return the warnings that workers have left since the last call, each once."""
        paths = storage.list_files(self.alarms) if self.alarms is not None else []
        found = [storage.read_bytes(path).decode() for path in paths]
        for path in paths:
            storage.remove(path)
        return found

    def _counted(self, stamps: Iterable[str]) -> list[str]:
        """Return the files in the folder itself that are counted."""
        names = ((path, path[len(self._folder) + 1 :]) for path in stamps)
        own = [(path, name) for path, name in names if "/" not in name and name != "stage.json"]
        return [path for path, name in own if name.endswith(self._suffix)]

    def _take(self, record: dict[str, Any]) -> None:
        """Count what a receipt says; that of a shard has no counts."""
        extra = record.get("extra", {})
        self._requests += extra.get("num", 0)
        self._dropped.update({reason: num for reason, num in extra.get("outcomes", {}).items() if reason != FETCHED})
        for count in record.get("counts", ()):
            self._dropped.update(count["dropped"])

    def _announced(self) -> int | None:
        assert self._queues is not None
        paths = storage.list_files(self._queues, ".json")
        return sum(json.loads(storage.read_bytes(path)) for path in paths) if paths else None


def announce(queue: str, num: int) -> None:
    """Tell the watch of a step how many requests a queue has, by a file beside it."""
    storage.write_bytes(f"{queue}.json", str(num).encode())
