"""Pictures a second, from a list of addresses to finished tars: ours and img2dataset's, by the commands of both.

Both get the same list, served by one server on twelve loopback addresses that shares the machine with them, the same
picture settings (shorter side 256, quality 95) and two processes. Ours asks for robots.txt and the like first, asks
each address for one picture at a time, keeps evidence, and also judges captions, hashes, filters and shuffles.
"""

import contextlib
import csv
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from tools.bench import pictures
from tools.bench.report import figure, ratio

ROUNDS = 3
NUM_FEW = 24  # pictures of the run that tells how long starting and ending take
NUM_WORKERS = 2
THREAD_COUNTS = (32, 128)  # of img2dataset, a process
_WORDS = ("harbour", "lantern", "meadow", "orchard", "violin", "kettle", "bridge", "ladder", "garden", "window")


@dataclass(frozen=True, slots=True)
class _Run:
    """What one command took: seconds of the clock and of the processors, and for ours those of the fetch stage."""

    seconds: float
    processor_seconds: float
    stage_seconds: float = 0.0


def bench_fetch(folder: Path) -> None:
    """Print images/s of both, and the ratios."""
    pictures.make_pictures(folder)
    few, many = (_write_list(folder, n) for n in (NUM_FEW, pictures.NUM_PICTURES))
    ours: list[_Run] = []
    peers: dict[int, list[_Run]] = {count: [] for count in THREAD_COUNTS}
    with _serving(folder):
        start = _ours(folder, few, NUM_FEW)
        peer_start = _img2dataset(folder, few, NUM_FEW, THREAD_COUNTS[0])
        for _ in range(ROUNDS):
            ours.append(_ours(folder, many, pictures.NUM_PICTURES))
            for count, runs in peers.items():
                runs.append(_img2dataset(folder, many, pictures.NUM_PICTURES, count))
    _print(start, ours, peer_start, peers)


def _print(start: _Run, ours: list[_Run], peer_start: _Run, peers: dict[int, list[_Run]]) -> None:
    num = pictures.NUM_PICTURES

    def rates(runs: list[_Run], start: _Run | None = None) -> list[float]:
        return [num / (run.seconds - (start.seconds if start else 0)) for run in runs]

    def per_processor_second(runs: list[_Run]) -> list[float]:
        return [num / run.processor_seconds for run in runs]

    named = {"dromaius": (ours, start)}
    named |= {f"img2dataset, {count} threads": (runs, peer_start) for count, runs in peers.items()}
    for name, (runs, started) in named.items():
        figure("fetch", f"{name}: all of the command", max(rates(runs)), "images/s")
        figure("fetch", f"{name}: less {started.seconds:.1f} s of start", max(rates(runs, started)), "images/s")
        figure("fetch", f"{name}: of processor time", max(per_processor_second(runs)), "images/s")
    figure("fetch", "dromaius: fetch stage alone", max(num / run.stage_seconds for run in ours), "images/s")
    fastest = min(peers.values(), key=lambda runs: min(run.seconds for run in runs))
    ratio("fetch", "all of the command", rates(ours), rates(fastest))
    ratio("fetch", "less start", rates(ours, start), rates(fastest, peer_start))
    ratio("fetch", "of processor time", per_processor_second(ours), per_processor_second(fastest))


def _write_list(folder: Path, num_pictures: int) -> Path:
    path = folder / f"list-{num_pictures}.csv"
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("url", "caption"))
        for n, url in enumerate(pictures.urls()[:num_pictures]):
            one, two, three = (_WORDS[n // len(_WORDS) ** k % len(_WORDS)] for k in range(3))
            writer.writerow((url, f"The {one} near the {two} with a {three}, seen in the year {n}"))
    return path


@contextlib.contextmanager
def _serving(folder: Path) -> Iterator[None]:
    command = [sys.executable, "-m", "tools.bench.pictures", str(folder), str(pictures.PORT)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        if server.stdout.readline() != b"ready\n":
            raise RuntimeError("the server of pictures does not start")
        try:
            yield
        finally:
            server.terminate()


def _ours(folder: Path, url_list: Path, num_pictures: int) -> _Run:
    out, spec = folder / "ours", folder / "spec.yaml"
    settings = {
        "name": "bench",
        "version": "1.0.0",
        "policy": {"user_agent": "bench (mailto:bench@example.org)", "allow_hosts": list(pictures.ADDRESSES)},
        "http": {"delay_seconds": 0},
        "sources": {
            "pictures": {
                "kind": "pair",
                "input": {"format": "url_table", "files": [str(url_list.resolve())]},
                "media": {"images": {"image_size": 256, "encode_quality": 95, "resize_only_if_bigger": False}},
                # Made pictures and captions resemble each other; img2dataset keeps them all.
                "filters": {"duplicates": {"max_phash_distance": None, "min_jaccard": None}},
            }
        },
    }
    spec.write_text(yaml.safe_dump(settings))
    arguments = ["pipelines", "corpus", "--spec", str(spec), "--out", str(out), "--workers", str(NUM_WORKERS)]
    return _measure([sys.executable, "-m", *arguments], out, num_pictures)


def _img2dataset(folder: Path, url_list: Path, num_pictures: int, threads: int) -> _Run:
    out = folder / "img2dataset"
    options = {
        "url_list": url_list,
        "input_format": "csv",
        "url_col": "url",
        "caption_col": "caption",
        "output_format": "webdataset",
        "output_folder": out,
        "processes_count": NUM_WORKERS,
        "thread_count": threads,
        "image_size": 256,
        "resize_mode": "keep_ratio",
        "encode_quality": 95,
        "number_sample_per_shard": -(-num_pictures // (2 * NUM_WORKERS)),
        "enable_wandb": False,
    }
    command = [str(Path(sys.executable).with_name("img2dataset"))]
    return _measure([*command, *(f"--{name}={value}" for name, value in options.items())], out, num_pictures)


def _measure(command: list[str], out: Path, num_pictures: int) -> _Run:
    """Run a command and check that what it was to write is there.

    Raises:
        RuntimeError: If it failed, or lost pictures.
    """
    shutil.rmtree(out, ignore_errors=True)
    environment = os.environ | {"NO_ALBUMENTATIONS_UPDATE": "1"}
    log = out.with_suffix(".log")
    began = time.perf_counter()
    with open(log, "wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
        _, status, usage = os.wait4(process.pid, 0)  # its usage holds that of the processes it waited for
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    found = sum(_count(path) for path in sorted(out.rglob("*.tar")))
    if process.returncode != 0 or found != num_pictures:
        raise RuntimeError(f"{found} of {num_pictures} pictures, exit code {process.returncode}: see {log}")
    stage = re.search(rb"^fetch +([0-9.]+) s", log.read_bytes(), re.MULTILINE)
    return _Run(seconds, usage.ru_utime + usage.ru_stime, float(stage[1]) if stage else 0.0)


def _count(path: Path) -> int:
    with tarfile.open(path) as tar:
        return sum(member.name.endswith(".jpg") for member in tar)
