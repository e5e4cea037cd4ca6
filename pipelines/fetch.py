"""Fetch: every image and video that a candidate asks for, once, into the raw store; then documents with media.

What was fetched stays: a rerun asks only for what the store does not have, and `--retry transient` also for what
failed for a reason that can pass. Candidates and the store are then joined by small rows, part by part.
"""

import asyncio
import json
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import Any

import apache_beam as beam
import pyarrow as pa

from pipelines import storage
from pipelines.candidate import Candidate, MediaRequest, Track
from pipelines.document import Document, Drop
from pipelines.drop_reasons import Refusal, Unit
from pipelines.layout import candidates_folder, documents_folder, gate_folder, media_folder
from pipelines.media.completion import complete
from pipelines.media.raw_store import RawPartWriter, StoredMedia, generation_of, index_parts, load_media, read_index
from pipelines.media.requests import MediaSettings, fetch_media, store_image
from pipelines.parts import PartFolder, Receipt, Tally, digest, read_rows, stage_inputs, write_table
from pipelines.running.runner import Runner, run_pipeline
from pipelines.spec import CorpusSpec
from pipelines.text.judging import excerpt, judge_spoken
from pipelines.web import urls
from pipelines.web.host_buckets import GroupHosts
from pipelines.web.host_queues import run_queues
from pipelines.web.http_client import PoliteClient, is_transient

# Raise it when equal answers would give other media or documents, by this module or by those of `media/`, `images/`,
# `video/` and `text/` that it uses. All documents are then completed anew, from the raw store. The store's media stay
# as they were normalised when they arrived, and nobody is asked for them again: code that changes may not send every
# corpus back to its hosts. Whoever wants them made anew deletes `work/raw`.
VERSION = 2

DOCUMENT_SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("key", pa.string()),
        ("record", pa.string()),
        ("document", pa.string()),
        (
            "blobs",
            pa.list_(pa.struct([("file", pa.string()), ("offset", pa.int64()), ("length", pa.int64())])),
        ),
    ]
)

_Request = tuple[str, str, str]  # (type, page URL, tracks as JSON): all of one key's requests, the smallest holds
_Known = tuple[int, str]  # (generation, outcome)


def rendition(settings: MediaSettings, type_: str) -> str:
    """Name of the way in which a request's bytes are normalised."""
    part = settings.images if type_ == "image" else settings.video
    return digest(type_, part.model_dump(mode="json"))[:12]


# --- what is missing ------------------------------------------------------------------------------------------------


def _requests(part: str, folder: PartFolder, renditions: dict[str, dict[str, str]]) -> Iterator[tuple[str, _Request]]:
    """((rendition key), request) of every request in a part of candidates; inline ones name their part."""
    for row in read_rows(folder.file(part, ".parquet"), ["source", "requests"]):
        for request in json.loads(row["requests"]):
            made = MediaRequest(**{**request, "tracks": tuple(Track(**t) for t in request["tracks"])})
            where = part if made.url is None else made.page_url or ""
            tracks = json.dumps([asdict(t) for t in made.tracks], sort_keys=True)
            yield f"{renditions[row['source']][made.type]} {made.key}", (made.type, where, tracks)


def _known(path: str) -> Iterator[tuple[str, _Known]]:
    for row in read_index(path):
        yield f"{row['rendition']} {row['key']}", (row["generation"], row["outcome"])


def _missing(
    joined: tuple[str, dict[str, Iterable[Any]]], generation: int, retry: bool
) -> Iterator[tuple[str, tuple[str, _Request]]]:
    """(authority or inline part, (key, request)) of what must be asked for."""
    key, sides = joined
    wanted = min(sides["wanted"], default=None)
    if wanted is None:
        return
    known = max(sides["known"], default=None)
    if known is not None and not (retry and known[0] < generation and is_transient(known[1])):
        return
    target = key.partition(" ")[2]
    host = f"inline {wanted[1]}" if target.startswith("inline:") else urls.authority(target)
    yield host, (key, wanted)


