"""Shard: the samples that were decided for become tars, in a seeded shuffle of the whole corpus; then the manifest.

Samples are ordered within their source and split by a seeded hash of their key, and cut into shards by number and
bytes. The range of the hash is cut into buckets so that no worker needs the whole order; each bucket has its own
shards. One worker writes a shard and reads the media's bytes by reference. `manifest.json` is written last.

With `shard.order: append`, the shards of earlier builds stay as they are, and only new samples are ordered and cut.
"""

import bisect
import importlib.metadata
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import Any, NamedTuple, cast

import apache_beam as beam

import pipelines
from pipelines import shard_inputs, storage
from pipelines.additions import Addition
from pipelines.block_list import BlockList, load_block_list
from pipelines.code_version import code_version
from pipelines.decisions.decided import SAMPLES, parse_decided
from pipelines.document import Document, Drop, Split
from pipelines.funnel import check_filled, checked_funnel, counting_folders
from pipelines.layout import (
    addition_log_path,
    decisions_folder,
    drops_folder,
    media_folder,
    readme_path,
    resolved_spec_path,
    shard_list_path,
    shards_folder,
    stats_path,
    work_folder,
)
from pipelines.media.raw_store import in_batches, read_blobs
from pipelines.parts import PartFolder, read_rows, read_table, stable_hash, stage_inputs, sum_counts
from pipelines.published import Published, earlier_manifest, load_published
from pipelines.running.record_coder import shuffle_by_fields
from pipelines.running.runner import Runner, run_pipeline
from pipelines.running.shuffle import GroupByKey, ShuffleFiles, shuffling
from pipelines.running.watch import Watch
from pipelines.shards.drops import write_drops
from pipelines.shards.manifest import (
    FILE_NAME,
    Manifest,
    ShardInfo,
    load_manifest,
    samples_per_source,
    shard_path,
    sidecar_path,
    sort_shards,
    write_manifest,
)
from pipelines.shards.reader_indexes import write_reader_indexes
from pipelines.shards.readme import corpus_readme
from pipelines.shards.stats import collect_stats
from pipelines.shards.tar_samples import index_path, tar_end
from pipelines.shards.token_sidecar import keep_trained
from pipelines.shards.writer import SampleParts, ShardWriter, finish_document
from pipelines.sources.input_files import recorded_inputs
from pipelines.spec import CorpusSpec, Sharding
from pipelines.takedowns.log import published_version, version_of_more
from pipelines.takedowns.staging import Staging, recover

SAMPLES_PER_BUCKET = 200_000  # a bucket's rows are ordered in memory; its last shard may not be full
TOOLS = ("apache-beam", "img2dataset", "opencv-python-headless", "fasttext", "yt-dlp", "imageio-ffmpeg", "pillow")

_Bucket = tuple[str, str, int]
"""Source, split and number of a bucket: a plain tuple, whose coder is deterministic as a key's must be."""


class SampleSize(NamedTuple):
    """A sample's position in the shuffle, and the most bytes that it can take in a tar."""

    position: int
    num_bytes: int


class _Sample(NamedTuple):
    """A sample of a shard, in order of positions: the place and digest of its document in a part of decisions."""

    position: int
    digest: bytes
    part: str
    offset: int
    length: int


shuffle_by_fields(SampleSize, _Sample)


def shuffled_position(seed: int, key: str) -> int:
    """Return a sample's position in the seeded shuffle of the corpus: 63 bits, since Beam's integers are signed."""
    return stable_hash(f"{seed} {key}") >> 1


def _bucket(row: dict[str, Any], position: int, num_buckets: dict[str, int]) -> _Bucket:
    return row["source"], row["split"], position * num_buckets[row["source"]] >> 63


def _sizes(
    part: str, folder: PartFolder, seed: int, num_buckets: dict[str, int], published: Published
) -> Iterator[tuple[_Bucket, SampleSize]]:
    """Yield (bucket, size) for each new sample of a part of decisions."""
    for row in read_rows(folder.file(part, ".parquet"), ["source", "split", "key", "num_bytes"]):
        if published.split(row["key"]) is not None:
            continue
        position = shuffled_position(seed, row["key"])
        yield _bucket(row, position, num_buckets), SampleSize(position, row["num_bytes"])


