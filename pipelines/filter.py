"""Filter: features of every image as rows, then decisions over rows alone.

Features are measured once from the stored bytes, part by part. Decisions are thresholds first; then duplicates among
the documents that are left, the groups that must stay in one split, and the splits. A changed threshold or duplicate
rule repeats only the decisions; nothing before this stage is repeated.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Literal, NamedTuple, TypedDict

import apache_beam as beam
from apache_beam.pvalue import TaggedOutput

from pipelines import filter_inputs
from pipelines.block_list import load_block_list
from pipelines.decisions.components import ConnectedComponents
from pipelines.decisions.decided import DecidedSample, write_decided
from pipelines.decisions.duplicates import Duplicate, Fingerprint
from pipelines.decisions.features import MeasuredDocument, MeasuredImage
from pipelines.decisions.find_clusters import find_clusters, read_clusters
from pipelines.decisions.find_duplicates import FindDuplicates
from pipelines.decisions.fingerprints import fingerprint
from pipelines.decisions.long_documents import windows
from pipelines.decisions.measuring import CompletedDocument, PartMeasurer, read_measured
from pipelines.decisions.semantic import Clusters
from pipelines.decisions.splits import (
    BoundGroup,
    GroupPart,
    GroupSplit,
    bind,
    published_rule,
    settle_split,
    split_rule,
    with_root,
)
from pipelines.decisions.thresholds import Judged, Thresholds, judge
from pipelines.document import Decision, Document, Drop
from pipelines.drop_reasons import Reason, Refusal
from pipelines.faults import keep_tracebacks, refusal_of, unless_fault
from pipelines.gone_rows import drop_gone
from pipelines.images import normalise
from pipelines.layout import decisions_folder, documents_folder, features_folder, traceback_folder
from pipelines.parts import Receipt, Tally, read_rows, stage_inputs
from pipelines.published import Published, earlier_manifest, load_published
from pipelines.running.record_coder import shuffle_by_fields
from pipelines.running.runner import Runner, run_pipeline
from pipelines.running.shuffle import CoGroupByKey, GroupByKey, ShuffleFiles, shuffling
from pipelines.running.watch import Watch
from pipelines.shards.sample_rules import find_faults
from pipelines.shards.writer import largest_tar_bytes
from pipelines.spec import CorpusSpec
from pipelines.text.judging import excerpt
from pipelines.web.urls import only_url

PUBLISHED_PRIORITY = 2**52
"""Added to the priority of a published document among its duplicates: more than any other has of pixels and text."""


class _DocumentPlace(NamedTuple):
    """The group of a document, which is its page, and the part that contains it."""

    group: str
    part: str


class _JoinedDocument(TypedDict):
    """A document that passed its thresholds, and its duplicates' cluster, if there is one."""

    documents: list[_DocumentPlace]
    duplicates: list[Duplicate]


class _DroppedDocument(NamedTuple):
    """A document that is dropped as a duplicate, with the key of the one that is kept, or for a fault of our code."""

    key: str
    reason: Reason
    detail: str


class _ImageUse(NamedTuple):
    """A page's group with an image, and the part that contains it."""

    group: str
    part: str


class _PartImages(TypedDict):
    """A part, the only one of its name, and its images that are on too many pages, with their number."""

    part: list[None]
    overused: list[tuple[str, int]]


class _PartInput(TypedDict):
    """A part, the only one of its name, with its overused images, dropped documents and the splits of its groups."""

    part: list[None]
    overused: list[tuple[str, int]]
    dropped: list[_DroppedDocument]
    groups: list[GroupSplit]


shuffle_by_fields(BoundGroup, _ImageUse)


# --- features -------------------------------------------------------------------------------------------------------


class _MeasurePart(beam.DoFn):
    """Write the features of a part of documents, unless a receipt shows that they were made from the same inputs."""

    def __init__(self, spec: CorpusSpec, out: str, weights: dict[str, list[Any]]) -> None:
        self._out, self._weights = out, weights
        models = {name: s.filters.match.model for name, s in spec.sources.items() if s.filters.match is not None}
        scores = {n: s.filters.image_scores for n, s in spec.sources.items() if s.filters.image_scores is not None}
        semantic = {name: found.model for name, found in filter_inputs.semantic_settings(spec).items()}
        self._measurer = PartMeasurer(models, scores, semantic, out)

    def process(self, part: str) -> Iterator[str]:
        receipt = documents_folder(self._out).receipt(part)
        assert receipt is not None
        inputs = stage_inputs(normalise.FEATURES_VERSION, receipt.files, self._weights)
        features_folder(self._out).once(part, inputs, lambda: self._measurer.measure(part, inputs))
        yield part


