"""`takedowns.jsonl`: what was taken out of a corpus, when and why; one JSON object per takedown, never changed.

It is published with the corpus. Addresses are hashed, and nothing is said of who asked.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from pipelines.json_lines import read_entries
from pipelines.layout import takedown_log_path

_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)")
_REPEATED = re.compile(r"(.*)\+takedown\.(\d+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ChangedShard:
    """A shard that a takedown changed.

    Attributes:
        path: Its path before.
        source: Its source.
        split: Its split.
        before: Its sha256 before.
        after: Its sha256 after; None if nothing was left of it.
        samples: Number of samples taken out.
        moved_to: Its path after, if it took the number of a shard of which nothing was left.
    """

    path: str
    source: str
    split: str
    before: str
    after: str | None
    samples: int
    moved_to: str | None = None


@dataclass(frozen=True, slots=True)
class Takedown:
    """An entry of the log.

    Attributes:
        number: From 1.
        time: When it was made, UTC.
        request: What was asked for, as `{"type", "sha256"}` or, of keys and hashes, `{"type", "value"}`; if that is
            many, only `{"type", "number"}`. `blocked.parquet` has all hashes.
        reason: As given.
        samples: Number of samples taken out.
        images: Number of images in them.
        num_bytes: Bytes that they took in the tars.
        shards: The shards that changed.
        version: Version of the corpus after it.
        version_before: Version before it.
        fingerprint: Fingerprint of the corpus after it.
        fingerprint_before: Fingerprint before it.
    """

    number: int
    time: str
    request: Sequence[dict[str, Any]]
    reason: str
    samples: int
    images: int
    num_bytes: int
    shards: Sequence[ChangedShard]
    version: str
    version_before: str
    fingerprint: str
    fingerprint_before: str
    schema: str = field(default="dromaius-takedown/1")

    def to_json(self) -> str:
        """Return the line of the log."""
        return json.dumps(asdict(self), ensure_ascii=True, allow_nan=False)

    @classmethod
    def from_json(cls, line: bytes) -> Self:
        """Parse the result of `to_json`."""
        record = json.loads(line)
        return cls(**record | {"shards": tuple(ChangedShard(**shard) for shard in record["shards"])})


def read_log(out: str) -> list[Takedown]:
    """Return the takedowns of a corpus, in order.

    Raises:
        UserError: If a line is damaged.
    """
    return read_entries(takedown_log_path(out), Takedown.from_json, "a takedown")


def version_after(version: str) -> str:
    """Return the version of a corpus of which something was taken out: the next major one."""
    if match := _VERSION.fullmatch(version):
        return f"{int(match[1]) + 1}.0.0"
    if match := _REPEATED.fullmatch(version):
        return f"{match[1]}+takedown.{int(match[2]) + 1}"
    return f"{version}+takedown.1"


def published_version(out: str, wanted: str) -> str:
    """Return the version of a corpus that is built: that of its spec, or of the last takedown if that is higher."""
    log = read_log(out)
    return max(wanted, log[-1].version, key=_ordered) if log else wanted


def version_of_more(out: str, wanted: str, before: str, *, is_more: bool) -> str:
    """Return the version of a corpus to which a build has added: that of its spec if it is higher, else the next minor.

    Args:
        out: Folder of the corpus.
        wanted: Version of the spec.
        before: Version of what was there.
        is_more: Whether there are more samples.
    """
    version = max(published_version(out, wanted), before, key=_ordered)
    if version != before or not is_more or (match := _VERSION.fullmatch(before)) is None:
        return version
    return f"{match[1]}.{int(match[2]) + 1}.0"


def _ordered(version: str) -> tuple[int, ...]:
    match = _VERSION.fullmatch(version)
    return tuple(map(int, match.groups())) if match else ()
