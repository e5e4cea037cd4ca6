"""Every fault that an audit can find: its check, how severe it is, and what to type against it.

An error means that the corpus is not what it says, or may not be used as it is. A warning means that it can be used,
and a person should look first. A note is of what describes the corpus to other programs, and is derived anew.
"""

from typing import Literal, NamedTuple

Severity = Literal["error", "warning", "note"]

CHECKS = (
    *("shard_sha256", "tar_format", "index", "sidecar", "schema", "media", "boxes"),
    *("funnel", "drops", "policy", "splits", "personal_data", "croissant", "drift"),
)
"""Names of the checks, in the order of the report."""

OF_SAMPLES = frozenset({"sidecar", "schema", "media", "boxes", "policy", "personal_data"})
"""Checks that look at each sample by itself, of which a random part can be checked."""

OF_SHARDS = frozenset({"shard_sha256", "tar_format", "index"})
"""Checks that read whole shards, of which a random part can be checked."""

# Each is one line for a shell. Names in braces are those of `remedy` below.
REBUILD = "python -m pipelines corpus --spec {spec} --out {corpus}"
COPY_AGAIN = "# no work/ here to build it from: copy {file} again from where the corpus came from"
_SHARD_AGAIN = "rm -f {file} && " + REBUILD
_DESCRIBE_AGAIN = "rm -f {manifest} && " + REBUILD
_TAKE_OUT = "python -m tools takedown --corpus {corpus} --key {key} --reason {reason}"
_CARD = "python -m tools card --corpus {corpus}"
_DIFF = "python -m tools diff {against} {corpus}"
_SHOW = "python -m tools browse --corpus {corpus}"


class Fault(NamedTuple):
    """A kind of fault.

    `remedy` is for a corpus that was built from a spec; foreign tars have another one where `foreign` is set. Both are
    commands, after which the audit should be run again.
    """

    check: str
    severity: Severity
    remedy: str
    foreign: str | None = None


_INDEX_AGAIN = "python -m pipelines index --corpus {corpus}"
_MOVE_AWAY = "mv {file} {file}.damaged && " + _INDEX_AGAIN

