"""Tars that cannot be indexed, read in sequence: dealt to ranks, shuffled by `webdataset` and read ahead.

Each epoch reads a source's tars in another order. Each tar is shuffled separately, through a buffer, so that a rank can
resume from its tar and its position there without reading the tars before it.
"""

import bz2
import contextlib
import gzip
import hashlib
import io
import lzma
import random
import re
import threading
import zlib
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO, Generic, Self, TypeVar

import numpy as np
from braceexpand import braceexpand
from webdataset.filters import shuffle
from webdataset.shardlists import expand_urls

from pipelines.errors import RunError, UserError
from pipelines.shards.tar_samples import NO_END, ForwardReader, TarSample, walk_samples
from trainer.plan.order import key_of, permute
from trainer.reading.byte_streams import open_stream
from trainer.reading.tar_names import masked, tar_names

SHUFFLE_BUFFER = 1000
"""Samples of a tar that are shuffled together: webdataset's usual size."""

_BROKEN = (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError)
_BUFFER = 1 << 20
_MAGIC_BYTES = 6

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class StreamedSample:
    """A sample, and where a rank read it.

    Attributes:
        tar_number: Number of its tar among all tars that are read, over all epochs.
        number: Number of the sample among those that the rank reads of this tar.
        epoch: Epoch of the source, from 0.
        url: URL of the tar, safe to write down.
        of_tar: The sample as it is in the tar.
    """

    tar_number: int
    number: int
    epoch: int
    url: str
    of_tar: TarSample


@dataclass(frozen=True, slots=True)
class Tars:
    """The tars of a stream.

    Attributes:
        urls: Their URLs, in the config's order.
        names: What identifies each in checkpoints and records: see tar_names.py.
    """

    urls: tuple[str, ...]
    names: tuple[str, ...]

    @classmethod
    def of(cls, urls: Iterable[str]) -> Self:
        """Return the tars of URLs as webdataset expects them: `{000..127}` and `${NAME}` are expanded.

        Raises:
            UserError: If a variable is not set, or a URL is without its credentials.
        """
        each: list[str] = []
        written: list[str] = []
        for url in (part for several in urls for part in several.split("::")):
            try:
                expanded = expand_urls(url)
            except AssertionError as error:  # of webdataset, whose variables have a prefix
                name = str(error).removeprefix("missing environment variable wds_")
                raise UserError(
                    f"data.streams: {masked(url)}: the environment has no {name}, by which `${{...}}` is replaced"
                ) from error
            each += expanded
            written += _with_variables(url, len(expanded))
        return cls(tuple(each), tar_names(each, written))

    @property
    def fingerprint(self) -> str:
        """Hash of the names in their order, on which the order of samples depends."""
        return hashlib.sha256("\n".join(self.names).encode()).hexdigest()[:12]

    @property
    def renamed(self) -> str | None:
        """The first name from which something was left out that may be a credential; None if there is none."""
        pairs = zip(self.urls, self.names, strict=True)
        return next((name for url, name in pairs if name != url), None)

    def is_shared(self, world_size: int) -> bool:
        """Return whether all ranks read all tars, each keeping part of the samples: if there are more ranks than tars.

        Otherwise each tar goes to one rank, in turn.
        """
        return len(self.urls) < world_size


def _with_variables(url: str, num: int) -> list[str]:
    """Return what the braces of a URL expand to, with `${NAME}` as it stands: `num` URLs."""
    hidden = re.sub(r"\$\{(\w+)\}", "\0\\1\0", url)
    found = [re.sub("\0(\\w+)\0", r"${\1}", each) for each in braceexpand(hidden)]
    return found if len(found) == num else [url] * num  # the value of a variable may have braces too


@dataclass(frozen=True, slots=True)
class StreamReading:
    """How the streams of a rank are read.

    Attributes:
        rank: Rank of this process.
        world_size: Number of processes.
        seed: Seed of the order of tars, and of samples in them.
        stall_seconds: Seconds without a byte after which a stream counts as broken.
    """

    rank: int
    world_size: int
    seed: int
    stall_seconds: float


