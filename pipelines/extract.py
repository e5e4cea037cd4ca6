"""Extract: pages and lists become candidates, which are documents without bytes whose text is already judged.

A rejected page costs no request for its images. Of several pages with one canonical URL, the one nearest to a seed is
kept. Blocks that stand on most pages of a host are left out. Each part of candidates is made from one part of a crawl,
or from one part of a list.
"""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from functools import partial
from typing import NamedTuple, TypedDict

import apache_beam as beam

from pipelines import extract_inputs
from pipelines.block_list import load_block_list
from pipelines.candidate_parts import CandidateParts, parts_of_tasks
from pipelines.crawling.archived_robots import ArchivedRobots, ArchivedRules, robots_for_tasks, robots_of_table
from pipelines.crawling.fetched_pages import PagePlace, fetched_pages, fetched_verdict
from pipelines.crawling.find_host_boilerplate import FindHostBoilerplate, Repeated
from pipelines.crawling.ledger import CrawlTask, LedgerRow
from pipelines.drop_reasons import FETCHED, Reason
from pipelines.extract_inputs import ListTask, Task
from pipelines.faults import keep_tracebacks, refusal_of
from pipelines.gone_rows import drop_gone
from pipelines.layout import candidates_folder, crawl_folder, robots_folder, traceback_folder
from pipelines.pages.blocks import PageText
from pipelines.pages.host_boilerplate import page_groups, without_host_boilerplate
from pipelines.pages.kinds import KIND_FUNCTIONS, PageOrigin
from pipelines.part_candidates import Asks, PartCandidates, block_drop, element_drop, page_drop, shown_url
from pipelines.parts import Receipt, read_rows, stage_inputs
from pipelines.running.runner import Runner, run_pipeline
from pipelines.running.shuffle import CoGroupByKey, GroupByKey, ShuffleFiles, shuffling
from pipelines.running.watch import Watch
from pipelines.sources import FORMATS
from pipelines.sources.archived_page import kinds_of, parse_record
from pipelines.sources.files import MissingPart, explain_read_errors
from pipelines.sources.origin import Origin
from pipelines.sources.warc import CrawledPage
from pipelines.sources.warc_index import archive_name, crawl_id
from pipelines.spec import CorpusSpec, CrawlInput, SourceSpec
from pipelines.web import urls

_SHOWN_FILES = 5  # of those that are missing
NEEDS_IMAGES = frozenset({"interleaved", "pair", "grounded"})


class _Duplicate(NamedTuple):
    """A page of a task that is dropped because another one with its canonical URL is kept."""

    offset: int
    kept_url: str


class _TaskInput(TypedDict):
    """A task, the only one of its name, and what is known about its pages from all pages."""

    task: list[Task]
    duplicates: list[_Duplicate]
    repeated: list[Repeated]
    robots: list[ArchivedRobots]


class _Known(NamedTuple):
    """What is known about a task's pages: URLs of kept duplicates by offset, repeated blocks by group, robots.txt."""

    duplicates: dict[int, str]
    repeated: dict[str, tuple[int, ...]]
    robots: list[ArchivedRobots]


# --- one part -------------------------------------------------------------------------------------------------------


