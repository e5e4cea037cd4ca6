"""Crawl: pages of live sites, breadth-first and politely, into WARC files and a ledger with a row a URL.

A crawl runs in rounds. The frontier of a round is what earlier rounds found and did not ask for; it is a function of
their files alone, so a killed round goes on with what it has not fetched yet. Within a round each host is one queue
of one worker; workers close a part (WARC, ledger, links, receipt) every thousand pages or half a minute.
"""

import asyncio
import gzip
import io
import json
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import IO, Any
from urllib.parse import urlsplit

import apache_beam as beam
import pyarrow as pa
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from pipelines import storage, urls
from pipelines.beam_run import Runner, run_pipeline, watch_driver
from pipelines.document import Drop, canonical_json
from pipelines.host_queues import MAX_BALANCED_HOSTS, assign_buckets, bucket_of, run_queues
from pipelines.html_document import parse_page
from pipelines.http_client import Fetched, FetchFailure, PoliteClient, is_transient
from pipelines.parts import PartFolder, Receipt, Tally, digest, read_rows, stable_hash, sum_counts, write_table
from pipelines.sitemaps import parse_sitemap
from pipelines.spec import CorpusSpec, CrawlSettings

FETCHED = "fetched"
PART_SECONDS = 30.0
PART_PAGES = 1000
MAX_SITEMAPS_PER_HOST = 1000
ACCOUNT_PARTS = 16

LEDGER_SCHEMA = pa.schema(
    [
        ("url", pa.string()),
        ("depth", pa.int32()),
        ("outcome", pa.string()),  # `fetched`, or the reason why not
        ("detail", pa.string()),
        ("status", pa.int32()),
        ("mime", pa.string()),
        ("canonical_url", pa.string()),  # what the page calls itself
        ("truncated", pa.bool_()),
        ("signals", pa.string()),  # JSON list of Signal: what was read before and with the response
        ("fetched_at", pa.string()),
        ("warc", pa.string()),
        ("offset", pa.int64()),
        ("length", pa.int64()),
    ]
)
LINK_SCHEMA = pa.schema([("url", pa.string()), ("depth", pa.int32())])


@dataclass(frozen=True, slots=True)
class FrontierUrl:
    """A URL to ask for, and how many links away from a seed it was found."""

    url: str
    depth: int


def scope_reason(url: str, depth: int, settings: CrawlSettings) -> str | None:
    """Why a URL is not asked for, or null where it is in scope."""
    if urls.authority(url) not in settings.scope:
        return "out_of_scope"
    if not any((urlsplit(url).path or "/").startswith(prefix) for prefix in settings.path_prefixes):
        return "out_of_scope"
    return "too_deep" if depth > settings.max_depth else None


# --- one worker -----------------------------------------------------------------------------------------------------


