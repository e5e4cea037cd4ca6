"""Samples taken out of a corpus: excluded at once, then their shards and all that describes the corpus written anew.

Only shards that hold such samples are written. All new files are prepared aside, and put in place together.
"""

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import yaml

from pipelines import storage
from pipelines.block_list import SCHEMA, BlockList, Entry, read_entries
from pipelines.funnel import FunnelRow
from pipelines.layout import (
    CARD_FILES,
    block_list_path,
    drops_folder,
    excluded_keys_path,
    readme_path,
    stats_path,
    takedown_log_path,
)
from pipelines.parts import DROP_SCHEMA, write_table
from pipelines.shards.manifest import Manifest, write_manifest
from pipelines.shards.reader_indexes import write_reader_indexes
from pipelines.shards.readme import corpus_readme
from pipelines.shards.stats import collect_stats
from pipelines.shards.token_sidecar import keep_trained
from pipelines.takedowns.foreign import tables_beside, write_energon_files, write_table_without
from pipelines.takedowns.log import ChangedShard, Takedown, read_log, version_after
from pipelines.takedowns.placing import Placed, moves_and_removals, place_shards, shard_files
from pipelines.takedowns.purging import redact_drops, taken_down
from pipelines.takedowns.rewriting import Rewritten, rewrite_shard
from pipelines.takedowns.staging import Staging, relative
from pipelines.takedowns.tokens import stage_tokens, token_folders

Gone = Mapping[str, Collection[str]]
"""Keys of the samples that go, by the path of their shard."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a takedown is asked to do.

    Attributes:
        request: As `Takedown.request`.
        reason: Why, in words.
        time: UTC, of the log.
        entries: What must not come back.
        drop_files: Files of `drops/` that tell of it.
    """

    request: Sequence[dict[str, Any]]
    reason: str
    time: str
    entries: Iterable[Entry]
    drop_files: Sequence[str] = ()


def take_out(
    out: str, manifest: Manifest, gone: Gone, asked: Asked, progress: Callable[[], None] = lambda: None
) -> Takedown:
    """Take samples out of a corpus; a kill leaves it as it was, or `recover` brings it to its end.

    Args:
        out: Folder of the corpus, which the caller holds.
        manifest: Its manifest.
        gone: The samples.
        asked: Why, and what must not come back.
        progress: Called after each shard that is written.

    Returns:
        The entry of the log.
    """
    staging = Staging(out)
    staging.replace_early(dict(_exclusions(out, manifest, gone)))
    rewritten: dict[str, Rewritten] = {}
    for info in manifest.shards:
        if info.path in gone:
            rewritten[info.path] = rewrite_shard(out, info, gone[info.path], staging.new)
            progress()
    placed = place_shards(manifest.shards, rewritten)
    for shard in placed:
        if shard.info is not None and shard.is_new and shard.is_moved:
            for old, new in zip(shard_files(shard.before), shard_files(shard.info), strict=True):
                storage.move(storage.join(staging.new, old), storage.join(staging.new, new))
    number = len(read_log(out)) + 1
    texts = (Entry("text", text, None, number) for found in rewritten.values() for text in sorted(found.texts))
    block = _stage_block_list(out, staging, asked.entries, texts)
    after = replace(
        manifest,
        shards=tuple(p.info for p in placed if p.info is not None),
        version=version_after(manifest.version) if rewritten else manifest.version,
        funnel=_funnel(manifest.funnel, _per_source(manifest, rewritten)),
    )
    now = replace(after, shards=tuple(p.where_it_is(staging.new_name) for p in placed if p.info is not None))
    _stage_drops(out, staging, manifest, gone, block, asked.drop_files)
    moves, removed = moves_and_removals(placed)
    for folder in token_folders(out):
        token_moves, token_removals = stage_tokens(out, staging, folder, manifest, after, placed, gone)
        moves += token_moves
        removed |= token_removals
    for path in keep_trained(out, manifest.fingerprint):
        changed = json.dumps(json.loads(storage.read_bytes(path)) | {"fingerprint": after.fingerprint})
        storage.write_bytes(_staged(out, staging, path), changed.encode())
    _stage_descriptions(out, staging, after, now)
    if manifest.spec_sha256 is None:
        removed |= _stage_foreign(out, staging, placed, now, gone)
    else:
        _keep_exclusions(out, staging, after, placed)
    removed |= _outdated(out, staging, manifest, after)
    entry = _entry(manifest, after, placed, rewritten, asked, number)
    log = takedown_log_path(out)
    before = storage.read_bytes(log) if storage.exists(log) else b""
    storage.write_bytes(_staged(out, staging, log), before + entry.to_json().encode() + b"\n")
    write_manifest(staging.new, after)
    staging.commit(moves, removed)
    return entry


