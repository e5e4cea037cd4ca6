"""Fetch: each image and video that a candidate needs is requested once, into the raw store; then documents with media.

What was fetched stays: a rerun requests only what the store does not have, and `--retry transient` also what failed
for a reason that can pass. Then candidates and the store are joined by small rows, part by part.
"""

import asyncio
import itertools
from collections.abc import Callable, Iterator, Set
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import astuple
from functools import partial
from typing import NamedTuple, TypedDict

import apache_beam as beam
import pyarrow as pa

from pipelines import fetch_inputs, storage
from pipelines.block_list import load_block_list
from pipelines.candidate import Candidate
from pipelines.faults import keep_tracebacks
from pipelines.gone_rows import drop_gone
from pipelines.images.faces import check_detector
from pipelines.layout import (
    alarm_folder,
    candidates_folder,
    documents_folder,
    gate_folder,
    media_folder,
    queues_folder,
    traceback_folder,
)
from pipelines.media.missing import (
    INLINE,
    Missing,
    Renditions,
    is_site_key,
    known_outcomes,
    missing_media,
    permitted_requests,
    store_key,
    wanted_requests,
)
from pipelines.media.raw_store import (
    Blob,
    RawPartWriter,
    StoredMedia,
    generation_of,
    index_parts,
    read_blobs,
    read_index,
    stored_keys,
)
from pipelines.media.requests import MediaSettings, fetch_media, store_image
from pipelines.media.site_files import PagePermission, fetch_site
from pipelines.part_documents import PartDocuments
from pipelines.parts import PartFolder, Receipt, new_run, read_rows, stable_hash, stage_inputs, write_table
from pipelines.running.host_buckets import GroupHosts, read_queues
from pipelines.running.runner import Runner, run_pipeline
from pipelines.running.shuffle import CoGroupByKey, ShuffleFiles, shuffling
from pipelines.running.stopping import run_stoppable
from pipelines.running.watch import Watch
from pipelines.spec import CorpusSpec
from pipelines.web.host_queues import run_queues
from pipelines.web.http_client import PoliteClient
from pipelines.web.success_alarm import SuccessAlarm

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
        (
            "features",  # of each blob, as they were measured when it was stored; null of older ones
            pa.list_(
                pa.struct(
                    [
                        ("version", pa.int32()),
                        ("phash", pa.uint64()),
                        ("blur", pa.float64()),
                        ("mean", pa.float64()),
                        ("std", pa.float64()),
                    ]
                )
            ),
        ),
    ]
)

# Of which one resizes, one at a time in a process, and the other decodes and measures. More only wait for one another.
_IMAGE_THREADS = 2

# --- one worker -----------------------------------------------------------------------------------------------------


