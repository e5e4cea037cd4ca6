"""Extract: pages and lists become candidates, documents without bytes whose text is already judged.

A page that is refused costs no request for its images. Pages of one canonical URL are one page: the one nearest to
a seed is kept. A part of candidates is made from one part of a crawl, or from one piece of a list.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import apache_beam as beam
import pyarrow as pa

from pipelines.candidate import Candidate
from pipelines.crawling.ledger import ledger_parts, warc_record
from pipelines.document import Document, Drop, Signal
from pipelines.drop_reasons import FETCHED, Reason, Refusal
from pipelines.layout import candidates_folder, crawl_folder, warc_path
from pipelines.pages.kinds import PageOrigin, grounded, interleaved, pairs, text, videos
from pipelines.pages.parse import Page, parse_page
from pipelines.parts import Receipt, Tally, read_rows, stage_inputs, write_table
from pipelines.running.runner import Runner, run_pipeline
from pipelines.sources import FORMATS
from pipelines.sources.files import Part
from pipelines.sources.warc import CrawledPage, read_pages
from pipelines.spec import CorpusSpec, CrawlInput, SourceSpec
from pipelines.text.judging import excerpt, judge_text
from pipelines.web import urls
from pipelines.web.permission import Verdict, page_verdict, response_verdict

# Raise it when equal pages or lists would give other candidates or drops, by this module or by those of `pages/`,
# `sources/`, `text/` and `web/` that it uses. All are then extracted anew, from what was crawled.
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
class _Task:
    """A part to extract: of a crawl's ledger, or of a source's list."""

    name: str
    crawl: str | None = None
    ledger: str | None = None
    source: str | None = None
    piece: Part | None = None


class _Candidates:
    """What a part has found so far: judged candidates and the tally."""

    def __init__(self, spec: CorpusSpec) -> None:
        self._spec = spec
        self.tally = Tally("extract")
        self.rows: list[dict[str, Any]] = []

    def add(self, source: str, found: Iterable[Candidate | Drop]) -> None:
        """Judge the text of candidates of one source, and keep or drop each."""
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
        """Whether the page's words are under a licence that the policy does not allow; images have their own."""
        has_words = settings.kind in ("interleaved", "text") and isinstance(settings.input, CrawlInput)
        return has_words and not self._spec.policy.allows_license(document.source.license)

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
    """Writes the candidates of one task; skips one whose receipt was made from the same inputs."""

    def __init__(self, spec: CorpusSpec, out: str) -> None:
        self._spec, self._out = spec, out

    def process(self, grouped: tuple[str, Iterable[tuple[str, Any]]]) -> Iterator[str]:
        marks = list(grouped[1])
        (task,) = [value for mark, value in marks if mark == "task"]
        duplicates = {offset: kept for mark, value in marks if mark == "duplicate" for offset, kept in [value]}
        folder = candidates_folder(self._out)
        inputs = self._inputs(task, duplicates)
        folder.once(task.name, inputs, lambda: self._write(task, inputs, duplicates))
        yield task.name

    def _inputs(self, task: _Task, duplicates: dict[int, str]) -> str:
        if task.crawl is not None:
            receipt = crawl_folder(self._out, task.crawl).receipt(task.ledger or "")
            assert receipt is not None
            return stage_inputs(
                VERSION, _crawl_settings(self._spec, task.crawl), receipt.files, sorted(duplicates.items())
            )
        assert task.piece is not None
        source = self._spec.sources[task.source or ""]
        return stage_inputs(VERSION, _source_settings(source), asdict(task.piece))

    def _write(self, task: _Task, inputs: str, duplicates: dict[int, str]) -> Receipt:
        found = _Candidates(self._spec)
        if task.crawl is not None:
            self._extract_pages(task.crawl, task.ledger or "", duplicates, found)
        else:
            self._read_list(task.source or "", task.piece, found)
        found.rows.sort(key=lambda row: (row["source"], row["key"]))
        folder = candidates_folder(self._out)
        files = {".parquet": write_table(folder.file(task.name, ".parquet"), found.rows, CANDIDATE_SCHEMA)}
        return folder.finish(task.name, inputs, found.tally, files)

    def _read_list(self, name: str, piece: Part | None, found: _Candidates) -> None:
        source = self._spec.sources[name]
        assert piece is not None
        assert not isinstance(source.input, CrawlInput)
        found.tally.keep(name, "document", 0)
        found.add(name, FORMATS[source.input.format].read(piece, source.input, name, source.kind))

    def _extract_pages(self, crawl: str, ledger: str, duplicates: dict[int, str], found: _Candidates) -> None:
        folder = crawl_folder(self._out, crawl)
        rows = {r["offset"]: r for r in read_rows(folder.file(ledger, ".parquet")) if r["outcome"] == FETCHED}
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
        for record in read_pages(warc_path(self._out, crawl, next(iter(rows.values()))["warc"])):
            row = rows.pop(record.warc_offset, None)
            if row is not None:
                self._extract_page(crawl, row, record, duplicates, sources, found)
        for row in rows.values():
            found.tally.drop(_page_drop(crawl, row, "unreadable_record"))

    def _extract_page(
        self,
        crawl: str,
        row: dict[str, Any],
        record: CrawledPage,
        duplicates: dict[int, str],
        sources: dict[str, SourceSpec],
        found: _Candidates,
    ) -> None:
        def drop(reason: Reason, detail: str | None = None) -> None:
            found.tally.drop(_page_drop(crawl, row, reason, detail))

        if row["offset"] in duplicates:
            drop("duplicate_url", urls.without_credentials(duplicates[row["offset"]]))
            return
        if record.refusal is not None:
            drop(record.refusal, record.truncated or record.mime)
            return
        page = parse_page(record.body, row["url"], content_type=record.content_type)
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
            fetched_at=row["fetched_at"],
            signals=verdict.signals,
            # Which part of our own crawl holds a page depends on timing; the ledger finds it by its URL.
            warc_file=row["warc"].rpartition("/")[2] if external else None,
            warc_offset=row["offset"] if external else None,
            warc_length=row["length"] if external else None,
        )
        for name, source in sources.items():
            assert isinstance(source.input, CrawlInput)
            if not source.input.takes(row["url"]):
                continue
            candidates = KIND_FUNCTIONS[source.kind](page, origin, name, source.pages)
            if not verdict.images_allowed and source.kind in NEEDS_IMAGES:
                lost = replace(_page_drop(name, row, verdict.image_reasons[0]), unit="document", url=None)
                found.add(name, [replace(lost, key=c.document.key) for c in candidates])
                continue
            found.add(name, [replace(c, record=warc_record(row)) for c in candidates])

    def _page_verdict(self, row: dict[str, Any], record: CrawledPage, page: Page) -> Verdict:
        """What robots.txt said when the page was asked for, what its headers say, and what its meta elements say."""
        policy = self._spec.request_policy
        asked = Verdict(signals=tuple(Signal(**s) for s in json.loads(row["signals"])))
        at = {"url": urls.without_credentials(row["url"]), "observed_at": row["fetched_at"]}
        return page_verdict(response_verdict(asked, record.headers, "page", policy, **at), page.meta, policy, **at)


