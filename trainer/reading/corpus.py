"""A corpus for training: its manifest, checked against its files, its tokens, and one reader per shard."""

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
from trainer.reading.excluded import ExcludedKeys
from trainer.reading.shard_reader import GroupCache, ShardReader


@dataclass(frozen=True)
class TrainingCorpus:
    """The parts of a corpus that are read.

    Attributes:
        folder: Folder of the corpus.
        manifest: Manifest of the corpus.
        tokens: Tokens of the corpus.
        split: The split that is read.
        cache: Cache for chunks of remote files.
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
        """Open a corpus after checking that its files are those of its manifest.

        Args:
            folder: Folder of the corpus, local or an fsspec URL.
            tokens: Name of the tokenizer; None if there are tokens of only one.
            split: The split that is read.
            cache: Cache for chunks of remote files.

        Raises:
            UserError: If there is no corpus, or its files are from different builds.
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
        """Reader of bytes of tars."""
        return ByteStore(self.cache)

    @cached_property
    def excluded(self) -> ExcludedKeys:
        """Keys of samples that are taken down."""
        return ExcludedKeys(self.folder)

    @cached_property
    def groups(self) -> "GroupCache[Any]":
        """Cache of the rows that were read last."""
        return GroupCache()

    @cached_property
    def _shards(self) -> dict[str, ShardInfo]:
        return {shard.path: shard for shard in self.manifest.shards}

    def reader(self, shard: str) -> ShardReader:
        """Return the reader of a shard, by its path in the manifest."""
        tokens = token_sidecar_path(tokens_folder(self.folder, self.tokens.name), shard)
        return ShardReader(self.folder, self._shards[shard], tokens, self.store, self.groups)
