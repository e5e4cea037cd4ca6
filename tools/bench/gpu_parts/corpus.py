"""A small corpus with tokens for the benchmark of a GPU: photos of the usual size, texts of the usual length.

It has the sources that `trainer/configs/emu2_1b_h200.yaml` names, and a vocabulary of as many tokens as LLaMA's: the
config runs on it as it is.
"""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from pipelines import storage
from pipelines.document import Document, Kind, Media, Provenance, Region, Segment, Split, make_key
from pipelines.funnel import FunnelRow
from pipelines.shards.manifest import Manifest, ShardInfo, sort_shards, write_manifest
from pipelines.shards.token_sidecar import (
    FILE_NAME,
    VERSION,
    FastEncoder,
    TokensInfo,
    token_row,
    token_sidecar_path,
    tokens_folder,
    write_token_sidecar,
)
from pipelines.shards.writer import ShardWriter, finish_document
from pipelines.text.byte_level_bpe import train_bpe

SOURCES: dict[str, Kind] = {
    "capsfusion": "pair",
    "webvid": "video",
    "grit": "grounded",
    "obelics": "interleaved",
    "pile": "text",
}
NUM_SAMPLES = {"capsfusion": 2048, "webvid": 128, "grit": 512, "obelics": 512, "pile": 512}
NUM_IMAGES = 256
"""Different images; samples show them in turn."""

_TOKENIZER = "bench"
_WORDS = ("lighthouse", "quay", "harbour", "weather", "above", "the", "a", "seen", "in", "red", "boat", "near", "cliff")


def build_gpu_corpus(folder: Path, *, vocab_size: int, size: tuple[int, int], share: float = 1.0) -> str:
    """Write the corpus, unless it is there; return its folder.

    Args:
        folder: Where to write it.
        vocab_size: Tokens of the base vocabulary.
        size: Width and height of images in pixels.
        share: Share of `NUM_SAMPLES` and `NUM_IMAGES`.
    """
    corpus = str(folder)
    if storage.exists(storage.join(corpus, "manifest.json")):
        return corpus
    photos = [_photo(number, size) for number in range(max(1, round(NUM_IMAGES * share)))]
    encoder = FastEncoder(_vocabulary(vocab_size))
    tokens = tokens_folder(corpus, _TOKENIZER)
    shards: list[ShardInfo] = []
    num_tokens, funnel = 0, []
    for source, kind in SOURCES.items():
        num = max(4, round(NUM_SAMPLES[source] * share))
        documents = [_document(source, kind, number, photos, size) for number in range(num)]
        splits: dict[Split, list[tuple[Document, list[bytes]]]] = {"train": documents[:-2], "val": documents[-2:]}
        for split, part in splits.items():
            with ShardWriter(corpus, source, kind, split, 0) as writer:
                for document, media in part:
                    writer.add(finish_document(document, media))
            assert writer.info is not None
            shards.append(writer.info)
            rows = [token_row(document, encoder) for document, _ in part]
            num_tokens += sum(row["num_tokens"] for row in rows)
            write_token_sidecar(token_sidecar_path(tokens, writer.info.path), rows, writer.info.sha256, encoder.sha256)
        funnel.append(FunnelRow(source, "shard", "sample", num, num, {}))
    names = list(SOURCES)
    manifest = Manifest("bench", "1", "0" * 64, sort_shards(shards, names), tuple(funnel), {}, tuple(names))
    storage.write_bytes(storage.join(tokens, encoder.file_name), encoder.content)
    made = (_TOKENIZER, encoder.file_name, encoder.sha256, manifest.fingerprint, manifest.num_samples, num_tokens)
    storage.write_bytes(storage.join(tokens, FILE_NAME), TokensInfo(*made, VERSION).to_json().encode())
    write_manifest(corpus, manifest)
    return corpus


def _vocabulary(vocab_size: int) -> bytes:
    """Return a tokenizer of `vocab_size` tokens, most of which no text has: only the size of the tables counts."""
    tree = json.loads(train_bpe([" ".join(_words(0, 4000))], min(vocab_size, 400)))
    vocabulary = tree["model"]["vocab"]
    for number in range(vocab_size - len(vocabulary)):
        vocabulary[f"<unused-{number}>"] = len(vocabulary)
    return json.dumps(tree).encode()


def _words(seed: int, num: int) -> Iterator[str]:
    rng = np.random.default_rng(seed)
    yield from (_WORDS[i] for i in rng.integers(0, len(_WORDS), num))


def _document(
    source: str, kind: Kind, number: int, photos: list[bytes], size: tuple[int, int]
) -> tuple[Document, list[bytes]]:
    """Return a sample and the bytes of its images."""
    rng = np.random.default_rng([number, len(source)])
    num_images = {"text": 0, "interleaved": 1 + number % 4, "video": 4}.get(kind, 1)
    words = int(rng.integers(*{"text": (300, 1200), "interleaved": (150, 600)}.get(kind, (15, 45))))
    text = " ".join(_words(number, words))
    width, height = size
    times = [1.0 * i if kind == "video" else None for i in range(num_images)]
    media = [
        Media(None, mime="image/jpeg", width=width, height=height, source_width=width, source_height=height, t=t)
        for t in times
    ]
    images = [
        Segment("frame", media=i, t0=t, role="frame") if kind == "video" else Segment("image", media=i, role="content")
        for i, t in enumerate(times)
    ]
    role = {"pair": "caption", "grounded": "caption", "video": "subtitle"}.get(kind, "body")
    first = len(text.split(" ")[0])
    regions = (Region(0, first, 0, (0.2, 0.1, 0.6, 0.9), 0.8, "noun_chunk"),) if kind == "grounded" else ()
    spoken = {"t0": 0.5, "t1": 1.5} if kind == "video" else {}
    words_of = Segment("text", text, role=role, regions=regions, **spoken)  # type: ignore[arg-type]
    segments = sorted([*images, words_of], key=lambda s: s.t0 or 0.0) if kind == "video" else [*images, words_of]
    shown = [photos[int(i)] for i in rng.integers(0, len(photos), num_images)]
    key = make_key(kind, source, number)
    return Document(kind, key, tuple(segments), tuple(media), Provenance(source, str(number))), shown


def _photo(number: int, size: tuple[int, int]) -> bytes:
    """Return a JPEG with structure at all scales, as large as one of a photo (some 35 KB at 512 x 384)."""
    rng = np.random.default_rng(number)
    width, height = size
    pixels = np.zeros((height, width, 3), np.float32)
    for side in (3, 12, 48, 192):
        coarse = rng.normal(0, 60 / side**0.35, (side, side, 3)).astype(np.float32)
        pixels += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    buffer = io.BytesIO()
    Image.fromarray(np.clip(pixels + 128, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