# --- decisions ------------------------------------------------------------------------------------------------------


def _uses(part: str, out: str) -> Iterator[tuple[str, _ImageUse]]:
    """Yield (image's hash, use) for the images of the documents of a part, each once."""
    documents = read_rows(documents_folder(out).file(part, ".parquet"), ["document"])
    measured = read_rows(features_folder(out).file(part, ".parquet"), ["media"])
    uses: set[tuple[str, _ImageUse]] = set()
    for row, features in zip(documents, measured, strict=True):
        if features["media"]:  # of the document nothing but its group is needed
            use = _ImageUse(json.loads(row["document"])["build"]["dedup_group"], part)
            uses |= {(image["stored_sha256"], use) for image in features["media"]}
    yield from sorted(uses)


def _overused(grouped: tuple[str, Iterable[_ImageUse]], least: int) -> Iterator[tuple[str, tuple[str, int]]]:
    """Yield (part, (image's hash, number of pages)) for every part with an image that more than `least` pages have."""
    image, uses = grouped[0], list(grouped[1])
    if (num := len({use.group for use in uses})) > least:
        for part in {use.part for use in uses}:
            yield part, (image, num)


class _FingerprintPart(beam.DoFn):
    """Yield small rows about documents that pass their thresholds: fingerprints, and what binds them into groups.

    Published documents come first among their duplicates.
    """

    def __init__(self, spec: CorpusSpec, out: str, published: Published) -> None:
        self._spec, self._out, self._published = spec, out, published

    def setup(self) -> None:
        self._clusters: dict[str, Clusters] = {}

    def process(
        self, joined: tuple[str, _PartImages]
    ) -> Iterator[
        Fingerprint
        | TaggedOutput[Literal["documents"], tuple[str, _DocumentPlace]]
        | TaggedOutput[Literal["groups"], tuple[str, GroupPart]]
        | TaggedOutput[Literal["images"], tuple[str, str]]
        | TaggedOutput[Literal["faults"], tuple[str, _DroppedDocument]]
    ]:
        keep_tracebacks(traceback_folder(self._out))
        part, overused = joined[0], dict(joined[1]["overused"])
        groups: dict[str, int] = {}
        images: set[tuple[str, str]] = set()
        for completed, measured in read_measured(part, self._out):
            source, document = self._spec.sources[completed.source], completed.document
            split = self._published.split(document.key)
            judged = _judged(document, measured, source.filters, overused if split is None else {})
            if judged.document is None:
                continue
            kept = [measured.images[i] for i in judged.places]
            try:
                found = self._fingerprint(completed.source, judged.document, kept, measured.embedding)
            except Exception as error:
                reason, detail = refusal_of(error)
                yield TaggedOutput("faults", (part, _DroppedDocument(document.key, reason, detail or "")))
                continue
            group = document.build.dedup_group
            rule = split_rule(document, self._spec.split) if split is None else published_rule(split)
            groups[group] = min(rule, groups.get(group, rule))
            images |= {(image.stored_sha256, group) for image in kept}
            yield found if split is None else replace(found, priority=found.priority + PUBLISHED_PRIORITY)
            yield TaggedOutput("documents", (document.key, _DocumentPlace(group, part)))
        for group, rule in sorted(groups.items()):
            yield TaggedOutput("groups", (group, GroupPart(rule, part)))
        for pair in sorted(images):
            yield TaggedOutput("images", pair)

    def _fingerprint(
        self, source: str, document: Document, images: list[MeasuredImage], embedding: bytes | None
    ) -> Fingerprint:
        settings = self._spec.sources[source].filters.duplicates
        if settings.semantic is not None and embedding is not None and source not in self._clusters:
            self._clusters[source] = read_clusters(self._out, source)
        return fingerprint(source, settings, document, images, embedding, self._clusters.get(source))


def _judged(document: Document, measured: MeasuredDocument, filters: Thresholds, overused: Mapping[str, int]) -> Judged:
    """Apply its source's thresholds to a document; one on which our code fails is refused."""
    try:
        return judge(document, measured, filters, overused)
    except Exception as error:
        return Judged(None, (), {}, refusal_of(error))


def _join_duplicates(
    joined: tuple[str, _JoinedDocument],
) -> Iterator[tuple[str, _DroppedDocument] | TaggedOutput[Literal["clusters"], tuple[str, str]]]:
    """Yield (part, dropped duplicate), and (cluster, group) of every document in a cluster."""
    key, sides = joined
    for duplicate in sides["duplicates"]:
        for place in sides["documents"]:
            yield TaggedOutput("clusters", (duplicate.cluster, place.group))
            if duplicate.reason is not None:
                yield place.part, _DroppedDocument(key, duplicate.reason, duplicate.kept)


