"""Functions that run `python -m pipelines` as a user does, against the small web of `tests.mini_web`."""

import contextlib
import hashlib
import io
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from pipelines.__main__ import main
from tests import ports
from tests.mini_web import ADDRESSES

ROOT = Path(__file__).parent.parent
TIMEOUT_SECONDS = 120


def free_port() -> int:
    """Return a port that is free on all addresses of the small web."""
    return ports.free_port(ADDRESSES)


def spec_tree(port: int, addresses: Sequence[str] = ADDRESSES) -> dict:
    """Return a spec that takes all five kinds from one crawl of the small web."""
    hosts = [f"{address}:{port}" for address in addresses]
    anything = {"language": None}
    web = {"crawl": "web"}
    return {
        "name": "mini",
        "version": "1.0.0",
        "policy": {"allow_hosts": hosts},
        "http": {"delay_seconds": 0, "backoff_seconds": 0.01, "error_budget": 30},
        "crawls": {"web": {"seeds": [f"http://{addresses[0]}:{port}/"], "hosts": hosts}},
        "sources": {
            "stories": {
                "kind": "interleaved",
                "input": {**web, "include": ["/story/", "/map/", "/images"]},
                "filters": {"images": {"min_side": 32}},
                "sharding": {"max_samples": 4},
            },
            "figures": {
                "kind": "pair",
                "input": web,
                "filters": {**anything, "images": {"min_side": 32}},
                "sharding": {"max_samples": 4},
            },
            "maps": {"kind": "grounded", "input": web, "filters": anything},
            "films": {"kind": "video", "input": web, "filters": anything},
            "texts": {
                "kind": "text",
                "input": {**web, "exclude": ["/story/", "/map/", "/images", "/film/", r"/$"]},
                "sharding": {"max_samples": 4},
            },
        },
        "split": {
            "val": 0.1,
            "test": 0.1,
            "rules": [{"pattern": "/story/1$", "split": "val"}, {"pattern": "/story/2$", "split": "test"}],
        },
    }


def serve_setting(port: int, state: Path) -> list[dict]:
    """Return the setting `serve:` by which a spec starts the small web itself."""
    command = ["-m", "tests.mini_web", "--port", str(port), "--state", str(state)]
    return [{"command": command, "addresses": [f"{address}:{port}" for address in ADDRESSES]}]


def write_spec(path: Path, tree: dict) -> Path:
    """Write a spec as a YAML file."""
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return path


@dataclass(frozen=True, slots=True)
class Web:
    """A small web that is being served."""

    port: int
    state: Path

    def requests(self) -> list[str]:
        """Return the requests so far: `address/path`."""
        log = self.state / "requests.log"
        return log.read_text().splitlines() if log.exists() else []

    def heal(self) -> None:
        """Make temporary failures answer from now on."""
        (self.state / "healed").touch()


@contextlib.contextmanager
def served(state: Path) -> Iterator[Web]:
    """Serve the small web in a separate process."""
    port = free_port()
    command = [sys.executable, "-m", "tests.mini_web", "--port", str(port), "--state", str(state)]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not all(_answers(address, port) for address in ADDRESSES):
            assert process.poll() is None, "the small web ended"
            assert time.monotonic() < deadline, "the small web does not answer"
            time.sleep(0.02)
        yield Web(port, state)
    finally:
        process.terminate()
        process.wait()


def _answers(address: str, port: int) -> bool:
    with socket.socket() as connection:
        connection.settimeout(1)
        return connection.connect_ex((address, port)) == 0


# --- the command ----------------------------------------------------------------------------------------------------


def start(*arguments: str | Path, **options: object) -> subprocess.Popen[str]:
    """Start `python -m pipelines ...` in a separate process group."""
    return subprocess.Popen(
        [sys.executable, "-m", "pipelines", *map(str, arguments)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )


def run(*arguments: str | Path, code: int = 0, **options: object) -> tuple[str, str]:
    """Run a command to its end; return stdout and stderr.

    Raises:
        AssertionError: If it ends with another exit code, or leaves a process behind.
    """
    process = start(*arguments, **options)
    try:
        stdout, stderr = process.communicate(timeout=TIMEOUT_SECONDS)
    finally:
        kill_group(process.pid)
    assert process.returncode == code, f"{arguments}: exit {process.returncode}\n{stdout[-3000:]}\n{stderr[-6000:]}"
    return stdout, stderr


def run_here(*arguments: str | Path, code: int = 0) -> tuple[str, str]:
    """Run a command in this process, without the time for imports; return stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    before = sys.argv
    sys.argv = ["pipelines", *map(str, arguments)]
    found: object = 0
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as ended:
        found = ended.code
    finally:
        sys.argv = before
        logging.captureWarnings(False)
    assert found == code, f"{arguments}: exit {found}\n{out.getvalue()[-3000:]}\n{err.getvalue()[-6000:]}"
    return out.getvalue(), err.getvalue()


def build_here(spec: Path, out: Path, *arguments: str, command: str = "corpus", code: int = 0) -> str:
    """Build a corpus, or run one stage, in this process with one worker; return the printed text."""
    return run_here(command, "--spec", spec, "--out", out, "--workers", "1", *arguments, code=code)[0]


def build(spec: Path, out: Path, *arguments: str, workers: int = 2, command: str = "corpus", **options: object) -> str:
    """Build a corpus, or run one stage; return the printed text."""
    return run(command, "--spec", spec, "--out", out, "--workers", str(workers), *arguments, **options)[0]


def group_members(group: int) -> list[int]:
    """Return the living processes of a process group."""
    members = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                state, _, pgrp = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
                if int(pgrp) == group and state != "Z":
                    members.append(int(folder.name))
    return members


def kill_group(group: int) -> None:
    """Send kill -9 to a process group, if any of its processes is left."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def wait_for_end(group: int, seconds: float = 20.0) -> list[int]:
    """Wait until all processes of a group have ended by themselves; return those that have not."""
    deadline = time.monotonic() + seconds
    while (left := group_members(group)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


# --- what lies there ------------------------------------------------------------------------------------------------


def published(out: Path) -> dict[str, str]:
    """Return the sha256 of every file of a corpus, except those in work/."""
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.relative_to(out).parts[0] != "work"
    }


def times(folder: Path) -> dict[str, int]:
    """Return the time at which each file below a folder was written, in nanoseconds."""
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in sorted(folder.rglob("*")) if p.is_file()}


def leftovers(out: Path) -> list[str]:
    """Return temporary files that were left behind."""
    return [str(path) for path in out.rglob(".~*")]


def copy_raw_store(out: Path, to: Path) -> Path:
    """Copy the fetched files, without anything made from them, to a new output folder."""
    shutil.copytree(out / "work" / "warc", to / "work" / "warc")
    shutil.copytree(out / "work" / "raw" / "media", to / "work" / "raw" / "media")
    return to