class _ExtractPart(beam.DoFn):
    """Write the candidates of a task, unless its receipt shows that they were made from the same inputs."""

    def __init__(self, spec: CorpusSpec, out: str) -> None:
        self._spec, self._out = spec, out
        self._block = load_block_list(out)

    def process(self, joined: tuple[str, _TaskInput]) -> Iterator[str]:
        keep_tracebacks(traceback_folder(self._out))
        name, sides = joined
        (task,) = sides["task"]
        known = _Known(
            {duplicate.offset: duplicate.kept_url for duplicate in sides["duplicates"]},
            {repeated.group: repeated.hashes for repeated in sides["repeated"]},
            sorted(sides["robots"]),
        )
        inputs = self._inputs(task, known)
        candidates_folder(self._out).once(name, inputs, lambda: self._write(task, inputs, known))
        yield name

    def _inputs(self, task: Task, known: _Known) -> str:
        if isinstance(task, ListTask):
            settings = extract_inputs.source_settings(self._spec.sources[task.source])
            return stage_inputs(
                extract_inputs.VERSION, settings, self._spec.policy.robots_of_others, asdict(task.part), task.content
            )
        receipt = crawl_folder(self._out, task.crawl).receipt(task.ledger)
        assert receipt is not None
        from_all = (
            sorted(known.duplicates.items()),
            sorted(known.repeated.items()),
            [robots.content for robots in known.robots],
        )
        return stage_inputs(
            extract_inputs.VERSION, extract_inputs.crawl_settings(self._spec, task.crawl), receipt.files, *from_all
        )

    def _write(self, task: Task, inputs: str, known: _Known) -> Receipt:
        parts = CandidateParts(self._spec, self._block, candidates_folder(self._out), task.name, inputs)
        if isinstance(task, ListTask):
            self._read_list(task, parts)
        else:
            self._extract_pages(task, known, parts)
        return parts.finish()

    def _read_list(self, task: ListTask, parts: CandidateParts) -> None:
        source = self._spec.sources[task.source]
        assert not isinstance(source.input, CrawlInput)
        parts.found.tally.keep(task.source, "document", 0)
        if isinstance(task.part, MissingPart):
            origin = Origin(task.source, source.kind, task.part, source.input)
            parts.found.add(task.source, [replace(origin.drop("missing_file", "whole"), key=None)])
            return
        with explain_read_errors(task.part.path):
            for row in FORMATS[source.input.format].read(task.part, source.input, task.source, source.kind):
                parts.found.add(task.source, [row], asks="unasked")
                parts.next_if_full()

    def _extract_pages(self, task: CrawlTask, known: _Known, parts: CandidateParts) -> None:
        crawl = task.crawl
        archived = ArchivedRules.of_crawl(self._spec, crawl, known.robots)
        sources = {
            name: source
            for name, source in self._spec.sources.items()
            if isinstance(source.input, CrawlInput) and crawl in source.input.crawls
        }
        found = parts.found
        found.tally.keep(crawl, "page", 0)
        for name in sources:
            found.tally.keep(name, "document", 0)
        drop_gone(crawl_folder(self._out, crawl).file(task.ledger, ".parquet"), "extract", found.tally)
        for row, record in fetched_pages(self._out, task):
            parts.next_if_full()
            found = parts.found
            if self._block.url(row.url) or self._block.url(row.canonical_url):
                found.tally.drop(replace(page_drop(crawl, row, "taken_down"), url=None, page_url=None))
                continue
            if record is None:
                found.tally.drop(page_drop(crawl, row, "unreadable_record"))
                continue
            of_page = PartCandidates(self._spec, self._block)
            try:
                self._extract_page(crawl, row, record, known, archived, sources, of_page)
                found.absorb(of_page)
            except Exception as error:  # of the page nothing is kept
                found.tally.drop(page_drop(crawl, row, *refusal_of(error)))

    def _extract_page(
        self,
        crawl: str,
        row: LedgerRow,
        record: CrawledPage,
        known: _Known,
        archived: ArchivedRules,
        sources: dict[str, SourceSpec],
        found: PartCandidates,
    ) -> None:
        def drop(reason: Reason, detail: str | None = None) -> None:
            found.tally.drop(page_drop(crawl, row, reason, detail))

        if row.offset in known.duplicates:
            drop("duplicate_url", urls.without_credentials(known.duplicates[row.offset]))
            return
        if record.refusal is not None:
            drop(record.refusal, record.truncated or record.mime)
            return
        page = parse_record(record, row.url)
        verdict = fetched_verdict(row, record, page, self._spec.request_policy, archived)
        if not verdict.allowed:
            drop(verdict.reasons[0], ", ".join(verdict.reasons))
            return
        found.tally.keep(crawl, "page")
        repeated = {hashed for group in page_groups(row.url) for hashed in known.repeated.get(group, ())}
        page, gone = without_host_boilerplate(page, repeated)
        for block in gone:
            found.tally.drop(block_drop(crawl, row, block))
        found.tally.keep(crawl, "block", sum(isinstance(block, PageText) for block in page.blocks))
        found.tally.keep(crawl, "element", len(page.images) + len(page.videos))
        for element in page.skipped:
            found.tally.drop(element_drop(crawl, row, element))
        external = self._spec.crawls[crawl].is_archive
        file, place = row.archive_file or row.warc, (row.archive_offset, row.archive_length)
        offset, length = place if row.archive_file is not None else (row.offset, row.length)
        origin = PageOrigin(
            crawl=crawl,
            fetched_at=row.fetched_at,
            signals=verdict.signals,
            # Which part of our own crawl contains a page depends on timing; the ledger finds it by its URL.
            warc_file=archive_name(file) if external and file else None,
            warc_offset=offset if external else None,
            warc_length=length if external else None,
            release=crawl_id(file) if external and file else None,
        )
        for name, source in sources.items():
            assert isinstance(source.input, CrawlInput)
            if not source.input.takes(row.url):
                continue
            if (kinds := kinds_of(record)) is not None and source.kind not in kinds:
                detail = f"a record of type {record.record_type} gives {' and '.join(kinds)}, not {source.kind}"
                found.tally.drop(replace(page_drop(name, row, "other_kind", detail), unit="document"))
                continue
            candidates = KIND_FUNCTIONS[source.kind](page, origin, name, source.pages)
            if not verdict.images_allowed and source.kind in NEEDS_IMAGES:
                lost = replace(page_drop(name, row, verdict.image_reasons[0]), unit="document")
                refused = [
                    replace(
                        lost,
                        key=c.document.key,
                        url=shown_url(c),
                        excerpt=c.document.text,
                    )
                    for c in candidates
                ]
                found.add(name, refused)
                continue
            asks: Asks = "all" if external else "nobody"
            found.add(name, [replace(c, record=row.record) for c in candidates], asks=asks)


