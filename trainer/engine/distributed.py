"""One process, or one of many under torchrun, deepspeed or srun: ranks, and small messages on the CPU."""

import contextlib
import datetime
import os
import re
import threading
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from pipelines.errors import RunError, UserError
from trainer.engine.signals import end_with_launcher

_TIMEOUT = datetime.timedelta(minutes=30)  # a save on a slow file system may take long
_BEAT = 10.0  # seconds between two signs of life of a process for which the others wait

Item = TypeVar("Item")


@dataclass(frozen=True)
class World:
    """Processes of a run.

    Attributes:
        rank: Rank of this process.
        size: Number of processes.
        local_rank: Rank of this process on its machine.
        device: Device of this process.
        control: A gloo group for numbers and records on the CPU, separate from the device's own traffic.
    """

    rank: int
    size: int
    local_rank: int
    device: torch.device
    control: Any

    @property
    def is_first(self) -> bool:
        """True for the process that writes files and prints."""
        return self.rank == 0

    def sum(self, numbers: list[float]) -> list[float]:
        """Return the sums of numbers over all processes."""
        if self.size == 1:
            return numbers
        tensor = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(tensor, group=self.control)
        return tensor.tolist()

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes on the first, and nothing on the others."""
        if self.size == 1:
            return [value]
        found: list[Any] | None = [None] * self.size if self.is_first else None
        dist.gather_object(value, found, dst=0, group=self.control)
        return found or []

    def broadcast(self, value: Any) -> Any:
        """Return the first process's value on all."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.control)
        return box[0]

    def say(self, line: str) -> None:
        """Print a line, once for all processes."""
        if self.is_first:
            print(line, flush=True)

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.size > 1:
            dist.barrier(group=self.control)

    def first_then_others(self, make: Callable[[], Item]) -> Item:
        """Return what `make` returns on each process, of which the first one is through before the others begin.

        They wait for it however long that takes, and end if it is gone; all must call.
        """
        if self.size == 1:
            return make()
        if not self.is_first:
            while not self.sum([0.0])[0]:
                pass
            return make()
        done = threading.Event()
        beats = threading.Thread(target=self._beat, args=(done,))
        beats.start()
        try:
            made = make()
        finally:
            done.set()
            beats.join()
        self.sum([1.0])
        return made

    def _beat(self, done: threading.Event) -> None:
        """Meet the others from time to time, until the main thread is done or another process is gone."""
        with contextlib.suppress(RuntimeError):  # which the main thread meets again
            while not done.wait(_BEAT):
                self.sum([0.0])


def start() -> World:
    """Join the other processes of the run by the launcher's environment; without one, run alone.

    DeepSpeed is imported only after this: importing it selects the accelerator.

    Raises:
        UserError: If this machine has fewer GPUs than processes, a port is in use, or the environment lacks something.
        RunError: If the other processes cannot be reached.
    """
    end_with_launcher()
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    rank, size, local_rank = join_launcher(os.environ, num_gpus)
    device = torch.device("cuda", local_rank) if num_gpus else torch.device("cpu")
    if num_gpus:
        torch.cuda.set_device(device)
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if num_gpus else "cpu")
    if not dist.is_initialized():
        backend = "nccl" if num_gpus else "gloo"
        if size == 1:
            store = dist.HashStore()  # type: ignore[attr-defined] # torch exports it, but not explicitly
            dist.init_process_group(backend, store=store, rank=0, world_size=1, timeout=_TIMEOUT)
        else:
            _meet(backend)
    control = dist.new_group(backend="gloo", timeout=_TIMEOUT) if num_gpus else dist.group.WORLD
    return World(rank, size, local_rank, device, control)


def _meet(backend: str) -> None:
    """Join the other processes at the first one's address."""
    where = f"{os.environ.get('MASTER_ADDR')}, port {os.environ.get('MASTER_PORT')}"
    try:
        dist.init_process_group(backend, timeout=_TIMEOUT)
    except (dist.DistNetworkError, dist.DistStoreError) as error:
        said = str(error).strip().partition("\n")[0]
        if "EADDRINUSE" in said or "already in use" in said:
            raise UserError(
                f"{where}: the port is used by another program: set MASTER_PORT to a free one, or give the launcher's "
                "--master_port"
            ) from error
        raise RunError(f"{where}: the processes of the run do not meet there: {said}") from error
    except ValueError as error:  # a variable is missing, or no number
        raise UserError(f"the launcher's environment: {error}") from error


def stop() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def lost_another(error: BaseException) -> bool:
    """Return whether an error only says that another process is gone, in gloo's words."""
    return "closed by peer" in str(error) or "reset by peer" in str(error)


def join_launcher(env: MutableMapping[str, str], num_gpus: int) -> tuple[int, int, int]:
    """Return rank, world size and local rank; set what PyTorch and DeepSpeed need in the environment.

    Args:
        env: Variables of the launcher: torchrun and deepspeed set all, srun its own names, a shell none.
        num_gpus: GPUs visible to this process.

    Raises:
        UserError: If this machine has fewer GPUs than processes.
    """
    if "RANK" in env and "WORLD_SIZE" in env:  # torchrun, deepspeed
        env.setdefault("LOCAL_RANK", "0")
    elif int(env.get("SLURM_STEP_NUM_TASKS", "1")) > 1 and "SLURM_PROCID" in env:  # srun
        env["RANK"], env["WORLD_SIZE"] = env["SLURM_PROCID"], env["SLURM_STEP_NUM_TASKS"]
        # With --gpus-per-task each process sees only its own GPU, which is then the first.
        env["LOCAL_RANK"] = "0" if num_gpus == 1 else env.get("SLURM_LOCALID", "0")
        env.setdefault("MASTER_ADDR", first_host(env["SLURM_STEP_NODELIST"]))
        job, step = int(env.get("SLURM_JOB_ID", "0")), int(env.get("SLURM_STEP_ID", "0"))
        env.setdefault("MASTER_PORT", str(15_000 + (7 * job + step) % 15_000))  # below the ephemeral ports
    else:
        env["RANK"], env["WORLD_SIZE"], env["LOCAL_RANK"] = "0", "1", "0"
        env.setdefault("MASTER_ADDR", "127.0.0.1")
        env.setdefault("MASTER_PORT", "29500")  # never opened: a single process needs no store
    local_rank = int(env["LOCAL_RANK"])
    if num_gpus and local_rank >= num_gpus:
        raise UserError(
            f"process {local_rank + 1} of this machine, which has {num_gpus} GPUs: start one process per GPU"
        )
    return int(env["RANK"]), int(env["WORLD_SIZE"]), local_rank


def first_host(nodes: str) -> str:
    """Return the first host of a SLURM list: `gpu07` of `gpu[07-09,12],login1`."""
    first = re.match(r"(?:[^\[,]|\[[^\]]*\])*", nodes)
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", first[0] if first else nodes)
