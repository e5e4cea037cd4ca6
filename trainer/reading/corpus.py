"""A corpus as training sees it: its manifest, checked against its files, its tokens, and a reader a shard."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

from pipelines import storage
from pipelines.document import Split
from pipelines.errors import UserError
from pipelines.shards.manifest import Manifest, ShardInfo, load_manifest
from pipelines.shards.tar_samples import index_path
from pipelines.shards.token_sidecar import TokensInfo, load_tokens, token_sidecar_path, tokens_folder
from trainer.reading.byte_store import ByteStore, CacheSettings
from trainer.reading.shard_reader import GroupCache, ShardReader


@dataclass(frozen=True)
class TrainingCorpus:
    """What is read of a corpus.

    Attributes:
        folder: Where it lies.
        manifest: What it consists of.
        tokens: Its tokens.
        split: The split that is read.
        cache: Where chunks of remote tars are kept.
    """

    folder: str
    manifest: Manifest
    tokens: TokensInfo
    split: Split = "train"
    cache: CacheSettings = field(default_factory=CacheSettings)

    @classmethod
    def open(
        cls,
        folder: str,
        *,
        tokens: str | None = None,
        split: Split = "train",
        cache: CacheSettings | None = None,
    ) -> Self:
        """A corpus, once its files are known to be those that its manifest names.

        Args:
            folder: Where it lies, local or an fsspec URL.
            tokens: The tokenizer's name; null where there are tokens of only one.
            split: The split that is read.
            cache: Where chunks of remote tars are kept.

        Raises:
            UserError: If there is no corpus, or what lies there is of different builds.
        """
        folder = folder.rstrip("/")
        manifest = load_manifest(folder)
        corpus = cls(
            folder,
            manifest,
            load_tokens(folder, manifest, tokens),
            split,
            cache or CacheSettings(),
        )
        if storage.is_local(folder):  # a remote one is checked as it is read
            for source in manifest.sources:
                for shard in manifest.shards_of(source.name, split):
                    corpus._check(shard)
        return corpus

    def _check(self, shard: ShardInfo) -> None:
        path = storage.join(self.folder, shard.path)
        for needed in (path, index_path(path), storage.join(self.folder, shard.sidecar)):
            if not storage.exists(needed):
                raise UserError(
                    f"{needed}: is missing, but {self.folder}/manifest.json names its shard. Build it again"
                )
        if (size := storage.size(path)) != shard.bytes:
            raise UserError(
                f"{path}: {size} bytes, the manifest says {shard.bytes}: from different builds. Build or index it again"
            )
        if (size := storage.size(index_path(path))) != 8 * (shard.samples + 1):
            raise UserError(
                f"{index_path(path)}: a stale index: {size // 8 - 1} samples, the manifest says {shard.samples}. "
                "Build or index it again"
            )

    @cached_property
    def store(self) -> ByteStore:
        """Reads bytes of tars."""
        return ByteStore(self.cache)

    @cached_property
    def groups(self) -> "GroupCache[Any]":
        """Keeps rows that were read last."""
        return GroupCache()

    @cached_property
    def _shards(self) -> dict[str, ShardInfo]:
        return {shard.path: shard for shard in self.manifest.shards}

    def reader(self, shard: str) -> ShardReader:
        """A reader of a shard, by its path in the manifest."""
        tokens = token_sidecar_path(tokens_folder(self.folder, self.tokens.name), shard)
        return ShardReader(self.folder, self._shards[shard], tokens, self.store, self.groups)
