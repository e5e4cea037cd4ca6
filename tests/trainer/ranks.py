"""Several processes that train together, forked from the test so that nothing has to be imported again."""

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch

from trainer import distributed
from trainer.engine import import_deepspeed


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


os.environ["DS_ACCELERATOR"] = "cpu"
import_deepspeed()  # once here, not in every process that is forked


def in_ranks(size: int, function: Callable[..., Any], *args: Any, timeout: float = 120) -> list[Any]:
    """What `function(world, *args)` returns in each of so many processes.

    Raises:
        RuntimeError: If one fails, with its traceback.
        TimeoutError: If they hang; they are killed.
    """
    context = multiprocessing.get_context("fork")
    port = free_port()
    started = []
    for rank in range(size):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_child, args=(theirs, rank, size, port, function, args), daemon=True)
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


def _child(pipe: Connection, rank: int, size: int, port: int, function: Callable[..., Any], args: Any) -> None:
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
