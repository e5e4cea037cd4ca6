"""Several processes that train together.

A process that has run autograd, as the tests' own does, cannot fork one that trains, and an interpreter of its own for
each would import torch and DeepSpeed for five seconds. So one process imports them, trains nothing itself, and forks
the ranks of all tests.
"""

import atexit
import functools
import gc
import importlib
import multiprocessing
import os
import pickle
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch

from tests.ports import free_port
from trainer.engine import distributed
from trainer.engine.deepspeed_internals import import_deepspeed

ALONE = distributed.World(0, 1, 0, torch.device("cpu"), None)
"""A run of one process."""


def in_ranks(size: int, function: Callable[..., Any], *args: Any, timeout: float = 120) -> list[Any]:
    """What `function(world, *args)` returns in each of so many processes.

    Args:
        size: How many there are.
        function: Of a module; found there by its name.
        args: What can be pickled.
        timeout: Seconds to wait for each answer.

    Raises:
        RuntimeError: If one fails, with its traceback.
        EOFError: If one dies.
        TimeoutError: If they hang; they are killed.
    """
    server = _server()
    server.send((size, function, args, timeout))
    results, error = server.recv()
    if error is not None:
        raise error
    return results  # type: ignore[no-any-return]


@functools.cache
def _server() -> Connection:
    """The process that forks ranks, there until the tests are through."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    context.Process(target=_serve, args=(theirs,)).start()
    theirs.close()
    atexit.register(ours.close)  # by which it ends
    return ours


def _serve(requests: Connection) -> None:
    os.environ["DS_ACCELERATOR"] = "cpu"
    import_deepspeed()
    # ZeRO imports it, and with it torch's compiler, which takes each rank two seconds.
    importlib.import_module("deepspeed.runtime.zero.muon.muon_optimizer")
    gc.freeze()  # what is here by now, no rank looks through or copies
    while True:
        try:
            request = requests.recv_bytes()
        except EOFError:
            os._exit(0)  # taking all of it down would take seconds, and native libraries report it as leaked
        try:
            answer = _fork_ranks(*pickle.loads(request)), None  # imports the function's module, once for all ranks
        except Exception as error:
            answer = None, error
        requests.send(answer)


def _fork_ranks(size: int, function: Callable[..., Any], args: tuple[Any, ...], timeout: float) -> list[Any]:
    context = multiprocessing.get_context("fork")
    port = free_port()
    started = []
    for rank in range(size):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_rank, args=(theirs, rank, size, port, function, args), daemon=True)
        process.start()
        theirs.close()
        started.append((process, ours))
    try:
        results = []
        for process, pipe in started:
            if not pipe.poll(timeout):
                raise TimeoutError(f"no answer within {timeout} s")
            kind, value = pipe.recv()
            if kind == "error":
                raise RuntimeError(value)
            results.append(value)
            process.join()
        return results
    finally:
        for process, _ in started:
            if process.is_alive():
                process.kill()


def _rank(pipe: Connection, rank: int, size: int, port: int, function: Callable[..., Any], args: Any) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    try:
        world = distributed.start()
        pipe.send(("result", function(world, *args)))
        distributed.stop()
    except BaseException as error:
        kind = f"{type(error).__name__}: {error}\n"
        pipe.send(("error", kind + traceback.format_exc()))
        os._exit(1)
