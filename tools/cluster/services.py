"""Flink, its job server, worker pools and an S3 server, started on hosts."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.cluster.hosts import Host, wait_until
from tools.cluster.parts import HERE, Parts

JOB_PORT, REST_PORT, POOL_PORT, S3_PORT = 8099, 8081, 50000, 9000
READY_SECONDS = 90
_OPENED = ("util", "lang", "net", "nio", "util.concurrent")
_OPENS = [f"--add-opens=java.base/java.{name}=ALL-UNNAMED" for name in _OPENED]  # what Flink 1.19 needs of Java 17
_ENTRY = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
_TASK_MANAGER = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
_JOB_SERVER = "org.apache.beam.runners.flink.FlinkJobServerDriver"
_MEMORY = {  # Flink's launcher scripts would compute these
    "taskmanager.cpu.cores": "2",
    "taskmanager.memory.task.heap.size": "384m",
    "taskmanager.memory.task.off-heap.size": "128m",
    "taskmanager.memory.managed.size": "256m",
    "taskmanager.memory.framework.heap.size": "128m",
    "taskmanager.memory.framework.off-heap.size": "128m",
    "taskmanager.memory.jvm-metaspace.size": "256m",
    "taskmanager.memory.jvm-overhead.min": "192m",
    "taskmanager.memory.jvm-overhead.max": "192m",
}


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket of an S3 server, and the variables by which `s3fs` finds it."""

    url: str
    variables: dict[str, str]


def start_s3(host: Host, parts: Parts, folder: Path, name: str = "corpora") -> Bucket:
    """Start an S3 server over a folder, with one bucket."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    key, secret = "cluster-test", "cluster-test-secret"
    address = f"{host.address}:{S3_PORT}"
    host.start("s3", [parts.versitygw, "--port", address, "--access", key, "--secret", secret, "posix", folder])
    wait_until("the S3 server", lambda: host.answers(S3_PORT), READY_SECONDS)
    variables = {
        "AWS_ENDPOINT_URL": f"http://{address}",
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    return Bucket(f"s3://{name}", variables)


class Flink:
    """A session cluster: a JobManager, and TaskManagers with a worker pool each.

    Args:
        parts: The programs.
        manager: Host of the JobManager.
        driver: Host of the job server.
        work: Folder for configuration and temporary files.
    """

    def __init__(self, parts: Parts, manager: Host, driver: Host, work: Path) -> None:
        self._parts, self._manager, self._driver, self._work = parts, manager, driver, work
        self._conf = work / "conf"
        self._conf.mkdir(parents=True, exist_ok=True)
        (self._conf / "flink-conf.yaml").write_bytes((HERE / "flink-conf.yaml").read_bytes())
        manager.start("flink", self._java(_ENTRY, 512, ["--configDir", str(self._conf)], self._addresses(manager)))
        wait_until("the JobManager", lambda: manager.answers(REST_PORT), READY_SECONDS)

    def add_task_manager(self, host: Host, slots: int, **variables: str) -> tuple[subprocess.Popen[bytes], ...]:
        """Start a TaskManager and its worker pool on a host; returns the two processes.

        Args:
            host: The host.
            slots: Tasks that it takes at the same time.
            variables: Of the environment of its workers.
        """
        command = [sys.executable, "-m", "pipelines", "worker-pool", "--host", "127.0.0.1", "--port", str(POOL_PORT)]
        pool = host.start("pool", command, **variables)
        settings = _MEMORY | {"taskmanager.host": host.address, "taskmanager.numberOfTaskSlots": str(slots)}
        settings |= {"io.tmp.dirs": str(self._work / host.name)}
        (self._work / host.name).mkdir(exist_ok=True)
        arguments = ["--configDir", str(self._conf)]
        flink = host.start("flink", self._java(_TASK_MANAGER, 640, arguments, self._addresses(host) | settings))
        return flink, pool

    def wait_for_slots(self, slots: int) -> None:
        """Wait until so many slots are free."""
        wait_until(f"{slots} slots", lambda: self.overview().get("slots-available", 0) >= slots, READY_SECONDS)

    def start_job_server(self) -> None:
        """Start the service to which drivers send their jobs."""
        arguments = [f"--flink-master={self._manager.address}:{REST_PORT}", f"--job-host={self._driver.address}"]
        arguments += [f"--job-port={JOB_PORT}", "--artifact-port=8098", "--expansion-port=8097"]
        arguments += [f"--artifacts-dir={self._work / 'artifacts'}", f"--flink-conf-dir={self._conf}"]
        self._driver.start("job-server", self._java(_JOB_SERVER, 512, arguments, {}))
        wait_until("the job server", lambda: self._driver.answers(JOB_PORT), READY_SECONDS)

    def options(self, parallelism: int) -> list[str]:
        """Return the options by which a build runs here."""
        options = ["--runner", "PortableRunner", "--workers", str(parallelism), "--"]
        options += [f"--flink_master={self._manager.address}:{REST_PORT}"]  # by which Ctrl-C cancels a job
        options += [f"--job_endpoint={self._driver.address}:{JOB_PORT}", "--environment_type=EXTERNAL"]
        return [*options, f"--environment_config=localhost:{POOL_PORT}"]

    def overview(self) -> dict[str, int]:
        """Return the cluster's numbers of task managers, slots and jobs."""
        return dict(self._ask("overview"))

    def jobs(self) -> list[dict[str, Any]]:
        """Return all jobs, of which each has an id, a state, and its times in milliseconds."""
        return list(self._ask("jobs/overview").get("jobs", []))

    def _ask(self, path: str) -> dict[str, Any]:
        url = f"http://{self._manager.address}:{REST_PORT}/{path}"
        script = f"import urllib.request; print(urllib.request.urlopen({url!r}).read().decode())"
        said = self._manager.output([sys.executable, "-S", "-c", script])
        return dict(json.loads(said)) if said else {}

    def _addresses(self, host: Host) -> dict[str, str]:
        return {
            "jobmanager.rpc.address": self._manager.address,
            "jobmanager.bind-host": "0.0.0.0",
            "taskmanager.bind-host": host.address,
            "rest.address": self._manager.address,
            "rest.bind-address": "0.0.0.0",
        }

    def _java(self, name: str, heap: int, arguments: Sequence[str], settings: dict[str, str]) -> list[str]:
        memory = [f"-Xmx{heap}m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]  # short jobs on few cores
        log = ["-Dorg.slf4j.simpleLogger.showDateTime=true", "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS"]
        command = ["java", *memory, *log, *_OPENS, "-cp", f"{self._parts.jars}/*", name, *arguments]
        return command + [word for key, value in settings.items() for word in ("-D", f"{key}={value}")]
