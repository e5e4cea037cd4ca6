"""Sizes of a corpus's sources in samples, images and tokens, and the epochs that weights make of them.

Tokens are positions of the sequence, image slots included. A config gives them exactly, from the trainer's own tables
of windows. Without one they are estimated from text tokens and images, and torch is not needed.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines import storage
from pipelines.document import Split
from pipelines.errors import UserError
from pipelines.shards.manifest import Manifest, ShardInfo, load_manifest
from pipelines.shards.token_sidecar import FILE_NAME, TokensInfo, load_tokens, token_sidecar_path, tokens_folder
from tools.output import track
from trainer.plan.mixture import Phase, Unit

if TYPE_CHECKING:
    from trainer.tasks.data import TrainingData

IMAGE_TOKENS = 64  # slots of an image in Emu2 (arXiv:2312.13286, section 2.1)
_THREADS = 8  # files that are read at once: most of the time a store is waited for
_ROWS = 65_536


@dataclass(frozen=True)
class SourceSize:
    """Size of a source's training split.

    Attributes:
        name: Name of the source.
        kind: Kind of its samples.
        samples: Number of samples that are trained on.
        images: Number of images and frames.
        text_tokens: Number of text tokens, by tokenizer.
        tokens: Positions of the sequence, image slots included.
    """

    name: str
    kind: str
    samples: int
    images: int
    text_tokens: Mapping[str, int]
    tokens: int


@dataclass(frozen=True)
class CorpusSizes:
    """Sizes of all sources of a corpus, in the manifest's order.

    Attributes:
        name: Name and version of the corpus.
        fingerprint: Hash of its shards.
        tokenizers: Names of the tokenizers whose text tokens are known.
        tokens_of: Origin of the tokens, in words.
        sources: The sources.
    """

    name: str
    fingerprint: str
    tokenizers: tuple[str, ...]
    tokens_of: str
    sources: tuple[SourceSize, ...]

    @property
    def tokens(self) -> int:
        """Tokens of all sources."""
        return sum(source.tokens for source in self.sources)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the sources."""
        return tuple(source.name for source in self.sources)

    def check_names(self, names: Iterator[str] | Sequence[str], where: str) -> None:
        """Refuse names that are not of this corpus.

        Raises:
            UserError: If one is unknown.
        """
        known = set(self.names)
        for name in names:
            if name not in known:
                raise UserError(f"{where}: no source {name!r} in the corpus; it has {', '.join(self.names)}")


def read_sizes(corpus: str, tokens: str | None = None, image_tokens: int | None = IMAGE_TOKENS) -> CorpusSizes:
    """Read the sizes of a corpus from its manifest and token sidecars.

    Args:
        corpus: Folder of the corpus, local or an fsspec URL.
        tokens: Tokenizer by which tokens are counted; None if there is only one.
        image_tokens: Positions of an image or a frame; None leaves images uncounted, which reads less.

    Raises:
        UserError: If there is no corpus, it has no tokens, or they are of another build.
    """
    manifest = load_manifest(corpus)
    names = tokenizer_names(corpus)
    chosen = load_tokens(corpus, manifest, tokens)
    infos = {name: chosen if name == chosen.name else load_tokens(corpus, manifest, name) for name in names}
    counts_images = image_tokens is not None
    counted = {
        name: _text_tokens(corpus, manifest, info, images=counts_images and info is chosen)
        for name, info in infos.items()
    }
    sources = []
    for source in manifest.sources:
        images = counted[chosen.name][source.name][1]
        text = {name: counted[name][source.name][0] for name in names}
        samples = sum(shard.samples for shard in manifest.shards_of(source.name, "train"))
        total = text[chosen.name] + (image_tokens or 0) * images
        sources.append(SourceSize(source.name, source.kind, samples, images, text, total))
    origin = f"estimated: text tokens of {chosen.name}, and {image_tokens} of each image"
    return CorpusSizes(_name(manifest), manifest.fingerprint, tuple(names), origin, tuple(sources))


def with_windows(sizes: CorpusSizes, data: "TrainingData") -> CorpusSizes:
    """Return sizes with the samples, images and tokens that a run would train on."""
    windows = {source.name: source for source in data.sources}
    sources = tuple(
        replace(
            source,
            samples=windows[source.name].num_samples,
            images=int(windows[source.name].images.sum(dtype="int64")),
            tokens=int(windows[source.name].tokens.sum(dtype="int64")),
        )
        for source in sizes.sources
    )
    origin = f"as laid out by the config, with the tokenizer {data.corpus.tokens.name}"
    return replace(sizes, sources=sources, tokens_of=origin)


