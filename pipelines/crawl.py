"""Crawl: pages of live sites, breadth-first and politely, into WARC files and a ledger with a row a URL.

A crawl runs in rounds. The frontier of a round is what earlier rounds found and did not ask for; it is a function of
their files alone, so a killed round goes on with what it has not fetched yet. Within a round each host is one queue
of one worker; workers close a part (WARC, ledger, links, receipt) every thousand pages or half a minute.
"""

import asyncio
import json
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam

from pipelines import storage
from pipelines.crawling.accounts import ONLY_FOUND, Asked, ledger_outcomes, link_outcomes, verdicts, write_account
from pipelines.crawling.frontier import cap_host, ledger_marks, link_marks, scoped_urls
from pipelines.crawling.ledger import ledger_parts, round_of
from pipelines.crawling.part_writer import CrawlPartWriter, FrontierUrl, sitemap_urls, visit
from pipelines.crawling.warc_ledger import IndexWarc, indexed_part, warc_paths
from pipelines.document import canonical_json
from pipelines.layout import account_folder, crawl_folder, gate_folder
from pipelines.parts import stage_inputs
from pipelines.running.runner import Runner, run_pipeline
from pipelines.spec import CorpusSpec
from pipelines.web import urls
from pipelines.web.host_buckets import GroupHosts
from pipelines.web.host_queues import run_queues
from pipelines.web.http_client import PoliteClient

# Raise it when a ledger of equal WARC files, or an account of equal ledgers, would come out otherwise. Ledgers of other
# crawlers' files and all accounts are then made anew. What was asked for stays as it was answered, and nobody is asked
# for it again: whoever wants that deletes `work/warc/<crawl>`.
VERSION = 2


# --- one worker -----------------------------------------------------------------------------------------------------


class _CrawlBucket(beam.DoFn):
    """Asks for all URLs of a bucket of hosts; yields the names of the parts it closed."""

    def __init__(self, spec: CorpusSpec, crawl: str, out: str, round_: int) -> None:
        self._spec, self._crawl, self._out, self._round = spec, crawl, out, round_

    def process(self, bucket: tuple[int, Iterable[tuple[str, tuple[str, int, bool]]]]) -> Iterator[str]:
        frontier = sorted((depth, url, is_new_host) for _, (url, depth, is_new_host) in bucket[1])
        yield from asyncio.run(self._run(frontier))

    async def _run(self, frontier: list[tuple[int, str, bool]]) -> list[str]:
        writer = CrawlPartWriter(crawl_folder(self._out, self._crawl), self._round)
        closed: list[str] = []
        new_hosts = {urls.authority(url) for _, url, is_new_host in frontier if is_new_host}
        settings = self._spec.crawls[self._crawl]
        policy, gates = self._spec.request_policy, gate_folder(self._out)

        async with PoliteClient(policy, self._spec.http, gate_folder=gates) as client:

            async def work(item: FrontierUrl) -> None:
                if settings.sitemaps and urls.authority(item.url) in new_hosts:
                    new_hosts.discard(urls.authority(item.url))
                    for url in await sitemap_urls(client, item.url):
                        writer.link(url, item.depth + 1)
                await visit(client, writer, item)
                for answer in client.take_policy_answers():
                    writer.store(answer, {"is": "policy file"})
                if writer.is_due:
                    closed.append(writer.close() or "")

            items = [(urls.authority(url), FrontierUrl(url, depth)) for depth, url, _ in frontier]
            try:
                await run_queues(items, work, max_hosts=self._spec.http.max_in_flight)
            except BaseException as error:
                writer.abandon(error)
                raise
        closed.append(writer.close() or "")
        return [name for name in closed if name]


