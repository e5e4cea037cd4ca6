"""Crawl: pages of live sites, breadth-first and politely, into WARC files and a ledger with one row per URL.

A crawl runs in rounds. The frontier of a round is what earlier rounds found and did not request. It is a function of
their files alone, so a killed round continues with what it has not fetched yet. Within a round each host is one queue
of one worker; workers close a part (WARC, ledger, links, receipt) every thousand pages or half a minute.
"""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial

import apache_beam as beam

from pipelines import storage
from pipelines.block_list import load_block_list
from pipelines.crawling.accounts import (
    Mention,
    Verdict,
    gone_pages,
    ledger_mentions,
    link_mentions,
    verdicts,
    write_account,
)
from pipelines.crawling.archived_robots import index_robots, robots_part
from pipelines.crawling.frontier import (
    FrontierUrl,
    Mark,
    cap_host,
    failed_site_files,
    ledger_marks,
    link_marks,
    scoped_urls,
)
from pipelines.crawling.index_archive import IndexArchive
from pipelines.crawling.ledger import ledger_parts, part_name, read_ledger, round_of
from pipelines.crawling.part_writer import CrawlPartWriter
from pipelines.crawling.visits import follow_sitemap, follow_sitemaps, store_site_files, visit
from pipelines.crawling.warc_ledger import archive_hashes, index_pages, indexed_part, warc_paths
from pipelines.document import canonical_json
from pipelines.faults import keep_tracebacks
from pipelines.layout import account_folder, crawl_folder, gate_folder, robots_folder, traceback_folder
from pipelines.parts import PartFolder, new_run, num_rows, stage_inputs
from pipelines.running.record_coder import shuffle_by_fields
from pipelines.running.runner import Runner, run_pipeline
from pipelines.running.stopping import run_stoppable
from pipelines.spec import CorpusSpec
from pipelines.web import urls
from pipelines.web.host_buckets import GroupHosts
from pipelines.web.host_queues import run_queues
from pipelines.web.http_client import PoliteClient

# Increment when equal WARC files would give other ledgers, or equal ledgers other accounts. Ledgers of other crawlers'
# files and all accounts are then made again. Answers to requests stay, and nobody is asked again: delete
# `work/warc/<crawl>` for that.
VERSION = 5

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

    def process(self, queue: list[tuple[str, FrontierUrl]]) -> Iterator[str]:
        keep_tracebacks(traceback_folder(self._out))
        requested = self._requested_meanwhile()
        yield from run_stoppable(self._run(sorted(item for _, item in queue if item.url not in requested)))

    def _requested_meanwhile(self) -> set[str]:
        """Return the pages in parts that are newer than the frontier: those of a worker that was lost, whose work a
        cluster gives to another one."""
        folder, of_run = crawl_folder(self._out, self._crawl), part_name(self._round, self._run_id)
        paths = (folder.file(name, ".parquet") for name in folder.names() if name.startswith(of_run))
        return {row["url"] for path in paths for row in read_ledger(path, ["url"]) if row["unit"] == "page"}

    async def _run(self, frontier: list[FrontierUrl]) -> list[str]:
        writer = CrawlPartWriter(crawl_folder(self._out, self._crawl), self._round, self._run_id)
        new_hosts = {urls.authority(item.url) for item in frontier if item.is_new_host}
        settings = self._spec.crawls[self._crawl]
        policy, gates = self._spec.request_policy, gate_folder(self._out)

        async with PoliteClient(policy, self._spec.http, gate_folder=gates, is_blocked=self._block.url) as client:

            async def work(item: FrontierUrl) -> None:
                if item.unit == "site_file":
                    await follow_sitemap(client, writer, item, settings.scope)
                else:
                    if settings.sitemaps and urls.authority(item.url) in new_hosts:
                        new_hosts.discard(urls.authority(item.url))
                        await follow_sitemaps(client, writer, item, settings.scope)
                    await visit(client, writer, item, reads_sitemaps=settings.sitemaps)
                store_site_files(client, writer, item)
                writer.close_if_due()

            items = [(urls.authority(item.url), item) for item in frontier]
            try:
                await run_queues(items, work, max_hosts=self._spec.http.max_in_flight)
            except asyncio.CancelledError:
                writer.close()  # whoever goes on need not request these again
                raise
            except BaseException as error:
                writer.abandon(error)
                raise
        writer.close()
        return writer.closed


# --- the rounds -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Progress:
    """State of a crawl between rounds."""

    rounds: int = 0  # complete ones
    retry_round: int = 0  # transient failures of earlier rounds are requested again
    finished: str | None = None  # hash of the inputs of the finished crawl; empty while it is being finished again


