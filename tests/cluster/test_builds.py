"""Builds on Flink with all state on S3: equal to a local one over the same raw store, whatever is killed meanwhile."""

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.cluster.conftest import BUILD_SECONDS, TASK_MANAGERS, Cluster, local_build
from tests.corpus_command import published, write_spec
from tests.mini_web import paragraph
from tools.cluster.hosts import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(2 * BUILD_SECONDS), pytest.mark.usefixtures("flink_cluster")]

Tell = Callable[[str], None]
STAGES = ("crawl", "extract", "fetch", "filter", "shard")


def check(cluster: Cluster, name: str, expected: Counter[str]) -> None:
    """Assert that a build has the bytes of a local one, and sent these requests."""
    assert cluster.requests() - expected == Counter(), "requested again"
    left = expected - cluster.requests()
    assert all(path.endswith("/busy") for path in left), "not requested; only that page answers once that it is busy"
    check_bytes(cluster, name)


def check_bytes(cluster: Cluster, name: str) -> None:
    """Assert that a build has the bytes of a local one over the same raw store, and has left no lock behind."""
    assert published(cluster.stored / name) == local_build(cluster, name)
    assert not list((cluster.stored / name).rglob("lease.json"))


def test_a_build_has_the_bytes_of_a_local_one(cluster: Cluster, expected_requests: Counter[str], timed: Tell):
    cluster.forget_requests()
    cluster.finish(cluster.start_build("undisturbed"), "undisturbed")
    jobs = sorted(cluster.flink.jobs(), key=lambda job: job["start-time"])
    timed(f"undisturbed, {len(jobs)} jobs of {[job['tasks']['total'] for job in jobs]} tasks")
    print(f"each in {[round(job['duration'] / 1000) for job in jobs]} s")
    assert [job["state"] for job in jobs] == ["FINISHED"] * len(STAGES), "one pipeline each; four rounds are one"
    counted = Counter(path.rpartition("/")[0] for path in cluster.requests())
    assert len(counted) > 5
    check(cluster, "undisturbed", expected_requests)


def kill_task_manager(cluster: Cluster, name: str) -> None:
    """Kill a task manager, as if its memory had run out; its worker notices, and a supervisor starts it again."""
    flink, _ = cluster.task_managers[name]
    cluster.hosts[name].kill(flink)
    time.sleep(8)
    cluster.start_task_manager(name)


def test_task_managers_are_killed_in_crawl_fetch_and_shard(
    cluster: Cluster, expected_requests: Counter[str], timed: Tell
):
    cluster.forget_requests()
    build = cluster.start_build("killed")
    cluster.wait(build, "crawling", lambda: sum(cluster.requests().values()) > 20, "killed")
    kill_task_manager(cluster, "worker1")
    kill_in_fetch = lambda: any("/img/" in path for path in cluster.requests())  # noqa: E731
    cluster.wait(build, "fetching", kill_in_fetch, "killed")
    kill_task_manager(cluster, "worker2")
    cluster.wait(build, "the first tar", lambda: cluster.num_stored("killed", "*/*/*.tar") > 0, "killed")
    kill_task_manager(cluster, "worker1")
    cluster.finish(build, "killed")
    timed("task managers killed in crawl, fetch and shard")
    check(cluster, "killed", expected_requests)


def workers_of(cluster: Cluster, name: str) -> list[psutil.Process]:
    """Return the workers that a host's pool has forked, those with open connections to a task manager."""
    _, pool = cluster.task_managers[name]
    children = psutil.Process(pool.pid).children(recursive=True)
    return [child for child in children if "forkserver" in " ".join(child.cmdline()) and child.net_connections()]