class _PartWriter:
    """The open part of one worker: a WARC file, ledger rows and links, closed together."""

    def __init__(self, folder: PartFolder, round_: int) -> None:
        self._folder, self._round = folder, round_
        self._stack = ExitStack()
        self._reset()

    def _reset(self) -> None:
        self._name, self._file, self._writer = "", None, None
        self._ledger: list[dict[str, Any]] = []
        self._links: dict[str, int] = {}
        self._opened = 0.0

    def _open(self) -> None:
        if not self._name:
            self._name = f"r{self._round:03d}-{uuid.uuid4().hex[:16]}"
            self._opened = time.monotonic()

    @property
    def is_due(self) -> bool:
        """Whether the part is large or old enough to be closed."""
        old = bool(self._name) and time.monotonic() - self._opened > PART_SECONDS
        return old or len(self._ledger) >= PART_PAGES

    def _warc(self) -> tuple[IO[bytes], WARCWriter]:
        if self._file is None:
            self._open()
            path = self._folder.file(self._name, ".warc.gz")
            self._file = self._stack.enter_context(storage.write_whole(path))
            self._writer = WARCWriter(self._file, gzip=True)
            info = {"software": "Dromaius", "format": "WARC File Format 1.1", "robots": "obeyed (RFC 9309)"}
            self._writer.write_record(self._writer.create_warcinfo_record(f"{self._name}.warc.gz", info))
        return self._file, self._writer

    def store(self, fetched: Fetched, metadata: dict[str, Any]) -> tuple[str, int, int]:
        """Write request, response and metadata records; returns the WARC's name, the response's offset and length."""
        file, writer = self._warc()
        where = urlsplit(fetched.url)
        target = (where.path or "/") + (f"?{where.query}" if where.query else "")
        common = {"WARC-Date": fetched.fetched_at, "WARC-IP-Address": fetched.ip}
        response = writer.create_warc_record(
            fetched.url,
            "response",
            payload=io.BytesIO(fetched.body),
            http_headers=StatusAndHeaders(
                f"{fetched.status} {fetched.reason}", _decoded_headers(fetched), protocol=fetched.http_version
            ),
            warc_headers_dict=common | ({"WARC-Truncated": "length"} if fetched.truncated else {}),
        )
        request = writer.create_warc_record(
            fetched.url,
            "request",
            http_headers=StatusAndHeaders(
                f"GET {target} HTTP/1.1", list(fetched.request_headers), protocol="", is_http_request=True
            ),
            warc_headers_dict=common,
        )
        response_id = response.rec_headers.get_header("WARC-Record-ID")
        request.rec_headers.add_header("WARC-Concurrent-To", response_id)
        note = writer.create_warc_record(
            fetched.url,
            "metadata",
            payload=io.BytesIO(canonical_json(metadata).encode()),
            warc_content_type="application/json",
            warc_headers_dict={"WARC-Date": fetched.fetched_at, "WARC-Concurrent-To": response_id},
        )
        writer.write_record(request)
        offset = file.tell()
        writer.write_record(response)
        length = file.tell() - offset
        writer.write_record(note)
        return f"{self._name}.warc.gz", offset, length

    def add(self, row: dict[str, Any]) -> None:
        """Add a ledger row."""
        self._open()
        self._ledger.append(row)

    def link(self, url: str, depth: int) -> None:
        """Note a URL that was found."""
        self._open()
        self._links[url] = min(depth, self._links.get(url, depth))

    def close(self) -> str | None:
        """Finish the part; returns its name, or null where there was nothing."""
        name = self._name
        if not name:
            return None
        self._stack.close()
        links = [{"url": url, "depth": depth} for url, depth in sorted(self._links.items())]
        files = {
            ".links.parquet": write_table(self._folder.file(name, ".links.parquet"), links, LINK_SCHEMA),
            ".parquet": write_table(self._folder.file(name, ".parquet"), self._ledger, LEDGER_SCHEMA),
        }
        self._folder.finish(name, "", Tally("crawl"), files, num=len(self._ledger))
        self._reset()
        return name

    def abandon(self, error: BaseException) -> None:
        """Leave nothing of the open part."""
        self._stack.__exit__(type(error), error, error.__traceback__)


def _decoded_headers(fetched: Fetched) -> list[tuple[str, str]]:
    """Response headers as fit for the decoded body: encoding headers renamed, as Common Crawl does."""
    headers = []
    for name, value in fetched.headers:
        if name.lower() in ("content-encoding", "transfer-encoding", "content-length"):
            name = f"X-Crawler-{name}"
        headers.append((name, value))
    return [*headers, ("Content-Length", str(len(fetched.body)))]


class _CrawlBucket(beam.DoFn):
    """Asks for all URLs of a bucket of hosts; yields the names of the parts it closed."""

    def __init__(self, spec: CorpusSpec, crawl: str, folder: str, round_: int) -> None:
        self._spec, self._crawl, self._folder, self._round = spec, crawl, folder, round_

    def setup(self) -> None:
        watch_driver()

    def process(self, bucket: tuple[int, Iterable[tuple[str, int, bool]]]) -> Iterator[str]:
        frontier = sorted((depth, url, is_new_host) for url, depth, is_new_host in bucket[1])
        yield from asyncio.run(self._run(frontier))

    async def _run(self, frontier: list[tuple[int, str, bool]]) -> list[str]:
        writer = _PartWriter(PartFolder(self._folder), self._round)
        closed: list[str] = []
        new_hosts = {urls.authority(url) for _, url, is_new_host in frontier if is_new_host}
        settings = self._spec.crawls[self._crawl]
        gate = storage.join(storage.parent(self._folder), "gates") if storage.is_local(self._folder) else None

        async with PoliteClient(self._spec.request_policy, self._spec.http, gate_folder=gate) as client:

            async def visit(item: FrontierUrl) -> None:
                if settings.sitemaps and urls.authority(item.url) in new_hosts:
                    new_hosts.discard(urls.authority(item.url))
                    for url in await _sitemap_urls(client, item.url):
                        writer.link(url, item.depth + 1)
                await _visit(client, writer, item)
                for answer in client.take_policy_answers():
                    writer.store(answer, {"is": "policy file"})
                if writer.is_due:
                    closed.append(writer.close() or "")

            items = [(urls.authority(url), FrontierUrl(url, depth)) for depth, url, _ in frontier]
            try:
                await run_queues(items, visit, max_hosts=self._spec.http.max_in_flight)
            except BaseException as error:
                writer.abandon(error)
                raise
        closed.append(writer.close() or "")
        return [name for name in closed if name]