def _page_drop(source: str, row: dict[str, Any], reason: Reason, detail: str | None = None) -> Drop:
    """A page of a ledger that is left out."""
    shown = urls.without_credentials(row["url"])
    return Drop(
        source=source,
        stage="extract",
        reason=reason,
        unit="page",
        url=shown,
        page_url=shown,
        record=warc_record(row),
        detail=detail,
    )


def _source_settings(source: SourceSpec) -> dict[str, Any]:
    """The settings of a source that decide its candidates."""
    tree = source.model_dump(mode="json", include={"kind", "input", "pages"})
    filters = source.filters.model_dump(mode="json", include={"language", "text", "mask_personal_data"})
    return tree | {"filters": filters}


def _crawl_settings(spec: CorpusSpec, crawl: str) -> list[Any]:
    drawing = {
        name: _source_settings(source)
        for name, source in spec.sources.items()
        if isinstance(source.input, CrawlInput) and crawl in source.input.crawls
    }
    return [drawing, spec.request_policy.model_dump(mode="json")]


# --- the stage ------------------------------------------------------------------------------------------------------


_Place = tuple[int, str, str, int]  # (depth, URL, task, offset) of a page; archives may hold one URL several times


def _page_names(task: _Task, out: str) -> Iterator[tuple[str, _Place]]:
    """(crawl and the page's own URL, place) of every page that was fetched."""
    path = crawl_folder(out, task.crawl or "").file(task.ledger or "", ".parquet")
    for row in read_rows(path, ["url", "depth", "outcome", "canonical_url", "offset"]):
        if row["outcome"] == FETCHED:
            own = row["canonical_url"] or row["url"]
            # Only a page of the same host may speak for another: else one site could silence a second.
            own = own if urls.authority(own) == urls.authority(row["url"]) else row["url"]
            yield f"{task.crawl} {own}", (row["depth"], row["url"], task.name, row["offset"])


def _duplicates(grouped: tuple[str, Iterable[_Place]]) -> Iterator[tuple[str, tuple[str, Any]]]:
    """(task, ("duplicate", (offset, URL of the one kept))) of all pages of one canonical URL but one."""
    own = grouped[0].partition(" ")[2]
    kept, *others = sorted(grouped[1], key=lambda place: (place[1] != own, *place))
    for _, _, task, offset in others:
        yield task, ("duplicate", (offset, kept[1]))


def run_extract(spec: CorpusSpec, out: str, runner: Runner) -> None:
    """Extract the candidates of all sources from what was crawled and from the lists."""
    tasks = []
    for crawl in spec.crawls:
        tasks += [_Task(f"{crawl}-{part}", crawl=crawl, ledger=part) for part in ledger_parts(out, crawl)]
    for name, source in spec.sources.items():
        if not isinstance(source.input, CrawlInput):
            pieces = FORMATS[source.input.format].parts(source.input)
            tasks += [_Task(f"{name}-{i:05d}", source=name, piece=piece) for i, piece in enumerate(pieces)]
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
            | "ListCrawled" >> beam.Create([task for task in tasks if task.crawl])
            | "ReadNames" >> beam.FlatMap(_page_names, out)
            | "ByCanonicalUrl" >> beam.GroupByKey()
            | "FindDuplicates" >> beam.FlatMap(_duplicates)
        )
        every = pipeline | "ListTasks" >> beam.Create([(task.name, ("task", task)) for task in tasks])
        _ = (
            (duplicates, every)
            | "Join" >> beam.Flatten()
            | "ByTask" >> beam.GroupByKey()
            | "ExtractParts" >> beam.ParDo(_ExtractPart(spec, out))
        )

    run_pipeline("extract", runner, build, lambda: len(folder.receipts()))
    folder.keep_only({task.name for task in tasks})
    folder.end(inputs)
