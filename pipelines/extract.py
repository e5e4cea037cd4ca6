"""Extract: pages and lists become candidates, which are documents without bytes whose text is already judged.

A rejected page costs no request for its images. Of several pages with one canonical URL, the one nearest to a seed is
kept. Each part of candidates is made from one part of a crawl, or from one part of a list.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple, TypedDict

import apache_beam as beam
import pyarrow as pa

from pipelines.candidate import Candidate
from pipelines.crawling.ledger import LedgerRow, ledger_parts
from pipelines.document import Document, Drop
from pipelines.drop_reasons import FETCHED, Reason, Refusal
from pipelines.layout import candidates_folder, crawl_folder, warc_path
from pipelines.pages.kinds import PageOrigin, grounded, interleaved, pairs, text, videos
from pipelines.pages.parse import Page, parse_page
from pipelines.parts import Receipt, Tally, read_rows, stage_inputs, write_table
from pipelines.running.record_coder import shuffle_by_fields
from pipelines.running.runner import Runner, run_pipeline
from pipelines.sources import FORMATS
from pipelines.sources.files import Part
from pipelines.sources.warc import CrawledPage, read_pages
from pipelines.spec import CorpusSpec, CrawlInput, SourceSpec
from pipelines.text.judging import excerpt, judge_text
from pipelines.web import urls
from pipelines.web.permission import Verdict, page_verdict, response_verdict

# Increment when equal pages or lists would give other candidates or drops, by this module or by those of `pages/`,
# `sources/`, `text/` and `web/` that it uses. All are then extracted again from what was crawled.
VERSION = 2

CANDIDATE_SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("key", pa.string()),
        ("document", pa.string()),
        ("requests", pa.string()),
        ("record", pa.string()),
        ("inline", pa.list_(pa.struct([("sha256", pa.string()), ("data", pa.binary())]))),
    ]
)

KIND_FUNCTIONS: dict[str, Callable[..., list[Candidate]]] = {
    "interleaved": interleaved,
    "pair": pairs,
    "grounded": grounded,
    "video": videos,
    "text": text,
}
NEEDS_IMAGES = frozenset({"interleaved", "pair", "grounded"})


@dataclass(frozen=True, slots=True)
class _CrawlTask:
    """A part of a crawl, by the name of its ledger; `name` is that of the part of candidates."""

    name: str
    crawl: str
    ledger: str


@dataclass(frozen=True, slots=True)
class _ListTask:
    """A part of a source's list; `name` is that of the part of candidates."""

    name: str
    source: str
    part: Part


_Task = _CrawlTask | _ListTask


class _PagePlace(NamedTuple):
    """A fetched page, in order of its distance from a seed. An archive may contain one URL several times."""

    depth: int
    url: str
    task: str
    offset: int


class _Duplicate(NamedTuple):
    """A page of a task that is dropped because another one with its canonical URL is kept."""

    offset: int
    kept_url: str


class _TaskInput(TypedDict):
    """A task, the only one of its name, and the pages that it drops as duplicates."""

    task: list[_Task]
    duplicates: list[_Duplicate]


shuffle_by_fields(_PagePlace)

# --- one part -------------------------------------------------------------------------------------------------------


class _Candidates:
    """Collector of a part's results: judged candidates and the tally."""

    def __init__(self, spec: CorpusSpec) -> None:
        self._spec = spec
        self.tally = Tally("extract")
        self.rows: list[dict[str, Any]] = []

    def add(self, source: str, found: Iterable[Candidate | Drop]) -> None:
        """Judge the text of a source's candidates, and keep or drop each."""
        settings = self._spec.sources[source]
        for candidate in found:
            if isinstance(candidate, Drop):
                self.tally.drop(candidate)
                continue
            judged: Document | Refusal = judge_text(candidate.document, settings.filters, settings.kind)
            if self._is_unlicensed(candidate.document, settings):
                judged = Refusal("license_not_allowed", candidate.document.source.license)
            if isinstance(judged, Document):
                self._keep(source, replace(candidate, document=judged))
            else:
                self.tally.drop(
                    Drop(
                        source=source,
                        stage="extract",
                        reason=judged.reason,
                        unit="document",
                        key=candidate.document.key,
                        page_url=candidate.document.source.page_url,
                        record=candidate.record,
                        excerpt=excerpt(candidate.document, settings.filters),
                        detail=judged.detail,
                    )
                )

    def _is_unlicensed(self, document: Document, settings: SourceSpec) -> bool:
        """Return whether the policy forbids the licence of a page's text; images have licences of their own."""
        is_page_text = settings.kind in ("interleaved", "text") and isinstance(settings.input, CrawlInput)
        return is_page_text and not self._spec.policy.allows_license(document.source.license)

    def _keep(self, source: str, candidate: Candidate) -> None:
        self.tally.keep(source, "document")
        self.rows.append(
            {
                "source": source,
                "key": candidate.document.key,
                "document": candidate.document.to_json(),
                "requests": candidate.requests_json(),
                "record": candidate.record,
                "inline": [{"sha256": name, "data": data} for name, data in candidate.inline],
            }
        )