async def _visit(client: PoliteClient, writer: _PartWriter, item: FrontierUrl) -> None:
    """Ask for one page and write down what came of it."""
    row: dict[str, Any] = dict.fromkeys(LEDGER_SCHEMA.names)
    row |= {"url": item.url, "depth": item.depth, "signals": "[]", "truncated": False}
    try:
        fetched = await client.fetch(item.url, "page", follow_redirects=False)
    except FetchFailure as failure:
        row |= {"outcome": failure.reason, "detail": failure.detail, "signals": _signals(failure.signals)}
        writer.add(row)
        return
    headers = {name.lower(): value for name, value in fetched.headers}
    row |= {
        "status": fetched.status,
        "mime": headers.get("content-type", "").partition(";")[0].strip().lower() or None,
        "signals": _signals(fetched.verdict.signals),
        "fetched_at": fetched.fetched_at,
        "truncated": fetched.truncated,
    }
    if 300 <= fetched.status < 400:
        target = urls.resolve(fetched.url, headers.get("location", ""))
        if target is not None:
            writer.link(urls.canonical_url(target), item.depth + 1)
        writer.add(row | {"outcome": "redirected" if target else "redirect_refused", "detail": headers.get("location")})
        return
    row["outcome"] = FETCHED
    if row["mime"] in ("text/html", "application/xhtml+xml"):
        page = parse_page(fetched.body, fetched.url, content_type=headers.get("content-type"))
        row["canonical_url"] = page.canonical_url
        for link in page.links:
            if not link.is_nofollow:
                writer.link(urls.canonical_url(link.url), item.depth + 1)
    warc, offset, length = writer.store(fetched, {"depth": item.depth, "signals": json.loads(row["signals"])})
    writer.add(row | {"warc": warc, "offset": offset, "length": length})


def _signals(signals: Iterable[Any]) -> str:
    return canonical_json([asdict(signal) for signal in signals])


async def _sitemap_urls(client: PoliteClient, url: str) -> list[str]:
    """Pages that a host's sitemaps name, of that host only; a sitemap that cannot be had names none."""
    try:
        site = await client.site(url)
    except FetchFailure:
        return []
    queue, seen, found = list(site.sitemaps), set(site.sitemaps), []
    while queue and len(seen) <= MAX_SITEMAPS_PER_HOST:
        try:
            fetched = await client.fetch(queue.pop(0), "page")
        except FetchFailure:
            continue
        sitemap = parse_sitemap(fetched.body)
        found += [urls.canonical_url(u) for u in sitemap.urls if urls.authority(u) == urls.authority(url)]
        for nested in sitemap.sitemaps:
            if nested not in seen:
                seen.add(nested)
                queue.append(nested)
    return found


# --- a round --------------------------------------------------------------------------------------------------------

_Mark = tuple[str, int]  # ("known" | "done" | "found", depth)


def _ledger_marks(path: str, mark: str, retry_before: str) -> Iterator[tuple[str, _Mark]]:
    """Rows of a ledger part as marks; what failed for a passing reason before a retry is only `found`."""
    retried = path.rpartition("/")[2] < retry_before
    for row in read_rows(path, ["url", "depth", "outcome"]):
        passing = retried and is_transient(row["outcome"])
        yield row["url"], ("found" if passing else mark, row["depth"])


def _link_marks(path: str) -> Iterator[tuple[str, _Mark]]:
    for row in read_rows(path):
        yield row["url"], ("found", row["depth"])


