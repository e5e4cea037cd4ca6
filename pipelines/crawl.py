"""Crawl: pages of live sites, breadth-first and politely, into WARC files and a ledger with one row per URL.

A crawl runs in rounds, on a cluster several in one pipeline. The frontier of a round is what earlier rounds found and
did not request. It is a function of their files alone, so a killed round continues with what it has not fetched yet;
what they say of each URL is carried from round to round (`crawling/known_urls.py`). Within a round each host is one
queue of one worker; workers close a part (WARC, ledger, links, receipt) every thousand pages or half a minute.
"""

import asyncio
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial

import apache_beam as beam

from pipelines import crawl_inputs, storage
from pipelines.block_list import load_block_list
from pipelines.crawl_inputs import CrawlProgress, load_progress, progress_path
from pipelines.crawling.archive_files import indexed_name
from pipelines.crawling.archived_robots import index_robots, robots_part
from pipelines.crawling.frontier import FrontierUrl, Mark, ledger_marks, link_marks
from pipelines.crawling.index_archive import IndexArchive
from pipelines.crawling.indexed_records import FetchIndexed, RetryIndexed, parts_to_retry
from pipelines.crawling.known_urls import KnownUrls, WriteMarks, carried_marks, carry, known_before, known_marks
from pipelines.crawling.ledger import ledger_parts, part_name, read_ledger, round_of
from pipelines.crawling.part_writer import CrawlPartWriter
from pipelines.crawling.rounds import FindFrontier, MarksAfter, WriteAccounts, ended_by
from pipelines.crawling.visits import follow_sitemap, follow_sitemaps, store_site_files, visit
from pipelines.crawling.warc_ledger import index_pages, indexed_part
from pipelines.document import canonical_json
from pipelines.faults import keep_tracebacks
from pipelines.layout import (
    account_folder,
    alarm_folder,
    crawl_folder,
    frontier_folder,
    gate_folder,
    index_folder,
    queues_folder,
    robots_folder,
    traceback_folder,
)
from pipelines.parts import PartFolder, new_run, stage_inputs
from pipelines.running.host_buckets import GroupHosts, read_queues
from pipelines.running.runner import Runner, run_pipeline
from pipelines.running.shuffle import ShuffleFiles, shuffling
from pipelines.running.stopping import is_stopped, run_stoppable
from pipelines.running.watch import Watch
from pipelines.sources.files import Part
from pipelines.spec import CorpusSpec
from pipelines.web import urls
from pipelines.web.host_queues import run_queues
from pipelines.web.http_client import PoliteClient
from pipelines.web.success_alarm import SuccessAlarm


def rounds_at_once(runner: Runner) -> int:
    """Return how many rounds are in one pipeline: several on a cluster, where starting one takes seconds."""
    return 1 if runner.is_local else 4


# --- one worker -----------------------------------------------------------------------------------------------------


