"""One process, or one of many under torchrun, deepspeed or srun: who we are, and small messages on the CPU."""

import datetime
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

_TIMEOUT = datetime.timedelta(minutes=30)  # a slow file system may hold up a save for long


@dataclass(frozen=True)
class World:
    """The processes of a run.

    Attributes:
        rank: Of this one.
        size: How many there are.
        local_rank: Of this one on its machine.
        device: That it computes on.
        control: A gloo group for numbers and records on the CPU, beside the device's own traffic.
    """

    rank: int
    size: int
    local_rank: int
    device: torch.device
    control: Any

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def sum(self, numbers: list[float]) -> list[float]:
        """The sums of numbers over all processes."""
        if self.size == 1:
            return numbers
        tensor = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(tensor, group=self.control)
        return tensor.tolist()  # type: ignore[no-any-return]

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, at the first; none elsewhere."""
        if self.size == 1:
            return [value]
        found: list[Any] | None = [None] * self.size if self.is_first else None
        dist.gather_object(value, found, dst=0, group=self.control)
        return found or []

    def broadcast(self, value: Any) -> Any:
        """The first process's value, at all."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.control)
        return box[0]

    def barrier(self) -> None:
        """Wait for all."""
        if self.size > 1:
            dist.barrier(group=self.control)


def start() -> World:
    """Join the other processes of the run, as the launcher's environment says; alone where there is none.

    DeepSpeed is imported only after this: it looks for its accelerator when it is imported.
    """
    rank, size, local_rank = _place()
    has_gpu = torch.cuda.is_available()
    device = torch.device("cuda", local_rank) if has_gpu else torch.device("cpu")
    if has_gpu:
        torch.cuda.set_device(device)
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if has_gpu else "cpu")
    if not dist.is_initialized():
        backend = "nccl" if has_gpu else "gloo"
        if size == 1:
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1, timeout=_TIMEOUT)
        else:
            dist.init_process_group(backend, timeout=_TIMEOUT)
    control = dist.new_group(backend="gloo", timeout=_TIMEOUT) if has_gpu else dist.group.WORLD
    return World(rank, size, local_rank, device, control)


def stop() -> None:
    """Leave the other processes."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _place() -> tuple[int, int, int]:
    """Rank, world size and local rank; and in the environment what PyTorch and DeepSpeed look for."""
    env = os.environ
    if "RANK" in env and "WORLD_SIZE" in env:  # torchrun, deepspeed
        env.setdefault("LOCAL_RANK", "0")
    elif "SLURM_PROCID" in env and int(env.get("SLURM_NTASKS", "1")) > 1 and "SLURM_STEP_ID" in env:  # srun
        env["RANK"], env["WORLD_SIZE"] = env["SLURM_PROCID"], env["SLURM_NTASKS"]
        env["LOCAL_RANK"] = env.get("SLURM_LOCALID", "0")
        env.setdefault("MASTER_ADDR", _first_host(env.get("SLURM_STEP_NODELIST", env.get("SLURM_NODELIST", ""))))
        env.setdefault("MASTER_PORT", str(20_000 + int(env.get("SLURM_JOB_ID", "0")) % 20_000))
    else:
        env["RANK"], env["WORLD_SIZE"], env["LOCAL_RANK"] = "0", "1", "0"
        env.setdefault("MASTER_ADDR", "127.0.0.1")
        env.setdefault("MASTER_PORT", "29500")  # never opened: a single process needs no store
    return int(env["RANK"]), int(env["WORLD_SIZE"]), int(env["LOCAL_RANK"])


def _first_host(nodes: str) -> str:
    """The first host of a SLURM list such as `gpu[07-09]`."""
    if "[" not in nodes:
        return nodes.partition(",")[0] or socket.gethostname()
    try:
        found = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"warning: scontrol: {error}; taking this host for the first", file=sys.stderr)
        return socket.gethostname()
    return found.stdout.split()[0]
