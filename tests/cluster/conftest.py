"""A cluster on hosts that are network namespaces, with the small web on three and a corpus in a bucket."""

import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.corpus_command import ROOT, published, spec_tree, start, write_spec
from tools.cluster.hosts import Host, hosts, wait_until
from tools.cluster.parts import fetch_parts
from tools.cluster.services import Bucket, Flink, start_s3

WEB_PORT = 8999
BUILD_SECONDS = 600
OF_SITES = ("/robots.txt", "/ai.txt", "/.well-known/tdmrep.json", "/sitemap.xml")
SLOTS = 2  # of a task manager


@dataclass
class Cluster:
    """A running cluster."""

    hosts: dict[str, Host]
    flink: Flink
    bucket: Bucket
    stored: Path  # where the S3 server keeps the bucket's files
    state: Path  # of the small web, by host
    work: Path
    spec: Path
    task_managers: dict[str, tuple[subprocess.Popen[bytes], ...]] = field(default_factory=dict)

    def start_task_manager(self, name: str) -> None:
        """Start a task manager with its worker pool on a host, in place of those that were killed."""
        host = self.hosts[name]
        host.kill()
        self.task_managers[name] = self.flink.add_task_manager(host, SLOTS, **self.bucket.variables)

    def start_build(
        self, name: str, *arguments: str, parallelism: int = 2 * SLOTS, spec: Path | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a build in a folder of the bucket: of the small web's corpus if no other spec is given."""
        command = [
            sys.executable,
            "-m",
            "pipelines",
            "corpus",
            "--spec",
            spec or self.spec,
            "--out",
            f"{self.bucket.url}/{name}",
        ]
        return self.hosts["driver"].start(
            name, [*map(str, command), *arguments, *self.flink.options(parallelism)], **self.bucket.variables
        )

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
    with hosts(["manager", "worker1", "worker2", "store", "driver", "north", "east", "west"], logs) as made:
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
        flink = Flink(parts, made["manager"], made["driver"], work / "flink")
        tree = spec_tree(WEB_PORT, addresses)
        tree["http"] |= {"delay_seconds": 0.4}
        tree["policy"] |= {"user_agent": "ClusterTest (mail@example.org)"}
        spec = write_spec(work / "mini.yaml", tree)
        running = Cluster(made, flink, bucket, work / "s3" / "corpora", work / "web", work, spec)
        for name in ("worker1", "worker2"):
            running.start_task_manager(name)
        flink.start_job_server()
        flink.wait_for_slots(2 * SLOTS)
        for name in ("north", "east", "west"):
            wait_until(f"the web on {name}", lambda name=name: made[name].answers(WEB_PORT), 60)
        yield running


def local_build(cluster: Cluster, name: str) -> dict[str, str]:
    """Build locally over the raw store of a build in the bucket; return the sha256 of each file."""
    there, here = cluster.stored / name, cluster.work / f"{name}-local"
    for folder in ("work/warc", "work/raw/media"):
        shutil.copytree(there / folder, here / folder)
    process = start("corpus", "--spec", cluster.spec, "--out", here)
    _, said = process.communicate(timeout=BUILD_SECONDS)
    assert process.returncode == 0, said
    return published(here)


@pytest.fixture
def timed() -> Callable[[str], None]:
    """Print how long something took, for the table in the docs."""
    began = time.monotonic()

    def tell(what: str) -> None:
        print(f"\n{what}: {time.monotonic() - began:.0f} s")

    return tell
