"""Samples of crawls: pages of WARC files that another crawler wrote. What live sites have is not known before."""

from collections.abc import Iterator
from dataclasses import replace

from pipelines import storage
from pipelines.candidate import Candidate
from pipelines.pages.blocks import Page
from pipelines.pages.kinds import KIND_FUNCTIONS, PageOrigin
from pipelines.part_candidates import PartCandidates
from pipelines.planning.sampling import (
    JUDGED_ROWS,
    SAMPLED_FILES,
    ReadRows,
    Sample,
    beginning,
    extrapolate,
    fill,
    num_bytes,
    spread,
)
from pipelines.sources.archived_page import kinds_of, parse_record
from pipelines.sources.files import expand
from pipelines.sources.warc import CrawledPage, read_records
from pipelines.spec import CorpusSpec, CrawlInput
from pipelines.web import urls


def sample_crawl(spec: CorpusSpec, crawl: str) -> tuple[Sample, dict[str, Sample]]:
    """Return a sample of a crawl's pages, and of what each source that draws on it takes of the same pages.

    Pages that are refused, or repeat others of the crawl, count as documents: that is decided over the whole crawl.

    Raises:
        UserError: If a WARC file is missing or is none.
    """
    settings = spec.crawls[crawl]
    drawing = _drawing(spec, crawl)
    if not settings.warc_files:
        num_hosts, most = len(settings.scope), settings.max_pages_per_host
        how = f"unknown: live sites are crawled; hosts: {num_hosts:,}, pages: at most {num_hosts * most:,}"
        return Sample(how=how), {source: Sample(how=how) for source in drawing}
    paths = [path for path, _ in expand(settings.warc_files)]
    of_crawl, found = Sample(num_files=len(paths), num_bytes=num_bytes(paths)), PartCandidates(spec)
    of_sources = {source: Sample(num_files=len(paths), num_bytes=of_crawl.num_bytes) for source in drawing}
    read = [
        _read_file(spec, path, of_crawl, of_sources, found)
        for path, _ in spread([(p, p) for p in paths], SAMPLED_FILES)
    ]
    extrapolate(of_crawl, read)
    for source, sample in of_sources.items():
        sample.num_rows, sample.how, sample.num_judged = of_crawl.num_rows, of_crawl.how, of_crawl.num_judged
        fill(sample, found, source)
    return of_crawl, of_sources


def _drawing(spec: CorpusSpec, crawl: str) -> list[str]:
    inputs = {name: source.input for name, source in spec.sources.items()}
    return [name for name, input_ in inputs.items() if isinstance(input_, CrawlInput) and crawl in input_.crawls]


def _read_file(
    spec: CorpusSpec, path: str, of_crawl: Sample, of_sources: dict[str, Sample], found: PartCandidates
) -> ReadRows:
    size, rows = storage.size(path), 0
    with beginning(path) as (part, read_bytes):
        for page in _pages(part):
            rows += 1
            if rows > JUDGED_ROWS:
                continue
            of_crawl.num_judged += 1
            if page.refusal is not None or (url := urls.resolve(page.url, "")) is None:
                of_crawl.dropped[page.refusal or "bad_url"] += 1
                continue
            parsed = parse_record(page, url)
            of_crawl.num_pages += 1
            for source, sample in of_sources.items():
                candidates = _candidates(spec, source, page, parsed, url)
                sample.num_candidates += len(candidates)
                found.add(source, candidates, asks="all")
    return ReadRows(rows, read_bytes, is_all=read_bytes == size)


def _pages(path: str) -> Iterator[CrawledPage]:
    return (record for record in read_records(path) if isinstance(record, CrawledPage))


def _candidates(spec: CorpusSpec, source: str, page: CrawledPage, parsed: Page, url: str) -> list[Candidate]:
    settings = spec.sources[source]
    assert isinstance(settings.input, CrawlInput)
    kinds = kinds_of(page)
    if not settings.input.takes(url) or (kinds is not None and settings.kind not in kinds):
        return []
    found = KIND_FUNCTIONS[settings.kind](parsed, PageOrigin(fetched_at=page.fetched_at), source, settings.pages)
    return [replace(candidate, record=url) for candidate in found]
