"""Filter: features of every image as rows, then decisions over rows alone.

Features are made once from the stored bytes, part by part. Decisions are thresholds first; then duplicates among what
is left, the groups that must stay in one split, and the split. A changed threshold redoes decisions only, a changed
duplicate rule likewise; nothing before this stage is touched.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa

from pipelines.decisions.duplicates import Fingerprint, minhash
from pipelines.decisions.find_duplicates import ConnectedComponents, FindDuplicates
from pipelines.decisions.long_documents import windows
from pipelines.decisions.thresholds import judge
from pipelines.document import CAPTIONED, Decision, Document, Drop, Split
from pipelines.drop_reasons import Refusal
from pipelines.images.normalise import features
from pipelines.images.text_match import DECIMALS, ImageTextMatch, MatchSettings, weights_sha256
from pipelines.layout import decisions_folder, documents_folder, features_folder, media_folder
from pipelines.media.raw_store import Blob
from pipelines.parts import Receipt, Tally, digest, read_rows, stable_hash, stage_inputs, write_table
from pipelines.running.runner import Runner, run_pipeline
from pipelines.shards.tar_samples import tar_bytes
from pipelines.spec import CorpusSpec, SourceSpec, SplitSettings
from pipelines.text.assignment import sentences_of
from pipelines.text.judging import excerpt

# Raise the first when equal images would get other features, the second when equal documents and features would be
# decided for otherwise, by this module or by those of `images/`, `decisions/` and `text/` that it uses. Features read
# all media, decisions only small rows: that is why they have versions of their own.
FEATURES_VERSION = 2
VERSION = 2

FEATURE_SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("key", pa.string()),
        (
            "media",
            pa.list_(
                pa.struct(
                    [
                        ("stored_sha256", pa.string()),
                        ("phash", pa.uint64()),
                        ("blur", pa.float32()),
                        ("mean", pa.float32()),
                        ("std", pa.float32()),
                    ]
                )
            ),
        ),
        ("similarity", pa.list_(pa.list_(pa.float64()))),  # images x texts, where a CLIP model is named; 4 decimals
        ("match_model", pa.string()),
    ]
)
DECISION_SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("split", pa.string()),
        ("key", pa.string()),
        ("num_bytes", pa.int64()),
        ("document", pa.string()),
        ("blobs", pa.list_(pa.struct([("file", pa.string()), ("offset", pa.int64()), ("length", pa.int64())]))),
    ]
)
FINISHING_BYTES = 1024  # that the shard stage adds to a sample's JSON: the pipeline's version, hashes, names of keys


# --- features -------------------------------------------------------------------------------------------------------


class _Matched(NamedTuple):
    """A document that a CLIP model judges: the place of its row, its images and its texts."""

    place: int
    settings: MatchSettings
    blobs: list[Blob]
    texts: list[str]


class _MeasurePart(beam.DoFn):
    """Writes the features of a part of documents."""

    def __init__(self, spec: CorpusSpec, out: str, weights: dict[str, list[Any]]) -> None:
        self._spec, self._out, self._weights = spec, out, weights
        self._models: dict[str, ImageTextMatch] = {}

    def process(self, part: str) -> Iterator[str]:
        receipt = documents_folder(self._out).receipt(part)
        assert receipt is not None
        inputs = stage_inputs(FEATURES_VERSION, receipt.files, self._weights)
        features_folder(self._out).once(part, inputs, lambda: self._measure(part, inputs))
        yield part

    def _measure(self, part: str, inputs: str) -> Receipt:
        raw = media_folder(self._out)
        known: dict[str, dict[str, Any]] = {}  # pages give several documents with the same images
        rows: list[dict[str, Any]] = []
        matched: dict[str, list[_Matched]] = {}  # by model: what it is to judge, all of the part at once
        for row in read_rows(documents_folder(self._out).file(part, ".parquet")):
            document = Document.from_json(row["document"])
            blobs = [Blob(**blob) for blob in row["blobs"]]
            media = []
            for item, blob in zip(document.media, blobs, strict=True):
                name = item.stored_sha256 or ""
                if name not in known:
                    found = features(blob.read(raw))
                    measured = {"phash": found.phash, "blur": found.blur, "mean": found.mean, "std": found.std}
                    known[name] = {"stored_sha256": name, **measured}
                media.append(known[name])
            settings, texts = self._spec.sources[row["source"]].filters.match, match_texts(document)
            if settings is not None and blobs and texts:
                asked = matched.setdefault(settings.model.model_dump_json(), [])
                asked.append(_Matched(len(rows), settings.model, blobs, texts))
            unmatched = {"similarity": None, "match_model": None}
            rows.append({"source": row["source"], "key": row["key"], "media": media, **unmatched})
        for name, asked in sorted(matched.items()):
            for place, measured in self._match(name, asked):
                rows[place] |= measured
        folder = features_folder(self._out)
        files = {".parquet": write_table(folder.file(part, ".parquet"), rows, FEATURE_SCHEMA)}
        return folder.finish(part, inputs, Tally("features"), files)

    def _match(self, name: str, asked: list[_Matched]) -> Iterator[tuple[int, dict[str, Any]]]:
        """(place of its row, similarities) of the documents of a part that one model judges.

        A batch is filled from many documents: a pair alone would be one image and 31 of padding.
        """
        if name not in self._models:
            self._models[name] = ImageTextMatch(asked[0].settings)
        model, size = self._models[name], 16 * asked[0].settings.batch_size  # files held in memory at once
        blobs = [blob for a in asked for blob in a.blobs]
        chunks = (blobs[i : i + size] for i in range(0, len(blobs), size))
        images = np.concatenate([model.embed_images([b.read(media_folder(self._out)) for b in c]) for c in chunks])
        sentences = model.embed_texts([text for a in asked for text in a.texts])
        at_image = at_sentence = 0
        for a in asked:
            mine = images[at_image : at_image + len(a.blobs)]
            cosines = mine @ sentences[at_sentence : at_sentence + len(a.texts)].T
            at_image, at_sentence = at_image + len(a.blobs), at_sentence + len(a.texts)
            similarity = cosines.astype(float).round(DECIMALS).tolist()
            yield a.place, {"similarity": similarity, "match_model": f"{model.model_id}@{model.weights_sha256[:16]}"}


def match_texts(document: Document) -> list[str]:
    """The texts that images are held against: sentences of an interleaved page, else each text segment."""
    if document.kind == "interleaved":
        return sentences_of(document)
    return [g.text for g in document.segments if g.text]


def _rows_of(part: str, out: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """(document row, feature row) of a part."""
    documents = read_rows(documents_folder(out).file(part, ".parquet"))
    measured = read_rows(features_folder(out).file(part, ".parquet"))
    for document, row in zip(documents, measured, strict=True):
        assert document["key"] == row["key"]
        yield document, row


# --- decisions ------------------------------------------------------------------------------------------------------


def _uses(part: str, out: str) -> Iterator[tuple[str, str]]:
    """(image's hash, document group) of each image of a part, once a group."""
    seen = set()
    for row, measured in _rows_of(part, out):
        group = Document.from_json(row["document"]).build.dedup_group
        seen |= {(image["stored_sha256"], group) for image in measured["media"]}
    yield from sorted(seen)


class _FingerprintPart(beam.DoFn):
    """Small rows of what passes its thresholds: fingerprints; and what binds documents into groups."""

    def __init__(self, spec: CorpusSpec, out: str) -> None:
        self._spec, self._out = spec, out

    def process(self, part: str, overused: dict[str, int]) -> Iterator[Any]:
        groups: dict[str, int] = {}
        images: set[tuple[str, str]] = set()
        for row, measured in _rows_of(part, self._out):
            source = self._spec.sources[row["source"]]
            document = Document.from_json(row["document"])
            judged = judge(document, measured, source.filters, overused)
            if judged.document is None:
                continue
            group = document.build.dedup_group
            rule = _split_rule(document, self._spec.split)
            groups[group] = min(rule, groups.get(group, rule))
            media = [measured["media"][i] for i in judged.places]
            images |= {(m["stored_sha256"], group) for m in media}
            yield fingerprint(row["source"], source, judged.document, media)
            yield beam.pvalue.TaggedOutput("documents", (document.key, (group, part)))
        for group, rule in sorted(groups.items()):
            yield beam.pvalue.TaggedOutput("groups", (group, (rule, part)))
        for shared in sorted(images):
            yield beam.pvalue.TaggedOutput("images", shared)


def fingerprint(name: str, source: SourceSpec, document: Document, media: list[dict[str, Any]]) -> Fingerprint:
    """What duplicates of a document are found by, within its source."""
    settings = source.filters.duplicates
    is_single = document.kind in CAPTIONED
    content = [m["stored_sha256"] for m in media] + [s.text for s in document.segments if s.text]
    size = sum((m.source_width or 0) * (m.source_height or 0) for m in document.media)
    wants_text = document.kind in ("text", "interleaved")
    return Fingerprint(
        id=document.key,
        scope=name,
        sha256=digest(content),
        phash=int(media[0]["phash"]) if is_single else None,
        signature=minhash(document.text, settings) if wants_text else None,
        priority=size + document.num_text_chars,
    )


def _split_rule(document: Document, settings: SplitSettings) -> int:
    """Number of the first rule that fits the document's page; beyond all of them where none does."""
    url = document.source.page_url or next((m.url for m in document.media if m.url), None) or ""
    for i, rule in enumerate(settings.rules):
        if re.search(rule.pattern, url):
            return i
    return len(settings.rules)


def choose_split(group: str, rule: int, settings: SplitSettings) -> Split:
    """The split of a duplicate group: by its rule, else by its stable hash."""
    if rule < len(settings.rules):
        return settings.rules[rule].split
    place = stable_hash(f"split {group}") / 2**64
    if place < settings.test:
        return "test"
    return "val" if place < settings.test + settings.val else "train"


def _star(grouped: tuple[str, Iterable[str]]) -> Iterator[tuple[str, str]]:
    """Edges that bind the groups sharing something to the smallest of them."""
    first, *others = sorted(set(grouped[1]))
    for other in others:
        yield first, other


def _join_duplicates(joined: tuple[str, dict[str, Iterable[Any]]]) -> Iterator[Any]:
    """What a document's cluster means: its group's place in the cluster, and the part that must drop it."""
    key, sides = joined
    for duplicate in sides["duplicates"]:
        for group, part in sides["documents"]:
            yield beam.pvalue.TaggedOutput("clusters", (duplicate.cluster, group))
            if duplicate.id != duplicate.kept:
                yield part, ("duplicate", (key, duplicate.reason, duplicate.kept))


def _root_of(joined: tuple[str, dict[str, Iterable[Any]]]) -> Iterator[tuple[str, tuple[str, int, list[str]]]]:
    """(root, (group, rule, parts)) of a group."""
    group, sides = joined
    members = list(sides["groups"])
    if members:
        root = next(iter(sides["roots"]), group)
        yield root, (group, min(rule for rule, _ in members), sorted({part for _, part in members}))


def _settle_split(
    grouped: tuple[str, Iterable[tuple[str, int, list[str]]]], settings: SplitSettings
) -> Iterator[tuple[str, tuple[str, tuple[str, str, Split]]]]:
    """(part, ("group", (group, root, split))) for every part that holds documents of the group."""
    root, members = grouped[0], list(grouped[1])
    split = choose_split(root, min(rule for _, rule, _ in members), settings)
    for group, _, parts in members:
        for part in parts:
            yield part, ("group", (group, root, split))


class _DecidePart(beam.DoFn):
    """Writes the samples of a part and what was dropped of it."""

    def __init__(self, spec: CorpusSpec, out: str) -> None:
        self._spec, self._out = spec, out

    def process(self, grouped: tuple[str, Iterable[tuple[str, Any]]], overused: dict[str, int]) -> Iterator[str]:
        part, marks = grouped[0], sorted(grouped[1], key=repr)
        settings = {
            name: s.model_dump(mode="json", include={"kind", "filters", "sharding"})
            for name, s in self._spec.sources.items()
        }
        files = [folder(self._out).receipt(part) for folder in (documents_folder, features_folder)]
        inputs = stage_inputs(
            VERSION, [f and f.files for f in files], marks, sorted(overused.items()), settings, self._spec.policy.name
        )
        decisions_folder(self._out).once(part, inputs, lambda: self._decide(part, inputs, marks, overused))
        yield part

    def _decide(self, part: str, inputs: str, marks: list[tuple[str, Any]], overused: dict[str, int]) -> Receipt:
        duplicates = {
            key: Refusal(reason, kept) for mark, row in marks if mark == "duplicate" for key, reason, kept in [row]
        }
        groups = {group: (root, split) for mark, row in marks if mark == "group" for group, root, split in [row]}
        tally = Tally("filter")
        rows: list[dict[str, Any]] = []
        for row, measured in _rows_of(part, self._out):
            name, document = row["source"], Document.from_json(row["document"])
            filters = self._spec.sources[name].filters
            judged = judge(document, measured, filters, overused)
            gone = Drop(
                source=name,
                stage="filter",
                reason="document_dropped",
                unit="media",
                key=document.key,
                page_url=document.source.page_url,
                record=row["record"],
            )
            for i, why in sorted(judged.lost.items()):
                url = document.media[i].url
                tally.drop(replace(gone, reason=why.reason, url=url, detail=why.detail))
            refusal = judged.refusal
            if judged.document is not None and document.key in duplicates:
                refusal = duplicates[document.key]
            if judged.document is None or refusal is not None:
                assert refusal is not None
                text = excerpt(document, filters)
                drop = replace(gone, reason=refusal.reason, unit="document", excerpt=text, detail=refusal.detail)
                tally.drop(drop)
                for i, media in enumerate(document.media):
                    if i not in judged.lost:
                        tally.drop(replace(gone, url=media.url))
                continue
            tally.keep(name, "document")
            if judged.places:
                tally.keep(name, "media", len(judged.places))
            root, split = groups[document.build.dedup_group]
            decided = replace(
                judged.document,
                decision=Decision(self._spec.policy.name, True, ()),
                build=replace(document.build, dedup_group=root),
            )
            blobs = [row["blobs"][i] for i in judged.places]
            rows += self._samples(name, split, decided, row["record"], blobs, tally)
        folder = decisions_folder(self._out)
        files = {".parquet": write_table(folder.file(part, ".parquet"), rows, DECISION_SCHEMA)}
        return folder.finish(part, inputs, tally, files)

    def _samples(
        self,
        source: str,
        split: Split,
        document: Document,
        record: str | None,
        blobs: list[dict[str, Any]],
        tally: Tally,
    ) -> Iterator[dict[str, Any]]:
        """The rows of a document's windows; one without its images is dropped, as the shard stage counts it."""
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
                        page_url=sample.source.page_url,
                        record=record,
                        excerpt=excerpt(sample, filters),
                    )
                )
                continue
            tally.keep(source, "sample", stage="shard")
            text, held = sample.to_json(), [blobs[i] for i in window.media]
            yield {
                "source": source,
                "split": split,
                "key": sample.key,
                "num_bytes": largest_tar_bytes(sample, text, [b["length"] for b in held]),
                "document": text,
                "blobs": held,
            }


