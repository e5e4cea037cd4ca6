"""What candidates are made from, as one hash, by which a build finds that it has nothing to do.

Not in the stage, which needs Beam: that takes a second to import.
"""

from dataclasses import asdict, dataclass
from typing import Any

from pipelines.crawling.ledger import CrawlTask, ledger_parts
from pipelines.layout import crawl_folder, robots_folder
from pipelines.parts import digest, stage_inputs
from pipelines.shards.manifest import InputFile
from pipelines.sources import FORMATS
from pipelines.sources.files import Part, explain_read_errors, missing_parts
from pipelines.sources.input_files import forget_inputs, record_inputs
from pipelines.spec import CorpusSpec, CrawlInput, SourceSpec
from pipelines.text.judging import named_files

# Increment when equal pages or lists would give other candidates or drops, by this module or by those of `pages/`,
# `sources/`, `text/` and `web/` that it uses. All are then extracted again from what was crawled.
VERSION = 5


@dataclass(frozen=True, slots=True)
class ListTask:
    """A part of a source's list; `name` is that of the part of candidates."""

    name: str
    source: str
    part: Part
    content: str  # hash of the file, and of those that are read with it


Task = CrawlTask | ListTask


def extract_tasks(spec: CorpusSpec, out: str) -> list[Task]:
    """Return the parts of all crawls and lists.

    Raises:
        UserError: If a list cannot be had, or is not of its format.
    """
    crawled = (CrawlTask(f"{crawl}-{name}", crawl, name) for crawl in spec.crawls for name in ledger_parts(out, crawl))
    return [*crawled, *_list_tasks(spec, out)]


def _list_tasks(spec: CorpusSpec, out: str) -> list[ListTask]:
    """Return the parts of all lists; their files are hashed on the way.

    Raises:
        UserError: If one cannot be had, or is not of its format.
    """
    inputs = {name: source.input for name, source in spec.sources.items() if not isinstance(source.input, CrawlInput)}
    parts = {name: FORMATS[settings.format].parts(settings) for name, settings in inputs.items()}
    companions = {name: FORMATS[settings.format].companion_files(settings) for name, settings in inputs.items()}
    listed = {
        name: [*((p.path, p.name) for p in parts[name]), *((file.path, file.name) for file in companions[name])]
        for name in inputs
    }
    forget_inputs(out, [*spec.crawls, *inputs])
    lost = {name: missing_parts(settings, len(parts[name])) for name, settings in inputs.items()}
    found: dict[tuple[str, str], InputFile] = {}
    for name, files in listed.items():
        with explain_read_errors(f"sources.{name}"):
            found |= record_inputs(out, {name: files})
    contents: dict[tuple[str, str | None], list[Any]] = {}
    for name in inputs:
        for file in companions[name]:
            contents.setdefault((name, file.of), []).append(found[name, file.path].content)
    skipped = [ListTask(f"{name}-{part.index:05d}", name, part, "missing") for name in inputs for part in lost[name]]
    return skipped + [
        ListTask(
            f"{name}-{i:05d}",
            name,
            part,
            digest(found[name, part.path].content, contents.get((name, part.path)), contents.get((name, None))),
        )
        for name in inputs
        for i, part in enumerate(parts[name])
    ]


def source_settings(source: SourceSpec) -> dict[str, Any]:
    """Return the settings of a source on which its candidates depend."""
    tree = source.model_dump(mode="json", include={"kind", "input", "pages"})
    names = {"language", "text", "spoken", "mask_personal_data", "classifiers", "evaluation_sets"}
    filters = source.filters.model_dump(mode="json", include=names)
    files = named_files(source.filters)
    return tree | {"filters": filters} | ({"files": files} if files else {})


def crawl_settings(spec: CorpusSpec, crawl: str) -> list[Any]:
    """Return the settings on which all candidates from a crawl depend."""
    drawing = {
        name: source_settings(source)
        for name, source in spec.sources.items()
        if isinstance(source.input, CrawlInput) and crawl in source.input.crawls
    }
    boilerplate = spec.crawls[crawl].model_dump(mode="json", include={"host_boilerplate"})
    return [drawing, spec.request_policy.model_dump(mode="json"), boilerplate]


def extract_inputs(spec: CorpusSpec, out: str, tasks: list[Task]) -> str:
    """Return the hash of what all candidates depend on."""
    archives = [crawl for crawl, settings in spec.crawls.items() if settings.robots_files]
    return stage_inputs(
        VERSION,
        {crawl: crawl_folder(out, crawl).fingerprint() for crawl in spec.crawls},
        {crawl: robots_folder(out, crawl).fingerprint() for crawl in archives},
        [crawl_settings(spec, crawl) for crawl in spec.crawls],
        {name: source_settings(source) for name, source in spec.sources.items()},
        spec.policy.robots_of_others,
        [asdict(task) for task in tasks],
    )