def test_a_worker_is_killed(cluster: Cluster, expected_requests: Counter[str], timed: Tell):
    cluster.forget_requests()
    build = cluster.start_build("worker-killed")
    cluster.wait(build, "crawling", lambda: sum(cluster.requests().values()) > 20, "worker-killed")
    before, stored = cluster.requests(), cluster.stored_urls("worker-killed")
    for name in TASK_MANAGERS:
        for process in workers_of(cluster, name):
            os.kill(process.pid, signal.SIGKILL)
    cluster.finish(build, "worker-killed")
    timed("all workers killed in crawl")
    again = cluster.requests() - expected_requests
    assert again - before == Counter(), "only what was in an open part is requested again"
    assert not stored & again.keys(), "what was stored is requested again"
    check_bytes(cluster, "worker-killed")


def test_a_link_is_cut(cluster: Cluster, expected_requests: Counter[str], timed: Tell):
    host = cluster.hosts["worker1"]
    if not host.can_be_cut:
        pytest.skip("no network namespaces here")
    cluster.forget_requests()
    build = cluster.start_build("cut")
    cluster.wait(build, "fetching", lambda: any("/img/" in path for path in cluster.requests()), "cut")
    host.cut()
    time.sleep(1)
    before = cluster.requests()  # with those whose answers do not arrive any more
    stored = cluster.stored_urls("cut")
    time.sleep(40)  # longer than Flink waits for a heartbeat
    host.kill()  # first: what waits in its connections would arrive as soon as the link is back
    host.mend()
    cluster.start_task_manager("worker1")
    cluster.finish(build, "cut")
    timed("a link cut in fetch for 40 s")
    again = cluster.requests() - expected_requests
    assert again - before == Counter(), "only what the lost worker had asked for is requested again"
    assert not stored & again.keys(), "what was stored is requested again"
    check_bytes(cluster, "cut")


def test_ctrl_c_cancels_the_job_and_a_second_build_is_told_of_the_first(cluster: Cluster):
    slow = ("--set", "http.delay_seconds=4")
    cluster.forget_requests()
    build = cluster.start_build("stopped", *slow)
    cluster.wait(build, "crawling", lambda: sum(cluster.requests().values()) > 5, "stopped")
    other = cluster.start_build("stopped", *slow)
    assert other.wait(60) == 2
    said = cluster.hosts["driver"].log("stopped").read_text()
    assert "is using this folder; wait for it or use another" in said
    running = [job for job in cluster.flink.jobs() if job["state"] == "RUNNING"]
    assert running
    os.killpg(build.pid, signal.SIGINT)
    assert build.wait(60) == 130

    def state() -> str:
        return next(job["state"] for job in cluster.flink.jobs() if job["jid"] == running[0]["jid"])

    wait_until("the end of the job", lambda: state() in ("CANCELED", "FINISHED", "FAILED"), 60)
    assert state() == "CANCELED"
    assert not list(cluster.stored.glob("stopped/work/lease.json"))


NUM_TEXTS = 8000


def test_two_task_managers_and_one_give_the_same_bytes(cluster: Cluster, tmp_path: Path):
    """Also prints how much faster two are: extract to shard of texts, where the processor is the limit."""
    texts = tmp_path / "texts.jsonl"
    with texts.open("w") as file:
        for number in range(NUM_TEXTS):
            body = "\n\n".join(paragraph(f"{number}-{i}", 12) for i in range(3))
            file.write(json.dumps({"text": body}) + "\n")
    given = {"format": "jsonl_text", "files": [str(texts)], "part_bytes": texts.stat().st_size // 16}
    tree = {"name": "texts", "version": "1.0.0", "sources": {"texts": {"kind": "text", "input": given}}}
    spec = write_spec(tmp_path / "texts.yaml", tree)
    seconds = {}
    for num in (2, 1):
        began = time.monotonic()
        build = cluster.start_build(f"texts-{num}", parallelism=num, spec=spec)
        cluster.finish(build, f"texts-{num}")
        seconds[num] = time.monotonic() - began
        cluster.hosts["worker2"].kill()
    ratio = seconds[1] / seconds[2]
    print(f"\n{NUM_TEXTS:,} texts: {seconds[1]:.0f} s on one task manager, {seconds[2]:.0f} s on two: {ratio:.2f}")
    assert published(cluster.stored / "texts-1") == published(cluster.stored / "texts-2")
    cluster.start_task_manager("worker2")