def shard_starts(sizes: Iterable[SampleSize], sharding: Sharding) -> list[int]:
    """Return the positions at which shards begin; a shard is full by its number of samples or by its bytes."""
    starts: list[int] = []
    num_samples = num_bytes = 0
    for position, size in sorted(sizes):
        total = num_bytes + size
        is_full = num_samples >= sharding.max_samples or total + len(tar_end(total)) > sharding.max_bytes
        if not starts or is_full:
            starts.append(position)
            num_samples = num_bytes = 0
        num_samples += 1
        num_bytes += size
    return starts


class _Plan:
    """Numbers of shards, dense within a source and split, in the order of buckets.

    Args:
        starts: Positions at which shards begin, by bucket.
        before: Number of shards that are there already, by source and split; None if there are none.
    """

    def __init__(
        self, starts: Iterable[tuple[_Bucket, list[int]]], before: Mapping[tuple[str, str], int] | None = None
    ) -> None:
        self._starts = dict(starts)
        self._first: dict[_Bucket, int] = {}
        count = dict(before or {})
        for bucket in sorted(self._starts):
            self._first[bucket] = count.get(bucket[:2], 0)
            count[bucket[:2]] = self._first[bucket] + len(self._starts[bucket])

    def shard_number(self, bucket: _Bucket, position: int) -> int:
        return self._first[bucket] + bisect.bisect_right(self._starts[bucket], position) - 1


def _to_shards(
    part: str,
    starts: list[tuple[_Bucket, list[int]]],
    folder: PartFolder,
    seed: int,
    num_buckets: dict[str, int],
    published: Published,
    before: dict[tuple[str, str], int],
) -> Iterator[tuple[str, _Sample]]:
    """Yield (shard's path, sample) for each new sample of a part of decisions."""
    plan = _Plan(starts, before)
    for row in read_rows(folder.file(part, ".parquet")):
        if published.split(row["key"]) is not None:
            continue
        position = shuffled_position(seed, row["key"])
        number = plan.shard_number(_bucket(row, position, num_buckets), position)
        sample = _Sample(position, row["digest"], part, row["offset"], row["length"])
        yield shard_path(row["source"], row["split"], number), sample


class _WriteShard(beam.DoFn):
    """Write a shard, unless it exists and its receipt shows that it was made from the same samples."""

    def __init__(self, spec: CorpusSpec, out: str) -> None:
        self._spec, self._out, self._config = spec, out, spec.sha256

    def process(self, grouped: tuple[str, Iterable[_Sample]]) -> Iterator[ShardInfo]:
        path, samples = grouped[0], sorted(grouped[1])
        source, split, name = path.split("/")
        stem = name.removesuffix(".tar")
        contents = [(sample.position, sample.digest.hex()) for sample in samples]
        inputs = stage_inputs(shard_inputs.VERSION, pipelines.__version__, contents, self._config)
        receipt_path = shards_folder(self._out).file(f"{stem}-{split}", ".json")
        target = storage.join(self._out, path)
        files = (target, index_path(target), sidecar_path(target))
        if all(map(storage.exists, (receipt_path, *files))):
            receipt = json.loads(storage.read_bytes(receipt_path))
            if receipt["inputs"] == inputs and receipt["shard"]["bytes"] == storage.size(target):
                yield ShardInfo(**receipt["shard"])
                return
        for stale in files:
            storage.remove(stale)
        kind, number = self._spec.sources[source].kind, int(stem.rpartition("-")[2])
        with ShardWriter(self._out, source, kind, cast(Split, split), number) as writer:
            for batch in in_batches(samples, lambda sample: sample.length):
                for finished in self._finish(batch):
                    writer.add(finished)
        assert writer.info is not None
        storage.write_bytes(receipt_path, json.dumps({"inputs": inputs, "shard": asdict(writer.info)}).encode())
        yield writer.info

    def _finish(self, batch: list[_Sample]) -> Iterator[SampleParts]:
        """Read samples that follow one another, first their documents, then all their media."""
        decisions, raw = decisions_folder(self._out), media_folder(self._out)
        places = [(decisions.file(sample.part, SAMPLES), sample.offset, sample.length) for sample in batch]
        decided = [parse_decided(data) for data in storage.read_ranges(places)]
        for group in in_batches(decided, lambda item: sum(blob.length for blob in item[1])):
            media = iter(read_blobs(raw, [blob for _, blobs in group for blob in blobs]))
            for text, blobs in group:
                document = Document.from_json(text)
                build = replace(document.build, pipeline=pipelines.__version__, config_sha256=self._config)
                yield finish_document(replace(document, build=build), list(itertools.islice(media, len(blobs))))


