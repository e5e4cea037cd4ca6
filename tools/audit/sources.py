"""Indexes of a source for other readers, Energon's and wids', held against the manifest.

The rows of a shard in Energon's tables are compared by the shard's own task (`energon_rows`).
"""

import json
import uuid

import yaml

from pipelines import storage
from pipelines.document import SPLITS
from pipelines.shards.reader_indexes import wids_index
from tools.audit.energon_rows import compare_source
from tools.audit.findings import Findings
from tools.audit.plan import Plan, SourceTask

_FILES = (".info.json", "split.yaml", "dataset.yaml", "index.uuid", "index.sqlite")


def audit_source(plan: Plan, task: SourceTask, folder: str) -> Findings:
    """Return what is wrong with the indexes of a source.

    Args:
        plan: What to check.
        task: The source.
        folder: Folder of this machine for copies of files that are on a store.
    """
    audit = _SourceAudit(plan, task, folder)
    audit.run()
    return audit.findings


class _SourceAudit:
    """Audit of the indexes of one source."""

    def __init__(self, plan: Plan, task: SourceTask, copies: str) -> None:
        self.findings = Findings()
        self._plan, self._task, self._copies = plan, task, copies
        self._name = task.shards[0].source
        self._folder = f"{self._name}/.nv-meta"

    def run(self) -> None:
        missing = [name for name in _FILES if not storage.exists(self._path(name))]
        self.findings.num_checked["index"] += 1
        for name in missing:
            self._add("energon_missing", "missing", name)
        if "split.yaml" not in missing:
            self._check_splits()
        if ".info.json" not in missing:
            self._check_counts()
        if "index.uuid" not in missing:
            found = storage.read_bytes(self._path("index.uuid")).decode("ascii", "replace").strip()
            right = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{self._task.fingerprint} {self._name}"))
            if found != right:
                self._add("energon_differs", f"{found[:80]}, for these shards it is {right}", "index.uuid")
        if "index.sqlite" not in missing:
            num_shards = len(self._task.shards)
            compare_source(self._plan.corpus, self._name, num_shards, self._copies, self.findings)
        self._check_wids()

    def _check_splits(self) -> None:
        try:
            found = yaml.safe_load(storage.read_bytes(self._path("split.yaml")))
            parts = {split: list(found["split_parts"].get(split) or []) for split in SPLITS}
        except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
            self._add("energon_damaged", storage.error_line(error), "split.yaml")
            return
        expected = {split: [self._inner(s.path) for s in self._task.shards if s.split == split] for split in SPLITS}
        if parts != expected:
            split = next(split for split in SPLITS if parts[split] != expected[split])
            said = f"{split} has {len(parts[split])} shards, the manifest's are {len(expected[split])} or others"
            self._add("energon_differs", said, "split.yaml")

    def _check_counts(self) -> None:
        try:
            found = json.loads(storage.read_bytes(self._path(".info.json")))["shard_counts"]
            counts = list(found.items())
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            self._add("energon_damaged", storage.error_line(error), ".info.json")
            return
        if counts != [(self._inner(shard.path), shard.samples) for shard in self._task.shards]:
            said = "shard_counts are not those of the manifest, in its order, by which the index numbers the tars"
            self._add("energon_differs", said, ".info.json")

    def _check_wids(self) -> None:
        for split in SPLITS:
            shards = [shard for shard in self._task.shards if shard.split == split]
            path = f"{self._name}/wids-{split}.json"
            place = storage.join(self._plan.corpus, path)
            found = storage.read_bytes(place) if storage.exists(place) else None
            name = f"{self._task.corpus_name}-{self._name}-{split}"
            expected = wids_index(name, shards).encode() if shards else None
            if found != expected:
                said = "missing" if found is None else "its shards are not those of the manifest"
                self.findings.add("wids_differs", path, said)

    # --- paths ---

    def _path(self, name: str) -> str:
        return storage.join(self._plan.corpus, self._folder, name)

    def _inner(self, path: str) -> str:
        return path.removeprefix(f"{self._name}/")

    def _add(self, kind: str, detail: str, name: str) -> None:
        self.findings.add(kind, f"{self._folder}/{name}", detail)
