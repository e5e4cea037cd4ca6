"""Tars that cannot be indexed, read in sequence through `webdataset`: dealt to ranks, shuffled and read ahead.

Each epoch reads a source's tars in another order. Each tar is shuffled separately, through a buffer, so that a rank can
resume from its tar and its position there without reading the tars before it.
"""

import contextlib
import lzma
import random
import subprocess
import tarfile
import zlib
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from webdataset.filters import shuffle
from webdataset.gopen import Pipe, gopen, set_options
from webdataset.shardlists import expand_urls
from webdataset.tariterators import group_by_keys, tar_file_expander

from pipelines.errors import RunError, UserError
from trainer.plan.order import key_of, permute

SHUFFLE_BUFFER = 1000
"""Samples of a tar that are shuffled together: webdataset's usual size."""

_BROKEN = (OSError, EOFError, ValueError, tarfile.TarError, zlib.error, lzma.LZMAError)
_PATIENCE = 5.0  # seconds for a command to end after its last byte

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class StreamedSample:
    """A sample, and where a rank read it.

    Attributes:
        tar_number: Number of its tar among all tars that are read, over all epochs.
        number: Number of the sample among those that the rank reads of this tar.
        epoch: Epoch of the source, from 0.
        url: URL of the tar, safe to write down.
        key: Key of the sample.
        parts: Files of the sample, by what follows the key in their names.
    """

    tar_number: int
    number: int
    epoch: int
    url: str
    key: str
    parts: dict[str, bytes]


def expanded(urls: Iterable[str]) -> list[str]:
    """Return URLs as webdataset expects them, one per tar: `{000..127}` is expanded."""
    return [one for url in urls for one in expand_urls(url)]


def is_shared(urls: Sequence[str], world_size: int) -> bool:
    """Return whether all ranks read all tars, each keeping part of the samples: if there are more ranks than tars.

    Otherwise each tar goes to one rank, in turn.
    """
    return len(urls) < world_size


def samples_of_rank(
    urls: Sequence[str], tar_number: int, number: int, *, rank: int, world_size: int, seed: int
) -> Generator[StreamedSample, None, None]:
    """Yield the samples of a source for one rank, without end.

    Args:
        urls: URLs of its tars.
        tar_number: First tar, as in `StreamedSample`; ranks that do not share tars begin side by side.
        number: First sample there.
        rank: Rank of this process.
        world_size: Number of processes.
        seed: Seed of the order of tars, and of samples in them.

    Raises:
        UserError: If a file is missing.
        RunError: If a tar cannot be read to its end, or none has a sample.
    """
    shared = is_shared(urls, world_size)
    num_empty = 0
    while num_empty < len(urls):
        epoch, turn = divmod(tar_number, len(urls))
        url = urls[int(permute(np.array([turn]), len(urls), key_of("tars", seed, urls[0], epoch))[0])]
        rng = random.Random(key_of("samples", seed, url, epoch))
        mine, num_empty = 0, num_empty + 1
        with contextlib.closing(read_tar(url)) as tar:
            for count, sample in enumerate(shuffle(SHUFFLE_BUFFER, rng=rng)(tar)):
                num_empty = 0
                if shared and (count + tar_number) % world_size != rank:
                    continue
                if mine >= number:
                    parts = {name: data for name, data in sample.items() if not name.startswith("__")}
                    yield StreamedSample(tar_number, mine, epoch, without_query(url), sample["__key__"], parts)
                mine += 1
        tar_number, number = tar_number + (1 if shared else world_size), 0
    raise RunError(f"{without_query(urls[0])}: no sample in it or in any other tar of its source")


def read_tar(url: str) -> Generator[dict[str, Any], None, None]:
    """Yield the samples of a tar as webdataset reads them: from a file, an HTTP server by `curl`, or a command.

    Raises:
        UserError: If there is no such file.
        RunError: If it breaks off, or the command fails.
    """
    try:
        stream = gopen(url)
    except (OSError, ValueError) as error:
        raise UserError(f"data.streams: {without_query(url)}: {getattr(error, 'strerror', None) or error}") from error
    set_options(stream, ignore_errors=True)  # it checks exit codes only if they come in time: see below
    problem, patience = "", 0.0
    try:
        yield from group_by_keys(tar_file_expander([{"url": url, "stream": stream}]), lcase=False)
        while stream.read(1 << 20):  # the rest after a tar's end: a command that cannot write it would fail
            pass
        patience = _PATIENCE
    except _BROKEN as error:
        problem, patience = str(error.args[0]).partition(" @ ")[0], _PATIENCE
    finally:
        code = _close(stream, patience)
    if problem or code:
        command = "the command" if url.startswith("pipe:") else "curl"
        reasons = [problem] * bool(problem) + [f"{command} ended with exit code {code}"] * bool(code)
        raise RunError(f"{without_query(url)}: cannot be read to its end: {', '.join(reasons)}")


def _close(stream: Any, patience: float) -> int:
    """Close a stream; return its command's exit code, or 0 if there is none or it had to be stopped."""
    if not isinstance(stream, Pipe):
        stream.close()
        return 0
    try:
        return int(stream.proc.wait(patience))
    except subprocess.TimeoutExpired:
        stream.proc.terminate()
        stream.proc.wait()
        return 0
    finally:
        stream.stream.close()


def without_query(url: str) -> str:
    """Return a URL that is safe to write down: what follows `?` may be a signature."""
    return url.partition("?")[0]


class Ahead(Generic[Item]):
    """The items of a generator, some of them computed ahead by a thread.

    Args:
        items: The generator, without end.
        num: Number of items computed ahead.
    """

    def __init__(self, items: Generator[Item, None, None], num: int) -> None:
        self._items = items
        self._thread = ThreadPoolExecutor(1, "stream")
        self._coming = deque(self._thread.submit(next, items) for _ in range(num))

    def take(self) -> Item:
        """Return the next item."""
        self._coming.append(self._thread.submit(next, self._items))
        return self._coming.popleft().result()

    def close(self) -> None:
        """Stop the thread and the generator."""
        self._thread.shutdown(cancel_futures=True)
        self._items.close()
