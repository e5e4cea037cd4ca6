"""Checks of a corpus as a whole: files beside the manifest's, the funnel, drops, the spec, Croissant, drift."""

import hashlib
import json
import logging
import re
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ValidationError

from pipelines import storage
from pipelines.errors import UserError
from pipelines.funnel import check_funnel
from pipelines.layout import resolved_spec_path, takedown_folder, work_folder
from pipelines.shards.manifest import FILE_NAME, Manifest, load_manifest, samples_per_source
from pipelines.web.urls import without_credentials
from tools.audit.findings import Findings
from tools.queries import stability
from tools.queries.scratch import ScratchFolder
from tools.queries.tables import Tables

if TYPE_CHECKING:
    from pipelines.spec import CorpusSpec

CROISSANT = "croissant.json"
LARGE_SHIFT = 0.25
"""Population stability index from which a shift is large (Siddiqi, Credit Risk Scorecards, 2006)."""

_MAX_VALIDATED = 50
_PLAIN = {"@type", "@id", "name", "contentUrl", "encodingFormat", "sha256"}


def check_files(corpus: str, manifest: Manifest, findings: Findings) -> None:
    """Find tars that the manifest does not list; readers of a folder would take them for a part of the corpus."""
    listed = {storage.join(corpus, shard.path) for shard in manifest.shards}
    others = (work_folder(corpus) + "/", takedown_folder(corpus) + "/")
    for path in storage.list_files(corpus, ".tar"):
        if path not in listed and not path.startswith(others):
            findings.add("shard_extra", path[len(corpus) + 1 :], "a tar that the manifest does not list")


def check_funnel_rows(manifest: Manifest, findings: Findings) -> None:
    """Find rows of the funnel that do not add up, and sources whose last row is not the number of their samples."""
    findings.num_checked["funnel"] += len(manifest.funnel)
    for fault in check_funnel(manifest.funnel, samples_per_source(manifest.shards)):
        findings.add("funnel_sum", FILE_NAME, fault)


# --- the spec -------------------------------------------------------------------------------------------------------


