"""Tokenize: the text of every sample as ids of one tokenizer, shard by shard.

A shard's token sidecar is a transaction: a rerun skips those whose metadata shows that they were made from the same
tar by the same tokenizer and code. Special tokens belong to the model and are added later; within a text they are text.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam

from pipelines import storage
from pipelines.document import Document, Provenance
from pipelines.errors import UserError
from pipelines.running.runner import Runner, run_pipeline
from pipelines.running.watch import Watch
from pipelines.shards.foreign_samples import MIME_TYPES, read_document
from pipelines.shards.manifest import Manifest, ShardInfo, load_manifest
from pipelines.shards.sidecar import read_sidecar
from pipelines.shards.tar_samples import TarSample
from pipelines.shards.token_sidecar import (
    FILE_NAME,
    TRAINED,
    VERSION,
    FastEncoder,
    SentencePieceEncoder,
    TokensInfo,
    is_current,
    load_encoder,
    made_from,
    token_row,
    token_sidecar_path,
    tokens_folder,
    write_token_sidecar,
)
from pipelines.text.byte_level_bpe import train_bpe

BPE_TRAINING_CHARS = 1 << 30
"""Characters on which a tokenizer is trained, equal numbers from all sources; more would hardly change its merges."""


def run_tokenize(
    corpus: str, tokenizer: str | None, runner: Runner, *, train_bpe: int | None = None, name: str | None = None
) -> TokensInfo:
    """Write the token sidecars of a corpus for one tokenizer.

    Args:
        corpus: Its folder.
        tokenizer: A `tokenizer.json`, a `tokenizer.model`, or a folder that contains one.
        runner: How to run.
        train_bpe: Instead of `tokenizer`: vocabulary size of a byte-level BPE that is trained on the corpus.
        name: Name of the folder below `tokens/`; None: that of the tokenizer's folder or file, or `bpe-<size>`.

    Raises:
        UserError: If there is no corpus or tokenizer, or not exactly one of `tokenizer` and `train_bpe`.
    """
    if (tokenizer is None) == (train_bpe is None):
        raise UserError("tokenize: give either --tokenizer or --train-bpe")
    corpus = corpus.rstrip("/")
    manifest = load_manifest(corpus)
    name = name or (f"bpe-{train_bpe}" if tokenizer is None else _name_of(tokenizer))
    folder = tokens_folder(corpus, name)
    encoder: FastEncoder | SentencePieceEncoder
    if tokenizer is not None:
        encoder = load_encoder(tokenizer)
    else:
        assert train_bpe is not None
        encoder = _trained_bpe(corpus, manifest, folder, train_bpe)
    done_path = storage.join(folder, FILE_NAME)
    storage.remove(done_path)
    storage.remove_leftovers(folder)
    path = storage.join(folder, encoder.file_name)
    if not storage.exists(path) or storage.read_bytes(path) != encoder.content:
        storage.write_bytes(path, encoder.content)

    def build(pipeline: beam.Pipeline) -> None:
        _ = (
            pipeline
            | "ListShards" >> beam.Create([(s.path,) for s in manifest.shards])
            | "SpreadShards" >> beam.Reshuffle()
            | "TokenizeShards" >> beam.ParDo(_TokenizeShard(corpus, folder, encoder.file_name, manifest))
        )

    run_pipeline("tokenize", runner, build, Watch(folder, len(manifest.shards), suffix=".parquet"))
    wanted = {token_sidecar_path(folder, shard.path) for shard in manifest.shards}
    for stale in storage.list_files(folder, ".parquet"):
        if stale not in wanted:
            storage.remove(stale)
    num_tokens = sum(int((made_from(path) or {})["num_tokens"]) for path in sorted(wanted))
    made = (name, encoder.file_name, encoder.sha256, manifest.fingerprint)
    info = TokensInfo(*made, manifest.num_samples, num_tokens, VERSION)
    storage.write_bytes(done_path, info.to_json().encode())
    return info


def _name_of(tokenizer: str) -> str:
    path = Path(tokenizer)
    name = path.parent.resolve().name if path.stem == "tokenizer" else path.stem if path.suffix else path.resolve().name
    return name or "tokenizer"


class _TokenizeShard(beam.DoFn):
    """Write the token sidecar of a shard, unless it is current."""

    def __init__(self, corpus: str, folder: str, tokenizer: str, manifest: Manifest) -> None:
        self._corpus, self._folder, self._tokenizer = corpus, folder, tokenizer
        self._shards = {shard.path: shard for shard in manifest.shards}
        self._encoder: Any = None

    def setup(self) -> None:
        content = storage.read_bytes(storage.join(self._folder, self._tokenizer))
        self._encoder = (SentencePieceEncoder if self._tokenizer.endswith(".model") else FastEncoder)(content)

    def process(self, element: tuple[str]) -> Iterator[None]:
        shard = self._shards[element[0]]
        path = token_sidecar_path(self._folder, shard.path)
        if not is_current(path, shard, self._encoder.sha256, VERSION):
            rows = [token_row(document, self._encoder) for document in read_texts(self._corpus, shard)]
            write_token_sidecar(path, rows, shard.sha256, self._encoder.sha256)
        yield from ()


def read_texts(corpus: str, shard: ShardInfo) -> Iterator[Document]:
    """Yield the documents of a shard without reading bytes of images; a sample that may not be used is empty.

    Raises:
        UserError: If the tar does not fit its sidecar.
    """
    path = storage.join(corpus, shard.path)
    if storage.size(path) != shard.bytes:
        raise UserError(f"{path}: {storage.size(path)} bytes, the manifest says {shard.bytes}: from another build")
    with storage.open_read(path) as file:
        for row in read_sidecar(storage.join(corpus, shard.sidecar), ("key", "allowed", "parts")):
            if not row["allowed"]:
                yield _empty(row["key"], shard)
                continue
            sample = TarSample(row["key"], 0, 0)
            for part in row["parts"]:
                is_image = part["name"].rpartition(".")[2].lower() in MIME_TYPES
                file.seek(part["offset"])
                sample.parts[part["name"]] = b"" if is_image else file.read(part["bytes"])
            try:
                yield read_document(sample, shard.source, images_alone=True)
            except ValueError as error:
                raise UserError(
                    f"{path}, sample {row['key']}: {error}: the tar does not fit its sidecar. Build or index it again"
                ) from error


def _empty(key: str, shard: ShardInfo) -> Document:
    return Document(shard.kind, key, (), (), Provenance(shard.source, key))


# --- a new tokenizer ------------------------------------------------------------------------------------------------


def _trained_bpe(corpus: str, manifest: Manifest, folder: str, num_tokens: int) -> FastEncoder:
    """Return the existing tokenizer if it was trained on this corpus, else train one."""
    receipt = storage.join(folder, TRAINED)
    inputs = json.dumps({"version": VERSION, "fingerprint": manifest.fingerprint, "num_tokens": num_tokens})
    path = storage.join(folder, FastEncoder.file_name)
    if storage.exists(receipt) and storage.read_bytes(receipt).decode() == inputs and storage.exists(path):
        return FastEncoder(storage.read_bytes(path))
    storage.remove(receipt)
    encoder = FastEncoder(train_bpe(_training_texts(corpus, manifest), num_tokens))
    storage.write_bytes(path, encoder.content)
    storage.write_bytes(receipt, inputs.encode())
    return encoder


def _training_texts(corpus: str, manifest: Manifest) -> Iterator[str]:
    """Yield texts of the training split, equally many characters from each source."""
    limit = BPE_TRAINING_CHARS // max(1, len(manifest.sources))
    for source in manifest.sources:
        num_chars = 0
        for shard in manifest.shards_of(source.name, "train"):
            for document in read_texts(corpus, shard):
                for segment in document.segments:
                    if segment.text is not None and num_chars < limit:
                        num_chars += len(segment.text)
                        yield segment.text
            if num_chars >= limit:
                break