def largest_tar_bytes(sample: Document, text: str, lengths: list[int]) -> int:
    """Bytes that a sample takes in a tar at most.

    `finish_document` adds names and hashes to the JSON; a captioned one says again what it holds, and once more in
    its txt, as img2dataset's and GRIT's readers expect it.
    """
    num = len(text.encode())
    is_captioned = sample.kind in CAPTIONED
    json_bytes = FINISHING_BYTES + num * (2 if is_captioned else 1)
    return tar_bytes([json_bytes, *lengths, *([len(sample.text.encode())] if is_captioned else [])])


# --- the stage ------------------------------------------------------------------------------------------------------


def run_filter(spec: CorpusSpec, out: str, runner: Runner) -> None:
    """Measure every image once, then decide which documents become samples of which split."""
    documents, measured, decided = documents_folder(out), features_folder(out), decisions_folder(out)
    parts = [receipt.part for receipt in documents.receipts()]
    sources = {
        name: s.model_dump(mode="json", include={"kind", "filters", "sharding"}) for name, s in spec.sources.items()
    }
    weights = {  # a checkpoint may be replaced under its name
        name: [s.filters.match.model_dump(mode="json"), weights_sha256(s.filters.match.model)]
        for name, s in spec.sources.items()
        if s.filters.match is not None
    }
    settings = [sources, weights, spec.split.model_dump(mode="json"), spec.policy.name]
    inputs = stage_inputs(VERSION, FEATURES_VERSION, documents.fingerprint(), settings)
    if decided.is_finished(inputs):
        return
    measured.begin()
    decided.begin()

    def measure(pipeline: beam.Pipeline) -> None:
        names = pipeline | "ListDocuments" >> beam.Create(parts) | "Spread" >> beam.Reshuffle()
        _ = names | "MeasureParts" >> beam.ParDo(_MeasurePart(spec, out, weights))

    run_pipeline("filter: features", runner, measure, lambda: len(measured.receipts()))
    measured.keep_only(set(parts))
    limits = [s.filters.images.max_uses for s in spec.sources.values() if s.filters.images.max_uses is not None]
    least = min(limits, default=None)

    def decide(pipeline: beam.Pipeline) -> None:
        names = pipeline | "ListDocuments" >> beam.Create(parts) | "Spread" >> beam.Reshuffle()
        overused = beam.pvalue.AsDict(_overused(names, out, least))
        found = names | "FingerprintParts" >> beam.ParDo(_FingerprintPart(spec, out), overused).with_outputs(
            "documents", "groups", "images", main="fingerprints"
        )
        per_source = {name: s.filters.duplicates for name, s in spec.sources.items()}
        duplicates = found.fingerprints | "FindDuplicates" >> FindDuplicates(per_source)
        joined = (
            {"duplicates": duplicates | "ById" >> beam.Map(lambda d: (d.id, d)), "documents": found.documents}
            | "JoinDuplicates" >> beam.CoGroupByKey()
            | "ReadClusters" >> beam.FlatMap(_join_duplicates).with_outputs("clusters", main="losers")
        )
        edges = (
            joined.clusters | "ByCluster" >> beam.GroupByKey() | "BindClusters" >> beam.FlatMap(_star),
            found.images | "ByImage" >> beam.GroupByKey() | "BindImages" >> beam.FlatMap(_star),
        ) | "AllEdges" >> beam.Flatten()
        roots = edges | "FindRoots" >> ConnectedComponents()
        groups = (
            {"groups": found.groups, "roots": roots}
            | "JoinRoots" >> beam.CoGroupByKey()
            | "RootOfGroup" >> beam.FlatMap(_root_of)
            | "ByRoot" >> beam.GroupByKey()
            | "SettleSplits" >> beam.FlatMap(_settle_split, spec.split)
        )
        every = pipeline | "EveryPart" >> beam.Create([(part, ("part", None)) for part in parts])
        _ = (
            (joined.losers, groups, every)
            | "JoinParts" >> beam.Flatten()
            | "ByPart" >> beam.GroupByKey()
            | "DecideParts" >> beam.ParDo(_DecidePart(spec, out), overused)
        )

    run_pipeline("filter: decisions", runner, decide, lambda: len(decided.receipts()))
    decided.keep_only(set(parts))
    decided.end(inputs)


def _overused(names: beam.PCollection, out: str, least: int | None) -> beam.PCollection:
    """(image's hash, pages) of the images that more pages use than some source allows."""
    return (
        names
        | "ReadUses" >> beam.FlatMap(_uses, out)
        | "EachOnce" >> beam.Distinct()
        | "ImageOf" >> beam.Map(lambda row: row[0])
        | "CountUses" >> beam.combiners.Count.PerElement()
        | "KeepOverused" >> beam.Filter(lambda row: least is not None and row[1] > least)
    )