class _FetchHosts(beam.DoFn):
    """Request all media of a worker's hosts; yields their number.

    Of hosts whose requests a lost worker has begun, the rest.

    Args:
        spec: The corpus.
        out: Its folder.
        generation: Which retry this is.
        settings: Media settings by rendition.
        run: What the names of this run's parts begin with (`parts.new_run`).
    """

    def __init__(
        self, spec: CorpusSpec, out: str, generation: int, settings: dict[str, MediaSettings], run: str
    ) -> None:
        self._spec, self._out, self._generation, self._settings, self._run_id = spec, out, generation, settings, run
        self._block = load_block_list(out)

    def process(self, paths: list[str]) -> Iterator[int]:
        keep_tracebacks(traceback_folder(self._out))
        store = media_folder(self._out)
        queues = self._queues(paths, stored_keys(store, self._run_id))
        writer = RawPartWriter(store, self._generation, self._run_id)
        try:
            # The pools outlive the loop: a thread that waits for a request is released when the loop cancels it. Videos
            # have their own pool, or a few slow ones would keep every image waiting.
            with ThreadPoolExecutor(_IMAGE_THREADS) as images, ThreadPoolExecutor(max_workers=8) as videos:
                pools: dict[str, Executor] = {"image": images, "video": videos}
                num_queued = run_stoppable(self._run(queues, writer, pools))
        except BaseException:
            writer.abandon()
            raise
        writer.close()
        yield num_queued

    def _queues(self, paths: list[str], stored: Set[int]) -> Iterator[list[tuple[str, Missing]]]:
        """Yield what the queues have that is not stored yet."""
        for queue in read_queues(paths):
            rows = sorted(queue)
            yield [row for row in rows if stable_hash(store_key(row[1].rendition, row[1].key)) not in stored]

    def _store_inline(self, queued: list[tuple[str, Missing]], writer: RawPartWriter) -> None:
        """Normalise bytes that came with the candidates."""
        for queue, rows in itertools.groupby(queued, key=lambda row: row[0]):
            path = candidates_folder(self._out).file(queue.removeprefix(INLINE), ".parquet")
            data = {blob["sha256"]: blob["data"] for row in read_rows(path, ["inline"]) for blob in row["inline"]}
            for _, missing in rows:
                settings = self._settings[missing.rendition].images
                blob = data[missing.key.removeprefix("inline:")]
                store_image(writer, missing.rendition, missing.key, blob, settings, self._block)
                if writer.is_full:
                    writer.close()

    async def _run(
        self, queues: Iterator[list[tuple[str, Missing]]], writer: RawPartWriter, pools: dict[str, Executor]
    ) -> int:
        """Request what is queued; returns how much that was."""
        policy, gates = self._spec.request_policy, gate_folder(self._out)
        loop = asyncio.get_running_loop()
        alarm = SuccessAlarm(self._spec.http.alarm, alarm_folder(self._out))
        async with PoliteClient(
            policy, self._spec.http, gate_folder=gates, is_blocked=self._block.url, count_outcome=alarm.count_outcome
        ) as client:

            async def work(missing: Missing) -> None:
                if alarm.ends_run:
                    return
                request = missing.media_request()
                if request.type == "site":
                    await fetch_site(client, request, writer)
                else:
                    settings = self._settings[missing.rendition]
                    pool, made = pools[request.type], missing.rendition
                    await fetch_media(client, loop, pool, request, made, settings, writer, self._block)
                if writer.is_full:
                    writer.close()

            num_queued = 0
            for queued in queues:
                self._store_inline([row for row in queued if row[0].startswith(INLINE)], writer)
                asked = [row for row in queued if not row[0].startswith(INLINE)]
                try:
                    # Two per host: while an image is decoded, the next one is requested.
                    await run_queues(asked, work, max_hosts=self._spec.http.max_in_flight, max_items=2)
                except asyncio.CancelledError:
                    writer.close()  # whoever goes on need not request these again
                    raise
                num_queued += len(queued)
        if alarm.ends_run:
            writer.close()  # what was fetched is not asked for again
        alarm.check()
        return num_queued


# --- documents ------------------------------------------------------------------------------------------------------


class _Stored(NamedTuple):
    """The place of a result in the store; the latest generation is the greatest."""

    generation: int
    file: str
    offset: int
    length: int


class _StoredForParts(TypedDict):
    """The results of requests for the same media, joined with the parts of candidates that need it."""

    parts: list[str]
    stored: list[_Stored]


class _PartMedia(NamedTuple):
    """The place of a result that a part of candidates needs."""

    store_key: str
    file: str
    offset: int
    length: int

    @property
    def key(self) -> str:
        """`MediaRequest.key`."""
        return self.store_key.partition(" ")[2]

    @property
    def blob(self) -> Blob:
        return Blob(self.file, self.offset, self.length)


class _PartInput(TypedDict):
    """A part of candidates, the only one of its name, and the results that it needs."""

    part: list[None]
    media: list[_PartMedia]


def _wanted_by(part: str, folder: PartFolder, renditions: Renditions) -> Iterator[tuple[str, str]]:
    """Yield (store key, part) for all media of a part of candidates, each once."""
    yield from sorted({(store_key, part) for store_key, _ in wanted_requests(part, folder, renditions)})