def read_spec(corpus: str, manifest: Manifest, findings: Findings) -> "CorpusSpec | None":
    """Return the settings that the corpus was built by; None if there are none, which is a fault of what was built."""
    if manifest.spec_sha256 is None:
        return None
    from pipelines.spec import CorpusSpec, load_spec  # slow, and not every check needs it

    path = resolved_spec_path(corpus)
    name = path[len(corpus) + 1 :]
    try:
        data = storage.read_bytes(path)
    except FileNotFoundError:
        findings.add("spec_unreadable", name, "missing: decisions cannot be judged again without it")
        return None
    if (found := hashlib.sha256(data).hexdigest()) != manifest.spec_sha256:
        said = f"sha256 {found}, the manifest says {manifest.spec_sha256}: other settings than those of the build"
        findings.add("spec_differs", name, said)
    with suppress(yaml.YAMLError, ValidationError, RecursionError):
        # The spec's own reader counts lines, and takes a second for some hundred sources.
        return CorpusSpec.model_validate(yaml.load(data, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
    with ScratchFolder() as folder:
        copy = Path(folder, "spec.resolved.yaml")
        copy.write_bytes(data)
        try:
            return load_spec(copy)
        except UserError as error:
            findings.add("spec_unreadable", name, str(error).replace(str(copy), name))
            return None


# --- Croissant ------------------------------------------------------------------------------------------------------


def check_croissant(corpus: str, manifest: Manifest, findings: Findings) -> None:
    """Validate `croissant.json`, and hold its files against the manifest."""
    data = storage.read_bytes(storage.join(corpus, CROISSANT))
    try:
        record = json.loads(data)
        files = {str(file.get("contentUrl")): file for file in _tar_files(record)}
    except (ValueError, RecursionError, AttributeError, TypeError) as error:
        findings.add("croissant_invalid", CROISSANT, storage.error_line(error))
        return
    for words in _issues(_without_equals(record)):
        findings.add("croissant_invalid", CROISSANT, words)
    urls = _urls_by_shard(files, manifest)
    for shard in manifest.shards:
        findings.num_checked["croissant"] += 1
        url = urls.get(shard.path)
        if url is None:
            findings.add("croissant_differs", CROISSANT, f"no FileObject has the contentUrl {shard.path}")
            continue
        said = files.pop(url).get("sha256")
        if said != shard.sha256:
            findings.add(
                "croissant_differs", CROISSANT, f"{shard.path}: sha256 {said}, the manifest says {shard.sha256}"
            )
    for url in files:
        findings.add(
            "croissant_differs", CROISSANT, f"FileObject {without_credentials(url)[:200]!r} is no shard of the manifest"
        )


def _tar_files(record: Any) -> list[dict[str, Any]]:
    found = record.get("distribution") or []
    files = [file for file in (found if isinstance(found, list) else [found]) if isinstance(file, dict)]
    kinds = {"cr:FileObject", "sc:FileObject", "FileObject"}
    return [
        file
        for file in files
        if file.get("@type") in kinds and str(file.get("contentUrl", "")).split("?")[0].endswith(".tar")
    ]


def _urls_by_shard(files: Iterable[str], manifest: Manifest) -> dict[str, str]:
    """Return the URL that names each shard: its path, or a URL that ends with it; the longest path that a URL names."""
    paths = {shard.path for shard in manifest.shards}
    max_parts = max((path.count("/") + 1 for path in paths), default=0)
    urls: dict[str, str] = {}
    for url in sorted(files, key=lambda url: url not in paths):  # equal paths first
        parts = url.split("?")[0].split("/")
        ends = ["/".join(parts[i:]) for i in range(max(len(parts) - max_parts, 0), len(parts))]
        path = url if url in paths else next((end for end in ends if end in paths), None)
        if path is not None:
            urls.setdefault(path, url)
    return urls


def _without_equals(record: Any) -> Any:
    """Return a description of some files only, as mlcroissant's validation takes a minute for 1,600 of them.

    What is left out are files beyond the first `_MAX_VALIDATED` that have the same plain form as those, checked here:
    an @id of their own, a name, a URL, an encoding and a sha256, and nothing that mlcroissant would look into. Files to
    which a record set refers are kept.
    """
    files = record.get("distribution")
    if not isinstance(files, list):
        return record
    plain = [file["@id"] for file in files if _is_plain(file)]
    numbers = Counter(file["@id"] for file in files if isinstance(file, dict) and isinstance(file.get("@id"), str))
    omitted = {id_ for id_ in plain[_MAX_VALIDATED:] if numbers[id_] == 1}
    omitted -= _ids({name: value for name, value in record.items() if name != "distribution"})
    lists = [file["containedIn"] for file in files if isinstance(file, dict) and "containedIn" in file]
    omitted -= {id_ for refs in lists for id_ in _ids(refs[:_MAX_VALIDATED] if isinstance(refs, list) else refs)}
    left = [file for file in files if not (_is_plain(file) and file["@id"] in omitted)]
    return record | {"distribution": [_without_references(file, omitted) for file in left]}


def _is_plain(file: Any) -> bool:
    return (
        isinstance(file, dict)
        and _PLAIN <= file.keys() <= _PLAIN | {"contentSize", "description"}
        and all(isinstance(value, str) and value for value in file.values())
        and file["@type"] == "cr:FileObject"
        and re.fullmatch("[0-9a-f]{64}", file["sha256"]) is not None
    )


def _ids(value: Any) -> set[str]:
    """Return every @id within a value of JSON."""
    found: set[str] = set()
    left = [value]
    while left:
        match left.pop():
            case dict() as items:
                found |= {items["@id"]} if isinstance(items.get("@id"), str) else set()
                left += items.values()
            case list() as items:
                left += items
    return found


def _without_references(file: Any, omitted: set[str]) -> Any:
    refs = file.get("containedIn") if isinstance(file, dict) else None
    if not isinstance(refs, list):
        return file
    return file | {"containedIn": [ref for ref in refs if omitted.isdisjoint(_ids(ref))]}


def _issues(record: Any) -> list[str]:
    """Return what mlcroissant's validation finds; it asks nobody."""
    import mlcroissant  # slow, and needed only here

    logger = logging.getLogger("absl")  # where it also says what is only recommended
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        errors = mlcroissant.Dataset(jsonld=record).metadata.ctx.issues.errors
        return [" ".join(str(issue).split()) for issue in sorted(errors)]
    except Exception as error:  # JSON-LD of other shapes leads to errors of any kind in it and in rdflib
        return [storage.error_line(error)]
    finally:
        logger.setLevel(level)


# --- drift ----------------------------------------------------------------------------------------------------------


def check_drift(corpus: str, manifest: Manifest, against: str, findings: Findings) -> None:
    """Find quantities whose distribution has shifted since an earlier version, beyond chance and by much."""
    old = load_manifest(against)
    names = {source.name for source in old.sources} & {source.name for source in manifest.sources}
    with Tables() as tables:
        for name, folder, found in (("old", against, old), ("new", corpus, manifest)):
            shards = [shard for shard in found.shards if shard.source in names]
            tables.add_sidecars(name, folder, shards, stability.COLUMNS)
        for shift in stability.shifts(tables, "old", "new"):
            findings.num_checked["drift"] += 1
            what = f"{shift.source}, {shift.what}"
            counts = f"{shift.num_old:,} values before and {shift.num_new:,} now"
            if shift.psi is None or shift.by_chance is None:
                findings.add("drift", FILE_NAME, f"{what}: only in one of the two versions: {counts}")
            elif shift.psi > shift.by_chance and shift.psi >= LARGE_SHIFT:
                said = f"stability index {shift.psi:.2f}, by chance below {shift.by_chance:.2f}"
                findings.add("drift", FILE_NAME, f"{what}: {said}, with {counts} in {shift.num_bins} bins")
