"""Images per second, from a list of addresses to finished tars: ours and img2dataset's, each by its own command.

Photographs and thumbnails, over http and https. Both get the same list, served by one server on twelve loopback
addresses of the same machine, the same image settings (shorter side 256, quality 95) and two processes. Ours also
requests robots.txt and the like, sends each address one request at a time, keeps evidence, judges captions, hashes,
filters and shuffles. Over https img2dataset loads the machine's certificates again for every image; we keep one TLS
context and reuse connections.
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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from tools.bench import image_server
from tools.bench.report import figure, ratio

ROUNDS = 3
NUM_IMAGES = 20_000
NUM_FEW = 24  # images of a short run that measures start and end
NUM_WORKERS = 2
NUM_THREADS = 32  # of img2dataset, per process; 128 were no faster on two cores
_WORDS = ("harbour", "lantern", "meadow", "orchard", "violin", "kettle", "bridge", "ladder", "garden", "window")


@dataclass(frozen=True, slots=True)
class _Run:
    """Wall-clock and CPU seconds of one command, and for ours the wall-clock seconds of each stage."""

    seconds: float
    processor_seconds: float
    stages: dict[str, float]


def bench_fetch(folder: Path, num_images: int = NUM_IMAGES) -> None:
    """Print images/s of both over http and https, and the ratios, for each kind of images."""
    for kind in image_server.WIDTHS:
        of_kind = folder / kind
        image_server.make_images(of_kind, kind, num_images)
        trusted = image_server.trusted_certificates(of_kind)
        with _serving(of_kind):
            for scheme in image_server.PORTS:
                _bench_scheme(of_kind, f"{kind}s over {scheme}", scheme, num_images, trusted)


def _bench_scheme(folder: Path, label: str, scheme: str, num: int, trusted: Path) -> None:
    few, many = (_write_list(folder, scheme, n) for n in (NUM_FEW, num))
    runs: dict[str, list[_Run]] = {}
    contenders: dict[str, Callable[[Path, int], _Run]] = {
        "dromaius": lambda urls, num: _ours(folder, urls, num, trusted),
        "img2dataset": lambda urls, num: _img2dataset(folder, urls, num, trusted),
    }
    starts = {name: run(few, NUM_FEW) for name, run in contenders.items()}
    for _ in range(ROUNDS):
        for name, run in contenders.items():
            runs.setdefault(name, []).append(run(many, num))
    whole = {name: [num / run.seconds for run in of] for name, of in runs.items()}
    busy = {name: [num / run.processor_seconds for run in of] for name, of in runs.items()}
    steady = {
        name: [(num - NUM_FEW) / (run.processor_seconds - starts[name].processor_seconds) for run in of]
        for name, of in runs.items()
    }
    measures = {"by the clock": whole, "per CPU second": busy, "per CPU second, less start": steady}
    for what, rates in measures.items():
        for name in contenders:
            figure("fetch", f"{label}, {name}: {what}", max(rates[name]), "images/s")
        ratio("fetch", f"{label}: {what}", rates["dromaius"], rates["img2dataset"])
    for stage in runs["dromaius"][0].stages:
        seconds = min(run.stages[stage] for run in runs["dromaius"])
        figure("fetch", f"{label}, dromaius: {stage}, by the clock", seconds, "s")
    for name, start in starts.items():
        figure("fetch", f"{label}, {name}: start and end, of {NUM_FEW} images, by the clock", start.seconds, "s")
        figure("fetch", f"{label}, {name}: the same, of the processor", start.processor_seconds, "s")


def _write_list(folder: Path, scheme: str, num_images: int) -> Path:
    path = folder / f"{scheme}-{num_images}.csv"
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("url", "caption"))
        for n, url in enumerate(image_server.urls(scheme, num_images)):
            one, two, three = (_WORDS[n // len(_WORDS) ** k % len(_WORDS)] for k in range(3))
            writer.writerow((url, f"The {one} near the {two} with a {three}, seen in the year {n}"))
    return path


@contextlib.contextmanager
def _serving(folder: Path) -> Iterator[None]:
    command = [sys.executable, "-m", "tools.bench.image_server", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        if server.stdout.readline() != b"ready\n":
            raise RuntimeError("the server of images does not start")
        try:
            yield
        finally:
            server.terminate()


def _ours(folder: Path, url_list: Path, num_images: int, trusted: Path) -> _Run:
    out, spec = folder / "ours", folder / "spec.yaml"
    settings = {
        "name": "bench",
        "version": "1.0.0",
        "policy": {"user_agent": "bench (mailto:bench@example.org)", "allow_hosts": list(image_server.ADDRESSES)},
        "http": {"delay_seconds": 0},
        "sources": {
            "images": {
                "kind": "pair",
                "input": {"format": "url_table", "files": [str(url_list.resolve())]},
                "media": {"images": {"image_size": 256, "encode_quality": 95, "resize_only_if_bigger": False}},
                # Made images and captions resemble each other; img2dataset keeps them all.
                "filters": {"duplicates": {"max_phash_distance": None, "min_jaccard": None}},
            }
        },
    }
    spec.write_text(yaml.safe_dump(settings))
    arguments = ["pipelines", "corpus", "--spec", str(spec), "--out", str(out), "--workers", str(NUM_WORKERS)]
    return _measure([sys.executable, "-m", *arguments], out, num_images, trusted)


def _img2dataset(folder: Path, url_list: Path, num_images: int, trusted: Path) -> _Run:
    out = folder / "img2dataset"
    options = {
        "url_list": url_list,
        "input_format": "csv",
        "url_col": "url",
        "caption_col": "caption",
        "output_format": "webdataset",
        "output_folder": out,
        "processes_count": NUM_WORKERS,
        "thread_count": NUM_THREADS,
        "image_size": 256,
        "resize_mode": "keep_ratio",
        "encode_quality": 95,
        "number_sample_per_shard": -(-num_images // (2 * NUM_WORKERS)),
        "enable_wandb": False,
    }
    command = [str(Path(sys.executable).with_name("img2dataset"))]
    return _measure([*command, *(f"--{name}={value}" for name, value in options.items())], out, num_images, trusted)


def _measure(command: list[str], out: Path, num_images: int, trusted: Path) -> _Run:
    """Run a command and check that its output is complete.

    Raises:
        RuntimeError: If it failed or lost images.
    """
    shutil.rmtree(out, ignore_errors=True)
    environment = os.environ | {"SSL_CERT_FILE": str(trusted)}
    log = out.with_suffix(".log")
    began = time.perf_counter()
    with open(log, "wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
        _, status, usage = os.wait4(process.pid, 0)  # includes the processes it waited for
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    found = sum(_count(path) for path in sorted(out.rglob("*.tar")))
    if process.returncode != 0 or found != num_images:
        raise RuntimeError(f"{found} of {num_images} images, exit code {process.returncode}: see {log}")
    stages = re.findall(r"^(\w+) +([0-9.]+) s$", log.read_text(errors="replace"), re.MULTILINE)
    return _Run(seconds, usage.ru_utime + usage.ru_stime, {name: float(took) for name, took in stages})


def _count(path: Path) -> int:
    with tarfile.open(path) as tar:
        return sum(member.name.endswith(".jpg") for member in tar)