def _frontier(
    grouped: tuple[str, Iterable[_Mark]], settings: CrawlSettings
) -> Iterator[tuple[str, tuple[str, int, bool]]]:
    """(authority, (url, depth, is_done)) of a URL that this round asks for."""
    url, marks = grouped[0], list(grouped[1])
    if any(mark == "known" for mark, _ in marks):
        return
    depth = min(depth for _, depth in marks)
    if scope_reason(url, depth, settings) is None:
        yield urls.authority(url), (url, depth, any(mark == "done" for mark, _ in marks))


def _cap_host(
    joined: tuple[str, dict[str, Iterable[Any]]], max_pages: int
) -> Iterator[tuple[str, tuple[str, int, bool]]]:
    """A host's URLs within its page cap, nearest to a seed first, without those already done in this round."""
    authority, parts = joined
    num_known = sum(parts["known"])
    room = max(0, max_pages - num_known)
    ordered = sorted(parts["new"], key=lambda row: (row[1], row[0]))[:room]
    for url, depth, is_done in ordered:
        if not is_done:
            yield authority, (url, depth, num_known == 0)


class _Crawl:
    """One crawl of the spec in its folder."""

    def __init__(self, spec: CorpusSpec, name: str, out: str, runner: Runner) -> None:
        self.spec, self.name, self.runner = spec, name, runner
        self.settings = spec.crawls[name]
        self.folder = crawl_folder(out, name)
        self.parts = PartFolder(self.folder)

    def state(self) -> dict[str, Any]:
        path = storage.join(self.folder, "stage.json")
        start = {"rounds": 0, "retry_before": "", "finished": None}
        return start | (json.loads(storage.read_bytes(path)) if storage.exists(path) else {})

    def save(self, state: dict[str, Any]) -> None:
        storage.write_bytes(storage.join(self.folder, "stage.json"), canonical_json(state).encode())

    def num_done(self) -> int:
        return sum(r.extra.get("num", 0) for r in self.parts.receipts())

    def part_files(self, suffix: str, before: int | None = None, only: int | None = None) -> list[str]:
        """Files of finished parts, of rounds before one, or of one round."""
        names = sorted(r.part for r in self.parts.receipts() if r.part.startswith("r"))
        if before is not None:
            names = [name for name in names if name < f"r{before:03d}"]
        if only is not None:
            names = [name for name in names if name.startswith(f"r{only:03d}-")]
        return [self.parts.file(name, suffix) for name in names]

    def run_round(self, round_: int, retry_before: str) -> None:
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
                | "ReadEarlierLedgers" >> beam.FlatMap(_ledger_marks, "known", retry_before)
            )
            done = (
                pipeline
                | "ListThisLedger" >> beam.Create(current)
                | "ReadThisLedger" >> beam.FlatMap(_ledger_marks, "done", "")
            )
            found = pipeline | "ListLinks" >> beam.Create(links) | "ReadLinks" >> beam.FlatMap(_link_marks)
            frontier = (
                (known, done, found, pipeline | "Seeds" >> beam.Create(seeds))
                | "JoinMarks" >> beam.Flatten()
                | "ByUrl" >> beam.GroupByKey()
                | "KeepNew" >> beam.FlatMap(_frontier, settings)
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
                | "CapHosts" >> beam.FlatMap(_cap_host, settings.max_pages_per_host)
            )
            balanced = balance_hosts(capped, num_buckets)
            _ = (
                capped
                | "ToBucket"
                >> beam.Map(lambda row, b: (bucket_of(row[0], b, num_buckets), row[1]), beam.pvalue.AsSingleton(balanced))
                | "ByBucket" >> beam.GroupByKey()
                | "CrawlBuckets" >> beam.ParDo(_CrawlBucket(self.spec, self.name, self.folder, round_))
            )

        run_pipeline(f"crawl {self.name}, round {round_}", self.runner, build, self.num_done)

    def account(self) -> None:
        """One verdict a URL, over all rounds: kept, or dropped with its reason."""
        ledgers, links = self.part_files(".parquet"), self.part_files(".links.parquet")
        seeds = [(urls.canonical_url(seed), (1, 0, "", "")) for seed in self.settings.seeds]
        name, settings = self.name, self.settings
        folder = PartFolder(storage.join(self.folder, "account"))
        storage.remove(folder.path)

        def build(pipeline: beam.Pipeline) -> None:
            rows = pipeline | "ListLedgers" >> beam.Create(ledgers) | "ReadLedgers" >> beam.FlatMap(_ledger_outcomes)
            found = pipeline | "ListLinks" >> beam.Create(links) | "ReadLinks" >> beam.FlatMap(_link_outcomes)
            _ = (
                (rows, found, pipeline | "Seeds" >> beam.Create(seeds))
                | "Join" >> beam.Flatten()
                | "ByUrl" >> beam.GroupByKey()
                | "Judge" >> beam.Map(_verdict, settings)
                | "ByPart" >> beam.GroupByKey()
                | "WriteAccounts" >> beam.Map(_write_account, folder, name)
            )

        run_pipeline(f"crawl {self.name}, accounts", self.runner, build, lambda: len(folder.receipts()))