class _CrawlHosts(beam.DoFn):
    """Request all URLs of a worker's hosts; yields the names of the parts that it closed.

    Args:
        spec: The corpus.
        crawl: Name of the crawl.
        out: The corpus's folder.
        round_: The round.
        run: What the names of this run's parts begin with (`parts.new_run`).
    """

    def __init__(self, spec: CorpusSpec, crawl: str, out: str, round_: int, run: str) -> None:
        self._spec, self._crawl, self._out, self._round, self._run_id = spec, crawl, out, round_, run
        self._block = load_block_list(out)

    def process(self, paths: list[str]) -> Iterator[str]:
        keep_tracebacks(traceback_folder(self._out))
        yield from run_stoppable(self._run(paths, self._requested_meanwhile()))

    def _requested_meanwhile(self) -> set[str]:
        """Return the pages in parts that are newer than the frontier: those of a worker that was lost, whose work a
        cluster gives to another one."""
        folder, of_run = crawl_folder(self._out, self._crawl), part_name(self._round, self._run_id)
        paths = (folder.file(name, ".parquet") for name in folder.names() if name.startswith(of_run))
        return {row["url"] for path in paths for row in read_ledger(path, ["url"]) if row["unit"] == "page"}

    async def _run(self, paths: list[str], requested: set[str]) -> list[str]:
        writer = CrawlPartWriter(crawl_folder(self._out, self._crawl), self._round, self._run_id)
        known_hosts: set[str] = set()  # whose sitemaps have been followed
        settings = self._spec.crawls[self._crawl]
        policy, gates = self._spec.request_policy, gate_folder(self._out)

        alarm = SuccessAlarm(self._spec.http.alarm, alarm_folder(self._out))
        async with PoliteClient(
            policy, self._spec.http, gate_folder=gates, is_blocked=self._block.url, count_outcome=alarm.count_outcome
        ) as client:

            async def work(item: FrontierUrl) -> None:
                if alarm.ends_run:
                    return
                if item.unit == "site_file":
                    await follow_sitemap(client, writer, item, settings.scope)
                else:
                    if settings.sitemaps and item.is_new_host and urls.authority(item.url) not in known_hosts:
                        known_hosts.add(urls.authority(item.url))
                        await follow_sitemaps(client, writer, item, settings.scope)
                    await visit(client, writer, item, reads_sitemaps=settings.sitemaps)
                store_site_files(client, writer, item)
                writer.close_if_due()

            try:
                for queue in read_queues(paths):
                    items = sorted((row for row in queue if row[1].url not in requested), key=lambda row: row[1])
                    await run_queues(items, work, max_hosts=self._spec.http.max_in_flight, is_stopped=is_stopped)
            except asyncio.CancelledError:
                writer.close()  # whoever goes on need not request these again
                raise
            except BaseException as error:
                writer.abandon(error)
                raise
        writer.close()
        alarm.check()
        return writer.closed


# --- the rounds -----------------------------------------------------------------------------------------------------