# --- the stage ------------------------------------------------------------------------------------------------------


def _page_names(task: CrawlTask, out: str) -> Iterator[tuple[str, PagePlace]]:
    """Yield (crawl and canonical URL, place) for every fetched page of a task."""
    path = crawl_folder(out, task.crawl).file(task.ledger, ".parquet")
    for row in read_rows(path, ["url", "depth", "outcome", "canonical_url", "offset"]):
        if row["outcome"] == FETCHED:
            own = row["canonical_url"] or row["url"]
            # A page may name a canonical URL of its own host only, or one site could suppress another.
            own = own if urls.authority(own) == urls.authority(row["url"]) else row["url"]
            yield f"{task.crawl} {own}", PagePlace(row["depth"], row["url"], task.name, row["offset"])


def _duplicates(grouped: tuple[str, Iterable[PagePlace]]) -> Iterator[tuple[str, _Duplicate]]:
    """Yield (task, duplicate) for all pages of one canonical URL but the one that is kept."""
    kept, *others = _kept_first(grouped)
    for other in others:
        yield other.task, _Duplicate(other.offset, kept.url)


def _kept_first(grouped: tuple[str, Iterable[PagePlace]]) -> list[PagePlace]:
    own = grouped[0].partition(" ")[2]
    return sorted(grouped[1], key=lambda place: (place.url != own, *place))


def _kept(grouped: tuple[str, Iterable[PagePlace]]) -> tuple[str, PagePlace]:
    """Return (crawl, place) of the page of one canonical URL that is kept."""
    return grouped[0].partition(" ")[0], _kept_first(grouped)[0]


def _page_hosts(task: CrawlTask, out: str) -> Iterator[tuple[str, str]]:
    """Yield (crawl and host, task) for every host of a task's fetched pages, each once."""
    path = crawl_folder(out, task.crawl).file(task.ledger, ".parquet")
    rows = read_rows(path, ["url", "outcome"])
    for host in sorted({urls.authority(row["url"]) for row in rows if row["outcome"] == FETCHED}):
        yield f"{task.crawl} {host}", task.name


