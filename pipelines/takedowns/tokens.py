"""Token sidecars of shards that have lost samples."""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pipelines import storage
from pipelines.shards.manifest import Manifest
from pipelines.shards.token_sidecar import FILE_NAME, TokensInfo, made_from, token_sidecar_path, write_without
from pipelines.takedowns.placing import Placed
from pipelines.takedowns.staging import Staging, relative


def token_folders(out: str) -> list[str]:
    folder = storage.join(out, "tokens")
    names = {path[len(folder) + 1 :].partition("/")[0] for path in storage.list_files(folder)}
    return [storage.join(folder, name) for name in sorted(names)]


def stage_tokens(
    out: str,
    staging: Staging,
    folder: str,
    before: Manifest,
    after: Manifest,
    placed: Sequence[Placed],
    gone: Mapping[str, Collection[str]],
) -> tuple[list[tuple[str, str]], set[str]]:
    """Write the token sidecars of a tokenizer for the new shards; return the files to move and to remove.

    The tokenizer stays, also where it was trained on the corpus: no text can be read from it.
    """
    name = relative(out, folder)
    record = _record(storage.join(folder, FILE_NAME))
    is_current = record is not None and record.get("fingerprint") == before.fingerprint
    moves: list[tuple[str, str]] = []
    removed = {relative(out, path) for path in storage.list_files(storage.join(folder, "windows"))}
    targets: set[str] = set()
    num_tokens = 0
    for shard in placed:
        old = token_sidecar_path(name, shard.before.path)
        if not storage.exists(storage.join(out, old)):
            continue
        removed.add(old)
        if shard.info is None or (shard.is_new and not is_current):
            continue
        new = token_sidecar_path(name, shard.info.path)
        targets.add(new)
        if shard.is_new:
            target = storage.join(staging.new, new)
            num_tokens += write_without(storage.join(out, old), target, gone[shard.before.path], shard.info.sha256)
            continue
        num_tokens += int((made_from(storage.join(out, old)) or {}).get("num_tokens", 0))
        if shard.is_moved:
            moves.append((old, new))
    if record is not None and is_current:
        made = {name: value for name, value in record.items() if name != "schema"}
        counts = {"fingerprint": after.fingerprint, "num_samples": after.num_samples, "num_tokens": num_tokens}
        storage.write_bytes(storage.join(staging.new, name, FILE_NAME), TokensInfo(**made | counts).to_json().encode())
    return moves, removed - targets


def _record(path: str) -> dict[str, Any] | None:
    """Return the JSON object in a file; None if there is none."""
    found = json.loads(storage.read_bytes(path)) if storage.exists(path) else None
    return found if isinstance(found, dict) else None