# --- what is staged -------------------------------------------------------------------------------------------------


def _staged(out: str, staging: Staging, path: str) -> str:
    return storage.join(staging.new, relative(out, path))


def _exclusions(out: str, manifest: Manifest, gone: Gone) -> Iterator[tuple[str, bytes]]:
    """Yield the files by which readers skip the samples until their shards are written, and what they will hold."""
    path = excluded_keys_path(out)
    before = storage.read_bytes(path) if storage.exists(path) else b""
    keys = sorted({key for found in gone.values() for key in found})
    yield relative(out, path), before + "".join(f"{key}\n" for key in keys).encode()
    for source in manifest.sources:
        name = f"{source.name}/.nv-meta/split.yaml"
        mine = [s.path for s in manifest.shards_of(source.name) if s.path in gone]
        if mine and storage.exists(storage.join(out, name)):
            tree = _read_split(storage.join(out, name))
            prefix = f"{source.name}/"
            excluded = [f"{path.removeprefix(prefix)}/{key}" for path in mine for key in sorted(gone[path])]
            tree["exclude"] = [*(tree.get("exclude") or ()), *excluded]
            yield name, yaml.safe_dump(tree, sort_keys=False).encode()


def _stage_block_list(out: str, staging: Staging, *added: Iterable[Entry]) -> BlockList:
    """Write the block list with more entries, each once; return it."""
    path = _staged(out, staging, block_list_path(out))
    known = {entry[:3]: entry for some in (*reversed(added), read_entries(out)) for entry in some}  # the first one wins
    entries = sorted(known.values(), key=lambda entry: (entry.takedown, entry.type, entry.length or 0, entry.sha256))
    write_table(path, [dict(zip(SCHEMA.names, entry, strict=True)) for entry in entries], SCHEMA)
    return BlockList(entries)


def _per_source(manifest: Manifest, rewritten: Mapping[str, Rewritten]) -> Counter[str]:
    counted: Counter[str] = Counter()
    for shard in manifest.shards:
        if shard.path in rewritten:
            counted[shard.source] += rewritten[shard.path].samples
    return counted


def _funnel(rows: Iterable[FunnelRow], taken: Mapping[str, int]) -> tuple[FunnelRow, ...]:
    """Return the funnel in which the samples are dropped by the last stage of their source."""
    changed = []
    for row in rows:
        num = taken.get(row.source, 0) if (row.stage, row.unit) == ("shard", "sample") else 0
        if num:
            dropped = row.dropped | {"taken_down": row.dropped.get("taken_down", 0) + num}
            row = replace(row, kept=row.kept - num, dropped=dict(sorted(dropped.items())))
        changed.append(row)
    return tuple(changed)


def _stage_drops(
    out: str, staging: Staging, manifest: Manifest, gone: Gone, block: BlockList, telling: Iterable[str]
) -> None:
    """Write the drops of the samples, and older ones that tell of what is blocked without its words."""
    for path in telling:
        redact_drops(path, _staged(out, staging, path), block)
    for source in manifest.sources:
        keys = [key for shard in manifest.shards_of(source.name) for key in sorted(gone.get(shard.path, ()))]
        if keys:
            rows = [taken_down(source.name, key).row() for key in keys]
            write_table(_staged(out, staging, _next_drops(out, source.name)), rows, DROP_SCHEMA)


def _next_drops(out: str, source: str) -> str:
    """Return the path of the next file of a source's drops."""
    numbers = [-1]
    for path in storage.list_files(drops_folder(out), ".parquet"):
        name, _, number = path.rpartition("/")[2].removesuffix(".parquet").rpartition("-")
        if name == source and number.isdigit():
            numbers.append(int(number))
    return storage.join(drops_folder(out), f"{source}-{max(numbers) + 1:05d}.parquet")