class _ExtractPart(beam.DoFn):
    """Write the candidates of a task, unless its receipt shows that they were made from the same inputs."""

    def __init__(self, spec: CorpusSpec, out: str) -> None:
        self._spec, self._out = spec, out

    def process(self, joined: tuple[str, _TaskInput]) -> Iterator[str]:
        name, sides = joined
        (task,) = sides["task"]
        duplicates = {duplicate.offset: duplicate.kept_url for duplicate in sides["duplicates"]}
        inputs = self._inputs(task, duplicates)
        candidates_folder(self._out).once(name, inputs, lambda: self._write(task, inputs, duplicates))
        yield name

    def _inputs(self, task: _Task, duplicates: dict[int, str]) -> str:
        if isinstance(task, _ListTask):
            return stage_inputs(VERSION, _source_settings(self._spec.sources[task.source]), asdict(task.part))
        receipt = crawl_folder(self._out, task.crawl).receipt(task.ledger)
        assert receipt is not None
        return stage_inputs(VERSION, _crawl_settings(self._spec, task.crawl), receipt.files, sorted(duplicates.items()))

    def _write(self, task: _Task, inputs: str, duplicates: dict[int, str]) -> Receipt:
        found = _Candidates(self._spec)
        if isinstance(task, _ListTask):
            self._read_list(task, found)
        else:
            self._extract_pages(task, duplicates, found)
        found.rows.sort(key=lambda row: (row["source"], row["key"]))
        folder = candidates_folder(self._out)
        files = {".parquet": write_table(folder.file(task.name, ".parquet"), found.rows, CANDIDATE_SCHEMA)}
        return folder.finish(task.name, inputs, found.tally, files)

    def _read_list(self, task: _ListTask, found: _Candidates) -> None:
        source = self._spec.sources[task.source]
        assert not isinstance(source.input, CrawlInput)
        found.tally.keep(task.source, "document", 0)
        found.add(task.source, FORMATS[source.input.format].read(task.part, source.input, task.source, source.kind))

    def _extract_pages(self, task: _CrawlTask, duplicates: dict[int, str], found: _Candidates) -> None:
        crawl, ledger = task.crawl, crawl_folder(self._out, task.crawl).file(task.ledger, ".parquet")
        fetched = (LedgerRow.from_columns(row) for row in read_rows(ledger) if row["outcome"] == FETCHED)
        rows = {row.offset: row for row in fetched}
        sources = {
            name: source
            for name, source in self._spec.sources.items()
            if isinstance(source.input, CrawlInput) and crawl in source.input.crawls
        }
        found.tally.keep(crawl, "page", 0)
        for name in sources:
            found.tally.keep(name, "document", 0)
        if not rows:
            return
        warc = next(iter(rows.values())).warc
        assert warc is not None
        for record in read_pages(warc_path(self._out, crawl, warc)):
            row = rows.pop(record.warc_offset, None)
            if row is not None:
                self._extract_page(crawl, row, record, duplicates, sources, found)
        for row in rows.values():
            found.tally.drop(_page_drop(crawl, row, "unreadable_record"))

    def _extract_page(
        self,
        crawl: str,
        row: LedgerRow,
        record: CrawledPage,
        duplicates: dict[int, str],
        sources: dict[str, SourceSpec],
        found: _Candidates,
    ) -> None:
        def drop(reason: Reason, detail: str | None = None) -> None:
            found.tally.drop(_page_drop(crawl, row, reason, detail))

        if row.offset in duplicates:
            drop("duplicate_url", urls.without_credentials(duplicates[row.offset]))
            return
        if record.refusal is not None:
            drop(record.refusal, record.truncated or record.mime)
            return
        page = parse_page(record.body, row.url, content_type=record.content_type)
        verdict = self._page_verdict(row, record, page)
        if not verdict.allowed:
            drop(verdict.reasons[0], ", ".join(verdict.reasons))
            return
        found.tally.keep(crawl, "page")
        found.tally.keep(crawl, "element", len(page.images) + len(page.videos))
        for reason, num in page.skipped:
            lost = replace(_page_drop(crawl, row, reason), unit="element", url=None)
            for _ in range(num):
                found.tally.drop(lost)
        external = self._spec.crawls[crawl].warc_files
        origin = PageOrigin(
            crawl=crawl,
            fetched_at=row.fetched_at,
            signals=verdict.signals,
            # Which part of our own crawl contains a page depends on timing; the ledger finds it by its URL.
            warc_file=row.warc.rpartition("/")[2] if external and row.warc else None,
            warc_offset=row.offset if external else None,
            warc_length=row.length if external else None,
        )
        for name, source in sources.items():
            assert isinstance(source.input, CrawlInput)
            if not source.input.takes(row.url):
                continue
            candidates = KIND_FUNCTIONS[source.kind](page, origin, name, source.pages)
            if not verdict.images_allowed and source.kind in NEEDS_IMAGES:
                lost = replace(_page_drop(name, row, verdict.image_reasons[0]), unit="document", url=None)
                found.add(name, [replace(lost, key=c.document.key) for c in candidates])
                continue
            found.add(name, [replace(c, record=row.record) for c in candidates])

    def _page_verdict(self, row: LedgerRow, record: CrawledPage, page: Page) -> Verdict:
        """Return the verdict on a page: by robots.txt at the time of the request, its headers and its meta elements."""
        policy = self._spec.request_policy
        at = {"url": urls.without_credentials(row.url), "observed_at": row.fetched_at}
        response = response_verdict(Verdict(signals=row.signals), record.headers, "page", policy, **at)
        return page_verdict(response, page.meta, policy, **at)


