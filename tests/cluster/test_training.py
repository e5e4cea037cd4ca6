"""Training on two hosts from a corpus on S3: one is killed and comes back, and the same samples are consumed."""

import shutil
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.cluster.conftest import Cluster
from tests.corpus_command import ROOT
from tools.cluster.hosts import Host, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]

STEPS = 40
WEIGHTS = "{stories: 0.2, figures: 0.3, maps: 0.2, films: 0.1, texts: 0.2}"
SETTINGS = {
    "pretrain.steps": STEPS,
    "pretrain.mixture.phases": f"[{{weights: {WEIGHTS}}}]",
    "pretrain.checkpoints.every": 5,
    "pretrain.held_out.every": "null",
    "pretrain.log.tensorboard": "false",
}
SECONDS = 600


@pytest.fixture(scope="module")
def corpus(cluster: Cluster) -> str:
    """A corpus with tokens in the bucket."""
    url = f"{cluster.bucket.url}/undisturbed"
    if not (cluster.stored / "undisturbed" / "manifest.json").exists():
        cluster.finish(cluster.start_build("undisturbed"), "undisturbed")
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


def start(cluster: Cluster, host: Host, corpus: str, out: Path) -> object:
    """Start a host's part of a run on two hosts."""
    variables = {
        "CONFIG": "trainer/configs/debug.yaml",
        "CORPUS": corpus,
        "OUT": str(out),
        "NODES": "2",
        "PROCESSES": "1",
        "MASTER": cluster.hosts["worker1"].address,
        "ADDRESS": host.address,
        "RESTARTS": "5",
        "GLOO_SOCKET_IFNAME": "cable" if host.can_be_cut else "lo",
        "BIN": str(Path(sys.executable).parent),
    }
    more = settings(
        pretrain__data__cache__folder=cluster.work / f"cache-{host.name}",
        pretrain__data__cache__max_bytes=1 << 20,
        pretrain__data__cache__chunk_bytes=1 << 16,
        pretrain__checkpoints__copy_to=f"{cluster.bucket.url}/runs",
    )
    script = ROOT / "trainer" / "launch" / "torchrun.sh"
    return host.start("train", ["bash", script, *more], **variables, **cluster.bucket.variables)


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


def test_a_host_that_is_killed_comes_back_and_the_same_samples_are_consumed(cluster: Cluster, corpus: str):
    first, second = cluster.hosts["worker1"], cluster.hosts["worker2"]
    for host in (first, second):  # memory for the training
        host.kill()
    out = cluster.work / "run"
    began = time.monotonic()
    leader = start(cluster, first, corpus, out)
    lost = start(cluster, second, corpus, out)
    wait_until("a checkpoint", lambda: any(out.rglob("step-00000005")), SECONDS)
    second.kill(lost)
    time.sleep(5)
    start(cluster, second, corpus, out)
    assert leader.wait(SECONDS) == 0, first.log("train").read_text()[-3000:]
    print(f"\ntwo hosts, one killed: {time.monotonic() - began:.0f} s")
    cached = [path.stat().st_size for path in cluster.work.glob("cache-*/**/*") if path.is_file()]
    assert cached
    assert sum(cached) <= 2 * (1 << 20), "byte ranges, up to the limit of each host"
    local = cluster.work / "undisturbed-to-train-on"
    shutil.copytree(cluster.stored / "undisturbed", local)
    alone(cluster, str(local), cluster.work / "alone")
    assert len(consumed(out)) > STEPS
    assert consumed(out) == consumed(cluster.work / "alone")


def test_a_run_continues_from_its_copy_in_the_bucket(cluster: Cluster, corpus: str):
    out = cluster.work / "continued"
    said = alone(
        cluster,
        corpus,
        out,
        "--set",
        f"pretrain.checkpoints.copy_to={cluster.bucket.url}/runs",
        "--set",
        "pretrain.steps=45",
    )
    assert f"fetched from {cluster.bucket.url}/runs" in said
    assert any(out.rglob("step-00000045"))
