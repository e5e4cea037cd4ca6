"""What a crawl is made from, as one hash, by which a build finds that it has nothing to do.

Not in the stage, which needs Beam: that takes a second to import.
"""

import json
from dataclasses import dataclass

from pipelines import storage
from pipelines.crawling.archive_files import archive_hashes, indexed_name, warc_paths
from pipelines.layout import crawl_folder
from pipelines.parts import stage_inputs
from pipelines.sources.files import Part
from pipelines.sources.warc_index import index_parts
from pipelines.spec import CorpusSpec

# Increment when equal WARC files would give other ledgers, or equal ledgers other accounts. Ledgers of other crawlers'
# files and all accounts are then made again. Answers to requests stay, and nobody is asked again: delete
# `work/warc/<crawl>` for that.
VERSION = 5


@dataclass(frozen=True, slots=True)
class CrawlProgress:
    """State of a crawl between rounds."""

    rounds: int = 0  # complete ones
    retry_round: int = 0  # transient failures of earlier rounds are requested again
    finished: str | None = None  # hash of the inputs of the finished crawl; empty while it is being finished again


def progress_path(out: str, crawl: str) -> str:
    """Return the path of a crawl's state."""
    return crawl_folder(out, crawl).file("stage", ".json")


def load_progress(out: str, crawl: str) -> CrawlProgress:
    """Return a crawl's state, which is that of a new one if there is none."""
    path = progress_path(out, crawl)
    return CrawlProgress(**json.loads(storage.read_bytes(path))) if storage.exists(path) else CrawlProgress()


@dataclass(frozen=True, slots=True)
class ArchiveFiles:
    """Hashes of the contents of other crawlers' files that a crawl reads: pages and robots.txt by path, and indexes."""

    pages: dict[str, str]
    robots: dict[str, str]
    indexed: list[tuple[Part, str]]


def archive_files(spec: CorpusSpec, name: str, out: str) -> ArchiveFiles:
    """Return the files of a crawl; they are recorded as its inputs."""
    settings = spec.crawls[name]
    base = settings.warc_base
    pages = warc_paths(settings.warc_files, base) if settings.warc_files else []
    robots = warc_paths(settings.robots_files, base) if settings.robots_files else []
    listed = index_parts(settings.index) if settings.index is not None else []
    hashes = archive_hashes(out, name, [*pages, *robots, *dict.fromkeys(part.path for part in listed)])
    of_pages, of_robots = ({path: hashes[path] for path in paths} for paths in (pages, robots))
    return ArchiveFiles(of_pages, of_robots, [(part, hashes[part.path]) for part in listed])


def crawl_inputs(spec: CorpusSpec, name: str, files: ArchiveFiles) -> str:
    """Return the hash of what a crawl depends on."""
    asked = spec.crawls[name].model_dump(mode="json", exclude={"host_boilerplate"})  # which counts in extract only
    settings = [asked, spec.request_policy.model_dump(mode="json")]
    of_index = [[indexed_name(*part, spec, name) for part in files.indexed]] if files.indexed else []
    return stage_inputs(VERSION, settings, sorted(files.pages.items()), sorted(files.robots.items()), *of_index)
