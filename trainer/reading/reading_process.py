"""Reading and collating in a process of its own, beside the one that trains.

A Python process runs one thread at a time. On a GPU the thread that launches kernels would wait for those that lay out
samples: the loop of a model of 1.2 billion parameters was 7 % slower than its engine, with a frozen encoder 22 %. Here
those threads have an interpreter of their own. Tensors come over in memory that both processes map; nothing is copied.
"""

import contextlib
import io
import mmap
import os
import pickle
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing import get_context, reduction, util
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipelines.errors import RunError
from trainer.plan.mixture import Phase
from trainer.reading.micro_batches import Collate, Collated, RankBatch
from trainer.reading.reader import Loader, RankStep, ReadChunk

_ALIGNED = 64  # bytes, to a multiple of which tensors begin
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)  # the process that trains acts on them


class ReadingProcess:
    """A loader and its collation in another process; methods are called by one thread at a time.

    Args:
        make: Makes the loader there, and how its steps are collated; it is pickled.

    Raises:
        RunError: By any method but `close`, if the process has ended.
    """

    def __init__(self, make: Callable[[], tuple[Loader, Collate]]) -> None:
        context = get_context("spawn")  # a fork would copy locks that threads here hold
        self._here, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there, make), name="reading", daemon=True)
        self._process.start()
        there.close()
        # At exit Python would ask it to end, which it ignores, and wait for it.
        self._end = util.Finalize(self, _killed, (self._process,), exitpriority=20)

    def read(self, micro_batch_size: int) -> RankBatch:
        """Return the next step. Errors of the loader are raised here; after one it may be asked again."""
        batch: RankBatch = self._ask("read", micro_batch_size)
        return batch

    def change(self, phases: Sequence[Phase]) -> int:
        """Draw by other phases, as `Loader.change` does."""
        step: int = self._ask("change", list(phases))
        return step

    def close(self) -> None:
        """End the process, also while it reads."""
        self._end()
        with contextlib.suppress(OSError):
            self._here.close()

    def _ask(self, method: str, argument: object) -> Any:
        try:
            self._here.send((method, argument))
            found = _receive(self._here)
        except (EOFError, OSError) as error:
            self._process.join(1.0)
            raise RunError(
                f"the process that reads samples has ended with exit code {self._process.exitcode}: see its own error, "
                "or whether memory ran out"
            ) from error
        if isinstance(found, Exception):
            raise found
        return found


def _killed(process: Any) -> None:
    process.kill()
    process.join()


# --- in the other process ---


def _serve(there: Connection, make: Callable[[], tuple[Loader, Collate]]) -> None:
    """Answer requests until the process that trains is gone, or ends this one."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)  # the loader's threads are the parallelism
    served: _Served | None = None
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            method, argument = there.recv()
            try:
                served = served or _Served(*make())
                found = getattr(served, method)(argument)
            except Exception as error:
                found = _that_travels(error)
            _send(there, found)


class _Served:
    """What `ReadingProcess` asks for."""

    def __init__(self, loader: Loader, collate: Collate) -> None:
        self._loader, self._collate = loader, collate
        self._read: Collated | None = None

    def read(self, micro_batch_size: int) -> RankBatch:
        self._read = self._read or Collated(self._loader, micro_batch_size=micro_batch_size, collate=self._collate)
        batch = self._read()
        assert isinstance(batch.read, RankStep)
        packs = [[_record(chunk) for chunk in pack] for pack in batch.read.packs]
        return replace(batch, read=replace(batch.read, packs=packs))

    def change(self, phases: Sequence[Phase]) -> int:
        return self._loader.change(phases)


def _record(chunk: ReadChunk) -> ReadChunk:
    """Return a chunk without its pixels and tokens, which are in the micro-batches."""
    nothing = np.zeros(0, np.int32)
    return replace(
        chunk, images=(), sequence=replace(chunk.sequence, token_ids=nothing, targets=nothing, slots=nothing)
    )


def _that_travels(error: Exception) -> Exception:
    """Return an error that the other process can read."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RunError(f"{type(error).__name__}: {error}")
    return error


# --- tensors in memory that two processes map ---


class _Pickler(pickle.Pickler):
    """Pickles tensors without their bytes."""

    def reducer_override(self, it: Any) -> Any:
        if not isinstance(it, Tensor):
            return NotImplemented
        if it.ndim == 4 and not it.is_contiguous() and it.is_contiguous(memory_format=torch.channels_last):
            return _channels_last, (it.permute(0, 2, 3, 1).numpy(),)
        return torch.from_numpy, (it.contiguous().numpy(),)


def _channels_last(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array).permute(0, 3, 1, 2)


def _send(there: Connection, it: object) -> None:
    """Send an object; the bytes of its arrays and tensors through a file in memory."""
    parts: list[pickle.PickleBuffer] = []
    head = io.BytesIO()
    _Pickler(head, 5, buffer_callback=parts.append).dump(it)
    views = [part.raw() for part in parts]
    spans, end = [], 0
    for view in views:
        begin = end + -end % _ALIGNED
        end = begin + view.nbytes
        spans.append((begin, end))
    there.send((head.getvalue(), spans, end))
    if not end:
        return
    file = os.memfd_create("micro-batches")
    try:
        os.truncate(file, end)
        with mmap.mmap(file, end) as memory:
            for (begin, until), view in zip(spans, views, strict=True):
                memory[begin:until] = view
        reduction.send_handle(there, file, None)
    finally:
        os.close(file)


def _receive(here: Connection) -> Any:
    head, spans, size = here.recv()
    if not size:
        return pickle.loads(head, buffers=[bytearray() for _ in spans])
    file = reduction.recv_handle(here)
    try:
        memory = memoryview(mmap.mmap(file, size))  # for as long as one of the tensors lives
    finally:
        os.close(file)
    return pickle.loads(head, buffers=[memory[begin:end] for begin, end in spans])
