"""Blocks that most pages of a host have, over all workers: Beam transforms that shuffle hashes, never text."""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, TypedDict

import apache_beam as beam

from pipelines.crawling.archived_robots import ArchivedRobots, ArchivedRules
from pipelines.crawling.fetched_pages import PagePlace, fetched_pages, fetched_verdict
from pipelines.crawling.ledger import CrawlTask
from pipelines.drop_reasons import FETCHED
from pipelines.faults import refusal_of
from pipelines.layout import crawl_folder
from pipelines.pages.host_boilerplate import HostBoilerplate, block_hashes, page_groups
from pipelines.parts import read_rows, stable_hash
from pipelines.running.shuffle import CoGroupByKey, GroupByKey, ShuffleFiles
from pipelines.sources.archived_page import parse_record
from pipelines.spec import CorpusSpec
from pipelines.web import urls

PAGE = -1
"""Takes the place of a block's hash where the pages of a group are counted."""

_Settings = Mapping[str, HostBoilerplate | None]
_Hashes = tuple[int, ...]


class Repeated(NamedTuple):
    """Hashes of the blocks that most pages of a group have (`pages.host_boilerplate.page_groups`)."""

    group: str
    hashes: _Hashes


class _OfHost(TypedDict):
    """The pages of a host that are kept, and the robots.txt files that an archive has of it."""

    pages: Iterable[PagePlace]
    robots: list[ArchivedRobots]


class _Compared(TypedDict):
    """A task, the only one of its name, and the offsets of its pages that are compared with others."""

    task: list[CrawlTask]
    offsets: list[int]


class _OfGroup(TypedDict):
    """The repeated blocks of a group, if it has some, and the tasks with pages of it."""

    hashes: list[_Hashes]
    tasks: list[str]


class FindHostBoilerplate(beam.PTransform):
    """Find the blocks that most pages of a host have: (name of a task, `Repeated`) for each task with pages of it.

    Takes the tasks of all crawls as `tasks`, as `pages` (crawl, place) of each page that is kept, and as `robots`
    (crawl and host, file) of each robots.txt that an archive has. Neither their order nor the workers matter.
    """

    def __init__(self, spec: CorpusSpec, out: str, files: ShuffleFiles | None = None) -> None:
        super().__init__()
        self._spec, self._out, self._files = spec, out, files
        self._settings = {name: crawl.host_boilerplate for name, crawl in spec.crawls.items()}

    def expand(self, inputs: dict[str, beam.PCollection]) -> beam.PCollection:
        tasks = inputs["tasks"]
        pages = inputs["pages"] | "OfHost" >> beam.MapTuple(_with_host)
        offsets = (
            {"pages": pages, "robots": inputs["robots"]}
            | "GatherHosts" >> CoGroupByKey(self._files)
            | "DrawCompared" >> beam.FlatMap(_compared, self._spec)
        )
        hashes = (
            {"task": tasks | "Named" >> beam.Map(lambda task: (task.name, task)), "offsets": offsets}
            | "ComparedByTask" >> CoGroupByKey(self._files)
            | "ReadBlocks" >> beam.ParDo(_ReadBlocks(self._spec, self._out))
            | "OnMostPages" >> FindRepeated(self._settings, self._files)
        )
        return (
            {"hashes": hashes, "tasks": tasks | "ReadGroups" >> beam.FlatMap(_groups_of_task, self._out)}
            | "ByGroup" >> CoGroupByKey(self._files)
            | "ToTasks" >> beam.FlatMapTuple(_to_tasks)
        )


class FindRepeated(beam.PTransform):
    """Find the repeated blocks of each group among (crawl and group, hashes of one page): (crawl and group, hashes)."""

    def __init__(self, settings: _Settings, files: ShuffleFiles | None = None) -> None:
        super().__init__()
        self._settings, self._files = dict(settings), files

    def expand(self, pages: beam.PCollection) -> beam.PCollection:
        return (
            pages
            | "EachBlock" >> beam.FlatMapTuple(_counted).with_output_types(tuple[tuple[str, int], int])
            | "SameBlocks" >> GroupByKey(self._files)
            | "CountPages" >> beam.MapTuple(lambda key, ones: (key, sum(ones)))
            | "OnlyRepeated" >> beam.Filter(lambda row: row[1] > 1 or row[0][1] == PAGE)
            | "OfGroup" >> beam.MapTuple(lambda key, num: (key[0], (key[1], num)))
            | "GatherGroups" >> GroupByKey(self._files)
            | "Decide" >> beam.FlatMap(_repeated, self._settings)
        )


