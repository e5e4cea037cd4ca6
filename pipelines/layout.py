"""Where the files of a corpus lie while it is built: the folders and paths in which its stages meet.

What a finished corpus consists of is said by its manifest (`shards/manifest.py`); `work/` holds what reruns start from.
"""

from pipelines import storage
from pipelines.parts import PartFolder

RESERVED_FOLDERS = frozenset({"work", "drops", "tokens"})
"""Folders of a corpus beside those of its sources, so no source may have such a name."""

STAGE_FOLDERS = {"crawl": "warc", "extract": "candidates", "fetch": "raw", "filter": "decisions"}
"""The folder below `work/` in which a stage leaves its result; the shard stage leaves the corpus itself."""


def work_folder(out: str) -> str:
    """Folder of what reruns start from; a corpus is complete without it."""
    return storage.join(out, "work")


def stage_folder(out: str, stage: str) -> str:
    """Folder of a stage's result, as its summary names it."""
    return storage.join(work_folder(out), STAGE_FOLDERS[stage])


def gate_folder(out: str) -> str | None:
    """Folder through which processes of one machine share a host's delay; None where a corpus is not on its disk."""
    return storage.join(work_folder(out), "gates") if storage.is_local(out) else None


# --- crawl ----------------------------------------------------------------------------------------------------------


def crawl_folder(out: str, crawl: str) -> PartFolder:
    """WARC files of a crawl, with its ledger and the links that it found."""
    return PartFolder(storage.join(stage_folder(out, "crawl"), crawl))


def account_folder(out: str, crawl: str) -> PartFolder:
    """Counts and drops of a crawl's pages, over all its rounds."""
    return PartFolder(storage.join(crawl_folder(out, crawl).path, "account"))


def warc_path(out: str, crawl: str, name: str) -> str:
    """Path of a WARC file that a ledger names: beside the ledger, or where another crawler wrote it."""
    return name if "/" in name else storage.join(crawl_folder(out, crawl).path, name)


# --- extract, fetch, filter -----------------------------------------------------------------------------------------


def candidates_folder(out: str) -> PartFolder:
    """Candidates, as the extract stage wrote them."""
    return PartFolder(stage_folder(out, "extract"))


def media_folder(out: str) -> str:
    """The raw store: bytes of images and frames, with an index."""
    return storage.join(stage_folder(out, "fetch"), "media")


def documents_folder(out: str) -> PartFolder:
    """Documents completed with their media."""
    return PartFolder(storage.join(stage_folder(out, "fetch"), "documents"))


def features_folder(out: str) -> PartFolder:
    """Features of documents' images."""
    return PartFolder(storage.join(work_folder(out), "features"))


def decisions_folder(out: str) -> PartFolder:
    """Samples that were decided for, each with its split."""
    return PartFolder(storage.join(stage_folder(out, "filter"), "samples"))


# --- shard ----------------------------------------------------------------------------------------------------------


def shards_folder(out: str) -> PartFolder:
    """Receipts of finished shards."""
    return PartFolder(storage.join(stage_folder(out, "filter"), "shards"))


def shard_list_path(out: str) -> str:
    """List of the shards that a run wrote, from which it makes the manifest."""
    return storage.join(stage_folder(out, "filter"), "shards.list")


def shard_inputs_path(out: str) -> str:
    """Hash of what the manifest that lies there, or that is being made, was made from."""
    return storage.join(stage_folder(out, "filter"), "shards.inputs")


def drops_folder(out: str) -> str:
    """One row for every candidate that did not become a sample, in files of a source each."""
    return storage.join(out, "drops")


def stats_path(out: str) -> str:
    """Statistics of a corpus."""
    return storage.join(out, "stats.json")


def resolved_spec_path(out: str) -> str:
    """Every setting by which a corpus was built."""
    return storage.join(out, "spec.resolved.yaml")


def readme_path(out: str) -> str:
    """Description of a corpus, whose front matter `datasets` reads."""
    return storage.join(out, "README.md")
