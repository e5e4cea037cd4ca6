"""Audit of pairs, in the page cache: hashing against `sha256sum`, decoding against a bare loop.

Images are of the size and quality in which corpora store them by default. Both sides have one process per core.
`sha256sum` is run by `xargs -P`, a shard at a time. The bare loop calls the decoder of all parts of the project, or the
library below it, on the same images in memory, and does nothing else. It computes all pixels; the audit reads all
coefficients, as damage shows in these, and computes one pixel in 64. The bare loop that does so too is also measured.

Rates are without the start of a command: the least time that it took for a corpus of an eighth of the size is
subtracted.
"""

import multiprocessing
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from multiprocessing.synchronize import Barrier
from pathlib import Path

import simplejpeg

from pipelines.command_line import num_cores
from pipelines.document import Build, Decision, Document, Media, Provenance, Segment, Signal, make_key
from pipelines.errors import UserError
from pipelines.funnel import FunnelRow
from pipelines.images.normalise import ImageSettings, NormalisedImage, normalise
from pipelines.images.pixels import decode
from pipelines.shards.manifest import Manifest, load_manifest, write_manifest
from pipelines.shards.reader_indexes import write_reader_indexes
from pipelines.shards.tar_samples import read_samples
from pipelines.shards.writer import ShardWriter, finish_document
from pipelines.spec import CorpusSpec
from tools.bench.reader import image
from tools.bench.report import figure, interleave, ratio

NUM_SHARDS, SAMPLES_PER_SHARD = {"large": 16, "small": 2}, 1000
NUM_IMAGES = 200
"""Images that differ; the bytes of each stand in many samples, which changes nothing for a decoder."""

ROUNDS = 3
_ROBOTS = "User-agent: *\nDisallow: /private/"
_PAGE, _AT = "https://www.example.org", "2026-01-05T10:11:12Z"


def bench_audit(folder: Path) -> None:
    """Print rates of hashing and decoding, ours and the peers', and that of an audit of everything."""
    tars = {name: _made(folder / name, num) for name, num in NUM_SHARDS.items()}
    size = {name: sum(tar.stat().st_size for tar in found) / 1e6 for name, found in tars.items()}
    num = {name: number * SAMPLES_PER_SHARD for name, number in NUM_SHARDS.items()}
    cores = num_cores()
    figure(
        "audit",
        f"images in {len(tars['large'])} shards of {size['large']:,.0f} MB, {cores} processes",
        num["large"],
        "",
    )

    images = [sample.parts["jpg"] for tar in tars["large"] for sample in read_samples(str(tar))]  # all is cached, too
    ours, peer = interleave(ROUNDS, _audited(folder, size, "shard_sha256"), _hashed(tars, size, cores))
    figure("audit", "hashing only", statistics.median(ours), "MB/s")
    figure("audit", "sha256sum by xargs -P", statistics.median(peer), "MB/s")
    ratio("audit", "hashing only against sha256sum", ours, peer)

    decoded, both, bare, scaled, library = interleave(
        ROUNDS,
        _audited(folder, num, "media"),
        _audited(folder, num, "shard_sha256,media"),
        lambda: _decoded(images, cores, _decode),
        lambda: _decoded(images, cores, _decode_coefficients),
        lambda: _decoded(images, cores, _decode_by_library),
    )
    figure("audit", "images decoded, their hashes compared", statistics.median(decoded), "images/s")
    figure("audit", "the same, and shards hashed", statistics.median(both), "images/s")
    figure("audit", "bare decoder", statistics.median(bare), "images/s")
    figure("audit", "bare decoder, one pixel in 64", statistics.median(scaled), "images/s")
    figure("audit", "its library", statistics.median(library), "images/s")
    ratio("audit", "decoding against the bare decoder", decoded, bare)
    ratio("audit", "decoding and hashing against the bare decoder", both, bare)
    ratio("audit", "decoding against the bare decoder, one pixel in 64", decoded, scaled)
    ratio("audit", "decoding against its library", decoded, library)
    figure("audit", "all checks", _audited(folder, num, None)(), "samples/s")
    figure("audit", "start and report", _seconds(folder / "small", "funnel"), "s")


def _audited(folder: Path, amount: Mapping[str, float], only: str | None) -> Callable[[], float]:
    """Return a function that audits both corpora by the command line, and returns the amount per second."""

    small: list[float] = []

    def measure() -> float:
        small.append(_seconds(folder / "small", only))
        return (amount["large"] - amount["small"]) / (_seconds(folder / "large", only) - min(small))

    return measure


