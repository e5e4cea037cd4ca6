"""Fetch: each image and video that a candidate needs is requested once, into the raw store; then documents with media.

What was fetched stays: a rerun requests only what the store does not have, and `--retry transient` also what failed
for a reason that can pass. Then candidates and the store are joined by small rows, part by part.
"""

import asyncio
import itertools
from collections.abc import Iterator, Sequence, Set
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
from pipelines.running.stopping import is_stopped, run_stoppable
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
        self._spec, self.out, self.generation, self._settings, self._run_id = spec, out, generation, settings, run
        self._block = load_block_list(out)

    def process(self, paths: list[str]) -> Iterator[int]:
        keep_tracebacks(traceback_folder(self.out))
        store = media_folder(self.out)
        queues = self._queues(paths, stored_keys(store, self._run_id))
        writer = RawPartWriter(store, self.generation, self._run_id)
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
            path = candidates_folder(self.out).file(queue.removeprefix(INLINE), ".parquet")
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
        policy, gates = self._spec.request_policy, gate_folder(self.out)
        loop = asyncio.get_running_loop()
        alarm = SuccessAlarm(self._spec.http.alarm, alarm_folder(self.out))
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
                    most = self._spec.http.max_in_flight
                    await run_queues(asked, work, max_hosts=most, max_items=2, is_stopped=is_stopped)
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


# --- the stage ------------------------------------------------------------------------------------------------------


class _FetchMissing(beam.PTransform):
    """Request what the store does not have of `wanted`, (store key, request), by the files of its index, `indexes`.

    Args:
        what: Name of the queues.
        fetch: Fetches the queues of a worker.
        runner: How to run.
        retry: Whether to request again what failed for a reason that can pass.
        files: As of `GroupByKey`.
    """

    def __init__(self, what: str, fetch: _FetchHosts, runner: Runner, retry: bool, files: ShuffleFiles | None) -> None:
        super().__init__()
        self._what, self._fetch, self._runner, self._retry, self._files = what, fetch, runner, retry, files

    def expand(self, sides: dict[str, beam.PCollection]) -> beam.PCollection:
        """Return the files of the index after it."""
        fetch, out = self._fetch, self._fetch.out
        queues = storage.join(queues_folder(out, "fetch"), self._what)
        known = sides["indexes"] | "ReadIndexes" >> beam.FlatMap(known_outcomes)
        fetched = (
            {"wanted": sides["wanted"], "known": known}
            | "ByMedia" >> CoGroupByKey(self._files)
            | "KeepMissing" >> beam.FlatMap(missing_media, fetch.generation, self._retry, load_block_list(out))
            | "GroupHosts" >> GroupHosts(self._runner.num_buckets, queues, self._files)
            | "FetchHosts" >> beam.ParDo(fetch)
        )
        return (
            sides["wanted"].pipeline
            | "Store" >> beam.Create([media_folder(out)])
            | "ListIndexes" >> beam.FlatMap(_indexes_after, beam.pvalue.AsList(fetched))
            | "Spread" >> beam.Reshuffle()
        )


def _indexes_after(media: str, fetched: Sequence[int]) -> list[str]:
    """Return the files of the store's index; `fetched` is complete by then."""
    return index_parts(media)


