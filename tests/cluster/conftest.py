"""Hosts that are network namespaces, with the small web on three, a bucket, and Flink for the tests that need it."""

import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pytest

from pipelines.crawling.ledger import ledger_parts, read_ledger
from pipelines.media.raw_store import index_parts, read_index
from tests.corpus_command import ROOT, published, spec_tree, write_spec
from tools.cluster.hosts import Host, hosts, wait_until
from tools.cluster.parts import Parts, fetch_parts
from tools.cluster.services import Bucket, Flink, start_s3

WEB_PORT = 8999
BUILD_SECONDS = 3600  # on a machine that is busy with other work; a build alone takes two to five minutes
CRAWL = "web"
OF_SITES = ("/robots.txt", "/ai.txt", "/.well-known/tdmrep.json", "/sitemap.xml")
TASK_MANAGERS = ("worker1", "worker2")
SLOTS = 2  # of a task manager


@dataclass
class Cluster:
    """Hosts, the small web and a bucket; Flink once it is started."""

    parts: Parts
    hosts: dict[str, Host]
    bucket: Bucket
    stored: Path  # where the S3 server keeps the bucket's files
    state: Path  # of the small web, by host
    work: Path
    spec: Path
    task_managers: dict[str, tuple[subprocess.Popen[bytes], ...]] = field(default_factory=dict)

    @cached_property
    def flink(self) -> Flink:
        """The Flink cluster, which starts on first use."""
        return Flink(self.parts, self.hosts["manager"], self.hosts["driver"], self.work / "flink")

    def start_flink(self) -> None:
        """Start Flink with two task managers."""
        for name in TASK_MANAGERS:
            self.start_task_manager(name)
        self.flink.start_job_server()
        self.flink.wait_for_slots(len(TASK_MANAGERS) * SLOTS)

    def start_task_manager(self, name: str) -> None:
        """Start a task manager with its worker pool on a host, in place of those that were killed."""
        host = self.hosts[name]
        host.kill()
        self.task_managers[name] = self.flink.add_task_manager(host, SLOTS, **self.bucket.variables)

    def start_build(
        self, name: str, *arguments: str, parallelism: int = 2 * SLOTS, spec: Path | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a build in a folder of the bucket: of the small web's corpus if no other spec is given."""
        out = f"{self.bucket.url}/{name}"
        return self._start(name, out, spec or self.spec, [*arguments, *self.flink.options(parallelism)])

    def start_local_build(
        self, name: str, out: str | Path | None = None, spec: Path | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a build by two processes of the driver's host, in a folder of the bucket if no other is given."""
        return self._start(name, str(out or f"{self.bucket.url}/{name}"), spec or self.spec, ["--workers", "2"])

    def _start(self, name: str, out: str, spec: Path, arguments: list[str]) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "pipelines", "corpus", "--spec", str(spec), "--out", out, *arguments]
        return self.hosts["driver"].start(name, command, **self.bucket.variables)

    def finish(self, build: subprocess.Popen[bytes], name: str) -> None:
        """Wait until a build has succeeded."""
        code = build.wait(BUILD_SECONDS)
        assert code == 0, f"exit {code}\n{self.hosts['driver'].log(name).read_text()[-3000:]}"

    def requests(self) -> Counter[str]:
        """Return how often each page and image was requested since the last call of `forget_requests`.

        What a site says of itself is not counted: each worker asks for it.
        """
        lines = [line for log in self.state.glob("*/requests.log") for line in log.read_text().splitlines()]
        return Counter(line for line in lines if not line.endswith(OF_SITES))

    def stored_urls(self, name: str) -> set[str]:
        """Return what a build's raw store has, in the form of the requests: pages, images and videos."""
        out = str(self.stored / name)
        ledgers = [f"{out}/work/warc/{CRAWL}/{part}.parquet" for part in ledger_parts(out, CRAWL)]
        pages = [row["url"] for path in ledgers for row in read_ledger(path, ["url", "warc"]) if row["warc"]]
        indexes = index_parts(f"{out}/work/raw/media")
        media = [row.key for path in indexes for row in read_index(path) if row.outcome == "fetched"]
        return {url.removeprefix("http://").replace(f":{WEB_PORT}/", "/", 1) for url in pages + media}

    def forget_requests(self) -> None:
        for log in self.state.glob("*/requests.log"):
            log.unlink()

    def num_stored(self, name: str, pattern: str) -> int:
        """Return how many files of a build match a pattern."""
        return len(list((self.stored / name).glob(pattern)))

    def wait(self, build: subprocess.Popen[bytes], what: str, is_true: Callable[[], bool], name: str) -> None:
        """Wait until something is true of a build that runs."""

        def look() -> bool:
            assert build.poll() is None, f"ended before {what}\n{self.hosts['driver'].log(name).read_text()[-3000:]}"
            return is_true()

        wait_until(what, look, BUILD_SECONDS)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    parts = fetch_parts(ROOT / "build" / "cluster")
    work = tmp_path_factory.mktemp("cluster")
    logs = ROOT / "build" / "cluster" / "logs"
    shutil.rmtree(logs, ignore_errors=True)
    with hosts(["manager", *TASK_MANAGERS, "store", "driver", "north", "east", "west"], logs) as made:
        addresses = [made[name].address for name in ("north", "east", "west")]
        for name in ("north", "east", "west"):
            command = [
                sys.executable,
                "-m",
                "tests.mini_web",
                "--port",
                str(WEB_PORT),
                "--state",
                str(work / "web" / name),
            ]
            listen = ["--listen", made[name].address]
            made[name].start("web", [*command, "--addresses", *addresses, *listen], PYTHONPATH=str(ROOT))
        bucket = start_s3(made["store"], parts, work / "s3")
        tree = spec_tree(WEB_PORT, addresses)
        tree["http"] |= {"delay_seconds": 0.4}
        tree["policy"] |= {"user_agent": "ClusterTest (mail@example.org)"}
        spec = write_spec(work / "mini.yaml", tree)
        running = Cluster(parts, made, bucket, work / "s3" / "corpora", work / "web", work, spec)
        for name in ("north", "east", "west"):
            wait_until(f"the web on {name}", lambda name=name: made[name].answers(WEB_PORT), 60)
        yield running


@pytest.fixture(scope="session")
def flink_cluster(cluster: Cluster) -> Cluster:
    """The cluster with Flink on it."""
    cluster.start_flink()
    return cluster


@pytest.fixture(scope="session")
def expected_requests(cluster: Cluster) -> Counter[str]:
    """How often a build on one machine that nothing disturbs requests each page and image."""
    cluster.forget_requests()
    cluster.finish(cluster.start_local_build("one-machine", cluster.work / "one-machine"), "one-machine")
    return cluster.requests()


def local_build(cluster: Cluster, name: str, spec: Path | None = None) -> dict[str, str]:
    """Build locally over the raw store of a build in the bucket; return the sha256 of each file."""
    there, here = cluster.stored / name, cluster.work / f"{name}-local"
    for folder in ("work/warc", "work/raw/media"):
        shutil.copytree(there / folder, here / folder)
    cluster.finish(cluster.start_local_build(here.name, here, spec), here.name)
    return published(here)


@pytest.fixture
def timed() -> Callable[[str], None]:
    """Print how long something took, for the table in the docs."""
    began = time.monotonic()

    def tell(what: str) -> None:
        print(f"\n{what}: {time.monotonic() - began:.0f} s")

    return tell