class _FetchBucket(beam.DoFn):
    """Asks for all media of a bucket of hosts."""

    def __init__(self, spec: CorpusSpec, out: str, generation: int, settings: dict[str, MediaSettings]) -> None:
        self._spec, self._out, self._generation, self._settings = spec, out, generation, settings

    def process(self, bucket: tuple[int, Iterable[tuple[str, tuple[str, _Request]]]]) -> Iterator[int]:
        rows = sorted((host, *item) for host, item in bucket[1])
        writer = RawPartWriter(media_folder(self._out), self._generation)
        try:
            inline = [row for row in rows if row[0].startswith("inline ")]
            self._store_inline(inline, writer)
            # The pools outlive the loop: a thread that waits for a request is let go when the loop cancels it. Videos
            # have one of their own, or a few slow ones would keep every image waiting.
            with ThreadPoolExecutor(max_workers=8) as images, ThreadPoolExecutor(max_workers=8) as videos:
                pools: dict[str, Executor] = {"image": images, "video": videos}
                asyncio.run(self._run([row for row in rows if not row[0].startswith("inline ")], writer, pools))
        except BaseException:
            writer.abandon()
            raise
        writer.close()
        yield len(rows)

    def _store_inline(self, rows: list[tuple[str, str, _Request]], writer: RawPartWriter) -> None:
        """Normalise bytes that came with the candidates."""
        wanted: dict[str, list[str]] = {}
        for host, key, _ in rows:
            wanted.setdefault(host.removeprefix("inline "), []).append(key)
        for part, keys in sorted(wanted.items()):
            path = candidates_folder(self._out).file(part, ".parquet")
            data = {blob["sha256"]: blob["data"] for row in read_rows(path, ["inline"]) for blob in row["inline"]}
            for key in keys:
                made, target = key.split(" ", 1)
                settings = self._settings[made].images
                store_image(writer, made, target, data[target.removeprefix("inline:")], settings)
                if writer.is_full:
                    writer.close()

    async def _run(
        self, rows: list[tuple[str, str, _Request]], writer: RawPartWriter, pools: dict[str, Executor]
    ) -> None:
        policy, gates = self._spec.request_policy, gate_folder(self._out)
        loop = asyncio.get_running_loop()
        async with PoliteClient(policy, self._spec.http, gate_folder=gates) as client:

            async def work(row: tuple[str, _Request]) -> None:
                key, (type_, page_url, tracks) = row
                made, target = key.split(" ", 1)
                request = MediaRequest(
                    "image" if type_ == "image" else "video",
                    target,
                    page_url or None,
                    tuple(Track(**t) for t in json.loads(tracks)),
                )
                await fetch_media(client, loop, pools[request.type], request, made, self._settings[made], writer)
                if writer.is_full:
                    writer.close()

            items = [(host, (key, request)) for host, key, request in rows]
            # Two of a host: while an image is decoded, the next is asked for.
            await run_queues(items, work, max_hosts=self._spec.http.max_in_flight, max_items=2)


# --- documents ------------------------------------------------------------------------------------------------------


def _wanted_by(part: str, folder: PartFolder, renditions: dict[str, dict[str, str]]) -> Iterator[tuple[str, str]]:
    """(rendition key, part): each once a part."""
    yield from sorted({(key, part) for key, _ in _requests(part, folder, renditions)})


def _index_rows(path: str) -> Iterator[tuple[str, tuple[int, str, str, int, int]]]:
    for row in read_index(path):
        where = (row["generation"], row["outcome"], row["blobs"], row["offset"], row["length"])
        yield f"{row['rendition']} {row['key']}", where


def _to_parts(joined: tuple[str, dict[str, Iterable[Any]]]) -> Iterator[tuple[str, tuple[str, str, int, int]]]:
    """(part, (rendition key, blobs, offset, length)): where each part finds what it asked for."""
    key, sides = joined
    latest = max(sides["stored"], key=lambda row: (row[0], row[2], row[3]), default=None)
    if latest is not None:
        for part in sides["parts"]:
            yield part, (key, *latest[2:])


def _completion_settings(spec: CorpusSpec) -> list[Any]:
    """The settings that decide how documents are completed."""
    names = {"language", "mask_personal_data", "min_images"}
    filters = {name: s.filters.model_dump(mode="json", include=names) for name, s in spec.sources.items()}
    return [filters, spec.policy.licenses]


class _CompletePart(beam.DoFn):
    """Writes the documents of a part of candidates."""

    def __init__(self, spec: CorpusSpec, out: str, renditions: dict[str, dict[str, str]]) -> None:
        self._spec, self._out, self._renditions = spec, out, renditions

    def process(self, grouped: tuple[str, Iterable[tuple[str, str, int, int] | None]]) -> Iterator[str]:
        part, rows = grouped[0], sorted(row for row in grouped[1] if row is not None)
        folder = documents_folder(self._out)
        candidates = candidates_folder(self._out).receipt(part)
        assert candidates is not None
        inputs = stage_inputs(VERSION, candidates.files, rows, _completion_settings(self._spec))
        folder.once(part, inputs, lambda: self._complete(part, inputs, rows))
        yield part

    def _complete(self, part: str, inputs: str, rows: list[tuple[str, str, int, int]]) -> Receipt:
        stored: dict[str, StoredMedia] = {}
        for key, blobs, offset, length in rows:
            stored[key] = load_media(media_folder(self._out), {"blobs": blobs, "offset": offset, "length": length})
        tally = Tally("fetch")
        written: list[dict[str, Any]] = []
        path = candidates_folder(self._out).file(part, ".parquet")
        for row in read_rows(path, ["source", "document", "requests", "record"]):
            source, candidate = row["source"], Candidate.from_columns(row["document"], row["requests"], row["record"])
            names = self._renditions[source]
            mine = {r.key: stored[f"{names[r.type]} {r.key}"] for r in candidate.requests}
            filters = self._spec.sources[source].filters
            result = complete(candidate, mine, filters.min_images, self._spec.policy.allows_license)
            document = candidate.document
            # A video is one request and becomes many images; what the filter counts as media are those.
            unit: Unit = "video" if any(r.type == "video" for r in candidate.requests) else "media"
            gone = Drop(
                source=source,
                stage="fetch",
                reason="document_dropped",
                unit=unit,
                key=document.key,
                page_url=document.source.page_url,
                record=candidate.record,
            )
            for lost in result.lost:
                tally.drop(replace(gone, reason=lost.reason, url=lost.url, detail=lost.detail))
            judged = result.document or result.refusal
            if isinstance(judged, Document) and judged.kind == "video":
                judged = judge_spoken(judged, filters)
            assert judged is not None
            if isinstance(judged, Refusal):
                text = excerpt(result.document or document, filters)
                drop = replace(gone, reason=judged.reason, unit="document", excerpt=text, detail=judged.detail)
                tally.drop(drop)
                for url in result.found:
                    tally.drop(replace(gone, url=url))
                continue
            tally.keep(source, "document")
            if result.found:
                tally.keep(source, unit, len(result.found))
            places = [asdict(blob) for blob in result.blobs]
            about = {"source": source, "key": document.key, "record": candidate.record}
            written.append(about | {"document": judged.to_json(), "blobs": places})
        folder = documents_folder(self._out)
        files = {".parquet": write_table(folder.file(part, ".parquet"), written, DOCUMENT_SCHEMA)}
        return folder.finish(part, inputs, tally, files)


