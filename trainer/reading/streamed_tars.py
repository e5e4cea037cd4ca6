"""Tars that cannot be indexed, read from front to back through `webdataset`: dealt to ranks, shuffled and read ahead.

Each epoch takes a source's tars in another order. A tar is shuffled by itself, through a buffer: who knows which tar a
rank is in, and how far, can go on from there without reading those before it.
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
"""Samples of a tar that are mixed with each other: webdataset's usual size."""

_BROKEN = (OSError, EOFError, ValueError, tarfile.TarError, zlib.error, lzma.LZMAError)
_PATIENCE = 5.0  # seconds for a command to end after its last byte

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class StreamedSample:
    """A sample, and where a rank has it from.

    Attributes:
        tar_number: Of its tar among all that are gone through, epoch after epoch.
        number: Of the samples that the rank has of this tar.
        epoch: 0 the first time through the source.
        url: Of the tar, as it may be written down.
        key: Its own.
        parts: Its files, by what follows the key.
    """

    tar_number: int
    number: int
    epoch: int
    url: str
    key: str
    parts: dict[str, bytes]


def expanded(urls: Iterable[str]) -> list[str]:
    """URLs as webdataset takes them, one a tar: `{000..127}` is written out."""
    return [one for url in urls for one in expand_urls(url)]


def is_shared(urls: Sequence[str], world_size: int) -> bool:
    """Whether all ranks read all tars, each keeping its share of the samples, as where there are more ranks than tars.

    Else each tar goes to one rank, in turn.
    """
    return len(urls) < world_size


def samples_of_rank(
    urls: Sequence[str], tar_number: int, number: int, *, rank: int, world_size: int, seed: int
) -> Generator[StreamedSample, None, None]:
    """The samples of a source that a rank is given, without end.

    Args:
        urls: Of its tars.
        tar_number: To begin with, as of `StreamedSample`; ranks that do not share tars begin side by side.
        number: The first sample there that is given.
        rank: Of this process.
        world_size: Processes in all.
        seed: Of the order of tars, and of samples in them.

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
    raise RunError(f"{without_query(urls[0])}: no sample in it, nor in any tar of its source")


def read_tar(url: str) -> Generator[dict[str, Any], None, None]:
    """The samples of a tar as webdataset gives them: of a file, of an HTTP server by `curl`, of a command.

    Raises:
        UserError: If there is no such file.
        RunError: If it breaks off, or the command fails.
    """
    try:
        stream = gopen(url)
    except (OSError, ValueError) as error:
        raise UserError(f"data.streams: {without_query(url)}: {getattr(error, 'strerror', None) or error}") from error
    set_options(stream, ignore_errors=True)  # it looks at exit codes only where they come in time: see below
    problem, patience = "", 0.0
    try:
        yield from group_by_keys(tar_file_expander([{"url": url, "stream": stream}]), lcase=False)
        while stream.read(1 << 20):  # what follows a tar's end: a command that can write no more fails
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
    """Close a stream; the exit code of the command behind it, 0 where there is none or it had to be stopped."""
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
    """A URL as it may be written down: what follows `?` may be a signature."""
    return url.partition("?")[0]


class Ahead(Generic[Item]):
    """The items of a generator, some of them made before they are asked for, by a thread.

    Args:
        items: The generator, without end.
        num: How many are made before.
    """

    def __init__(self, items: Generator[Item, None, None], num: int) -> None:
        self._items = items
        self._thread = ThreadPoolExecutor(1, "stream")
        self._coming = deque(self._thread.submit(next, items) for _ in range(num))

    def take(self) -> Item:
        """The next one."""
        self._coming.append(self._thread.submit(next, self._items))
        return self._coming.popleft().result()

    def close(self) -> None:
        """End the thread and the generator."""
        self._thread.shutdown(cancel_futures=True)
        self._items.close()