def _stage_descriptions(out: str, staging: Staging, after: Manifest, now: Manifest) -> None:
    """Write statistics, the description and the indexes of other readers, from sidecars where they are now."""
    stats = collect_stats(out, now.shards)
    text = json.dumps(stats, indent=1, ensure_ascii=False) + "\n"
    storage.write_bytes(_staged(out, staging, stats_path(out)), text.encode())
    if after.shards and storage.exists(readme_path(out)):
        storage.write_bytes(_staged(out, staging, readme_path(out)), corpus_readme(out, now).encode())
    has_indexes = any(storage.exists(storage.join(out, source.name, ".nv-meta")) for source in after.sources)
    if after.spec_sha256 is not None and has_indexes:
        write_reader_indexes(out, now, into=staging.new)


def _read_split(path: str) -> dict[str, Any]:
    """Return what a `split.yaml` holds; nothing if somebody emptied it."""
    tree = yaml.safe_load(storage.read_bytes(path))
    return tree if isinstance(tree, dict) else {}


def _keep_exclusions(out: str, staging: Staging, after: Manifest, placed: Sequence[Placed]) -> None:
    """Keep what somebody else excludes in the `split.yaml` of Energon's indexes that were written anew."""
    moved = {shard.before.path: shard.info.path if shard.info is not None else None for shard in placed}
    for source in after.sources:
        name, prefix = f"{source.name}/.nv-meta/split.yaml", f"{source.name}/"
        staged = storage.join(staging.new, name)
        early = storage.join(staging.folder, "old", name)  # what was there before the samples were excluded at once
        before = early if storage.exists(early) else storage.join(out, name)
        if not storage.exists(staged) or not storage.exists(before):
            continue
        kept = []
        for excluded in _read_split(before).get("exclude") or ():
            tar, mark, rest = str(excluded).partition(".tar")
            if (path := moved.get(f"{prefix}{tar}.tar", f"{prefix}{tar}.tar")) is not None:
                kept.append(f"{path.removeprefix(prefix)}{rest}" if mark else excluded)
        if kept:
            tree = _read_split(staged)
            tree["exclude"] = [*(tree.get("exclude") or ()), *kept]
            storage.write_bytes(staged, yaml.safe_dump(tree, sort_keys=False).encode())


def _stage_foreign(out: str, staging: Staging, placed: Sequence[Placed], now: Manifest, gone: Gone) -> set[str]:
    """Write what others wrote beside their tars, without the samples; return what goes."""
    removed: set[str] = set()
    for shard in placed:
        for name in tables_beside(out, shard.before) if shard.is_new else ():
            source, target = storage.join(out, name), storage.join(staging.new, name)
            if shard.info is None or not write_table_without(source, target, gone[shard.before.path]):
                removed.add(name)
    left = {shard.path: shard for shard in now.shards}
    empty = {shard.before.path for shard in placed if shard.info is None}
    write_energon_files(out, staging.new, left, empty, now.fingerprint)
    return removed


def _outdated(out: str, staging: Staging, before: Manifest, after: Manifest) -> set[str]:
    """Return the files that describe what is no longer there: cards, and the indexes of sources and splits."""
    left = {source.name for source in after.sources}
    removed = set(CARD_FILES) if after.shards else {*CARD_FILES, relative(out, readme_path(out))}
    for source in before.sources:
        removed |= {f"{source.name}/wids-{split}.json" for split in source.splits}
        if source.name not in left:
            removed.add(f"{source.name}/.nv-meta")
    return {
        name
        for name in removed
        if storage.exists(storage.join(out, name)) and not storage.exists(storage.join(staging.new, name))
    }


def _entry(
    before: Manifest,
    after: Manifest,
    placed: Iterable[Placed],
    rewritten: Mapping[str, Rewritten],
    asked: Asked,
    number: int,
) -> Takedown:
    changed = [
        ChangedShard(
            path=shard.before.path,
            source=shard.before.source,
            split=shard.before.split,
            before=shard.before.sha256,
            after=shard.info.sha256 if shard.info is not None else None,
            samples=rewritten[shard.before.path].samples if shard.is_new else 0,
            moved_to=shard.info.path if shard.info is not None and shard.is_moved else None,
        )
        for shard in placed
        if shard.is_new or shard.is_moved
    ]
    return Takedown(
        number=number,
        time=asked.time,
        request=asked.request,
        reason=asked.reason,
        samples=sum(found.samples for found in rewritten.values()),
        images=sum(found.images for found in rewritten.values()),
        num_bytes=sum(found.num_bytes for found in rewritten.values()),
        shards=sorted(changed, key=lambda shard: shard.path),
        version=after.version,
        version_before=before.version,
        fingerprint=after.fingerprint,
        fingerprint_before=before.fingerprint,
    )
