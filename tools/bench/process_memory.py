"""Memory of a command and of all processes below it while it runs: proportional set sizes, every two seconds."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

SAMPLE_SECONDS = 2.0  # reading the sizes of a process takes its kernel some milliseconds


@dataclass(slots=True)
class Peaks:
    """The most memory at once, in MiB: pages that processes share count once. Both by the label of the time."""

    largest: dict[str, float] = field(default_factory=dict)
    total: dict[str, float] = field(default_factory=dict)

    def add(self, label: str, sizes: list[float]) -> None:
        """Take the sizes of all processes at one moment."""
        self.largest[label] = max(self.largest.get(label, 0.0), *sizes)
        self.total[label] = max(self.total.get(label, 0.0), sum(sizes))


@contextlib.contextmanager
def watching(root: int, label: Callable[[], str], peaks: Peaks) -> Iterator[None]:
    """Sample the processes below and including `root` meanwhile.

    Args:
        root: Id of a process.
        label: Returns what is going on, such as a stage.
        peaks: Takes the samples.
    """
    ended = threading.Event()

    def sample() -> None:
        while not ended.wait(SAMPLE_SECONDS):
            if sizes := [size for pid in process_tree(root) if (size := proportional_mib(pid)) is not None]:
                peaks.add(label(), sizes)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def process_tree(root: int) -> list[int]:
    """Return the ids of a process and of all below it."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended
            continue
        children.setdefault(parent, []).append(int(path.parent.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def proportional_mib(pid: int) -> float | None:
    """Return a process's proportional set size in MiB; None if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return None
    sizes = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines[1:])}
    return sizes["Pss"] / 1024 if "Pss" in sizes else None  # a process that is ending has none
