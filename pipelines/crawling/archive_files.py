"""Files of other crawlers' archives that a crawl reads, and the hashes of their contents."""

import hashlib
from dataclasses import asdict

from pipelines import storage
from pipelines.errors import UserError
from pipelines.parts import digest
from pipelines.sources.files import Part, expand, explain_read_errors
from pipelines.sources.input_files import record_inputs
from pipelines.sources.lines import read_text_lines
from pipelines.sources.origin import RowError
from pipelines.sources.warc_index import archive_name
from pipelines.spec import CorpusSpec


def path_hash(path: str) -> str:
    """Return 16 hexadecimal digits of the hash of a file's path, for the name of its part."""
    return hashlib.sha256(path.encode()).hexdigest()[:16]


def archive_hashes(out: str, crawl: str, paths: list[str]) -> dict[str, str]:
    """Return the hash of the content of each WARC file of a crawl, by path; they are recorded as its inputs."""
    with explain_read_errors(f"crawls.{crawl}"):
        found = record_inputs(out, {crawl: [(path, archive_name(path)) for path in paths]}) if paths else {}
    return {path: digest(file.content) for (_, path), file in found.items()}


def warc_paths(patterns: list[str], base: str = "") -> list[str]:
    """Return the WARC files that the patterns match, and those that files of paths (`warc.paths.gz`) list.

    Args:
        patterns: Paths of WARC files and of files of paths.
        base: What the listed paths are relative to.

    Raises:
        UserError: If one matches no file. Whether the listed ones exist shows when they are read.
    """
    found: dict[str, None] = {}
    for path, _ in expand(patterns):
        listed = _listed_paths(path, base) if path.endswith((".paths", ".paths.gz")) else [path]
        # A path without a folder would be one beside the ledger (`layout.warc_path`).
        found |= dict.fromkeys(each if "/" in each else f"./{each}" for each in listed)
    return list(found)


def _listed_paths(path: str, base: str) -> list[str]:
    found: list[str] = []
    for locator, line in read_text_lines(Part(path, path)):
        if isinstance(line, RowError) or line.strip().startswith("<"):
            raise UserError(f"{path}: not a file of paths, one a line: {locator}")
        found.append(line.strip() if "://" in line else storage.join(base, line.strip().lstrip("/")))
    if not found:
        raise UserError(f"{path}: lists no paths")
    return found


def indexed_name(part: Part, content: str, spec: CorpusSpec, crawl: str) -> str:
    """Return the name of what is fetched for a part of an index, which changes with all that it depends on."""
    settings = spec.crawls[crawl].index
    assert settings is not None
    place = {name: value for name, value in asdict(part).items() if name != "index"}
    return digest(place, content, settings.model_dump(mode="json")["where"], spec.crawls[crawl].warc_base)[:16]
