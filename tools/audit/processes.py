"""Audit of the shards by processes of this machine."""

import gc
import itertools
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from pipelines.errors import RunError
from tools.audit.drops import audit_drops
from tools.audit.findings import Findings
from tools.audit.meetings import MeetingWriter, find_shared
from tools.audit.plan import DropsTask, Plan, ShardTask, SourceTask, Task
from tools.audit.shards import audit_shard
from tools.audit.sources import audit_source
from tools.audit.worker_server import start_server
from tools.queries.scratch import ScratchFolder


def audit_by_processes(plan: Plan, tasks: Sequence[Task], num_workers: int, done: Callable[[int], None]) -> Findings:
    """Return what was found in shards and sources, and what samples share that they must not.

    Args:
        plan: What to check.
        tasks: The shards and sources.
        num_workers: Number of processes; with 1 all is done in this one.
        done: Called with 1 after each task.

    Raises:
        RunError: If a worker was killed.
    """
    findings = Findings()
    with ScratchFolder() as folder:
        for found in _results(plan, tasks, num_workers, folder):
            findings.merge(found)
            done(1)
        shards = {task.number: task.shard for task in tasks if isinstance(task, ShardTask)}
        if files := sorted(map(str, Path(folder).glob("*.parquet"))):
            for found_shared in find_shared(files, plan.scopes):
                found_shared.add_to(findings, shards)
    return findings


def _results(plan: Plan, tasks: Sequence[Task], num_workers: int, folder: str) -> Iterator[Findings]:
    """Yield the findings of each task, in any order; the largest shards begin first, so that none is waited for."""
    ordered = sorted(tasks, key=lambda task: -task.shard.bytes if isinstance(task, ShardTask) else -(1 << 62))
    if num_workers == 1 or len(ordered) < 2:
        for task in ordered:
            yield _run(plan, task, folder)
        return
    pool = ProcessPoolExecutor(min(num_workers, len(ordered)), start_server(), _begin)
    waiting = iter(ordered)
    running: set[Future[Findings]] = set()
    try:
        while True:
            for task in itertools.islice(waiting, 2 * num_workers - len(running)):
                running.add(pool.submit(_run, plan, task, folder))
            if not running:
                break
            ended, running = wait(running, return_when=FIRST_COMPLETED)
            for future in ended:
                yield future.result()
    except BrokenProcessPool as error:
        raise RunError("a worker process was killed, possibly for lack of memory: try fewer --workers") from error
    except BaseException:
        _kill_workers()  # a shard can take minutes, and nobody waits for its findings
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _kill_workers() -> None:
    for worker in multiprocessing.active_children():
        worker.kill()


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal: the command ends us
    gc.freeze()  # what was imported is there to stay
    gc.set_threshold(50_000, 20, 50)


def _run(plan: Plan, task: Task, folder: str) -> Findings:
    if isinstance(task, SourceTask):
        return audit_source(plan, task, folder)
    if isinstance(task, DropsTask):
        return audit_drops(plan, task)
    findings = Findings()
    with MeetingWriter(f"{folder}/{task.number:08d}.parquet") as writer:
        for item in audit_shard(plan, task, folder):
            if isinstance(item, Findings):
                findings = item
            else:
                writer.add(item)
    return findings
