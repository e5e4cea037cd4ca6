"""A takedown of 100 samples in a corpus of 1,000 shards: what is written, and how long it takes.

The peer takes out the same samples by writing every shard again, which is what building anew would do at best: the same
code, told that one sample of each of the other shards goes as well. Each has a copy of its own of the same corpus.

And the purge of `work/` for some pages, against parsing every row of it to ask the block list.
"""

import contextlib
import io
import shutil
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import storage
from pipelines.block_list import BlockList, Entry, sha256_of
from pipelines.candidate import Candidate, MediaRequest
from pipelines.decisions.decided import DecidedSample, parse_decided, read_decided, write_decided
from pipelines.decisions.features import MeasuredDocument, MeasuredImage
from pipelines.document import Document, Media, Provenance, Segment
from pipelines.funnel import FunnelRow
from pipelines.layout import candidates_folder, decisions_folder, documents_folder, features_folder
from pipelines.parts import Tally, read_rows, write_arrow
from pipelines.shards.manifest import Manifest, load_manifest, sort_shards, write_manifest
from pipelines.shards.reader_indexes import write_reader_indexes
from pipelines.shards.sidecar import read_sidecar
from pipelines.shards.writer import ShardWriter, finish_document
from pipelines.takedowns.purging import purge_work
from pipelines.takedowns.suspects import is_blocked
from tools.bench.report import figure, interleave, ratio
from tools.takedown.requests import Wanted
from tools.takedown.takedown import takedown

NUM_SHARDS, SAMPLES_PER_SHARD = 1000, 200
NUM_TAKEN, NUM_HOLDING = 100, 20
"""Samples that go, and the shards that hold them: those of one site lie together where the order is not shuffled."""
IMAGE_BYTES = 8_000
ROUNDS = 2
WORK_PARTS, ROWS_PER_PART, WORK_ROUNDS = 16, 2_500, 3
"""Size of `work/`: below what is purged in several processes, so that both sides have one."""