class _Permitted(beam.PTransform):
    """Keep the media of `parts` that the site files of their pages' hosts permit: (store key, request)."""

    def __init__(self, spec: CorpusSpec, out: str, renditions: Renditions, files: ShuffleFiles | None) -> None:
        super().__init__()
        self._policy, self._out, self._renditions, self._files = spec.request_policy, out, renditions, files

    def expand(self, sides: dict[str, beam.PCollection]) -> beam.PCollection:
        candidates, renditions = candidates_folder(self._out), self._renditions
        wanted = sides["parts"] | "ReadSites" >> beam.FlatMap(_wanted_by, candidates, renditions)
        stored = sides["indexes"] | "ReadStored" >> beam.FlatMap(_stored)
        found = (
            {"parts": wanted | "WantedSites" >> beam.Filter(lambda row: is_site_key(row[0])), "stored": stored}
            | "BySite" >> CoGroupByKey(self._files)
            | "SitesToParts" >> beam.FlatMap(_to_parts)
            | "ByKey" >> beam.MapTuple(lambda part, place: (part, (place.key, place.blob)))
        )
        return (
            {"part": sides["parts"] | "EveryPart" >> beam.Map(lambda part: (part, None)), "sites": found}
            | "ByPart" >> CoGroupByKey(self._files)
            | "PermittedRequests"
            >> beam.FlatMap(permitted_requests, candidates, renditions, self._policy, media_folder(self._out))
        )


def run_fetch(spec: CorpusSpec, out: str, runner: Runner, *, retry: bool = False) -> None:
    """Fetch the media that candidates need and the store does not have, then complete the documents.

    Args:
        spec: The corpus.
        out: Its folder.
        runner: How to run.
        retry: Request again what failed for a reason that can pass.
    """
    candidates, documents, media = candidates_folder(out), documents_folder(out), media_folder(out)
    renditions, queues = fetch_inputs.renditions_of(spec), queues_folder(out, "fetch")
    inputs = fetch_inputs.fetch_inputs(spec, out)
    if documents.is_finished(inputs) and not retry:
        return
    for faces in fetch_inputs.face_settings(spec):
        check_detector(faces)
    documents.begin()
    storage.remove_leftovers(media)
    parts, stored_before = candidates.names(), index_parts(media)
    generation = max(map(generation_of, stored_before), default=0) + retry
    settings = {made: spec.sources[name].media for name, both in renditions.items() for made in both.values()}

    def build(pipeline: beam.Pipeline, files: ShuffleFiles | None) -> None:
        def fetch(what: str) -> _FetchMissing:
            hosts = _FetchHosts(spec, out, generation, settings, new_run())
            return _FetchMissing(what, hosts, runner, retry, files)

        names = pipeline | "ListCandidates" >> beam.Create(parts) | "Spread" >> beam.Reshuffle()
        indexes = pipeline | "ListIndexes" >> beam.Create(stored_before)
        if spec.asks_for_others:  # first site files of others' pages, then the media that these permit
            sites = names | "ReadSiteRequests" >> beam.FlatMap(wanted_requests, candidates, renditions, only_sites=True)
            indexes = {"wanted": sites, "indexes": indexes} | "FetchSiteFiles" >> fetch("sites")
            wanted = {"parts": names, "indexes": indexes} | "Permitted" >> _Permitted(spec, out, renditions, files)
        else:
            wanted = names | "ReadRequests" >> beam.FlatMap(wanted_requests, candidates, renditions)
        indexes = {"wanted": wanted, "indexes": indexes} | "FetchMedia" >> fetch("media")
        needed = names | "ReadWanted" >> beam.FlatMap(_wanted_by, candidates, renditions)
        found = (
            {"parts": needed, "stored": indexes | "ReadIndexes" >> beam.FlatMap(_stored)}
            | "ByMedia" >> CoGroupByKey(files)
            | "ToParts" >> beam.FlatMap(_to_parts)
        )
        every = names | "EveryPart" >> beam.Map(lambda part: (part, None))
        _ = (
            {"part": every, "media": found}
            | "ByPart" >> CoGroupByKey(files)
            | "CompleteDocuments" >> beam.ParDo(_CompletePart(spec, out, renditions))
        )

    storage.remove(queues)
    requests = Watch(media, queues=queues, alarms=alarm_folder(out), step="media")
    with shuffling(runner, out) as files:
        completion = Watch(documents.path, len(parts), step="documents")
        run_pipeline("fetch", runner, partial(build, files=files), requests, completion)
    storage.remove(queues)
    documents.keep_only(set(parts))
    documents.end(inputs)