def balance_hosts(pairs: beam.PCollection, num_buckets: int) -> beam.PCollection:
    """A single dictionary: buckets of the largest hosts of (authority, anything) pairs."""
    return (
        pairs
        | "HostOf" >> beam.Map(lambda row: row[0])
        | "CountPerHost" >> beam.combiners.Count.PerElement()
        | "LargestHosts" >> beam.combiners.Top.Of(MAX_BALANCED_HOSTS, key=lambda row: (row[1], row[0]))
        | "BalanceHosts" >> beam.Map(lambda rows: assign_buckets(dict(rows), num_buckets))
    )


_Outcome = tuple[int, int, str, str]  # (0 asked | 1 only found, depth, outcome, detail)


def _ledger_outcomes(path: str) -> Iterator[tuple[str, _Outcome]]:
    for row in read_rows(path, ["url", "depth", "outcome", "detail"]):
        yield row["url"], (0, row["depth"], row["outcome"], row["detail"] or "")


def _link_outcomes(path: str) -> Iterator[tuple[str, _Outcome]]:
    for row in read_rows(path):
        yield row["url"], (1, row["depth"], "", "")


def _verdict(grouped: tuple[str, Iterable[_Outcome]], settings: CrawlSettings) -> tuple[int, tuple[str, str, str]]:
    """(part, (url, outcome, detail)): `fetched` if it ever was, else the last failure, else why it was not asked for."""
    url, outcomes = grouped[0], sorted(grouped[1])
    asked = [o for o in outcomes if o[0] == 0]
    if any(o[2] == FETCHED for o in asked):
        outcome, detail = FETCHED, ""
    elif asked:
        outcome, detail = asked[-1][2], asked[-1][3]
    else:
        outcome, detail = scope_reason(url, outcomes[0][1], settings) or "over_page_cap", ""
    return stable_hash(url) % ACCOUNT_PARTS, (url, outcome, detail)


def _write_account(grouped: tuple[int, Iterable[tuple[str, str, str]]], folder: PartFolder, crawl: str) -> None:
    tally = Tally("crawl")
    for url, outcome, detail in sorted(grouped[1]):
        shown = urls.without_credentials(url)
        if outcome == FETCHED:
            tally.keep(crawl, "page")
        else:
            tally.drop(Drop(crawl, "crawl", outcome, "page", url=shown, page_url=shown, detail=detail or None))
    folder.finish(f"{grouped[0]:05d}", "", tally, {})


# --- the command ----------------------------------------------------------------------------------------------------


def crawl_folder(out: str, crawl: str) -> str:
    """Where a crawl's WARC files and ledger lie."""
    return storage.join(out, "work", "warc", crawl)


def ledger_parts(out: str, crawl: str) -> list[str]:
    """Names of a crawl's finished parts."""
    return sorted(r.part for r in PartFolder(crawl_folder(out, crawl)).receipts() if r.part.startswith("r"))


def crawl_receipts(out: str, crawl: str) -> list[Receipt]:
    """Receipts that count a crawl's pages."""
    return PartFolder(storage.join(crawl_folder(out, crawl), "account")).receipts()


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
        inputs = digest(spec.crawls[name].model_dump(mode="json"), spec.request_policy.model_dump(mode="json"))
        if state["finished"] == inputs and not retry:
            continue
        if retry and state["finished"] is not None:
            state |= {"retry_before": f"r{state['rounds']:03d}", "finished": None}
            crawl.save(state)
        storage.remove_leftovers(crawl.folder)
        while True:
            crawl.run_round(state["rounds"], state["retry_before"])
            if not crawl.part_files(".parquet", only=state["rounds"]):
                break
            state["rounds"] += 1
            crawl.save(state)
        crawl.account()
        crawl.save(state | {"finished": inputs})