def bench_takedown(folder: Path) -> None:
    """Print what a takedown of few samples writes, and its time against that of writing all shards again."""
    made = folder / "corpus"
    if not (made / "manifest.json").exists():
        _make(made)
    manifest = load_manifest(str(made))
    figure("takedown", f"samples in {len(manifest.shards):,} shards", manifest.num_samples, "")
    holding = manifest.shards[:: NUM_SHARDS // NUM_HOLDING][:NUM_HOLDING]
    few = [key for shard in holding for key in _keys(made, shard.sidecar)[: NUM_TAKEN // NUM_HOLDING]]
    every = few + [_keys(made, shard.sidecar)[-1] for shard in manifest.shards if shard not in holding]
    ours, all_ = [], []
    for number in range(ROUNDS):
        seconds, shards, num_bytes = _timed(made, folder / f"few-{number}", few)
        ours.append(seconds)
        if not number:
            figure("takedown", f"shards written for {len(few):,} samples", shards, "")
            figure("takedown", f"bytes written for {len(few):,} samples, of {_bytes(made) / 1e9:.2f} GB", num_bytes, "")
        figure("takedown", f"taking out {len(few):,} samples", seconds, "s")
        seconds, shards, num_bytes = _timed(made, folder / f"all-{number}", every)
        all_.append(seconds)
        figure("takedown", f"the same with all {shards:,} shards written again", seconds, "s")
    ratio("takedown", "against writing all shards again", [1 / s for s in ours], [1 / s for s in all_])
    _bench_purge(folder / "with-work")


def _bench_purge(made: Path) -> None:
    """Print the time of purging `work/` of some pages, against that of parsing every row of it."""
    if not (made / "work" / "made").exists():
        _make_work(made)
    pages, num = range(0, WORK_PARTS * ROWS_PER_PART, 10_000), WORK_PARTS * ROWS_PER_PART
    block = BlockList([Entry("url", sha256_of(_page(page)), None, 1) for page in pages])
    copy = made.with_name("purged")

    def ours() -> float:
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(made, copy, copy_function=_link)
        began = time.perf_counter()
        purge_work(str(copy), block)
        seconds = time.perf_counter() - began
        left = sum(pq.read_metadata(path).num_rows for path in (copy / "work" / "candidates").glob("*.parquet"))
        assert left == num - len(pages)
        return seconds

    def peer() -> float:
        began = time.perf_counter()
        tables = (
            (candidates_folder(str(made)), ["document", "requests"]),
            (documents_folder(str(made)), ["document"]),
        )
        paths = [(folder.file(p, ".parquet"), columns) for folder, columns in tables for p in folder.names()]
        found = sum(is_blocked(row, block) for path, columns in paths for row in read_rows(path, columns))
        decided = decisions_folder(str(made))
        samples = (data for part in decided.names() for _, data in read_decided(decided, part))
        found += sum(is_blocked({"document": parse_decided(data)[0]}, block) for data in samples)
        assert found == (len(tables) + 1) * len(pages)
        return time.perf_counter() - began

    mine, theirs = interleave(WORK_ROUNDS, ours, peer)
    shutil.rmtree(copy)
    figure("takedown", f"purge of {len(pages)} pages, {num:,} documents in work/", statistics.median(mine), "s")
    figure("takedown", "parsing every row of it", statistics.median(theirs), "s")
    ratio("takedown", "against parsing every row", [1 / s for s in mine], [1 / s for s in theirs])


def _timed(made: Path, copy: Path, keys: Sequence[str]) -> tuple[float, int, int]:
    """Take samples out of a copy; return seconds, and number and bytes of the shards written."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(made, copy, copy_function=_link)
    began = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        takedown(str(copy), [Wanted("key", key) for key in keys], "bench")
    seconds = time.perf_counter() - began
    before = {shard.path: shard.sha256 for shard in load_manifest(str(made)).shards}
    written = [shard for shard in load_manifest(str(copy)).shards if before.get(shard.path) != shard.sha256]
    shutil.rmtree(copy)
    return seconds, len(written), sum(shard.bytes for shard in written)


def _link(source: str, target: str) -> None:
    """Link a file instead of copying it: a takedown replaces files, and changes none."""
    Path(target).hardlink_to(source)


def _keys(made: Path, sidecar: str) -> list[str]:
    return [row["key"] for row in read_sidecar(str(made / sidecar), ("key",))]


def _bytes(made: Path) -> int:
    return sum(shard.bytes for shard in load_manifest(str(made)).shards)


def _make(made: Path) -> None:
    """Write a corpus of pairs whose images are bytes that look random."""
    shutil.rmtree(made, ignore_errors=True)
    shards = []
    for number in range(NUM_SHARDS):
        with ShardWriter(str(made), "pairs", "pair", "train", number) as writer:
            for place in range(SAMPLES_PER_SHARD):
                which = number * SAMPLES_PER_SHARD + place
                blob = (which.to_bytes(8, "big") * (IMAGE_BYTES // 8))[:IMAGE_BYTES]
                caption = f"caption {which} of an image that nobody has seen"
                segments = (Segment("image", media=0, role="content"), Segment("text", caption, role="caption"))
                url = f"https://site-{which % 997}.example/{which}"
                image = Media(f"{url}.jpg", mime="image/jpeg", width=64, height=64, source_sha256=f"{which:064x}")
                source = Provenance("bench", str(which), page_url=url)
                writer.add(finish_document(Document("pair", f"p{which:020x}", segments, (image,), source), [blob]))
        assert writer.info is not None
        shards.append(writer.info)
    num = NUM_SHARDS * SAMPLES_PER_SHARD
    funnel = (FunnelRow("pairs", "shard", "sample", num, num, {}),)
    manifest = Manifest("bench", "1.0.0", "0" * 64, sort_shards(shards, ["pairs"]), funnel, {}, ("pairs",))
    write_reader_indexes(str(made), manifest)
    storage.write_bytes(str(made / "README.md"), b"")
    write_manifest(str(made), manifest)


def _page(number: int) -> str:
    return f"https://site-{number % 997}.example/stories/{number}"


def _make_work(made: Path) -> None:
    """Write candidates, documents, features and decisions of pages with five paragraphs and two images each."""
    out = str(made)
    words = "some words of a page that are as long as those of others in a corpus of the web " * 5
    stages = (
        (candidates_folder(out), "extract"),
        (documents_folder(out), "fetch"),
        (features_folder(out), "features"),
        (decisions_folder(out), "filter"),
    )
    for part in range(WORK_PARTS):
        rows = [_work_rows(number, words) for number in range(part * ROWS_PER_PART, (part + 1) * ROWS_PER_PART)]
        for (folder, stage), of_stage in zip(stages, zip(*rows, strict=True), strict=True):
            name, tally = f"{part:05d}", Tally(stage)
            tally.keep("pages", "document", len(of_stage))
            if stage == "filter":
                files = write_decided(folder, name, list(of_stage))
            else:
                table = pa.Table.from_pylist(list(of_stage))
                files = {".parquet": write_arrow(folder.file(name, ".parquet"), table)}
            folder.finish(name, "bench", tally, files)
    storage.write_bytes(storage.join(out, "work", "made"), b"")


def _work_rows(number: int, words: str) -> tuple[Any, ...]:
    """Return what each stage keeps of a page, in the columns that a purge reads."""
    page, key, hashes = _page(number), f"i{number:020x}", [f"{number:x}{place}".zfill(64) for place in range(2)]
    segments = [Segment("text", f"{number} {place} {words}") for place in range(5)]
    segments += [Segment("image", media=place, role="content") for place in range(2)]
    images = [Media(f"{page}/{place}.jpg", mime="image/jpeg", width=64, height=64) for place in range(2)]
    requests = tuple(MediaRequest("image", image.url, page) for image in images)
    source = Provenance("pages", str(number), page_url=page)
    document = Document("interleaved", key, tuple(segments), tuple(images), source)
    stored = [replace(i, stored_sha256=h, source_sha256=h[::-1]) for i, h in zip(images, hashes, strict=True)]
    completed = replace(document, media=tuple(stored)).to_json()
    row = {"source": "pages", "key": key}
    candidate = Candidate(document, requests)
    measured = MeasuredDocument(tuple(MeasuredImage(h, number, 0.5, 0.5, 0.5) for h in hashes))
    return (
        row | {"document": document.to_json(), "requests": candidate.requests_json()},
        row | {"document": completed},
        measured.to_columns("pages", key),
        DecidedSample("pages", "train", key, 0, completed, ()),
    )
