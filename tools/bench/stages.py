"""Throughput of one core between the requests: pages parsed, texts judged and hashed, shards written.

The pages are the GIMP manual's (`make real-site`). The peer is `webdataset.TarWriter`, given finished members; ours
also hashes the shard, indexes it, describes each sample in the sidecar, and syncs it to disk.
"""

import itertools
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import click
import numpy as np
import webdataset

from pipelines.decisions.duplicates import DuplicateSettings, minhash
from pipelines.document import Document, Media, Provenance, Segment
from pipelines.pages.kinds import PageOrigin, PageSettings, interleaved
from pipelines.pages.parse import parse_page
from pipelines.shards.writer import SampleParts, ShardWriter, finish_document
from pipelines.spec import Filters
from pipelines.text.judging import judge_text
from tools.bench.report import figure, interleave, ratio

ROUNDS = 5
SITE = Path("build/real-site/gimp-help-en")
NUM_SAMPLES, IMAGE_BYTES = 4000, 30_000  # 30 KB: a 256 x 256 image at quality 95

T = TypeVar("T")


def bench_stages(folder: Path) -> None:
    """Print pages/s, documents/s and MB/s."""
    if SITE.is_dir():
        _bench_pages()
    else:
        click.echo(f"stages   no pages in {SITE}: run `make real-site` first; only shards are written")
    _bench_shards(folder)


def _bench_pages() -> None:
    bodies = [path.read_bytes() for path in sorted(SITE.rglob("*.html"))]

    def documents(body: bytes) -> list[Document]:
        page = parse_page(body, "http://127.0.0.1/en/page.html", content_type="text/html")
        return [candidate.document for candidate in interleaved(page, PageOrigin(), "bench", PageSettings())]

    found = list(itertools.chain.from_iterable(map(documents, bodies)))
    texts = [document.text for document in found]
    filters, duplicates = Filters(), DuplicateSettings()
    num_chars = sum(map(len, texts)) / len(texts)
    size = sum(map(len, bodies)) / len(bodies)
    rates = interleave(
        ROUNDS,
        lambda: _rate(documents, bodies),
        lambda: _rate(lambda document: judge_text(document, filters, "interleaved"), found),
        lambda: _rate(lambda text: minhash(text, duplicates), texts),
    )
    figure("stages", f"pages of {size / 1e3:.0f} kB parsed into documents", max(rates[0]), "pages/s")
    figure("stages", f"texts of {num_chars:,.0f} characters judged and masked", max(rates[1]), "docs/s")
    figure("stages", "MinHash signatures of the same", max(rates[2]), "docs/s")


def _rate(work: Callable[[T], object], items: Iterable[T]) -> float:
    """Items per second of this process's CPU time, which other load on the machine does not affect."""
    began, num = time.process_time(), 0
    for item in items:
        work(item)
        num += 1
    return num / (time.process_time() - began)


def _bench_shards(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    samples = [_sample(n) for n in range(NUM_SAMPLES)]
    num_bytes = sum(sample.tar_bytes for sample in samples)

    def ours() -> float:
        began = time.perf_counter()
        with ShardWriter(str(folder), "bench", "pair", "train", 0) as writer:
            for sample in samples:
                writer.add(sample)
        return num_bytes / 1e6 / (time.perf_counter() - began)

    def peer() -> float:
        began = time.perf_counter()
        with webdataset.TarWriter(str(folder / "peer.tar"), encoder=False) as writer:
            for sample in samples:
                writer.write({"__key__": sample.key, **dict(sample.parts)})
        return num_bytes / 1e6 / (time.perf_counter() - began)

    mine, theirs = interleave(ROUNDS, ours, peer)
    figure("stages", "shards written, with index, sidecar and hash", max(mine), "MB/s")
    figure("stages", "webdataset.TarWriter, the tar alone", max(theirs), "MB/s")
    ratio("stages", "writing shards", mine, theirs)


def _sample(n: int) -> SampleParts:
    image = np.random.default_rng(n).bytes(IMAGE_BYTES)
    media = Media(url=f"https://example.org/{n}.jpg", mime="image/jpeg", width=341, height=256)
    caption = Segment("text", text=f"The lantern near the harbour with a meadow, seen in the year {n}", role="caption")
    segments = (Segment("image", media=0, role="content"), caption)
    document = Document("pair", f"p{n:08d}", segments, (media,), Provenance("bench", str(n)))
    return finish_document(document, [image])