# --- the command ----------------------------------------------------------------------------------------------------


def run_fetch(spec: CorpusSpec, out: str, runner: Runner, *, retry: bool = False) -> None:
    """Fetch what the candidates ask for and the store does not have, then complete the documents.

    Args:
        spec: The corpus.
        out: Its folder.
        runner: How to run.
        retry: Ask again for what failed for a reason that can pass.
    """
    candidates, documents, media = candidates_folder(out), documents_folder(out), media_folder(out)
    renditions = {
        name: {type_: rendition(source.media, type_) for type_ in ("image", "video")}
        for name, source in spec.sources.items()
    }
    inputs = stage_inputs(VERSION, candidates.fingerprint(), renditions, _completion_settings(spec))
    if documents.is_finished(inputs) and not retry:
        return
    documents.begin()
    storage.remove_leftovers(media)
    parts = [receipt.part for receipt in candidates.receipts()]
    _fetch_missing(spec, out, runner, parts, renditions, retry)

    indexes = index_parts(media)

    def build(pipeline: beam.Pipeline) -> None:
        wanted = (
            pipeline
            | "ListCandidates" >> beam.Create(parts)
            | "ReadWanted" >> beam.FlatMap(_wanted_by, candidates, renditions)
        )
        stored = pipeline | "ListIndexes" >> beam.Create(indexes) | "ReadIndexes" >> beam.FlatMap(_index_rows)
        found = {"parts": wanted, "stored": stored} | "ByMedia" >> beam.CoGroupByKey() | beam.FlatMap(_to_parts)
        every = pipeline | "EveryPart" >> beam.Create([(part, None) for part in parts])
        _ = (
            (found, every)
            | "JoinParts" >> beam.Flatten()
            | "ByPart" >> beam.GroupByKey()
            | "CompleteDocuments" >> beam.ParDo(_CompletePart(spec, out, renditions))
        )

    run_pipeline("fetch: documents", runner, build, lambda: len(documents.receipts()))
    documents.keep_only(set(parts))
    documents.end(inputs)


def _fetch_missing(
    spec: CorpusSpec, out: str, runner: Runner, parts: list[str], renditions: dict[str, dict[str, str]], retry: bool
) -> None:
    media = media_folder(out)
    indexes = index_parts(media)
    latest = max((generation_of(path) for path in indexes), default=0)
    generation = latest + 1 if retry else latest
    settings = {made: spec.sources[name].media for name, both in renditions.items() for made in both.values()}
    candidates, num_buckets = candidates_folder(out), runner.num_buckets
    store = PartFolder(media)

    def build(pipeline: beam.Pipeline) -> None:
        wanted = (
            pipeline
            | "ListCandidates" >> beam.Create(parts)
            | "Spread" >> beam.Reshuffle()
            | "ReadRequests" >> beam.FlatMap(_requests, candidates, renditions)
        )
        known = pipeline | "ListIndexes" >> beam.Create(indexes) | "ReadIndexes" >> beam.FlatMap(_known)
        missing = (
            {"wanted": wanted, "known": known}
            | "ByMedia" >> beam.CoGroupByKey()
            | "KeepMissing" >> beam.FlatMap(_missing, generation, retry)
        )
        _ = (
            missing
            | "GroupHosts" >> GroupHosts(num_buckets)
            | "FetchBuckets" >> beam.ParDo(_FetchBucket(spec, out, generation, settings))
        )

    run_pipeline("fetch: media", runner, build, lambda: sum(r.extra.get("num", 0) for r in store.receipts()))
