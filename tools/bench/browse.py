"""Browsing a corpus of a million samples: the first page, later ones at any depth, and memory; against a plain scan.

The command is started as a user starts it, on a corpus without look-up files, and asked for pages over HTTP: each reads
24 samples from tars and draws them. The peer gets the rows of the same pages from the same sidecars by DuckDB, with
LIMIT and OFFSET, and draws nothing.
"""

import contextlib
import random
import shutil
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import duckdb

from pipelines import storage
from pipelines.shards.manifest import load_manifest
from tools.bench.report import figure, interleave, ratio
from tools.bench.synthetic_corpus import made_once
from tools.browse.pages import PAGE_SIZE

NUM_SAMPLES = 1_000_000
NUM_PAGES = 40
FILTERS = {
    "any sample": ("", ""),
    "of a rare language": ("lang=sw", "lang = 'sw'"),
    "of a licence and a split": ("license=CC0-1.0&split=test", "license = 'CC0-1.0' AND filename LIKE '%/test/%'"),
    "of a score in a range": (
        "score=aesthetic&min=8",
        "list_bool_or([s.name = 'aesthetic' AND s.value >= 8 FOR s IN scores])",
    ),
}
"""Queries of pages, and the conditions of the same in SQL over the sidecars."""


def bench_browse(folder: Path) -> None:
    """Print seconds to the first page, milliseconds of later ones, and the most memory."""
    corpus = made_once(folder, NUM_SAMPLES)
    shutil.rmtree(Path(corpus, "work", "lookup"), ignore_errors=True)
    began = time.perf_counter()
    with _served(corpus) as (address, process):
        _get(f"{address}/samples")
        figure("browse", f"first page of {NUM_SAMPLES:,} samples", time.perf_counter() - began, "s")
        figure("browse", "memory until then, at most", _peak_mib(process), "MiB")
        depths = [random.Random(1).randrange(NUM_SAMPLES - 100_000) for _ in range(NUM_PAGES)]
        while b"Counting" in _get(f"{address}/") or b"One moment" in _get(f"{address}/samples?domain=site-1.example"):
            time.sleep(0.5)  # the facts are counted and the URLs sorted, beside the first pages
        figure("browse", "until all is counted and sorted", time.perf_counter() - began, "s")
        peer = _Peer(corpus)
        for what, (query, condition) in FILTERS.items():
            _pages(f"a page {what}", [f"{address}/samples?{query}&after={depth}" for depth in depths])
            ours = _timed(lambda query=query: [_get(f"{address}/samples?{query}&after={d}") for d in depths[:5]])  # type: ignore[misc]
            theirs = _timed(lambda condition=condition: [peer.page(condition, d) for d in depths[:5]])  # type: ignore[misc]
            counts = interleave(3, ours, theirs)
            ratio(
                "browse", f"a page {what}, to LIMIT and OFFSET", [1 / t for t in counts[0]], [1 / t for t in counts[1]]
            )
        for what in ("of a licence and a split", "of a score in a range"):
            _pages(f"a random sample {what}", [f"{address}/random?{FILTERS[what][0]}"] * NUM_PAGES)
        samples = [_linked(_get(f"{address}/samples?after={depth}")) for depth in depths]
        _pages("a sample with its group, neighbours and JSON", [f"{address}{link}" for link in samples])
        _pages("drops of a reason", [f"{address}/drops?stage=extract&reason=noai&after={d // 5}" for d in depths])
        _pages("samples of a domain", [f"{address}/samples?domain=site-{n}.example" for n in range(NUM_PAGES)])
        _pages("the overview", [f"{address}/"] * NUM_PAGES)
        figure("browse", "memory at most", _peak_mib(process), "MiB")


@contextlib.contextmanager
def _served(corpus: str) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """Start the command on any free port; end it by Ctrl-C's signal."""
    command = [sys.executable, "-m", "tools", "browse", "--corpus", corpus, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            yield line.split()[-3].rstrip("/"), process
        finally:
            process.terminate()


def _get(address: str) -> bytes:
    try:
        with urllib.request.urlopen(address) as answer:
            data: bytes = answer.read()
            return data
    except urllib.error.HTTPError as error:  # tars of a synthetic corpus have other keys than its sidecars
        return error.read()


def _linked(page: bytes) -> str:
    """Return the address of the first sample on a page."""
    return page.partition(b'class="open" href="')[2].partition(b'"')[0].decode().replace("&amp;", "&")


def _pages(what: str, addresses: Sequence[str]) -> None:
    seconds = [_timed(lambda address=address: _get(address))() for address in addresses]  # type: ignore[misc]
    figure("browse", f"{what}, median", 1000 * statistics.median(seconds), "ms")
    figure("browse", f"{what}, 95 of 100 within", 1000 * statistics.quantiles(seconds, n=20)[-1], "ms")


def _timed(work: Callable[[], object]) -> Callable[[], float]:
    def measure() -> float:
        began = time.perf_counter()
        work()
        return time.perf_counter() - began

    return measure


def _peak_mib(process: "subprocess.Popen[str]") -> float:
    """Return the most memory that a process has had so far."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


class _Peer:
    """Pages by LIMIT and OFFSET over the sidecars themselves, in the order of the corpus."""

    def __init__(self, corpus: str) -> None:
        self._connection = duckdb.connect()
        self._counts: dict[str, int] = {}
        paths = [storage.join(corpus, shard.sidecar) for shard in load_manifest(corpus).shards]
        self._connection.read_parquet(paths, filename=True, hive_partitioning=False).create_view("sidecars")

    def page(self, condition: str, after: int) -> int:
        """Return the number of samples on the page that begins at the same share of those that pass."""
        where = f"WHERE {condition}" if condition else ""
        if condition not in self._counts:
            self._counts[condition] = self._connection.sql(f"SELECT count(*) FROM sidecars {where}").fetchall()[0][0]
        offset = self._counts[condition] * after // NUM_SAMPLES
        columns = "key, kind, lang, license, allowed, num_media, num_text_chars, byte_offset, bytes, parts"
        query = f"SELECT {columns} FROM sidecars {where} LIMIT {PAGE_SIZE} OFFSET {offset}"
        return len(self._connection.sql(query).fetchall())
