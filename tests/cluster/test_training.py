"""Training on two hosts from a corpus on S3: each is killed and comes back, and the same samples are consumed."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.cluster.conftest import TASK_MANAGERS, Cluster
from tests.cluster.test_object_storage import NAME
from tests.corpus_command import ROOT
from tools.cluster.hosts import Host, wait_until

SECONDS = 3600  # on a machine that is busy with other work; the longest takes five minutes alone
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(2 * SECONDS)]

STEPS = 40
WEIGHTS = "{stories: 0.2, figures: 0.3, maps: 0.2, films: 0.1, texts: 0.2}"
SETTINGS = {
    "pretrain.steps": STEPS,
    "pretrain.mixture.phases": f"[{{weights: {WEIGHTS}}}]",
    "pretrain.checkpoints.every": 5,
    "pretrain.held_out.every": "null",
    "pretrain.log.tensorboard": "false",
}


@pytest.fixture(scope="module")
def corpus(cluster: Cluster) -> str:
    """A corpus with tokens in the bucket: that of `test_object_storage.py`, if it was run."""
    url = f"{cluster.bucket.url}/{NAME}"
    if not (cluster.stored / NAME / "manifest.json").exists():
        cluster.finish(cluster.start_local_build(NAME), NAME)
    command = [sys.executable, "-m", "pipelines", "tokenize", "--corpus", url, "--train-bpe", "300"]
    assert cluster.hosts["driver"].call("tokenize", command, SECONDS, **cluster.bucket.variables) == 0
    return url


def settings(**more: object) -> list[str]:
    changed = SETTINGS | {name.replace("__", "."): value for name, value in more.items()}
    return [word for name, value in changed.items() for word in ("--set", f"{name}={value}")]


def consumed(run: Path) -> list[tuple[object, ...]]:
    """Return what each step of a run consumed, in order."""
    rows = [
        tuple(row.values()) for path in (run / "consumed").glob("*.parquet") for row in pq.read_table(path).to_pylist()
    ]
    return sorted(rows, key=repr)


def start(cluster: Cluster, host: Host, corpus: str, out: Path) -> subprocess.Popen[bytes]:
    """Start a host's part of a run on two hosts, which is copied to the bucket."""
    variables = {
        "CONFIG": "trainer/configs/debug.yaml",
        "CORPUS": corpus,
        "OUT": str(out),
        "NODES": "2",
        "PROCESSES": "1",
        "MASTER": cluster.hosts[TASK_MANAGERS[0]].address,
        "ADDRESS": host.address,
        "RESTARTS": "5",
        "GLOO_SOCKET_IFNAME": "cable" if host.can_be_cut else "lo",
        "BIN": str(Path(sys.executable).parent),
    }
    more = settings(
        pretrain__data__cache__folder=cluster.work / f"cache-{host.name}",
        pretrain__data__cache__max_bytes=1 << 20,
        pretrain__data__cache__chunk_bytes=1 << 16,
        pretrain__checkpoints__copy_to=copy_of(cluster, out),
    )
    script = ROOT / "trainer" / "launch" / "torchrun.sh"
    return host.start(out.name, ["bash", script, *more], **variables, **cluster.bucket.variables)


def copy_of(cluster: Cluster, out: Path) -> str:
    return f"{cluster.bucket.url}/runs/{out.name}"


def alone(cluster: Cluster, corpus: str, out: Path, *more: str) -> str:
    """Run the same training in one process; return what it printed."""
    host = cluster.hosts["driver"]
    command = [sys.executable, "-m", "trainer", "pretrain", "--config", "trainer/configs/debug.yaml"]
    command += ["--corpus", corpus, "--out", str(out), *settings(), *more]
    host.log(out.name).unlink(missing_ok=True)
    code = host.call(out.name, command, SECONDS, **cluster.bucket.variables)
    said = host.log(out.name).read_text()
    assert code == 0, said[-3000:]
    return said


@pytest.fixture(scope="module")
def expected(cluster: Cluster, corpus: str) -> list[tuple[object, ...]]:
    """What one process consumes that nothing disturbs, from the corpus on a disk."""
    shutil.copytree(cluster.stored / NAME, cluster.work / "to-train-on")
    alone(cluster, str(cluster.work / "to-train-on"), cluster.work / "alone")
    return consumed(cluster.work / "alone")


@pytest.fixture
def machines(cluster: Cluster) -> tuple[Host, Host]:
    """Two hosts with nothing else on them; the others meet at the first."""
    first, second = (cluster.hosts[name] for name in TASK_MANAGERS)
    for host in (first, second):
        host.kill()
    return first, second


def said(host: Host, out: Path) -> str:
    return host.log(out.name).read_text()


def test_a_host_that_is_killed_comes_back_and_the_same_samples_are_consumed(
    cluster: Cluster, corpus: str, machines: tuple[Host, Host], expected: list[tuple[object, ...]]
):
    first, second = machines
    out = cluster.work / "second-killed"
    began = time.monotonic()
    running = [start(cluster, host, corpus, out) for host in machines]
    wait_until("a checkpoint", lambda: any(out.rglob("step-00000005")), SECONDS)
    second.kill()
    time.sleep(5)
    running[1] = start(cluster, second, corpus, out)
    assert [process.wait(SECONDS) for process in running] == [0, 0], said(first, out)[-3000:]
    print(f"\ntwo hosts, the second killed: {time.monotonic() - began:.0f} s")
    assert said(first, out).count(f"step 1/{STEPS}") == 1, "it went on from a checkpoint"
    cached = [path.stat().st_size for path in cluster.work.glob("cache-*/**/*") if path.is_file()]
    assert cached
    assert sum(cached) <= 2 * (1 << 20), "byte ranges, up to the limit of each host"
    assert len(consumed(out)) > STEPS
    assert consumed(out) == expected


def test_the_host_at_which_all_meet_is_killed_and_the_run_goes_on_from_its_copy(
    cluster: Cluster, corpus: str, machines: tuple[Host, Host], expected: list[tuple[object, ...]]
):
    first, second = machines
    out = cluster.work / "first-killed"
    copied = cluster.stored / "runs" / out.name
    left = [start(cluster, host, corpus, out) for host in machines][1]
    wait_until("a checkpoint in the bucket", lambda: any(copied.rglob("run_state.json")), SECONDS)
    first.kill()
    assert left.wait(SECONDS) == 1
    last = said(second, out).splitlines()[-1]
    assert last.startswith(
        f"error: {first.address}:29400: the machine at which all meet does not answer; start the same"
    )
    shutil.rmtree(out)  # it was on a disk of the first
    began = time.monotonic()
    running = [start(cluster, host, corpus, out) for host in machines]
    assert [process.wait(SECONDS) for process in running] == [0, 0], said(first, out)[-3000:]
    print(f"\ntwo hosts, started again after the first was killed: {time.monotonic() - began:.0f} s")
    assert f"fetched from {copy_of(cluster, out)}" in said(first, out)
    assert consumed(out) == expected


def test_a_run_continues_from_its_copy_in_the_bucket(cluster: Cluster, corpus: str):
    """Longer than it was, on one process, on another host."""
    out = cluster.work / "continued"
    copy = copy_of(cluster, cluster.work / "first-killed")
    text = alone(
        cluster, corpus, out, "--set", f"pretrain.checkpoints.copy_to={copy}", "--set", f"pretrain.steps={STEPS + 5}"
    )
    assert f"fetched from {copy}" in text
    assert any(out.rglob(f"step-{STEPS + 5:08d}"))
