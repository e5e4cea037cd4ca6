"""`additions.jsonl`: what builds with `shard.order: append` have added to a corpus; one JSON object per addition."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Self

from pipelines.json_lines import read_entries
from pipelines.layout import addition_log_path
from pipelines.shards.manifest import Manifest, ShardInfo


@dataclass(frozen=True, slots=True)
class Added:
    """Number of samples and shards that were added to a source's split."""

    source: str
    split: str
    samples: int
    shards: int


@dataclass(frozen=True, slots=True)
class Addition:
    """An entry of the log; it holds no time, so that equal builds are equal bytes.

    Attributes:
        version: Version of the corpus after it.
        version_before: Version before it.
        fingerprint: Fingerprint of the corpus after it.
        fingerprint_before: Fingerprint before it.
        added: What was added.
    """

    version: str
    version_before: str
    fingerprint: str
    fingerprint_before: str
    added: Sequence[Added]
    schema: str = field(default="dromaius-addition/1")

    @classmethod
    def between(cls, before: Manifest, after: Manifest) -> Self:
        """Return the entry for what one manifest has more than another."""
        rest = {shard.path for shard in before.shards}
        added = _by_split(shard for shard in after.shards if shard.path not in rest)
        return cls(after.version, before.version, after.fingerprint, before.fingerprint, added)

    @classmethod
    def from_json(cls, line: bytes) -> Self:
        """Parse the result of `to_json`."""
        record = json.loads(line)
        return cls(**record | {"added": tuple(Added(**row) for row in record["added"])})

    def to_json(self) -> str:
        """Return the line of the log."""
        return json.dumps(asdict(self), ensure_ascii=True)


def read_additions(out: str) -> list[Addition]:
    """Return the additions to a corpus, in order.

    Raises:
        UserError: If a line is damaged.
    """
    return read_entries(addition_log_path(out), Addition.from_json, "an addition")


def _by_split(shards: Iterable[ShardInfo]) -> tuple[Added, ...]:
    samples: Counter[tuple[str, str]] = Counter()
    num_shards: Counter[tuple[str, str]] = Counter()
    for shard in shards:
        samples[shard.source, shard.split] += shard.samples
        num_shards[shard.source, shard.split] += 1
    return tuple(Added(*which, samples[which], num_shards[which]) for which in samples)