class _DecidePart(beam.DoFn):
    """Write the samples and drops of a part, unless a receipt shows that they were made from the same inputs."""

    def __init__(self, spec: CorpusSpec, out: str, published: Published) -> None:
        self._spec, self._out, self._published = spec, out, published
        self._block = load_block_list(out)

    def process(self, joined: tuple[str, _PartInput]) -> Iterator[str]:
        keep_tracebacks(traceback_folder(self._out))
        part, sides = joined
        overused = dict(sides["overused"])
        dropped, groups = sorted(sides["dropped"]), sorted(sides["groups"])
        files = [folder(self._out).receipt(part) for folder in (documents_folder, features_folder)]
        inputs = stage_inputs(
            filter_inputs.VERSION,
            [receipt and receipt.files for receipt in files],
            dropped,
            groups,
            sorted(overused.items()),
            filter_inputs.decision_settings(self._spec),
            self._spec.policy.name,
        )
        decisions_folder(self._out).once(part, inputs, lambda: self._decide(part, inputs, dropped, groups, overused))
        yield part

    def _decide(
        self,
        part: str,
        inputs: str,
        dropped: list[_DroppedDocument],
        splits: list[GroupSplit],
        overused: dict[str, int],
    ) -> Receipt:
        refusals = {document.key: Refusal(document.reason, document.detail) for document in dropped}
        groups = {found.group: found for found in splits}
        tally = Tally("filter")
        decided: list[DecidedSample] = []
        for completed, measured in read_measured(part, self._out):
            name, document = completed.source, completed.document
            filters = self._spec.sources[name].filters
            is_published = self._published.split(document.key) is not None
            judged = _judged(document, measured, filters, {} if is_published else overused)
            gone = Drop(
                source=name,
                stage="filter",
                reason="document_dropped",
                unit="media",
                key=document.key,
                page_url=document.source.page_url,
                record=completed.record,
            )
            for i, why in sorted(judged.lost.items()):
                url = document.media[i].url
                tally.drop(replace(gone, reason=why.reason, url=url, detail=why.detail))
            refusal = judged.refusal or refusals.get(document.key)
            if refusal is None and groups[document.build.dedup_group].split is None:
                refusal = Refusal("between_splits")
            if refusal is None:
                assert judged.document is not None
                samples = Tally("filter")
                try:
                    decided += self._samples(completed, judged.document, judged.places, groups, samples)
                except Exception as error:
                    refusal = refusal_of(error)
                else:
                    tally.keep(name, "document")
                    if judged.places:
                        tally.keep(name, "media", len(judged.places))
                    tally.absorb(samples)
            if refusal is not None:
                text = unless_fault(excerpt, document, filters)
                drop = replace(gone, reason=refusal.reason, unit="document", excerpt=text, detail=refusal.detail)
                tally.drop(
                    replace(drop, url=only_url(media.url for media in document.media) or document.source.page_url)
                )
                for i, media in enumerate(document.media):
                    if i not in judged.lost:
                        tally.drop(replace(gone, url=media.url))
        drop_gone(documents_folder(self._out).file(part, ".parquet"), "filter", tally)
        folder = decisions_folder(self._out)
        return folder.finish(part, inputs, tally, write_decided(folder, part, decided))

    def _samples(
        self,
        completed: CompletedDocument,
        judged: Document,
        places: tuple[int, ...],
        groups: dict[str, GroupSplit],
        tally: Tally,
    ) -> list[DecidedSample]:
        """Return the samples of a document's windows; one without images is dropped, and counts for the shard stage.

        Raises:
            ValueError: If a sample breaks a rule that the shard stage would refuse it for.
        """
        source, group = completed.source, groups[judged.build.dedup_group]
        document = replace(
            judged,
            decision=Decision(self._spec.policy.name_for(judged.signals), True, ()),
            build=replace(judged.build, dedup_group=group.root),
        )
        blobs = [completed.blobs[i] for i in places]
        decided: list[DecidedSample] = []
        sharding, filters = self._spec.sources[source].sharding, self._spec.sources[source].filters
        for window in windows(document, sharding.max_media, sharding.max_chars):
            sample = window.document
            if document.media and not window.media:
                tally.drop(
                    Drop(
                        source=source,
                        stage="shard",
                        reason="window_without_media",
                        unit="sample",
                        key=sample.key,
                        url=only_url(media.url for media in document.media) or document.source.page_url,
                        page_url=sample.source.page_url,
                        record=completed.record,
                        excerpt=excerpt(sample, filters),
                    )
                )
                continue
            if self._block.key(sample.key) or self._block.text(sample):
                tally.drop(Drop(source=source, stage="shard", reason="taken_down", unit="sample", key=sample.key))
                continue
            if faults := find_faults(sample):
                raise ValueError(f"sample {sample.key}: {'; '.join(faults[:3])}")
            tally.keep(source, "sample", stage="shard")
            assert group.split is not None
            text, mine = sample.to_json(), tuple(blobs[i] for i in window.media)
            size = largest_tar_bytes(sample, text, [blob.length for blob in mine])
            decided.append(DecidedSample(source, group.split, sample.key, size, text, mine))
        return decided


