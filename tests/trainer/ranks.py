"""Functions that run in several processes, which train together.

A process that has run autograd, such as that of the tests, cannot fork one that trains, and a separate interpreter for
each would take ten seconds to import torch and DeepSpeed. Therefore the process of the tests forks one before it runs
the first, which trains nothing itself and forks the ranks of all tests.
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
"""World of a run with one process."""


def in_ranks(size: int, function: Callable[..., Any], *args: Any, timeout: float = 120) -> list[Any]:
    """Return the results of `function(world, *args)` in each of several processes.

    Args:
        size: Number of processes.
        function: A function of a module, which is imported by name.
        args: Arguments that can be pickled.
        timeout: Seconds to wait for each result.

    Raises:
        RuntimeError: If one fails, with its traceback.
        EOFError: If one dies.
        TimeoutError: If they hang; they are killed.
    """
    server = start_server()
    server.send((size, function, args, timeout))
    results, error = server.recv()
    if error is not None:
        raise error
    return results  # type: ignore[no-any-return]


@functools.cache
def start_server() -> Connection:
    """Start the process that forks ranks, before the first test; it lives until the tests end."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    context.Process(target=_serve, args=(theirs, ours)).start()
    theirs.close()
    atexit.register(ours.close)  # which ends it
    return ours


def _serve(requests: Connection, other_end: Connection) -> None:
    other_end.close()
    import_deepspeed()
    # ZeRO imports this, and with it torch's compiler, which would take each rank two seconds; our attention the other.
    importlib.import_module("deepspeed.runtime.zero.muon.muon_optimizer")
    importlib.import_module("torch.nn.attention.varlen")
    gc.freeze()  # so that the ranks' collectors neither visit nor copy these objects
    while True:
        try:
            request = requests.recv_bytes()
        except EOFError:
            os._exit(0)  # a regular exit would take seconds, and native libraries report leaks
        try:
            answer = _fork_ranks(*pickle.loads(request)), None  # this imports the function's module once for all ranks
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