def _alone(task: Task) -> tuple[str, _TaskInput]:
    """Return (name, task) of a list."""
    return task.name, {"task": [task], "duplicates": [], "repeated": [], "robots": []}


def _tell_missing(tasks: list[Task]) -> None:
    """Print a note about each source some of whose files are missing."""
    listed = [task for task in tasks if isinstance(task, ListTask)]
    for source in dict.fromkeys(task.source for task in listed if isinstance(task.part, MissingPart)):
        paths = {task.part.path: isinstance(task.part, MissingPart) for task in listed if task.source == source}
        missing = [path for path, is_missing in paths.items() if is_missing]
        shown = ", ".join(missing[:_SHOWN_FILES]) + (", ..." if missing[_SHOWN_FILES:] else "")
        print(f"note: sources.{source}: {len(missing)} of {len(paths)} files are missing: {shown}", file=sys.stderr)


def run_extract(spec: CorpusSpec, out: str, runner: Runner) -> None:
    """Extract the candidates of all sources from what was crawled and from the lists."""
    tasks = extract_inputs.extract_tasks(spec, out)
    _tell_missing(tasks)
    crawled = [task for task in tasks if isinstance(task, CrawlTask)]
    folder = candidates_folder(out)
    archives = [crawl for crawl, settings in spec.crawls.items() if settings.robots_files]
    robots = {crawl: robots_folder(out, crawl) for crawl in archives}
    tables = [(crawl, folder.file(r.part, ".parquet")) for crawl, folder in robots.items() for r in folder.receipts()]
    inputs = extract_inputs.extract_inputs(spec, out, tasks)
    if folder.is_finished(inputs):
        return
    folder.begin()

    def build(pipeline: beam.Pipeline, files: ShuffleFiles | None) -> None:
        if not crawled:  # of lists nothing needs to be known from all of them
            listed = pipeline | "ListTasks" >> beam.Create(tasks) | "Spread" >> beam.Reshuffle()
            _ = listed | "Alone" >> beam.Map(_alone) | "ExtractParts" >> beam.ParDo(_ExtractPart(spec, out))
            return
        of_crawls = pipeline | "ListCrawled" >> beam.Create(crawled)
        by_url = of_crawls | "ReadNames" >> beam.FlatMap(_page_names, out) | "ByCanonicalUrl" >> GroupByKey(files)
        duplicates = by_url | "FindDuplicates" >> beam.FlatMap(_duplicates)
        archived = pipeline | "ListRobots" >> beam.Create(tables) | "ReadRobots" >> beam.FlatMap(robots_of_table)
        hosts = (
            pipeline
            | "ListArchives" >> beam.Create([task for task in crawled if task.crawl in archives])
            | "ReadHosts" >> beam.FlatMap(_page_hosts, out)
        )
        rules = (
            {"robots": archived, "tasks": hosts}
            | "ByHost" >> CoGroupByKey(files)
            | "RobotsForTasks" >> beam.FlatMap(robots_for_tasks)
        )
        pages = by_url | "Kept" >> beam.Map(_kept)
        repeated = {"tasks": of_crawls, "pages": pages, "robots": archived} | FindHostBoilerplate(spec, out, files)
        named = pipeline | "ListTasks" >> beam.Create([(task.name, task) for task in tasks])
        _ = (
            {"task": named, "duplicates": duplicates, "repeated": repeated, "robots": rules}
            | "ByTask" >> CoGroupByKey(files)
            | "ExtractParts" >> beam.ParDo(_ExtractPart(spec, out))
        )

    with shuffling(runner, out) as files:
        run_pipeline("extract", runner, partial(build, files=files), Watch(folder.path, len(tasks)))
    folder.keep_only(parts_of_tasks(folder, {task.name for task in tasks}))
    folder.end(inputs)