class _Crawl:
    """One crawl of the spec in its folder."""

    def __init__(self, spec: CorpusSpec, name: str, out: str, runner: Runner) -> None:
        self.spec, self.name, self.out, self.runner = spec, name, out, runner
        self.settings = spec.crawls[name]
        self.parts = crawl_folder(out, name)
        self.block = load_block_list(out)

    def save(self, progress: CrawlProgress) -> CrawlProgress:
        storage.write_bytes(progress_path(self.out, self.name), canonical_json(asdict(progress)).encode())
        return progress

    def part_files(self, suffix: str, before: int | None = None, since: int = 0) -> list[str]:
        """Return the files of finished parts of the rounds since one, and before one; by default of all."""
        return [
            self.parts.file(name, suffix)
            for name in ledger_parts(self.out, self.name)
            if since <= round_of(name) and (before is None or round_of(name) < before)
        ]

    @property
    def latest_round(self) -> int:
        """The latest round that has requested anything, before which all are complete; -1 if none has."""
        return max(map(round_of, ledger_parts(self.out, self.name)), default=-1)

    def run_rounds(self, first: int, last: int, retry_round: int) -> None:
        """Request the frontiers of rounds, one after another; if the last has none, write the accounts."""
        spec, name, out, run = self.spec, self.name, self.out, new_run()
        queues, folder = queues_folder(out, "crawl"), frontier_folder(out, name)
        inputs = stage_inputs(crawl_inputs.VERSION, self.settings.model_dump(mode="json"), retry_round)
        known = known_before(folder, inputs, first)
        carries = known.round < last

        def build(pipeline: beam.Pipeline, files: ShuffleFiles | None) -> None:
            marks = self.marks_before(pipeline, known, first, retry_round)
            for round_ in range(first, last + 1):
                again = round_ == retry_round and self.settings.sitemaps
                find = FindFrontier(spec, name, self.block, files, retries_site_files=again)
                found = marks | f"FindFrontier{round_}" >> find
                closed = (
                    found["frontier"]
                    | f"GroupHosts{round_}" >> GroupHosts(self.runner.num_buckets, f"{queues}/{round_}", files)
                    | f"CrawlHosts{round_}" >> beam.ParDo(_CrawlHosts(spec, name, out, round_, run))
                )
                if round_ < last:
                    marks = found["known"] | f"MarksAfter{round_}" >> MarksAfter(spec, name, out, round_, closed)
                elif carries:
                    to_carry = found["known"] | "KeepMarks" >> beam.FlatMap(carried_marks, self.settings)
                    _ = to_carry | "CarryMarks" >> beam.ParDo(WriteMarks(folder, run))
            ends = pipeline | "LastRound" >> beam.Create([last])
            ended = ends | "HasEnded" >> beam.FlatMap(ended_by, beam.pvalue.AsList(closed), out, name)
            _ = ended | "Account" >> WriteAccounts(spec, name, out, self.block, retry_round, files)

        storage.remove(queues)
        storage.remove(account_folder(out, name).path)
        label = f"crawl {name}, round {first}" + (f" to {last}" if last > first else "")
        watch = Watch(self.parts.path, queues=queues, alarms=alarm_folder(out))
        with shuffling(self.runner, out) as files:
            run_pipeline(label, self.runner, partial(build, files=files), watch)
        if carries:
            carry(folder, inputs, last, run)
        storage.remove(queues)

    def run_to_end(self, progress: CrawlProgress) -> CrawlProgress:
        """Run rounds until one finds nothing to request; returns the state after it."""
        while True:
            first = max(progress.rounds, self.latest_round)
            last = first + rounds_at_once(self.runner) - 1
            self.run_rounds(first, last, progress.retry_round)
            latest = self.latest_round
            progress = self.save(replace(progress, rounds=max(first, latest + 1)))
            if latest < last:
                return progress

    def marks_before(
        self, pipeline: beam.Pipeline, known: KnownUrls, round_: int, retry_round: int
    ) -> tuple[beam.PCollection, ...]:
        """Return what is known before a round, and what it has requested itself before it was killed."""
        earlier = self.part_files(".parquet", since=known.round, before=round_)
        current = self.part_files(".parquet", since=round_, before=round_ + 1)
        links = self.part_files(".links.parquet", since=known.round, before=round_)
        seeds = [(urls.canonical_url(seed), Mark("found", 0)) for seed in self.settings.seeds]
        before = (
            pipeline
            | "ListEarlierLedgers" >> beam.Create(earlier)
            | "ReadEarlierLedgers" >> beam.FlatMap(ledger_marks, "requested_before", retry_round)
        )
        now = (
            pipeline
            | "ListThisLedger" >> beam.Create(current)
            | "ReadThisLedger" >> beam.FlatMap(ledger_marks, "requested_now", 0)
        )
        carried = pipeline | "ListKnown" >> beam.Create(known.files) | "ReadKnown" >> beam.FlatMap(known_marks)
        found = pipeline | "ListLinks" >> beam.Create(links) | "ReadLinks" >> beam.FlatMap(link_marks)
        return carried, before, now, found, pipeline | "Seeds" >> beam.Create(seeds)

    def index_archives(self, pages: dict[str, str], robots: dict[str, str]) -> None:
        """Index another crawler's WARC files, and remove what was made of files that the spec no longer names.

        Args:
            pages: Hash of the content of each file of pages, by path.
            robots: The same of files with robots.txt answers.
        """
        tracebacks, of_robots = traceback_folder(self.out), robots_folder(self.out, self.name)
        for what, folder, hashes, part_of, index in (
            ("WARC", self.parts, pages, indexed_part, index_pages),
            ("robots.txt", of_robots, robots, robots_part, partial(index_robots, self.name)),
        ):
            if folder is not self.parts or self.settings.warc_files:
                folder.keep_only(set(map(part_of, hashes)))
            if hashes:
                work = IndexArchive(folder, part_of, index, crawl_inputs.VERSION, tracebacks)
                self._index(what, hashes, work, folder)

    def fetch_index(self, parts: list[tuple[Part, str]], retry_round: int) -> None:
        """Fetch the records that an index names, and remove those that it names no longer.

        Args:
            parts: The parts of the index, each with the hash of its file.
            retry_round: Round in which failures of earlier ones are requested again; 0: none is.
        """
        spec, name, out, folder = self.spec, self.name, self.out, index_folder(self.out, self.name)
        names = {indexed_name(part, content, spec, name) for part, content in parts}
        folder.keep_only(names)
        self.parts.keep_only({part for part in ledger_parts(out, name) if part.split("-")[1] in names})

        def build(pipeline: beam.Pipeline) -> None:
            rows = pipeline | "ListParts" >> beam.Create(parts) | "Spread" >> beam.Reshuffle()
            _ = rows | "FetchRecords" >> beam.ParDo(FetchIndexed(spec, name, out))

        run_pipeline(f"crawl {name}, records of the index", self.runner, build, Watch(folder.path, len(parts)))
        receipts = folder.receipts()
        num_read, num_wanted = (sum(r.extra[key] for r in receipts) for key in ("num_read", "num_wanted"))
        print(f"note: crawls.{name}: {num_wanted:,} of {num_read:,} records of the index are wanted", file=sys.stderr)
        if again := parts_to_retry(out, name, retry_round):

            def build_retry(pipeline: beam.Pipeline) -> None:
                failed = pipeline | "ListFailed" >> beam.Create(again) | "SpreadFailed" >> beam.Reshuffle()
                _ = failed | "RetryRecords" >> beam.ParDo(RetryIndexed(spec, name, out, retry_round))

            run_pipeline(f"crawl {name}, records again", self.runner, build_retry, Watch(self.parts.path))

    def _index(self, what: str, hashes: dict[str, str], work: IndexArchive, folder: PartFolder) -> None:
        def build(pipeline: beam.Pipeline) -> None:
            names = pipeline | "ListFiles" >> beam.Create(sorted(hashes.items())) | "Spread" >> beam.Reshuffle()
            _ = names | "IndexFiles" >> beam.ParDo(work)

        run_pipeline(f"crawl {self.name}, reading {what} files", self.runner, build, Watch(folder.path, len(hashes)))

    def account(self, retry_round: int) -> None:
        """Write what became of each record of an archive."""
        folder = account_folder(self.out, self.name)
        storage.remove(folder.path)

        def build(pipeline: beam.Pipeline, files: ShuffleFiles | None) -> None:
            accounts = WriteAccounts(self.spec, self.name, self.out, self.block, retry_round, files)
            _ = pipeline | "HasEnded" >> beam.Create([True]) | "Account" >> accounts

        with shuffling(self.runner, self.out) as files:
            watch = Watch(folder.path)
            run_pipeline(f"crawl {self.name}, accounts", self.runner, partial(build, files=files), watch)