def _seconds(corpus: Path, only: str | None) -> float:
    command = [sys.executable, "-m", "tools", "audit", "--corpus", str(corpus), *(["--only", only] if only else [])]
    begin = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def _hashed(tars: Mapping[str, list[Path]], megabytes: Mapping[str, float], cores: int) -> Callable[[], float]:
    """Return a function that runs `sha256sum` on the large corpus, and returns the megabytes per second."""
    command = ["xargs", "-0", "-P", str(cores), "-n", "1", "sha256sum"]
    names = "\0".join(map(str, tars["large"])).encode()

    def measure() -> float:
        begin = time.perf_counter()
        subprocess.run(command, input=names, check=True, stdout=subprocess.DEVNULL)
        return megabytes["large"] / (time.perf_counter() - begin)

    return measure


def _decoded(images: list[bytes], cores: int, decode: Callable[[bytes], object]) -> float:
    """Return the images per second of processes that only decode; the clock begins when all have the bytes."""
    context = multiprocessing.get_context("fork")
    ready, done = context.Barrier(cores + 1), context.Barrier(cores + 1)
    workers = [
        context.Process(target=_decode_all, args=(images[number::cores], decode, ready, done))
        for number in range(cores)
    ]
    for worker in workers:
        worker.start()
    ready.wait()
    begin = time.perf_counter()
    done.wait()
    seconds = time.perf_counter() - begin
    for worker in workers:
        worker.join()
    return len(images) / seconds


def _decode_all(images: list[bytes], decode: Callable[[bytes], object], ready: Barrier, done: Barrier) -> None:
    ready.wait()
    for data in images:
        decode(data)
    done.wait()


def _decode(data: bytes) -> object:
    return decode(data, "jpeg")


def _decode_coefficients(data: bytes) -> object:
    return decode(data, "jpeg", (1, 1))


def _decode_by_library(data: bytes) -> object:
    return simplejpeg.decode_jpeg(data, "BGR")


# --- the corpora ----------------------------------------------------------------------------------------------------


def _made(folder: Path, num_shards: int) -> list[Path]:
    """Return the tars of a corpus of the benchmark, made unless it is already there."""
    try:
        load_manifest(str(folder))
    except UserError:
        _make(folder, num_shards)
    return sorted((folder / "pairs" / "train").glob("*.tar"))


def _make(folder: Path, num_shards: int) -> None:
    stored = [normalise(image(n), ImageSettings()) for n in range(NUM_IMAGES)]
    rng = random.Random(0)
    shards = []
    for number in range(num_shards):
        with ShardWriter(str(folder), "pairs", "pair", "train", number) as writer:
            for n in range(SAMPLES_PER_SHARD):
                place = number * SAMPLES_PER_SHARD + n
                found = stored[place % NUM_IMAGES]
                writer.add(finish_document(_pair(place, found, rng), [found.data]))
        assert writer.info is not None
        shards.append(writer.info)
    spec = CorpusSpec.model_validate(
        {
            "name": "bench",
            "version": "1.0.0",
            "crawls": {"web": {"seeds": ["http://127.0.0.1:8000/"]}},
            "sources": {"pairs": {"kind": "pair", "input": {"crawl": "web"}}},
        }
    )
    num = num_shards * SAMPLES_PER_SHARD
    funnel = (FunnelRow("pairs", "shard", "sample", num, num, {}),)
    manifest = Manifest("bench", "1", spec.sha256, tuple(shards), funnel, {}, ("pairs",))
    (folder / "spec.resolved.yaml").write_text(spec.resolved())
    write_reader_indexes(str(folder), manifest)
    write_manifest(str(folder), manifest)


def _pair(number: int, stored: NormalisedImage, rng: random.Random) -> Document:
    words = " ".join(rng.choices(["a", "red", "boat", "on", "the", "lake", "beside", "two", "dark", "hills"], k=12))
    url = f"{_PAGE}/images/{number}.jpg"
    return Document(
        "pair",
        make_key("pair", "bench", number),
        (Segment("image", media=0, role="content"), Segment("text", words, role="caption")),
        (Media(url, mime=stored.mime, width=stored.width, height=stored.height, fetched_at=_AT),),
        Provenance("bench", str(number), page_url=f"{_PAGE}/{number}.html", crawl="web"),
        lang="en",
        signals=tuple(Signal("robots.txt", t, _ROBOTS, _AT, f"{_PAGE}/robots.txt") for t in ("page", "media:0")),
        decision=Decision("strict"),
        build=Build("bench", "0" * 64, "mask-v1", 0, f"group-{number}"),
    )