class _Crawl:
    """One crawl of the spec in its folder."""

    def __init__(self, spec: CorpusSpec, name: str, out: str, runner: Runner) -> None:
        self.spec, self.name, self.out, self.runner = spec, name, out, runner
        self.settings = spec.crawls[name]
        self.parts = crawl_folder(out, name)

    def state(self) -> dict[str, Any]:
        path = self.parts.file("stage", ".json")
        start = {"rounds": 0, "retry_round": 0, "finished": None}
        return start | (json.loads(storage.read_bytes(path)) if storage.exists(path) else {})

    def save(self, state: dict[str, Any]) -> None:
        storage.write_bytes(self.parts.file("stage", ".json"), canonical_json(state).encode())

    def num_done(self) -> int:
        return sum(r.extra.get("num", 0) for r in self.parts.receipts())

    def part_files(self, suffix: str, before: int | None = None, only: int | None = None) -> list[str]:
        """Files of finished parts, of rounds before one, or of one round."""
        return [
            self.parts.file(name, suffix)
            for name in ledger_parts(self.out, self.name)
            if (before is None or round_of(name) < before) and (only is None or round_of(name) == only)
        ]

    def run_round(self, round_: int, retry_round: int) -> None:
        num_buckets = self.runner.num_buckets
        earlier = self.part_files(".parquet", before=round_)
        current = self.part_files(".parquet", only=round_)
        links = self.part_files(".links.parquet", before=round_)
        seeds = [(urls.canonical_url(seed), ("found", 0)) for seed in self.settings.seeds]
        settings = self.settings

        def build(pipeline: beam.Pipeline) -> None:
            known = (
                pipeline
                | "ListEarlierLedgers" >> beam.Create(earlier)
                | "ReadEarlierLedgers" >> beam.FlatMap(ledger_marks, "known", retry_round)
            )
            done = (
                pipeline
                | "ListThisLedger" >> beam.Create(current)
                | "ReadThisLedger" >> beam.FlatMap(ledger_marks, "done", 0)
            )
            found = pipeline | "ListLinks" >> beam.Create(links) | "ReadLinks" >> beam.FlatMap(link_marks)
            frontier = (
                (known, done, found, pipeline | "Seeds" >> beam.Create(seeds))
                | "JoinMarks" >> beam.Flatten()
                | "ByUrl" >> beam.GroupByKey()
                | "KeepNew" >> beam.FlatMap(scoped_urls, settings)
            )
            num_known = (
                known
                | "OnlyKnown" >> beam.Filter(lambda row: row[1][0] == "known")
                | "KnownHost" >> beam.Map(lambda row: urls.authority(row[0]))
                | "CountKnown" >> beam.combiners.Count.PerElement()
            )
            capped = (
                {"known": num_known, "new": frontier}
                | "ByHost" >> beam.CoGroupByKey()
                | "CapHosts" >> beam.FlatMap(cap_host, settings.max_pages_per_host)
            )
            _ = (
                capped
                | "GroupHosts" >> GroupHosts(num_buckets)
                | "CrawlBuckets" >> beam.ParDo(_CrawlBucket(self.spec, self.name, self.out, round_))
            )

        run_pipeline(f"crawl {self.name}, round {round_}", self.runner, build, self.num_done)

    def index_files(self, paths: list[str]) -> None:
        """Write the ledger of WARC files that another crawler wrote, and forget files that are no longer named."""
        self.parts.keep_only({indexed_part(path) for path in paths})

        def build(pipeline: beam.Pipeline) -> None:
            names = pipeline | "ListWarcs" >> beam.Create(paths) | "Spread" >> beam.Reshuffle()
            _ = names | "IndexWarcs" >> beam.ParDo(IndexWarc(self.parts, VERSION))

        run_pipeline(f"crawl {self.name}, reading WARC files", self.runner, build, self.num_done)

    def account(self) -> None:
        """What became of each URL, over all rounds: kept, or dropped with its reason."""
        ledgers, links = self.part_files(".parquet"), self.part_files(".links.parquet")
        seeds = [(urls.canonical_url(seed), Asked(ONLY_FOUND, 0)) for seed in self.settings.seeds]
        name, settings = self.name, self.settings
        folder = account_folder(self.out, name)
        storage.remove(folder.path)

        def build(pipeline: beam.Pipeline) -> None:
            rows = pipeline | "ListLedgers" >> beam.Create(ledgers) | "ReadLedgers" >> beam.FlatMap(ledger_outcomes)
            found = pipeline | "ListLinks" >> beam.Create(links) | "ReadLinks" >> beam.FlatMap(link_outcomes)
            _ = (
                (rows, found, pipeline | "Seeds" >> beam.Create(seeds))
                | "Join" >> beam.Flatten()
                | "ByUrl" >> beam.GroupByKey()
                | "Judge" >> beam.FlatMap(verdicts, settings)
                | "ByPart" >> beam.GroupByKey()
                | "WriteAccounts" >> beam.Map(write_account, folder, name)
            )

        run_pipeline(f"crawl {self.name}, accounts", self.runner, build, lambda: len(folder.receipts()))


# --- the command ----------------------------------------------------------------------------------------------------


def run_crawls(spec: CorpusSpec, out: str, runner: Runner, *, retry: bool = False) -> None:
    """Run the crawls of a spec until nothing new is found; finished ones are left alone.

    Args:
        spec: The corpus.
        out: Its folder.
        runner: How to run.
        retry: Ask again for what failed for a reason that can pass.
    """
    for name in spec.crawls:
        crawl = _Crawl(spec, name, out, runner)
        state = crawl.state()
        files = warc_paths(crawl.settings.warc_files) if crawl.settings.warc_files else []
        settings = [crawl.settings.model_dump(mode="json"), spec.request_policy.model_dump(mode="json")]
        inputs = stage_inputs(VERSION, settings, [(path, storage.size(path)) for path in files])
        if state["finished"] == inputs and not retry:
            continue
        if retry and state["finished"] is not None:
            state |= {"retry_round": state["rounds"], "finished": None}
            crawl.save(state)
        elif state["finished"]:  # with other settings, which must not take what a killed run leaves for finished
            state |= {"finished": ""}
            crawl.save(state)
        storage.remove_leftovers(crawl.parts.path)
        if files:
            crawl.index_files(files)
        while not files:
            crawl.run_round(state["rounds"], state["retry_round"])
            if not crawl.part_files(".parquet", only=state["rounds"]):
                break
            state["rounds"] += 1
            crawl.save(state)
        crawl.account()
        crawl.save(state | {"finished": inputs})
