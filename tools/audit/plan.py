"""What an audit checks, and by which settings of the corpus: everything a worker needs beside its shard."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pipelines.decisions.duplicates import DuplicateSettings
from pipelines.shards.manifest import ShardInfo
from pipelines.web.permission import PolicySettings


@dataclass(frozen=True, slots=True)
class SourcePlan:
    """Settings of a source: whether personal data in its texts was masked, and what makes two samples duplicates."""

    masks: bool = True
    duplicates: DuplicateSettings = field(default_factory=DuplicateSettings)


@dataclass(frozen=True, slots=True)
class Plan:
    """An audit.

    Args:
        corpus: The folder.
        checks: Names of the checks to make.
        is_foreign: Whether the tars were indexed, not built: then they need not have our form.
        policy: By which permission is judged again; None if there is no spec.
        sources: Settings by source.
        scopes: The different settings of duplicates, by name.
    """

    corpus: str
    checks: frozenset[str]
    is_foreign: bool
    policy: PolicySettings | None
    sources: Mapping[str, SourcePlan]
    scopes: Mapping[str, DuplicateSettings]


@dataclass(frozen=True, slots=True)
class ShardTask:
    """A shard to audit.

    Args:
        number: Its number in the manifest.
        shard: Its record there.
        chosen: The samples to read, by their numbers; None: all.
        tar_file_id: Its number in its source, by which Energon's tables name it.
    """

    number: int
    shard: ShardInfo
    chosen: tuple[int, ...] | None = None
    tar_file_id: int = 0


def whole_shards(shards: Sequence[ShardInfo]) -> list[ShardTask]:
    """Return a task for each shard of a manifest, in its order."""
    numbers: Counter[str] = Counter()
    tasks = []
    for number, shard in enumerate(shards):
        tasks.append(ShardTask(number, shard, tar_file_id=numbers[shard.source]))
        numbers[shard.source] += 1
    return tasks


@dataclass(frozen=True, slots=True)
class SourceTask:
    """A source whose indexes for other readers are to be checked, with all its shards in order."""

    shards: tuple[ShardInfo, ...]
    fingerprint: str
    corpus_name: str


@dataclass(frozen=True, slots=True)
class DropsTask:
    """A file of `drops/` to audit, relative to the corpus."""

    path: str


Task = ShardTask | SourceTask | DropsTask
