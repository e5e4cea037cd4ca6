"""The plan of a build: every source sampled, the figures, and what would stop it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipelines.errors import UserError
from pipelines.planning.crawl_sampling import sample_crawl
from pipelines.planning.figures import Counts, Figures, counts_of, figures_of, to_record
from pipelines.planning.obstacles import obstacles
from pipelines.planning.sampling import Sample, sample_list
from pipelines.spec import NEEDS_CONTACT, CorpusSpec, CrawlInput, load_spec

_CONTACT = "policy.user_agent=plan (mailto:nobody@example.org)"  # with which nothing is requested


@dataclass(frozen=True, slots=True)
class Plan:
    """What a build takes in, what it takes, on how much, and what would stop it."""

    spec: CorpusSpec
    out: str
    counts: dict[str, Counts]
    figures: Figures
    num_cores: int
    num_machines: int
    obstacles: list[str] = field(default_factory=list)

    def to_record(self) -> dict[str, Any]:
        """Return the plan for programs."""
        sources = {
            name: {
                "kind": self.spec.sources[name].kind,
                "rows": each.num_rows,
                "rows_known_by": each.how,
                "dropped": each.dropped,
                "documents": each.num_documents,
                "images": each.num_images,
                "videos": each.num_videos,
                "images_in_input": each.num_inline,
                "hosts_in_sample": each.num_hosts,
            }
            for name, each in self.counts.items()
        }
        figures = to_record(self.figures, self.num_cores, self.num_machines)
        return {"spec": self.spec.name, "sources": sources, **figures, "obstacles": self.obstacles}


def load_planned(path: str, overrides: tuple[str, ...]) -> tuple[CorpusSpec, list[str]]:
    """Return a spec, and what would stop its build already: a user agent without contact stops no plan.

    Raises:
        UserError: If it has any other mistake.
    """
    try:
        return load_spec(path, overrides), []
    except UserError as error:
        if NEEDS_CONTACT not in str(error):
            raise
        return load_spec(path, (*overrides, _CONTACT)), [str(error)]


def make_plan(
    spec: CorpusSpec,
    out: str,
    *,
    num_cores: int,
    num_machines: int = 1,
    rows: Mapping[str, int] | None = None,
    known_obstacles: list[str] | None = None,
) -> Plan:
    """Sample every source and compute what the build takes.

    Args:
        spec: The corpus.
        out: Where it is to be built, for the free space there.
        num_cores: Of one machine.
        num_machines: Machines of that kind.
        rows: Rows of a source's whole list, where only some of its files are at hand.
        known_obstacles: What is known to stop the build.
    """
    rows, stopping = rows or {}, list(known_obstacles or ())
    if unknown := sorted(rows.keys() - spec.sources.keys()):
        raise UserError(f"--rows {unknown[0]}: no such source; the spec has {', '.join(spec.sources)}")
    samples: dict[str, Sample] = {}
    num_pages: int | None = 0
    for crawl in spec.crawls:
        try:
            of_crawl, of_sources = sample_crawl(spec, crawl)
        except UserError as error:
            stopping.append(f"crawls.{crawl}: {error}")
            of_crawl, of_sources = Sample(how="its files cannot be read"), {}
        num_pages = _added(num_pages, _num_parsed(of_crawl))
        for name, sample in of_sources.items():
            samples[name] = _joined(samples.get(name), sample)
    for name, source in spec.sources.items():
        if isinstance(source.input, CrawlInput):
            samples.setdefault(name, Sample(how="its crawl's files cannot be read"))
            continue
        try:
            samples[name] = sample_list(spec, name)
        except UserError as error:
            stopping.append(f"sources.{name}: {error}")
            samples[name] = Sample(how="its files cannot be read")
    counts = {name: counts_of(spec.sources[name].kind, samples[name], rows.get(name)) for name in spec.sources}
    figures = figures_of(spec, counts, num_pages)
    return Plan(spec, out, counts, figures, num_cores, num_machines, stopping + obstacles(spec, out, figures))


def _num_parsed(crawl: Sample) -> int | None:
    """Return how many pages of a crawl are parsed; None if that is unknown."""
    if crawl.num_rows is None:
        return None
    return round(crawl.num_rows * crawl.num_pages / crawl.num_judged) if crawl.num_judged else 0


def _added(first: int | None, second: int | None) -> int | None:
    return None if first is None or second is None else first + second


def _joined(first: Sample | None, second: Sample) -> Sample:
    """Return the samples of two crawls of one source as one, each with its own share of the rows."""
    if first is None:
        return second
    rows = _added(first.num_rows, second.num_rows)
    how = first.how if first.how == second.how else f"{first.how}; {second.how}"
    joined = Sample(first.num_files + second.num_files, first.num_bytes + second.num_bytes, rows, how)
    for each in (first, second):
        joined.num_judged += each.num_judged
        joined.num_documents += each.num_documents
        joined.document_bytes += each.document_bytes
        joined.num_candidates += each.num_candidates
        joined.num_inline += each.num_inline
        joined.dropped += each.dropped
        joined.requests += each.requests
        joined.hosts += each.hosts
    return joined