class _Crawl:
    """One crawl of the spec in its folder."""

    def __init__(self, spec: CorpusSpec, name: str, out: str, runner: Runner) -> None:
        self.spec, self.name, self.out, self.runner = spec, name, out, runner
        self.settings = spec.crawls[name]
        self.parts = crawl_folder(out, name)
        self.block = load_block_list(out)

    def progress(self) -> _Progress:
        path = self.parts.file("stage", ".json")
        return _Progress(**json.loads(storage.read_bytes(path))) if storage.exists(path) else _Progress()

    def save(self, progress: _Progress) -> _Progress:
        storage.write_bytes(self.parts.file("stage", ".json"), canonical_json(asdict(progress)).encode())
        return progress

    def num_done(self) -> int:
        return num_rows(self.parts)

    def part_files(self, suffix: str, before: int | None = None, only: int | None = None) -> list[str]:
        """Return the files of finished parts: of the rounds before one, of only one, or of all."""
        return [
            self.parts.file(name, suffix)
            for name in ledger_parts(self.out, self.name)
            if (before is None or round_of(name) < before) and (only is None or round_of(name) == only)
        ]

    def run_round(self, round_: int, retry_round: int) -> None:
        """Request the frontier of a round."""
        settings, num_buckets = self.settings, self.runner.num_buckets
        earlier = self.part_files(".parquet", before=round_)
        current = self.part_files(".parquet", only=round_)
        links = self.part_files(".links.parquet", before=round_)
        seeds = [(urls.canonical_url(seed), Mark("found", 0)) for seed in settings.seeds]

        def build(pipeline: beam.Pipeline) -> None:
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
            found = pipeline | "ListLinks" >> beam.Create(links) | "ReadLinks" >> beam.FlatMap(link_marks)
            by_url = (
                (before, now, found, pipeline | "Seeds" >> beam.Create(seeds))
                | "JoinMarks" >> beam.Flatten()
                | "ByUrl" >> beam.GroupByKey()
            )
            in_scope = by_url | "KeepNew" >> beam.FlatMap(scoped_urls, settings, self.block)
            num_before = (
                before
                | "OnlyRequested" >> beam.Filter(lambda row: row[1].state == "requested_before")
                | "HostOfRequested" >> beam.Map(lambda row: urls.authority(row[0]))
                | "CountRequested" >> beam.combiners.Count.PerElement()
            )
            frontier = (
                {"num_before": num_before, "others": in_scope}
                | "ByHost" >> beam.CoGroupByKey()
                | "CapHosts" >> beam.FlatMap(cap_host, settings.max_pages_per_host)
            )
            if round_ == retry_round and settings.sitemaps:
                again = by_url | "KeepFailedSiteFiles" >> beam.FlatMap(failed_site_files)
                frontier = (frontier, again) | "JoinFrontier" >> beam.Flatten()
            _ = (
                frontier
                | "GroupHosts" >> GroupHosts(num_buckets)
                | "CrawlHosts" >> beam.ParDo(_CrawlHosts(self.spec, self.name, self.out, round_, new_run()))
            )

        run_pipeline(f"crawl {self.name}, round {round_}", self.runner, build, self.num_done)

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
            folder.keep_only(set(map(part_of, hashes)))
            if hashes:
                work = IndexArchive(folder, part_of, index, VERSION, tracebacks)
                self._index(what, hashes, work, folder)

    def _index(self, what: str, hashes: dict[str, str], work: IndexArchive, folder: PartFolder) -> None:
        def build(pipeline: beam.Pipeline) -> None:
            names = pipeline | "ListFiles" >> beam.Create(sorted(hashes.items())) | "Spread" >> beam.Reshuffle()
            _ = names | "IndexFiles" >> beam.ParDo(work)

        run_pipeline(f"crawl {self.name}, reading {what} files", self.runner, build, lambda: num_rows(folder))

    def account(self, retry_round: int) -> None:
        """Write what became of each URL over all rounds: kept, or dropped with its reason."""
        ledgers, links = self.part_files(".parquet"), self.part_files(".links.parquet")
        seeds = [(urls.canonical_url(seed), Mention(None, 0)) for seed in self.settings.seeds]
        name, settings, block = self.name, self.settings, self.block
        folder = account_folder(self.out, name)
        storage.remove(folder.path)

        def build(pipeline: beam.Pipeline) -> None:
            rows = (
                pipeline
                | "ListLedgers" >> beam.Create(ledgers)
                | "ReadLedgers" >> beam.FlatMap(ledger_mentions, retry_round)
            )
            found = pipeline | "ListLinks" >> beam.Create(links) | "ReadLinks" >> beam.FlatMap(link_mentions)
            judged = (
                (rows, found, pipeline | "Seeds" >> beam.Create(seeds))
                | "Join" >> beam.Flatten()
                | "ByUrl" >> beam.GroupByKey()
                | "Judge" >> beam.FlatMap(verdicts, settings, block)
            )
            gone = pipeline | "ListPurged" >> beam.Create(ledgers) | "ReadPurged" >> beam.FlatMap(gone_pages)
            _ = (
                (judged, gone)
                | "WithPurged" >> beam.Flatten()
                | "ByPart" >> beam.GroupByKey()
                | "WriteAccounts" >> beam.Map(write_account, folder, name)
            )

        run_pipeline(f"crawl {self.name}, accounts", self.runner, build, lambda: len(folder.receipts()))


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
        progress = crawl.progress()
        files = warc_paths(crawl.settings.warc_files) if crawl.settings.warc_files else []
        asked = crawl.settings.model_dump(mode="json", exclude={"host_boilerplate"})  # which counts in extract only
        settings = [asked, spec.request_policy.model_dump(mode="json")]
        robots = warc_paths(crawl.settings.robots_files) if crawl.settings.robots_files else []
        hashes = archive_hashes(out, name, [*files, *robots])
        of_files, of_robots = ({path: hashes[path] for path in paths} for paths in (files, robots))
        inputs = stage_inputs(VERSION, settings, sorted(of_files.items()), sorted(of_robots.items()))
        if progress.finished == inputs and not retry:
            continue
        if retry and progress.finished is not None:
            progress = crawl.save(replace(progress, retry_round=progress.rounds, finished=None))
        elif progress.finished:  # with other settings, which must not take what a killed run leaves for finished
            progress = crawl.save(replace(progress, finished=""))
        storage.remove_leftovers(crawl.parts.path)
        if files:
            crawl.index_archives(of_files, of_robots)
        while not files:
            crawl.run_round(progress.rounds, progress.retry_round)
            if not crawl.part_files(".parquet", only=progress.rounds):
                break
            progress = crawl.save(replace(progress, rounds=progress.rounds + 1))
        crawl.account(progress.retry_round)
        crawl.save(replace(progress, finished=inputs))