class _ReadBlocks(beam.DoFn):
    """Yield (crawl and group, hashes of a page's blocks) of the pages that are compared, if they allow their use.

    By archived robots.txt files they are allowed already.
    """

    def __init__(self, spec: CorpusSpec, out: str) -> None:
        self._spec, self._out = spec, out

    def process(self, joined: tuple[str, _Compared]) -> Iterator[tuple[str, _Hashes]]:
        _, sides = joined
        if not sides["offsets"]:
            return
        (task,) = sides["task"]
        policy = self._spec.request_policy
        archived = ArchivedRules(policy, None)
        for row, record in fetched_pages(self._out, task, only=set(sides["offsets"])):
            if record is None or record.refusal is not None:
                continue
            try:
                page = parse_record(record, row.url)
                is_allowed = fetched_verdict(row, record, page, policy, archived).allowed
                hashes = tuple(sorted(block_hashes(page))) if is_allowed else ()
            except Exception as error:  # extract counts it
                refusal_of(error)
                continue
            if is_allowed:
                yield from ((f"{task.crawl} {group}", hashes) for group in page_groups(row.url))


def _with_host(crawl: str, page: PagePlace) -> tuple[str, PagePlace]:
    return f"{crawl} {urls.authority(page.url)}", page


def _compared(joined: tuple[str, _OfHost], spec: CorpusSpec) -> Iterator[tuple[str, int]]:
    """Yield (task, offset) of the pages of a host that are compared, if its robots.txt allows enough of them.

    Pages that it refuses are left out of the draw: on a host that refuses most, too few would remain to decide.
    """
    crawl, pages = joined[0].partition(" ")[0], list(joined[1]["pages"])
    settings = spec.crawls[crawl].host_boilerplate
    if settings is None or len(pages) < settings.min_pages:
        return
    archived = ArchivedRules.of_crawl(spec, crawl, list(joined[1]["robots"]))
    pages.sort(key=lambda page: (stable_hash(page.url), *page))
    allowed = (page for page in pages if _is_allowed(archived, page.url))
    drawn = list(itertools.islice(allowed, settings.max_pages))
    if len(drawn) >= settings.min_pages:
        yield from ((page.task, page.offset) for page in drawn)


def _is_allowed(archived: ArchivedRules, url: str) -> bool:
    try:
        return archived.verdict(url).allowed
    except Exception as error:  # extract counts it
        refusal_of(error)
        return False


def _counted(group: str, hashes: _Hashes) -> Iterator[tuple[tuple[str, int], int]]:
    yield (group, PAGE), 1
    for hashed in hashes:
        yield (group, hashed), 1


def _repeated(grouped: tuple[str, Iterable[tuple[int, int]]], settings: _Settings) -> Iterator[tuple[str, _Hashes]]:
    """Yield the group with the hashes of the blocks on most of its pages, if it has enough pages and such blocks."""
    group, counts = grouped
    of_crawl = settings[group.partition(" ")[0]]
    by_hash = dict(counts)
    num_pages = by_hash.pop(PAGE)
    if of_crawl is None or num_pages < of_crawl.min_pages:
        return
    hashes = tuple(sorted(hashed for hashed, num in by_hash.items() if num > of_crawl.min_share * num_pages))
    if hashes:
        yield group, hashes


def _groups_of_task(task: CrawlTask, out: str) -> Iterator[tuple[str, str]]:
    """Yield (crawl and group, task) for the groups of a task's pages, each once."""
    path = crawl_folder(out, task.crawl).file(task.ledger, ".parquet")
    fetched = (row["url"] for row in read_rows(path, ["url", "outcome"]) if row["outcome"] == FETCHED)
    for group in sorted({group for url in fetched for group in page_groups(url)}):
        yield f"{task.crawl} {group}", task.name


def _to_tasks(group: str, sides: _OfGroup) -> Iterator[tuple[str, Repeated]]:
    for hashes in sides["hashes"]:
        for task in sides["tasks"]:
            yield task, Repeated(group.partition(" ")[2], hashes)