def _stored(path: str) -> Iterator[tuple[str, _Stored]]:
    """Yield (store key, place) for every row of the store's index."""
    for row in read_index(path):
        yield store_key(row.rendition, row.key), _Stored(row.generation, *astuple(row.blob))


def _to_parts(joined: tuple[str, _StoredForParts]) -> Iterator[tuple[str, _PartMedia]]:
    """Yield (part, place) of the latest result of a request, for every part that needs it."""
    store_key, sides = joined
    latest = max(sides["stored"], default=None)
    if latest is not None:
        for part in sides["parts"]:
            yield part, _PartMedia(store_key, latest.file, latest.offset, latest.length)


class _CompletePart(beam.DoFn):
    """Write the documents of a part of candidates, unless a receipt shows that they were made from the same inputs."""

    def __init__(self, spec: CorpusSpec, out: str, renditions: Renditions) -> None:
        self._spec, self._out, self._renditions = spec, out, renditions
        self._block = load_block_list(out)

    def process(self, joined: tuple[str, _PartInput]) -> Iterator[str]:
        keep_tracebacks(traceback_folder(self._out))
        part, media = joined[0], sorted(joined[1]["media"])
        folder = documents_folder(self._out)
        candidates = candidates_folder(self._out).receipt(part)
        assert candidates is not None
        inputs = stage_inputs(
            fetch_inputs.VERSION, candidates.files, media, fetch_inputs.completion_settings(self._spec)
        )
        folder.once(part, inputs, lambda: self._complete(part, inputs, media))
        yield part

    def _complete(self, part: str, inputs: str, media: list[_PartMedia]) -> Receipt:
        folder = media_folder(self._out)
        asked = [m for m in media if not is_site_key(m.store_key)]
        results = read_blobs(folder, [m.blob for m in asked])
        stored = {m.store_key: StoredMedia.from_json(data) for m, data in zip(asked, results, strict=True)}
        permission = PagePermission(
            self._spec.request_policy, folder, {m.key: m.blob for m in media if is_site_key(m.store_key)}
        )
        found = PartDocuments(self._spec, self._renditions, stored, permission, self._block)
        path = candidates_folder(self._out).file(part, ".parquet")
        for row in read_rows(path, ["source", "document", "requests", "record"]):
            found.add(row["source"], Candidate.from_columns(row["document"], row["requests"], row["record"]))
        drop_gone(path, "fetch", found.tally)
        documents = documents_folder(self._out)
        files = {".parquet": write_table(documents.file(part, ".parquet"), found.rows, DOCUMENT_SCHEMA)}
        return documents.finish(part, inputs, found.tally, files)


# --- the command ----------------------------------------------------------------------------------------------------


def run_fetch(spec: CorpusSpec, out: str, runner: Runner, *, retry: bool = False) -> None:
    """Fetch the media that candidates need and the store does not have, then complete the documents.

    Args:
        spec: The corpus.
        out: Its folder.
        runner: How to run.
        retry: Request again what failed for a reason that can pass.
    """
    candidates, documents, media = candidates_folder(out), documents_folder(out), media_folder(out)
    renditions = fetch_inputs.renditions_of(spec)
    inputs = fetch_inputs.fetch_inputs(spec, out)
    if documents.is_finished(inputs) and not retry:
        return
    documents.begin()
    storage.remove_leftovers(media)
    parts = candidates.names()
    _fetch_missing(spec, out, runner, parts, renditions, retry)

    indexes = index_parts(media)

    def build(pipeline: beam.Pipeline, files: ShuffleFiles | None) -> None:
        wanted = (
            pipeline
            | "ListCandidates" >> beam.Create(parts)
            | "ReadWanted" >> beam.FlatMap(_wanted_by, candidates, renditions)
        )
        stored = pipeline | "ListIndexes" >> beam.Create(indexes) | "ReadIndexes" >> beam.FlatMap(_stored)
        found = (
            {"parts": wanted, "stored": stored}
            | "ByMedia" >> CoGroupByKey(files)
            | "ToParts" >> beam.FlatMap(_to_parts)
        )
        every = pipeline | "EveryPart" >> beam.Create([(part, None) for part in parts])
        _ = (
            {"part": every, "media": found}
            | "ByPart" >> CoGroupByKey(files)
            | "CompleteDocuments" >> beam.ParDo(_CompletePart(spec, out, renditions))
        )

    with shuffling(runner, out) as files:
        watch = Watch(documents.path, len(parts))
        run_pipeline("fetch: documents", runner, partial(build, files=files), watch)
    documents.keep_only(set(parts))
    documents.end(inputs)


