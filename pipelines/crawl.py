"""Crawl: pages of live sites, breadth-first and politely, into WARC files and a ledger with one row per URL.

A crawl runs in rounds. The frontier of a round is what earlier rounds found and did not request. It is a function of
their files alone, so a killed round continues with what it has not fetched yet; what they say of each URL is carried
from round to round (`crawling/known_urls.py`). Within a round each host is one queue of one worker; workers close a
part (WARC, ledger, links, receipt) every thousand pages or half a minute.
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
from pipelines.crawling.accounts import (
    Mention,
    Verdict,
    gone_pages,
    ledger_mentions,
    link_mentions,
    num_account_parts,
    verdicts,
    write_account,
)
from pipelines.crawling.archive_files import indexed_name
from pipelines.crawling.archived_robots import index_robots, robots_part
from pipelines.crawling.frontier import (
    FrontierUrl,
    Mark,
    cap_host,
    failed_site_files,
    ledger_marks,
    link_marks,
    requested_before,
    scoped_urls,
)
from pipelines.crawling.index_archive import IndexArchive
from pipelines.crawling.indexed_records import FetchIndexed, RetryIndexed, parts_to_retry
from pipelines.crawling.known_urls import WriteMarks, carried_marks, carry, known_before, known_marks
from pipelines.crawling.ledger import ledger_parts, part_name, read_ledger, round_of
from pipelines.crawling.part_writer import CrawlPartWriter
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
from pipelines.running.record_coder import shuffle_by_fields
from pipelines.running.runner import Runner, run_pipeline
from pipelines.running.shuffle import CoGroupByKey, GroupByKey, ShuffleFiles, shuffling
from pipelines.running.stopping import run_stoppable
from pipelines.running.watch import Watch
from pipelines.sources.files import Part
from pipelines.spec import CorpusSpec
from pipelines.web import urls
from pipelines.web.host_queues import run_queues
from pipelines.web.http_client import PoliteClient
from pipelines.web.success_alarm import SuccessAlarm

shuffle_by_fields(Mark, Mention, Verdict)  # one per link of every page


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
                    await run_queues(items, work, max_hosts=self._spec.http.max_in_flight)
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

    def run_round(self, round_: int, retry_round: int) -> None:
        """Request the frontier of a round."""
        settings, num_buckets, run = self.settings, self.runner.num_buckets, new_run()
        queues, folder = queues_folder(self.out, "crawl"), frontier_folder(self.out, self.name)
        inputs = stage_inputs(crawl_inputs.VERSION, settings.model_dump(mode="json"), retry_round)
        known = known_before(folder, inputs, round_)
        earlier = self.part_files(".parquet", since=known.round, before=round_)
        current = self.part_files(".parquet", since=round_, before=round_ + 1)
        links = self.part_files(".links.parquet", since=known.round, before=round_)
        seeds = [(urls.canonical_url(seed), Mark("found", 0)) for seed in settings.seeds]

        def build(pipeline: beam.Pipeline, files: ShuffleFiles | None) -> None:
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
            marks = (carried, before, now, found, pipeline | "Seeds" >> beam.Create(seeds))
            by_url = marks | "ByUrl" >> GroupByKey(files)
            if known.round < round_:
                to_carry = by_url | "KeepMarks" >> beam.FlatMap(carried_marks, settings)
                _ = to_carry | "CarryMarks" >> beam.ParDo(WriteMarks(folder, run))
            frontier = (
                {
                    "num_before": by_url | "CountRequested" >> beam.FlatMap(requested_before),
                    "others": by_url | "KeepNew" >> beam.FlatMap(scoped_urls, settings, self.block),
                }
                | "ByHost" >> CoGroupByKey(files)
                | "CapHosts" >> beam.FlatMap(cap_host, settings.max_pages_per_host)
            )
            if round_ == retry_round and settings.sitemaps:
                again = by_url | "KeepFailedSiteFiles" >> beam.FlatMap(failed_site_files)
                frontier = (frontier, again) | "JoinFrontier" >> beam.Flatten()
            _ = (
                frontier
                | "GroupHosts" >> GroupHosts(num_buckets, queues, files)
                | "CrawlHosts" >> beam.ParDo(_CrawlHosts(self.spec, self.name, self.out, round_, run))
            )

        watch = Watch(self.parts.path, queues=queues, alarms=alarm_folder(self.out))
        with shuffling(self.runner, self.out) as files:
            run_pipeline(f"crawl {self.name}, round {round_}", self.runner, partial(build, files=files), watch)
        if known.round < round_:
            carry(folder, inputs, round_, run)
        storage.remove(queues)

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
        """Write what became of each URL over all rounds: kept, or dropped with its reason."""
        ledgers, links = self.part_files(".parquet"), self.part_files(".links.parquet")
        seeds = [(urls.canonical_url(seed), Mention(None, 0)) for seed in self.settings.seeds]
        name, settings, block = self.name, self.settings, self.block
        folder = account_folder(self.out, name)
        storage.remove(folder.path)

        def build(pipeline: beam.Pipeline, files: ShuffleFiles | None) -> None:
            rows = (
                pipeline
                | "ListLedgers" >> beam.Create(ledgers)
                | "ReadLedgers" >> beam.FlatMap(ledger_mentions, retry_round)
            )
            found = pipeline | "ListLinks" >> beam.Create(links) | "ReadLinks" >> beam.FlatMap(link_mentions)
            judged = (
                (rows, found, pipeline | "Seeds" >> beam.Create(seeds))
                | "ByUrl" >> GroupByKey(files)
                | "Judge" >> beam.FlatMap(verdicts, settings, block, num_account_parts(len(ledgers)))
            )
            gone = pipeline | "ListPurged" >> beam.Create(ledgers) | "ReadPurged" >> beam.FlatMap(gone_pages)
            _ = (
                (judged, gone)
                | "ByPart" >> GroupByKey(files)
                | "WriteAccounts" >> beam.Map(write_account, folder, name)
            )

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
        while not crawl.settings.is_archive:
            crawl.run_round(progress.rounds, progress.retry_round)
            if not crawl.part_files(".parquet", since=progress.rounds):
                break
            progress = crawl.save(replace(progress, rounds=progress.rounds + 1))
        crawl.account(progress.retry_round)
        crawl.save(replace(progress, finished=inputs))
        storage.remove(frontier_folder(out, name))
