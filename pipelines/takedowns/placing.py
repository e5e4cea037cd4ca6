"""Which shard goes where, when some have lost samples: numbers stay dense, and no other shard is touched.

Where nothing is left of a shard, the last one of its folder takes its number.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from pipelines import storage
from pipelines.shards.manifest import ShardInfo
from pipelines.shards.tar_samples import index_path
from pipelines.takedowns.rewriting import Rewritten


@dataclass(frozen=True, slots=True)
class Placed:
    """A shard before and after; `info` is None if it is gone, `is_new` says whether it was written anew."""

    before: ShardInfo
    info: ShardInfo | None
    is_new: bool

    @property
    def is_moved(self) -> bool:
        """True if it gets another number."""
        return self.info is not None and self.info.path != self.before.path

    def where_it_is(self, new: str) -> ShardInfo:
        """Return the shard with the path of its sidecar before the new files are in place."""
        assert self.info is not None
        name = storage.join(new, self.info.sidecar) if self.is_new else self.before.sidecar
        return replace(self.info, sidecar_file=name)


def place_shards(shards: Sequence[ShardInfo], rewritten: Mapping[str, Rewritten]) -> list[Placed]:
    """Return what becomes of all shards, in the order of their paths before it."""
    left = {shard.path: rewritten[shard.path].info if shard.path in rewritten else shard for shard in shards}
    folders: dict[str, list[ShardInfo]] = {}
    for shard in shards:
        folders.setdefault(storage.parent(shard.path), []).append(shard)
    target = {path: path for path in left}
    for in_folder in folders.values():
        if not _is_numbered(in_folder):
            continue
        paths = [shard.path for shard in in_folder]
        last = [path for path in paths if left[path] is not None]
        for path in paths[: len(last)]:
            if left[path] is None:
                target[last.pop()] = path
    placed = []
    for shard in shards:
        info = left[shard.path]
        if info is not None and target[shard.path] != shard.path:
            info = replace(info, path=target[shard.path])
        placed.append(Placed(shard, info, shard.path in rewritten))
    order = {shard.path: number for number, shard in enumerate(shards)}
    return sorted(placed, key=lambda p: order[p.info.path if p.info is not None else p.before.path])


def _is_numbered(shards: Sequence[ShardInfo]) -> bool:
    """Return whether the shards of a folder have dense numbers, as those that we write."""
    names = [shard.path.rpartition("/")[2] for shard in shards]
    return all(
        name == f"{shard.source}-{number:06d}.tar" and shard.sidecar_file is None
        for number, (name, shard) in enumerate(zip(names, shards, strict=True))
    )


def shard_files(shard: ShardInfo) -> tuple[str, str, str]:
    """Return the paths of a shard, its index and its sidecar."""
    return shard.path, index_path(shard.path), shard.sidecar


def moves_and_removals(placed: Iterable[Placed]) -> tuple[list[tuple[str, str]], set[str]]:
    """Return the files of shards that get another name, and those that go."""
    moves: list[tuple[str, str]] = []
    removed: set[str] = set()
    for shard in placed:
        if shard.info is None or (shard.is_new and shard.is_moved):
            removed |= set(shard_files(shard.before))
        elif shard.is_moved:
            moves += zip(shard_files(shard.before), shard_files(shard.info), strict=True)
    targets = {name for shard in placed if shard.info is not None for name in shard_files(shard.info)}
    return moves, removed - targets