def _fetch_missing(
    spec: CorpusSpec, out: str, runner: Runner, parts: list[str], renditions: Renditions, retry: bool
) -> None:
    """Request what the store does not have: first site files of others' pages, then the media that these permit."""
    media, candidates = media_folder(out), candidates_folder(out)
    latest = max((generation_of(path) for path in index_parts(media)), default=0)
    generation = latest + 1 if retry else latest
    settings = {made: spec.sources[name].media for name, both in renditions.items() for made in both.values()}
    block = load_block_list(out)
    num_buckets, policy = runner.num_buckets, spec.request_policy
    for faces in fetch_inputs.face_settings(spec):
        check_detector(faces)

    queues = queues_folder(out, "fetch")

    def request(what: str, wanted: Callable[[beam.PCollection, ShuffleFiles | None], beam.PCollection]) -> None:
        """Request what the store does not have of the (store key, request) pairs that `wanted` makes of the parts."""

        def build(pipeline: beam.Pipeline, files: ShuffleFiles | None) -> None:
            names = pipeline | "ListCandidates" >> beam.Create(parts) | "Spread" >> beam.Reshuffle()
            indexes = pipeline | "ListIndexes" >> beam.Create(index_parts(media))
            known = indexes | "ReadIndexes" >> beam.FlatMap(known_outcomes)
            missing = (
                {"wanted": wanted(names, files), "known": known}
                | "ByMedia" >> CoGroupByKey(files)
                | "KeepMissing" >> beam.FlatMap(missing_media, generation, retry, block)
            )
            _ = (
                missing
                | "GroupHosts" >> GroupHosts(num_buckets, queues, files)
                | "FetchHosts" >> beam.ParDo(_FetchHosts(spec, out, generation, settings, new_run()))
            )

        watch = Watch(media, queues=queues, alarms=alarm_folder(out))
        with shuffling(runner, out) as files:
            run_pipeline(f"fetch: {what}", runner, partial(build, files=files), watch)
        storage.remove(queues)

    def all_media(names: beam.PCollection, _: ShuffleFiles | None) -> beam.PCollection:
        return names | "ReadRequests" >> beam.FlatMap(wanted_requests, candidates, renditions)

    def site_files(names: beam.PCollection, _: ShuffleFiles | None) -> beam.PCollection:
        return names | "ReadRequests" >> beam.FlatMap(wanted_requests, candidates, renditions, only_sites=True)

    def permitted_media(names: beam.PCollection, files: ShuffleFiles | None) -> beam.PCollection:
        wanted = names | "ReadSites" >> beam.FlatMap(_wanted_by, candidates, renditions)
        indexes = names.pipeline | "ListStored" >> beam.Create(index_parts(media))
        stored = indexes | "ReadStored" >> beam.FlatMap(_stored)
        found = (
            {"parts": wanted | "WantedSites" >> beam.Filter(lambda row: is_site_key(row[0])), "stored": stored}
            | "BySite" >> CoGroupByKey(files)
            | "SitesToParts" >> beam.FlatMap(_to_parts)
            | "ByKey" >> beam.MapTuple(lambda part, place: (part, (place.key, place.blob)))
        )
        return (
            {"part": names | "EveryPart" >> beam.Map(lambda part: (part, None)), "sites": found}
            | "ByPart" >> CoGroupByKey(files)
            | "PermittedRequests" >> beam.FlatMap(permitted_requests, candidates, renditions, policy, media)
        )

    if not spec.asks_for_others:
        request("media", all_media)
        return
    request("robots.txt", site_files)
    request("media", permitted_media)