FAULTS: dict[str, Fault] = {
    # shards against the manifest
    "shard_missing": Fault("shard_sha256", "error", REBUILD, _INDEX_AGAIN),
    "shard_extra": Fault("shard_sha256", "error", "rm -f {file}", _INDEX_AGAIN),
    "shard_size": Fault("shard_sha256", "error", _SHARD_AGAIN, _INDEX_AGAIN),
    "shard_bytes": Fault("shard_sha256", "error", _SHARD_AGAIN, _INDEX_AGAIN),
    "num_samples": Fault("shard_sha256", "error", _SHARD_AGAIN, _INDEX_AGAIN),
    "shard_unreadable": Fault("shard_sha256", "error", "ls -l {file}"),
    # form of the tar
    "tar_broken": Fault("tar_format", "error", _SHARD_AGAIN, _MOVE_AWAY),
    "member_header": Fault("tar_format", "error", _SHARD_AGAIN),
    "member_order": Fault("tar_format", "error", _SHARD_AGAIN),
    "member_repeated": Fault("tar_format", "error", _SHARD_AGAIN, _MOVE_AWAY),
    "stray_member": Fault("tar_format", "error", _SHARD_AGAIN),
    "not_adjacent": Fault("tar_format", "error", _SHARD_AGAIN, _MOVE_AWAY),
    "tar_padding": Fault("tar_format", "error", _SHARD_AGAIN),
    # offsets, Energon's and wids' indexes
    "index_missing": Fault("index", "error", REBUILD, _INDEX_AGAIN),
    "index_damaged": Fault("index", "error", _SHARD_AGAIN, _INDEX_AGAIN),
    "index_differs": Fault("index", "error", _SHARD_AGAIN, _INDEX_AGAIN),
    "energon_missing": Fault("index", "error", _DESCRIBE_AGAIN),
    "energon_damaged": Fault("index", "error", _DESCRIBE_AGAIN, "energon prepare {folder}"),
    "energon_differs": Fault("index", "error", _DESCRIBE_AGAIN, "energon prepare {folder}"),
    "wids_differs": Fault("index", "note", _DESCRIBE_AGAIN),
    # sidecars
    "sidecar_missing": Fault("sidecar", "error", REBUILD, _INDEX_AGAIN),
    "sidecar_damaged": Fault("sidecar", "error", _SHARD_AGAIN, _INDEX_AGAIN),
    "sidecar_column_missing": Fault("sidecar", "error", _SHARD_AGAIN, _INDEX_AGAIN),
    "sidecar_column_unknown": Fault("sidecar", "warning", _SHARD_AGAIN, _INDEX_AGAIN),
    "sidecar_column_type": Fault("sidecar", "error", _SHARD_AGAIN, _INDEX_AGAIN),
    "sidecar_rows": Fault("sidecar", "error", _SHARD_AGAIN, _INDEX_AGAIN),
    "sidecar_key": Fault("sidecar", "error", _SHARD_AGAIN, _INDEX_AGAIN),
    "sidecar_place": Fault("sidecar", "error", _SHARD_AGAIN, _INDEX_AGAIN),
    "sidecar_value": Fault("sidecar", "error", _SHARD_AGAIN, _INDEX_AGAIN),
    # samples
    "json_missing": Fault("schema", "error", _SHARD_AGAIN),
    "json_damaged": Fault("schema", "error", _SHARD_AGAIN, _MOVE_AWAY),
    "json_not_canonical": Fault("schema", "error", _SHARD_AGAIN),
    "json_invalid": Fault("schema", "error", _SHARD_AGAIN, _MOVE_AWAY),
    "other_key": Fault("schema", "error", _SHARD_AGAIN, _MOVE_AWAY),
    "other_kind": Fault("schema", "error", _SHARD_AGAIN, _INDEX_AGAIN),
    "key_repeated": Fault("schema", "error", _SHARD_AGAIN, _MOVE_AWAY),
    "caption_differs": Fault("schema", "error", _SHARD_AGAIN),
    "credential_in_url": Fault("schema", "error", _TAKE_OUT),
    "local_path": Fault("schema", "error", _SHARD_AGAIN),
    "unreadable_sample": Fault("schema", "error", _SHARD_AGAIN, _MOVE_AWAY),
    "check_failed": Fault("schema", "error", "python -m tools audit --corpus {corpus} --only schema --workers 1"),
    # images
    "media_missing": Fault("media", "error", _SHARD_AGAIN, _INDEX_AGAIN),
    "media_format": Fault("media", "error", _SHARD_AGAIN),
    "media_broken": Fault("media", "error", _TAKE_OUT, _SHOW),
    "media_size": Fault("media", "error", _SHARD_AGAIN, _INDEX_AGAIN),
    "media_hash": Fault("media", "error", _SHARD_AGAIN, _INDEX_AGAIN),
    "media_metadata": Fault("media", "error", _SHARD_AGAIN, "exiftool -all= {file}"),
    "region_invalid": Fault("boxes", "error", _TAKE_OUT),
    "grounding_differs": Fault("boxes", "error", _SHARD_AGAIN),
    # accounts
    "funnel_sum": Fault("funnel", "error", _DESCRIBE_AGAIN, _INDEX_AGAIN),
    "drops_missing": Fault("drops", "error", _DESCRIBE_AGAIN),
    "drops_damaged": Fault("drops", "error", _DESCRIBE_AGAIN),
    "drops_columns": Fault("drops", "error", _DESCRIBE_AGAIN),
    "drops_count": Fault("drops", "error", _DESCRIBE_AGAIN),
    "drops_reason": Fault("drops", "error", _DESCRIBE_AGAIN),
    # permission
    "verdict_differs": Fault("policy", "error", _TAKE_OUT),
    "not_allowed": Fault("policy", "error", _TAKE_OUT),
    "evidence_missing": Fault("policy", "error", _TAKE_OUT),
    "policy_name": Fault("policy", "warning", _DESCRIBE_AGAIN),
    "spec_differs": Fault("policy", "error", _DESCRIBE_AGAIN),
    "spec_unreadable": Fault("policy", "error", _DESCRIBE_AGAIN),
    # held-out data
    "group_in_splits": Fault("splits", "error", _TAKE_OUT),
    "image_in_splits": Fault("splits", "error", _TAKE_OUT, _SHOW),
    "content_in_splits": Fault("splits", "error", _TAKE_OUT, _SHOW),
    "similar_image_in_splits": Fault("splits", "warning", _TAKE_OUT, _SHOW),
    "similar_text_in_splits": Fault("splits", "warning", _TAKE_OUT, _SHOW),
    # people
    "personal_data": Fault("personal_data", "warning", _TAKE_OUT, _SHOW),
    "personal_data_kept": Fault("personal_data", "note", _TAKE_OUT, _SHOW),
    "personal_data_in_drops": Fault("personal_data", "warning", _DESCRIBE_AGAIN),
    # descriptions
    "croissant_invalid": Fault("croissant", "error", _CARD),
    "croissant_differs": Fault("croissant", "error", _CARD),
    "drift": Fault("drift", "warning", _DIFF),
}
"""Faults by kind."""

REASONS = {
    "credential_in_url": "credential in its URL",
    "media_broken": "image cannot be read",
    "region_invalid": "box outside the image",
    "verdict_differs": "its evidence refuses training",
    "not_allowed": "use refused",
    "evidence_missing": "no evidence of permission",
    "group_in_splits": "duplicate across splits",
    "image_in_splits": "duplicate across splits",
    "content_in_splits": "duplicate across splits",
    "similar_image_in_splits": "near duplicate across splits",
    "similar_text_in_splits": "near duplicate across splits",
    "personal_data": "personal data",
    "personal_data_kept": "personal data",
}
"""Reason that a takedown states, by kind of fault."""

ON_STORE = (
    ("rm -f {file} && ", "remove {file}, then: "),
    ("rm -f {manifest} && ", "remove {manifest}, then: "),
    ("rm -f {file}", "remove {file}"),
    ("mv {file} {file}.damaged && ", "move {file} away, then: "),
    ("ls -l {file}", "look whether {file} can be read"),
    ("exiftool -all= {file}", "remove the metadata from the images in {file}"),
)
"""Commands for local files, and what a remedy says in their place where the corpus is on a store."""
