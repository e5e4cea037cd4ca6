"""Findings of an audit, bounded: of each kind all are counted and the first hundred kept."""

import heapq
import json
import shlex
from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, Self

from pipelines import storage
from pipelines.layout import resolved_spec_path
from pipelines.shards.manifest import FILE_NAME
from pipelines.text.personal_data import mask
from pipelines.web.urls import without_secrets
from tools.audit.faults import CHECKS, COPY_AGAIN, FAULTS, ON_STORE, REASONS, REBUILD

MAX_PER_KIND = 100
"""Findings of a kind that are kept; those that come first in the corpus, whichever worker finds them."""

MAX_DETAIL = 500
_MAX_READ = 2000
_COUNTERS = ("num_checked", "counts", "num_unknown", "num_bad", "num_drops")


class Found(NamedTuple):
    """A finding, in the order of the corpus: number of the shard (-1: none), then place in it."""

    order: tuple[int, int]
    kind: str
    path: str
    key: str | None
    detail: str


@dataclass(slots=True)
class Findings:
    """Numbers of things that were checked, by check, and of faults that were found, by kind."""

    num_checked: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    num_unknown: Counter[str] = field(default_factory=Counter)
    """Samples of which a check could not say all, by check."""
    num_bad: Counter[str] = field(default_factory=Counter)
    """Samples (or shards, for the checks of whole shards) with a fault or not to be checked in full, by check."""
    num_drops: Counter[str] = field(default_factory=Counter)
    """Rows of `drops/` by source, stage, unit and reason, separated by tabs."""
    num_samples: int = 0
    num_shards: int = 0
    num_unusable: int = 0
    """Samples of foreign tars that were found unusable when they were indexed, and are passed over."""
    _kept: dict[str, list[Found]] = field(default_factory=dict)
    _once: dict[str, Found] = field(default_factory=dict)
    """Faults that are told once, by kind, path and name."""

    def add(
        self,
        kind: str,
        path: str,
        detail: str,
        *,
        key: str | None = None,
        order: tuple[int, int] = (-1, 0),
        once: str | None = None,
    ) -> None:
        """Add a fault.

        Args:
            kind: A key of `FAULTS`.
            path: The file, relative to the corpus.
            detail: What was found and what was expected; of personal data never the data.
            key: The sample, if it is of one.
            order: Its place in the corpus.
            once: Name of what is told once for this kind and path, by whichever worker meets it first in that order.
        """
        assert kind in FAULTS, kind
        self.counts[kind] += 1
        found = Found(order, kind, path, key, detail[:MAX_DETAIL])
        if once is not None:
            self._add_once(f"{kind}\t{path}\t{once}", found)
            return
        kept = self._kept.setdefault(kind, [])
        kept.append(found)
        if len(kept) == 2 * MAX_PER_KIND:
            self._kept[kind] = heapq.nsmallest(MAX_PER_KIND, kept)

    def merge(self, other: "Findings") -> None:
        """Add what another worker has found; the result does not depend on the order of workers."""
        self.num_checked += other.num_checked
        self.counts += other.counts
        self.num_unknown += other.num_unknown
        self.num_bad += other.num_bad
        self.num_samples += other.num_samples
        self.num_shards += other.num_shards
        self.num_unusable += other.num_unusable
        self.num_drops += other.num_drops
        for kind, found in other._kept.items():
            self._kept[kind] = heapq.nsmallest(MAX_PER_KIND, [*self._kept.get(kind, ()), *found])
        for name, found_once in other._once.items():
            self._add_once(name, found_once)

    def _add_once(self, name: str, found: Found) -> None:
        """Keep the first fault of a name; `counts` has been raised for it."""
        before = self._once.setdefault(name, found)
        if before is not found:
            self._once[name] = min(before, found)
            self.counts[found.kind] -= 1

    def to_json(self) -> bytes:
        """Return everything as JSON."""
        return json.dumps({f.name: getattr(self, f.name) for f in fields(self)}).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Return what `to_json` has written."""
        record: dict[str, Any] = json.loads(data)
        record["_kept"] = {
            kind: [Found(tuple(o), *rest) for o, *rest in found] for kind, found in record["_kept"].items()
        }
        record["_once"] = {name: Found(tuple(o), *rest) for name, (o, *rest) in record["_once"].items()}
        values: dict[str, Any] = {name: Counter(v) if name in _COUNTERS else v for name, v in record.items()}
        return cls(**values)

    def kept(self) -> list[Found]:
        """Return the findings that are kept, by check, kind and place in the corpus."""
        order = {kind: (CHECKS.index(fault.check), place) for place, (kind, fault) in enumerate(FAULTS.items())}
        kept = {kind: list(found) for kind, found in self._kept.items()}
        for found in self._once.values():
            kept.setdefault(found.kind, []).append(found)
        return [
            found
            for kind in sorted(kept, key=lambda kind: order[kind])
            for found in heapq.nsmallest(MAX_PER_KIND, kept[kind])
        ]

    def num_found(self, check: str) -> int:
        """Return the number of faults that a check has found."""
        return sum(num for kind, num in self.counts.items() if FAULTS[kind].check == check)


def shown(value: Any) -> str:
    """Return a value of a sample for a detail: without credentials and personal data, and cut to 120 characters."""
    text = repr(value)
    if not isinstance(value, int | float):
        text = mask(without_secrets(text[:_MAX_READ])).text
    return text if len(text) <= 120 else f"{text[:119]}…"


def to_record(found: Found, corpus: str, *, is_foreign: bool, can_rebuild: bool, against: str | None) -> dict[str, Any]:
    """Return a finding as the report has it, with its severity and remedy."""
    fault = FAULTS[found.kind]
    return {
        "check": fault.check,
        "severity": fault.severity,
        "kind": found.kind,
        "path": found.path,
        "key": found.key,
        "detail": found.detail,
        "remedy": _remedy(found, corpus, is_foreign=is_foreign, can_rebuild=can_rebuild, against=against),
    }


def _remedy(found: Found, corpus: str, *, is_foreign: bool, can_rebuild: bool, against: str | None) -> str:
    fault = FAULTS[found.kind]
    template = fault.foreign if is_foreign and fault.foreign is not None else fault.remedy
    if not storage.is_local(corpus):
        for command, words in ON_STORE:
            template = template.replace(command, words)
    if REBUILD in template and not can_rebuild:
        template = COPY_AGAIN  # a build from nothing would ask the web again and give another corpus
    file = storage.join(corpus, found.path)
    values = {
        "corpus": corpus,
        "spec": resolved_spec_path(corpus),
        "manifest": storage.join(corpus, FILE_NAME),
        "file": file,
        "folder": storage.join(corpus, found.path.partition("/")[0]),
        "key": found.key or "",
        "reason": REASONS.get(found.kind, ""),
        "against": against or "",
    }
    return template.format_map({name: shlex.quote(value) for name, value in values.items()})