# --- the stage ------------------------------------------------------------------------------------------------------


def run_shard(spec: CorpusSpec, out: str, runner: Runner) -> Manifest:
    """Write the shards of all sources, what describes them, and the manifest.

    Raises:
        RunError: If a source has ended empty, or the funnel does not add up: a bug, and the corpus must not be used.
    """
    recover(out)
    decisions = decisions_folder(out)
    receipts = decisions.receipts()
    parts = [r.part for r in receipts]
    totals = {c.source: c.kept for c in sum_counts(receipts) if c.stage == "shard" and c.unit == "sample"}
    num_buckets = {name: 1 + totals.get(name, 0) // SAMPLES_PER_BUCKET for name in spec.sources}
    folder = shards_folder(out)
    storage.remove_leftovers(out)
    inputs = shard_inputs.shard_inputs(spec, out)
    if shard_inputs.is_published(out, inputs):
        return load_manifest(out)
    earlier = earlier_manifest(spec, out)
    published = load_published(spec, out)
    before = Counter((shard.source, shard.split) for shard in earlier.shards) if earlier is not None else Counter()
    result_path = shard_list_path(out)
    storage.remove(result_path)
    sharding = {name: source.sharding for name, source in spec.sources.items()}

    def build(pipeline: beam.Pipeline, files: ShuffleFiles | None) -> None:
        names = pipeline | "ListDecisions" >> beam.Create(parts)
        starts = (
            names
            | "ReadSizes" >> beam.FlatMap(_sizes, decisions, spec.seed, num_buckets, published)
            | "ByBucket" >> GroupByKey(files)
            | "CutShards" >> beam.MapTuple(lambda bucket, sizes: (bucket, shard_starts(sizes, sharding[bucket[0]])))
        )
        _ = (
            names
            | "SpreadParts" >> beam.Reshuffle()
            | "ToShards"
            >> beam.FlatMap(
                _to_shards,
                beam.pvalue.AsList(starts),
                decisions,
                spec.seed,
                num_buckets,
                published,
                dict(before),
            )
            | "ByShard" >> GroupByKey(files)
            | "WriteShards" >> beam.ParDo(_WriteShard(spec, out))
            | "AllShards" >> beam.combiners.ToList()
            | "ListShards" >> beam.Map(_write_shard_list, result_path)
        )

    if earlier is None:  # until the new manifest is written, no reader may take old and new shards for one corpus
        storage.remove(storage.join(out, FILE_NAME))
    with shuffling(runner, out) as files:
        run_pipeline("shard", runner, partial(build, files=files), Watch(folder.path))
    found = [ShardInfo(**s) for s in json.loads(storage.read_bytes(result_path))]
    if earlier is not None:
        found += earlier.shards
    shards = sort_shards(found, list(spec.sources))
    _remove_stale(spec, out, shards)
    if earlier is not None:
        return _append(spec, out, shards, earlier)
    shard_inputs.write_shard_inputs(out, inputs)
    manifest = _publish(spec, out, shards, out, published_version(out, spec.version))
    write_manifest(out, manifest)
    return manifest


def _write_shard_list(shards: list[ShardInfo], path: str) -> None:
    storage.write_bytes(path, json.dumps([asdict(shard) for shard in shards]).encode())


def _remove_stale(spec: CorpusSpec, out: str, shards: Iterable[ShardInfo]) -> None:
    """Remove tars, what belongs to them and their sources, and drops that are no longer part of the corpus."""
    current = {storage.join(out, s.path) for s in shards}
    work = work_folder(out) + "/"
    for path in storage.list_files(out, ".tar"):
        if path not in current and not path.startswith(work):
            for stale in (path, index_path(path), sidecar_path(path)):
                storage.remove(stale)
    sources = {s.source for s in shards}
    for path in storage.list_files(out, "index.uuid"):
        source, _, name = path[len(out) + 1 :].partition("/")
        if source not in sources and name == ".nv-meta/index.uuid":
            storage.remove(storage.join(out, source))
    for path in storage.list_files(drops_folder(out), ".parquet"):
        if path.rpartition("/")[2].rpartition("-")[0] not in {*spec.crawls, *spec.sources}:
            storage.remove(path)


def _append(spec: CorpusSpec, out: str, shards: tuple[ShardInfo, ...], earlier: Manifest) -> Manifest:
    """Publish a corpus with shards that were added to those of an earlier build, which is there until then."""
    staging = Staging(out)
    version = version_of_more(out, spec.version, earlier.version, is_more=len(shards) > len(earlier.shards))
    manifest = _publish(spec, out, shards, staging.new, version, is_appended=True)
    for path in keep_trained(out, earlier.fingerprint):
        record = json.loads(storage.read_bytes(path)) | {"fingerprint": manifest.fingerprint}
        storage.write_bytes(storage.join(staging.new, path[len(out) + 1 :]), json.dumps(record).encode())
    if len(shards) > len(earlier.shards):
        log = addition_log_path(out)
        entries = storage.read_bytes(log) if storage.exists(log) else b""
        line = Addition.between(earlier, manifest).to_json() + "\n"
        storage.write_bytes(addition_log_path(staging.new), entries + line.encode())
    write_manifest(staging.new, manifest)
    drops = (path[len(out) + 1 :] for path in storage.list_files(drops_folder(out)))
    staging.commit([], [name for name in drops if not storage.exists(storage.join(staging.new, name))])
    return manifest


def _publish(
    spec: CorpusSpec,
    out: str,
    shards: tuple[ShardInfo, ...],
    into: str,
    version: str,
    *,
    is_appended: bool = False,
) -> Manifest:
    """Write drops, statistics, the indexes of other readers and the resolved spec; return the manifest, written last.

    Args:
        spec: The spec.
        out: Folder of the corpus.
        shards: All shards, in order.
        into: Folder to write to: the corpus, or where it is prepared.
        version: Version of the corpus.
        is_appended: Whether shards of earlier builds are among them.
    """
    counted = samples_per_source(shards)
    funnel = checked_funnel(out, spec.crawls, spec.sources, "shard", counted, is_appended=is_appended)
    check_filled(out, spec.crawls, spec.needed, funnel, "shard")
    manifest = Manifest(
        name=spec.name,
        version=version,
        spec_sha256=spec.sha256,
        shards=shards,
        funnel=tuple(funnel),
        tools={"dromaius": pipelines.__version__} | {name: importlib.metadata.version(name) for name in TOOLS},
        source_names=tuple(spec.sources),
        code=code_version(),
        inputs=tuple(recorded_inputs(out, [*spec.crawls, *spec.sources])),
    )
    _write_all_drops(spec, out, into)
    stats = collect_stats(out, shards)
    storage.write_bytes(stats_path(into), (json.dumps(stats, indent=1, ensure_ascii=False) + "\n").encode())
    storage.write_bytes(resolved_spec_path(into), spec.resolved().encode())
    if shards:
        write_reader_indexes(out, manifest, into=into)
        storage.write_bytes(readme_path(into), corpus_readme(out, manifest).encode())
    return manifest


def _write_all_drops(spec: CorpusSpec, out: str, into: str) -> None:
    """Collect the drops of all stages, source by source."""
    paths = [path for folder in counting_folders(out, spec.crawls) for path in folder.drops()]
    paths_of: dict[str, list[str]] = {name: [] for name in [*spec.crawls, *spec.sources]}
    for path in paths:
        for name in read_table(path, ["source"]).column("source").unique().to_pylist():
            paths_of[name].append(path)
    block = load_block_list(out)
    written = {
        path for name, mine in paths_of.items() for path in write_drops(into, name, _drops_of(name, mine, block))
    }
    for path in storage.list_files(drops_folder(into)):
        if path not in written:
            storage.remove(path)


def _drops_of(source: str, paths: list[str], block: BlockList) -> Iterator[Drop]:
    """Yield a source's drops; of a page from which samples were taken down, without words."""
    for path in paths:
        for row in read_rows(path):
            if row["source"] == source:
                drop = Drop(**row)
                yield replace(drop, excerpt=None) if block.part_of(drop.page_url) else drop