# --- the stage ------------------------------------------------------------------------------------------------------


def run_filter(spec: CorpusSpec, out: str, runner: Runner) -> None:
    """Measure every image once, then decide which documents become samples, and of which split."""
    documents, measured, decided = documents_folder(out), features_folder(out), decisions_folder(out)
    earlier_manifest(spec, out)  # settings that contradict it are told before anything is decided
    parts = [receipt.part for receipt in documents.receipts()]
    weights = filter_inputs.model_weights(spec)
    inputs = filter_inputs.filter_inputs(spec, out, weights)
    if decided.is_finished(inputs):
        return
    measured.begin()
    decided.begin()

    def measure(pipeline: beam.Pipeline) -> beam.PCollection:
        documents = pipeline | "ListDocuments" >> beam.Create(parts) | "SpreadDocuments" >> beam.Reshuffle()
        return documents | "MeasureParts" >> beam.ParDo(_MeasurePart(spec, out, weights))

    if semantic := filter_inputs.semantic_settings(spec):  # clusters are made of the features of all parts
        run_pipeline("filter: features", runner, measure, Watch(measured.path, len(parts)))
        measured.keep_only(set(parts))
        find_clusters(semantic, out, runner)
    limits = [s.filters.images.max_uses for s in spec.sources.values() if s.filters.images.max_uses is not None]
    least = min(limits, default=None)

    published = load_published(spec, out)

    def build(pipeline: beam.Pipeline, files: ShuffleFiles | None) -> None:
        names = measure(pipeline) | "Spread" >> beam.Reshuffle()
        every = names | "EveryPart" >> beam.Map(lambda part: (part, None))
        uses = names if least is not None else pipeline | "NoPart" >> beam.Create([])
        overused = (
            uses
            | "ReadUses" >> beam.FlatMap(_uses, out)
            | "ByUsedImage" >> GroupByKey(files)
            | "KeepOverused" >> beam.FlatMap(_overused, least or 0)
        )
        found = (
            {"part": every, "overused": overused}
            | "ImagesOfParts" >> CoGroupByKey(files)
            | "FingerprintParts"
            >> beam.ParDo(_FingerprintPart(spec, out, published)).with_outputs(
                "documents", "groups", "images", "faults", main="fingerprints"
            )
        )
        per_source = {name: s.filters.duplicates for name, s in spec.sources.items()}
        duplicates = found.fingerprints | "FindDuplicates" >> FindDuplicates(per_source, files)
        joined = (
            {"documents": found.documents, "duplicates": duplicates | "ById" >> beam.Map(lambda d: (d.id, d))}
            | "JoinDuplicates" >> CoGroupByKey(files)
            | "ReadClusters" >> beam.FlatMap(_join_duplicates).with_outputs("clusters", main="dropped")
        )
        edges = (
            joined.clusters | "ByCluster" >> GroupByKey(files) | "BindClusters" >> beam.FlatMap(bind),
            found.images | "ByImage" >> GroupByKey(files, least=2) | "BindImages" >> beam.FlatMap(bind),
        )
        roots = edges | "FindRoots" >> ConnectedComponents(files)
        groups = (
            {"parts": found.groups, "root": roots}
            | "JoinRoots" >> CoGroupByKey(files)
            | "WithRoot" >> beam.FlatMap(with_root)
            | "ByRoot" >> GroupByKey(files)
            | "SettleSplits" >> beam.FlatMap(settle_split, spec.split)
        )
        dropped = (joined.dropped, found.faults) | "AllDropped" >> beam.Flatten()
        _ = (
            {"part": every, "overused": overused, "dropped": dropped, "groups": groups}
            | "ByPart" >> CoGroupByKey(files)
            | "DecideParts" >> beam.ParDo(_DecidePart(spec, out, published))
        )

    with shuffling(runner, out) as files:
        steps = Watch(measured.path, len(parts), step="features"), Watch(decided.path, len(parts), step="decisions")
        run_pipeline("filter", runner, partial(build, files=files), *steps)
    measured.keep_only(set(parts))
    decided.keep_only(set(parts))
    decided.end(inputs)