def samples_of_rank(
    tars: Tars, tar_number: int, number: int, reading: StreamReading, stopping: threading.Event
) -> Generator[StreamedSample, None, None]:
    """Yield the samples of a source for one rank, without end.

    Args:
        tars: Tars of the source.
        tar_number: First tar, as in `StreamedSample`; ranks that do not share tars begin side by side.
        number: First sample there.
        reading: How they are read.
        stopping: Ends a read that waits, when it is set.

    Raises:
        UserError: If a file is missing.
        RunError: If a tar cannot be read to its end, or none has a sample.
        Stopped: If `stopping` is set.
    """
    shared, seed, num = tars.is_shared(reading.world_size), reading.seed, len(tars.urls)
    num_empty = 0
    while num_empty < num:
        epoch, turn = divmod(tar_number, num)
        at = int(permute(np.array([turn]), num, key_of("tars", seed, tars.names[0], epoch))[0])
        rng = random.Random(key_of("samples", seed, tars.names[at], epoch))
        mine, num_empty = 0, num_empty + 1
        read = read_tar(tars.urls[at], tars.names[at], reading.stall_seconds, stopping)
        with contextlib.closing(read) as samples:
            for count, sample in enumerate(shuffle(SHUFFLE_BUFFER, rng=rng)(samples)):
                num_empty = 0
                if shared and (count + tar_number) % reading.world_size != reading.rank:
                    continue
                if mine >= number:
                    yield StreamedSample(tar_number, mine, epoch, tars.names[at], sample)
                mine += 1
        tar_number, number = tar_number + (1 if shared else reading.world_size), 0
    raise RunError(f"{tars.names[0]}: no sample in it or in any other tar of its source")


def read_tar(url: str, name: str, stall_seconds: float, stopping: threading.Event) -> Generator[TarSample, None, None]:
    """Yield the samples of a tar, compressed or not, from a file, a web server by `curl`, or a command.

    Args:
        url: URL of the tar, in webdataset's form.
        name: Its name in messages.
        stall_seconds: Seconds without a byte after which it counts as broken.
        stopping: Ends reads that wait, when it is set.

    Raises:
        UserError: If there is no such file.
        RunError: If it breaks off, is cut or damaged, or its command fails.
        Stopped: If `stopping` is set.
    """
    stream = open_stream(url, name, stall_seconds, stopping)
    problem, wait = "", False
    try:
        reader = ForwardReader(_uncompressed(io.BufferedReader(stream, _BUFFER)))
        yield from walk_samples(reader.read, name, 0, NO_END, is_whole=True)
        reader.drain()  # a command that cannot write the rest would fail, and a compressed file has its checksum there
        while stream.read(_BUFFER):
            pass
        wait = True
    except _BROKEN as error:
        problem, wait = str(error).removeprefix(f"{name}: "), not isinstance(error, TimeoutError)
    finally:
        code = stream.finish(wait=wait)
    if problem or code:
        reasons = [problem] * bool(problem) + [f"{stream.program} ended with exit code {code}"] * bool(code)
        raise RunError(f"{name}: cannot be read to its end: {', '.join(reasons)}")


def _uncompressed(file: io.BufferedReader) -> BinaryIO:
    """Return the content of a file that may be compressed.

    Raises:
        ValueError: If it is compressed in a way that only a command can undo.
    """
    begin = file.peek(_MAGIC_BYTES)[:_MAGIC_BYTES]
    if begin.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=file)  # type: ignore[return-value] # it reads like one
    if begin.startswith(b"BZh"):
        return bz2.BZ2File(file)  # type: ignore[return-value]
    if begin.startswith(b"\xfd7zXZ\x00"):
        return lzma.LZMAFile(file)  # type: ignore[return-value]
    for name, magic in (("zstd", b"\x28\xb5\x2f\xfd"), ("lz4", b"\x04\x22\x4d\x18")):
        if begin.startswith(magic):
            raise ValueError(f"it is compressed by {name}: name it as `pipe:{name} -dc ...`")
    return file


class Ahead(Generic[Item]):
    """The items of a generator, some of them computed ahead by a thread.

    Args:
        items: The generator, without end.
        num: Number of items computed ahead.
        stopping: Ends the generator's wait, when it is set.
    """

    def __init__(self, items: Generator[Item, None, None], num: int, stopping: threading.Event) -> None:
        self._items, self._stopping = items, stopping
        self._thread = ThreadPoolExecutor(1, "stream")
        self._coming = deque(self._thread.submit(next, items) for _ in range(num))

    def take(self) -> Item:
        """Return the next item."""
        self._coming.append(self._thread.submit(next, self._items))
        return self._coming.popleft().result()

    def stop(self) -> None:
        """End the generator's wait, if it waits."""
        self._stopping.set()

    def close(self) -> None:
        """Stop the thread and the generator."""
        self.stop()
        self._thread.shutdown(cancel_futures=True)
        self._items.close()