def _page_drop(source: str, row: LedgerRow, reason: Reason, detail: str | None = None) -> Drop:
    """Return the drop of a page of a ledger."""
    shown = urls.without_credentials(row.url)
    return Drop(
        source=source,
        stage="extract",
        reason=reason,
        unit="page",
        url=shown,
        page_url=shown,
        record=row.record,
        detail=detail,
    )


def _source_settings(source: SourceSpec) -> dict[str, Any]:
    """Return the settings of a source on which its candidates depend."""
    tree = source.model_dump(mode="json", include={"kind", "input", "pages"})
    filters = source.filters.model_dump(mode="json", include={"language", "text", "mask_personal_data"})
    return tree | {"filters": filters}


def _crawl_settings(spec: CorpusSpec, crawl: str) -> list[Any]:
    """Return the settings on which all candidates from a crawl depend."""
    drawing = {
        name: _source_settings(source)
        for name, source in spec.sources.items()
        if isinstance(source.input, CrawlInput) and crawl in source.input.crawls
    }
    return [drawing, spec.request_policy.model_dump(mode="json")]


# --- the stage ------------------------------------------------------------------------------------------------------


def _page_names(task: _CrawlTask, out: str) -> Iterator[tuple[str, _PagePlace]]:
    """Yield (crawl and canonical URL, place) for every fetched page of a task."""
    path = crawl_folder(out, task.crawl).file(task.ledger, ".parquet")
    for row in read_rows(path, ["url", "depth", "outcome", "canonical_url", "offset"]):
        if row["outcome"] == FETCHED:
            own = row["canonical_url"] or row["url"]
            # A page may name a canonical URL of its own host only, or one site could suppress another.
            own = own if urls.authority(own) == urls.authority(row["url"]) else row["url"]
            yield f"{task.crawl} {own}", _PagePlace(row["depth"], row["url"], task.name, row["offset"])


def _duplicates(grouped: tuple[str, Iterable[_PagePlace]]) -> Iterator[tuple[str, _Duplicate]]:
    """Yield (task, duplicate) for all pages of one canonical URL but the one that is kept."""
    own = grouped[0].partition(" ")[2]
    kept, *others = sorted(grouped[1], key=lambda place: (place.url != own, *place))
    for other in others:
        yield other.task, _Duplicate(other.offset, kept.url)


def run_extract(spec: CorpusSpec, out: str, runner: Runner) -> None:
    """Extract the candidates of all sources from what was crawled and from the lists."""
    crawled = [
        _CrawlTask(f"{crawl}-{ledger}", crawl, ledger) for crawl in spec.crawls for ledger in ledger_parts(out, crawl)
    ]
    listed = [
        _ListTask(f"{name}-{i:05d}", name, part)
        for name, source in spec.sources.items()
        if not isinstance(source.input, CrawlInput)
        for i, part in enumerate(FORMATS[source.input.format].parts(source.input))
    ]
    tasks: list[_Task] = [*crawled, *listed]
    folder = candidates_folder(out)
    ledgers = {crawl: crawl_folder(out, crawl).fingerprint() for crawl in spec.crawls}
    settings = [_crawl_settings(spec, crawl) for crawl in spec.crawls]
    lists = {name: _source_settings(source) for name, source in spec.sources.items()}
    inputs = stage_inputs(VERSION, ledgers, settings, lists, [asdict(task) for task in tasks])
    if folder.is_finished(inputs):
        return
    folder.begin()

    def build(pipeline: beam.Pipeline) -> None:
        duplicates = (
            pipeline
            | "ListCrawled" >> beam.Create(crawled)
            | "ReadNames" >> beam.FlatMap(_page_names, out)
            | "ByCanonicalUrl" >> beam.GroupByKey()
            | "FindDuplicates" >> beam.FlatMap(_duplicates)
        )
        named = pipeline | "ListTasks" >> beam.Create([(task.name, task) for task in tasks])
        _ = (
            {"task": named, "duplicates": duplicates}
            | "ByTask" >> beam.CoGroupByKey()
            | "ExtractParts" >> beam.ParDo(_ExtractPart(spec, out))
        )

    run_pipeline("extract", runner, build, lambda: len(folder.receipts()))
    folder.keep_only({task.name for task in tasks})
    folder.end(inputs)
