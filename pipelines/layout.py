"""Paths of a corpus while it is built: the folders and files in which its stages meet.

The manifest (`shards/manifest.py`) lists what a finished corpus consists of; reruns start from what is in `work/`.
"""

from pipelines import storage
from pipelines.parts import PartFolder

RESERVED_FOLDERS = frozenset({"work", "drops", "tokens"})
"""Folders of a corpus next to those of its sources; no source may have such a name."""

CARD_FILES = ("card.html", "card.json", "croissant.json", "datasheet.md", "eu_summary.json", "eu_summary.md")
"""Files that `tools card` writes beside README.md; each describes one build, so a takedown removes them."""

STAGE_FOLDERS = {"crawl": "warc", "extract": "candidates", "fetch": "raw", "filter": "decisions"}
"""Folder below `work/` with the result of each stage; that of the shard stage is the corpus itself."""


def work_folder(out: str) -> str:
    """Return the folder of what reruns start from; a corpus is complete without it."""
    return storage.join(out, "work")


def stage_folder(out: str, stage: str) -> str:
    """Return the folder of a stage's result, as its summary names it."""
    return storage.join(work_folder(out), STAGE_FOLDERS[stage])


def inputs_folder(out: str) -> str:
    """Return the folder of what is known of the input files of each source and crawl."""
    return storage.join(work_folder(out), "inputs")


def traceback_folder(out: str) -> str:
    """Return the folder of the tracebacks that `internal_error` drops name."""
    return storage.join(work_folder(out), "tracebacks")


def gate_folder(out: str) -> str | None:
    """Return the folder by which processes of a machine share a host's delay; None if the corpus is not on its disk."""
    return storage.join(work_folder(out), "gates") if storage.is_local(out) else None


def alarm_folder(out: str) -> str:
    """Return the folder in which workers leave warnings, which the command prints."""
    return storage.join(work_folder(out), "alarms")


# --- crawl ----------------------------------------------------------------------------------------------------------


def crawl_folder(out: str, crawl: str) -> PartFolder:
    """Return the folder of a crawl's WARC files, its ledger, and the links that it found."""
    return PartFolder(storage.join(stage_folder(out, "crawl"), crawl))


def frontier_folder(out: str, crawl: str) -> str:
    """Return the folder of the URLs that a crawl carries from round to round, until it is finished."""
    return storage.join(work_folder(out), "frontier", crawl)


def account_folder(out: str, crawl: str) -> PartFolder:
    """Return the folder of the counts and drops of a crawl's pages, over all its rounds."""
    return PartFolder(storage.join(crawl_folder(out, crawl).path, "account"))


def robots_folder(out: str, crawl: str) -> PartFolder:
    """Return the folder of the robots.txt files that another crawler stored with its pages."""
    return PartFolder(storage.join(work_folder(out), "robots", crawl))


def index_folder(out: str, crawl: str) -> PartFolder:
    """Return the folder of the receipts of what was fetched for each part of an archive's index."""
    return PartFolder(storage.join(work_folder(out), "index", crawl))


def warc_path(out: str, crawl: str, name: str) -> str:
    """Return the path of a WARC file that a ledger names: next to the ledger, or where another crawler wrote it."""
    return name if "/" in name else storage.join(crawl_folder(out, crawl).path, name)


# --- extract, fetch, filter -----------------------------------------------------------------------------------------


def candidates_folder(out: str) -> PartFolder:
    """Return the folder of the candidates that the extract stage wrote."""
    return PartFolder(stage_folder(out, "extract"))


def media_folder(out: str) -> str:
    """Return the folder of the raw store: bytes of images and frames, with an index."""
    return storage.join(stage_folder(out, "fetch"), "media")


def queues_folder(out: str, stage: str) -> str:
    """Return the folder of the queues of a stage that asks hosts, while it does."""
    return storage.join(work_folder(out), "queues", stage)


def documents_folder(out: str) -> PartFolder:
    """Return the folder of the documents that are completed with their media."""
    return PartFolder(storage.join(stage_folder(out, "fetch"), "documents"))


def features_folder(out: str) -> PartFolder:
    """Return the folder of the features of documents' images."""
    return PartFolder(storage.join(work_folder(out), "features"))


def clusters_path(out: str, source: str) -> str:
    """Return the path of the clusters in which a source's images are compared by what they show."""
    return storage.join(work_folder(out), "clusters", f"{source}.npz")


def decisions_folder(out: str) -> PartFolder:
    """Return the folder of the samples that were decided for, with their splits."""
    return PartFolder(storage.join(stage_folder(out, "filter"), "samples"))


# --- shard ----------------------------------------------------------------------------------------------------------


def shards_folder(out: str) -> PartFolder:
    """Return the folder of the receipts of finished shards."""
    return PartFolder(storage.join(stage_folder(out, "filter"), "shards"))


def shard_list_path(out: str) -> str:
    """Return the path of the list of shards that a run wrote, from which it makes the manifest."""
    return storage.join(stage_folder(out, "filter"), "shards.list")


def shard_inputs_path(out: str) -> str:
    """Return the path of the hash of what the manifest, existing or being written, is made from."""
    return storage.join(stage_folder(out, "filter"), "shards.inputs")


def drops_folder(out: str) -> str:
    """Return the folder of the drops: one row for every candidate that did not become a sample, in files by source."""
    return storage.join(out, "drops")


def stats_path(out: str) -> str:
    """Return the path of a corpus's statistics."""
    return storage.join(out, "stats.json")


def resolved_spec_path(out: str) -> str:
    """Return the path of all settings by which a corpus was built."""
    return storage.join(out, "spec.resolved.yaml")


def readme_path(out: str) -> str:
    """Return the path of a corpus's description, whose front matter `datasets` reads."""
    return storage.join(out, "README.md")


def addition_log_path(out: str) -> str:
    """Return the path of the log of what builds have added to a corpus: one JSON object per addition."""
    return storage.join(out, "additions.jsonl")


# --- takedowns ------------------------------------------------------------------------------------------------------


def takedown_log_path(out: str) -> str:
    """Return the path of the log of what was taken down: one JSON object per takedown."""
    return storage.join(out, "takedowns.jsonl")


def block_list_path(out: str) -> str:
    """Return the path of the hashes of all that was taken down, by which no build brings it back."""
    return storage.join(out, "blocked.parquet")


def excluded_keys_path(out: str) -> str:
    """Return the path of the keys of samples that were taken down, one per line, by which copies can be filtered."""
    return storage.join(out, "excluded_keys.txt")


def takedown_folder(out: str) -> str:
    """Return the folder of a takedown that has not come to its end.

    It is not in `work/`, which may be deleted at any time: it may have the only copy of the manifest.
    """
    return storage.join(out, ".takedown")
