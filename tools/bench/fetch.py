"""Images per second, from a list of addresses to finished tars: ours and img2dataset's, each by its own command.

Photographs and thumbnails, over http and https. Both get the same list, served by one server on twelve loopback
addresses of the same machine, the same image settings (shorter side 256, quality 95) and two processes. Ours also
requests robots.txt and the like, sends each address one request at a time, keeps evidence, judges captions, hashes,
filters and shuffles. Over https img2dataset loads the machine's certificates again for every image; we keep one TLS
context and reuse connections.
"""

import csv
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import yaml

from tools.bench import image_server
from tools.bench.command import Ran, build_anew, run_anew, serving
from tools.bench.report import figure, ratio

ROUNDS = 3
NUM_IMAGES = 20_000
NUM_FEW = 24  # images of a short run that measures start and end
NUM_WORKERS = 2
NUM_THREADS = 32  # of img2dataset, per process; 128 were no faster on two cores
_WORDS = ("harbour", "lantern", "meadow", "orchard", "violin", "kettle", "bridge", "ladder", "garden", "window")


def bench_fetch(folder: Path, num_images: int = NUM_IMAGES) -> None:
    """Print images/s of both over http and https, and the ratios, for each kind of images."""
    for kind in image_server.WIDTHS:
        of_kind = folder / kind
        image_server.make_images(of_kind, kind, num_images)
        trusted = image_server.trusted_certificates(of_kind)
        with serving("tools.bench.image_server", str(of_kind)):
            for scheme in image_server.PORTS:
                _bench_scheme(of_kind, f"{kind}s over {scheme}", scheme, num_images, trusted)


def _bench_scheme(folder: Path, label: str, scheme: str, num: int, trusted: Path) -> None:
    few, many = (_write_list(folder, scheme, n) for n in (NUM_FEW, num))
    runs: dict[str, list[Ran]] = {}
    contenders: dict[str, Callable[[Path, int], Ran]] = {
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


def _ours(folder: Path, url_list: Path, num_images: int, trusted: Path) -> Ran:
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
                "sharding": {"max_samples": _shard_samples(num_images)},
            }
        },
    }
    spec.write_text(yaml.safe_dump(settings))
    return _checked(build_anew(spec, out, NUM_WORKERS, environment=_trusting(trusted)), out, num_images)


def _img2dataset(folder: Path, url_list: Path, num_images: int, trusted: Path) -> Ran:
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
        "number_sample_per_shard": _shard_samples(num_images),
        "enable_wandb": False,
    }
    command = [str(Path(sys.executable).with_name("img2dataset"))]
    command += [f"--{name}={value}" for name, value in options.items()]
    return _checked(run_anew(command, out, environment=_trusting(trusted)), out, num_images)


def _shard_samples(num_images: int) -> int:
    """Return the samples of a shard of which each process has two."""
    return -(-num_images // (2 * NUM_WORKERS))


def _trusting(certificates: Path) -> dict[str, str]:
    return {"SSL_CERT_FILE": str(certificates)}


def _checked(ran: Ran, out: Path, num_images: int) -> Ran:
    """Return what a command took, if its output is complete.

    Raises:
        RuntimeError: If it failed or lost images.
    """
    found = sum(_count(path) for path in sorted(out.rglob("*.tar")))
    if ran.exit_code != 0 or found != num_images:
        raise RuntimeError(f"{found} of {num_images} images, exit code {ran.exit_code}: see {ran.log}")
    return ran


def _count(path: Path) -> int:
    with tarfile.open(path) as tar:
        return sum(member.name.endswith(".jpg") for member in tar)