def tokenizer_names(corpus: str) -> list[str]:
    """Return the names of the tokenizers whose tokens a corpus has."""
    return [path.split("/")[-2] for path in storage.list_files(storage.join(corpus, "tokens"), FILE_NAME)]


def _name(manifest: Manifest) -> str:
    return f"{manifest.name} {manifest.version}"


def _text_tokens(
    corpus: str, manifest: Manifest, info: TokensInfo, *, images: bool, split: Split = "train"
) -> dict[str, tuple[int, int]]:
    """Return text tokens and images of each source: those from the ends of files, these from one column."""
    folder = tokens_folder(corpus, info.name)
    shards = [shard for shard in manifest.shards if shard.split == split]
    found = {source.name: (0, 0) for source in manifest.sources}

    def read(shard: ShardInfo) -> tuple[str, int, int]:
        return (shard.source, *_of_shard(token_sidecar_path(folder, shard.path), shard, images))

    with ThreadPoolExecutor(_THREADS) as pool:
        try:
            for source, tokens, media in track(pool.map(read, shards), len(shards), f"tokens {info.name}"):
                before = found[source]
                found[source] = before[0] + tokens, before[1] + media
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # or all other files would be read first
            raise
    return found


def _of_shard(path: str, shard: ShardInfo, images: bool) -> tuple[int, int]:
    rerun = "Rerun `python -m pipelines tokenize`"
    if not storage.exists(path):
        raise UserError(f"{path}: missing, but its shard is in the manifest. {rerun}")
    try:
        with storage.open_read(path) as file:
            parquet = pq.ParquetFile(file)
            made_from = {k.decode(): v.decode() for k, v in (parquet.metadata.metadata or {}).items()}
            if made_from.get("shard_sha256") != shard.sha256:
                raise UserError(f"{path}: made from another {shard.path}. {rerun}")
            media = 0
            for batch in parquet.iter_batches(_ROWS, columns=["num_media"]) if images else ():
                media += pc.sum(batch.column(0)).as_py() or 0
            return int(made_from["num_tokens"]), media
    except (OSError, ValueError, KeyError) as error:  # pyarrow's exceptions are among them
        raise UserError(f"{path}: cannot be read: {storage.error_line(error)}. {rerun}") from error


# --- epochs ---------------------------------------------------------------------------------------------------------


def token_shares(weights: Mapping[str, float], unit: Unit, sizes: CorpusSizes) -> dict[str, float]:
    """Return the share of the tokens that each source gets by weights in a unit."""
    if unit == "tokens":
        return {source.name: weights.get(source.name, 0.0) for source in sizes.sources}
    means = {source.name: source.tokens / source.samples if source.samples else 0.0 for source in sizes.sources}
    parts = {name: weights.get(name, 0.0) * mean for name, mean in means.items()}
    total = math.fsum(parts.values())
    return {name: part / total if total else 0.0 for name, part in parts.items()}


def weights_of_shares(shares: Mapping[str, float], unit: Unit, sizes: CorpusSizes) -> dict[str, float]:
    """Return the weights in a unit by which each source gets its share of the tokens."""
    if unit == "tokens":
        return dict(shares)
    per_token = {source.name: source.samples / source.tokens if source.tokens else 0.0 for source in sizes.sources}
    parts = {name: share * per_token[name] for name, share in shares.items()}
    total = math.fsum(parts.values())
    return {name: part / total for name, part in parts.items()}


def drawn_tokens(
    phases: Sequence[Phase], num_steps: int, tokens_per_step: float, sizes: CorpusSizes
) -> dict[str, float]:
    """Return the tokens of each source that phases draw in the first steps, with packed sequences taken as full."""
    drawn = dict.fromkeys(sizes.names, 0.0)
    ends = [*(phase.step for phase in phases[1:]), num_steps]
    for phase, end in zip(phases, ends, strict=True):
        tokens = max(0, min(end, num_steps) - phase.step) * tokens_per_step
        for name, share in token_shares(phase.weights, phase.unit, sizes).items():
            drawn[name] += share * tokens
    return drawn


def epochs(drawn: Mapping[str, float], sizes: CorpusSizes) -> dict[str, float]:
    """Return how often each source is gone through when so many of its tokens are drawn."""
    return {source.name: drawn[source.name] / source.tokens if source.tokens else 0.0 for source in sizes.sources}