# --- the command ----------------------------------------------------------------------------------------------------


def run_crawls(spec: CorpusSpec, out: str, runner: Runner, *, retry: bool = False) -> None:
    """Run the crawls of a spec until nothing new is found; finished ones are skipped.

    Args:
        spec: The corpus.
        out: Its folder.
        runner: How to run.
        retry: Request again what failed for a reason that can pass.
    """
    for name in spec.crawls:
        crawl = _Crawl(spec, name, out, runner)
        progress = load_progress(out, name)
        files = crawl_inputs.archive_files(spec, name, out)
        inputs = crawl_inputs.crawl_inputs(spec, name, files)
        if progress.finished == inputs and not retry:
            continue
        if retry and progress.finished is not None:
            progress = crawl.save(replace(progress, retry_round=progress.rounds, finished=None))
        elif progress.finished:  # with other settings, which must not take what a killed run leaves for finished
            progress = crawl.save(replace(progress, finished=""))
        storage.remove_leftovers(crawl.parts.path)
        if crawl.settings.is_archive:
            crawl.index_archives(files.pages, files.robots)
        if crawl.settings.index is not None:
            crawl.fetch_index(files.indexed, progress.retry_round)
            progress = replace(progress, rounds=progress.retry_round + 1)
        if crawl.settings.is_archive:
            crawl.account(progress.retry_round)
        else:
            progress = crawl.run_to_end(progress)
        crawl.save(replace(progress, finished=inputs))
        storage.remove(frontier_folder(out, name))
