"""A corpus of any number of samples for benchmarks: whole sidecars, drops and token sidecars, and small real tars.

Its tables are as large and as varied as those of a real corpus: skewed domains, languages, licences, scores, sizes,
usage signals. A tar holds only `SAMPLES_IN_TAR` real samples; the rows of its sidecar name their bytes in turn, each
under a key of its own. So every image and text can be shown, and a million samples take 0.4 GB. Neither `verify` nor
the audit accepts such a corpus.
"""

import hashlib
import io
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipelines import storage
from pipelines.document import Document, Kind, Media, Provenance, Region, Segment, Split, make_key
from pipelines.funnel import FunnelRow
from pipelines.layout import drops_folder, resolved_spec_path
from pipelines.parts import DROP_SCHEMA, write_arrow
from pipelines.shards import token_sidecar
from pipelines.shards.manifest import Manifest, ShardInfo, write_manifest
from pipelines.shards.sidecar import SCHEMA, read_sidecar
from pipelines.shards.writer import SampleParts, ShardWriter, finish_document
from pipelines.spec import CorpusSpec

SAMPLES_IN_TAR = 8
SOURCES: dict[str, tuple[Kind, float]] = {
    "pairs": ("pair", 0.5),
    "webpages": ("interleaved", 0.2),
    "grounded": ("grounded", 0.15),
    "videos": ("video", 0.05),
    "text": ("text", 0.1),
}
"""Kind of each source, and its share of the samples."""

TOKENIZER = "synthetic"
_LANGUAGES = ("en", "de", "fr", "es", "ja", "zh", "pt", "it", "nl", "pl", "ru", "sw")
_LICENSES = (None, "CC-BY-4.0", "CC-BY-SA-4.0", "CC0-1.0", "CC-BY-NC-4.0")
_REASONS = ("too_few_words", "near_duplicate_image", "robots_disallowed", "http_404", "noai", "image_too_small")
_ROBOTS = tuple(f"User-agent: *\nAllow: /\nCrawl-delay: {n}\nDisallow: /private/{n}/" for n in range(50))
_NUM_DROPS = 0.2
"""Drops per sample."""

_Numbers = np.ndarray[tuple[int], np.dtype[np.int64]]


def build_synthetic_corpus(folder: str, num_samples: int, *, samples_per_shard: int = 10_000) -> Manifest:
    """Write a synthetic corpus; equal arguments give equal bytes.

    Args:
        folder: A local folder; what is in it already is overwritten.
        num_samples: Number of samples, to the nearest that the shares of `SOURCES` give.
        samples_per_shard: Samples in each shard but the last of a source and split.

    Returns:
        Its manifest.
    """
    spec = _spec()
    num_domains = max(10, num_samples // 20)
    shards, funnel, first = [], [], 0
    for source, (kind, share) in SOURCES.items():
        total = round(num_samples * share)
        for split, number, num in _shards(total, samples_per_shard):
            rng = np.random.default_rng([first])
            shard = _write_tar(folder, source, kind, split, number, first)
            table = _rows(folder, shard, kind, np.arange(first, first + num), rng, num_domains)
            _write(storage.join(folder, shard.sidecar), table)
            shard = replace(shard, samples=num)
            _write_tokens(folder, shard, table, rng)
            shards.append(shard)
            first += num
        num_drops = round(total * _NUM_DROPS)
        dropped = _write_drops(folder, source, num_drops)
        funnel += [
            FunnelRow(source, "extract", "document", total + num_drops, total, dropped),
            FunnelRow(source, "shard", "sample", total, total, {}),
        ]
    storage.write_bytes(resolved_spec_path(folder), spec.resolved().encode())
    manifest = Manifest(
        spec.name, spec.version, spec.sha256, tuple(shards), tuple(funnel), {"dromaius": "0"}, tuple(SOURCES)
    )
    _write_tokens_info(folder, manifest)
    write_manifest(folder, manifest)
    return manifest


def synthetic_keys(numbers: _Numbers, letter: str = "p") -> pa.Array:
    """Return keys as ours: a letter and 20 hexadecimal digits that look random, of 64 bits and 16 more."""
    low = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    low ^= low >> np.uint64(29)
    low *= np.uint64(0xBF58476D1CE4E5B9)
    digits = np.frombuffer(b"0123456789abcdef", np.uint8)
    letters = np.full((len(numbers), 21), ord(letter), np.uint8)
    for place in range(20):
        letters[:, 1 + place] = digits[(low >> np.uint64(60 - 4 * (place % 16))) & np.uint64(15)]
    offsets = np.arange(0, 21 * (len(numbers) + 1), 21, dtype=np.int32)
    return pa.StringArray.from_buffers(len(numbers), pa.py_buffer(offsets), pa.py_buffer(letters.tobytes()))


def _spec() -> CorpusSpec:
    tree: dict[str, Any] = {
        "name": "synthetic",
        "version": "1.0.0",
        "description": "Generated tables for benchmarks.",
        "policy": {"user_agent": "Dromaius (+https://example.org/crawler)"},
        "crawls": {"sites": {"seeds": ["https://example.org/"]}},
        "sources": {name: {"kind": kind, "input": {"crawl": "sites"}} for name, (kind, _) in SOURCES.items()},
    }
    return CorpusSpec.model_validate(tree)


def _shards(total: int, most: int) -> Iterator[tuple[Split, int, int]]:
    """Yield split, number and samples of the shards of a source: a twentieth is held out."""
    splits: dict[Split, int] = {"train": total - 2 * (total // 40), "val": total // 40, "test": total // 40}
    for split, num in splits.items():
        for number, begin in enumerate(range(0, num, most)):
            yield split, number, min(most, num - begin)


# --- the real samples -----------------------------------------------------------------------------------------------


def _write_tar(folder: str, source: str, kind: Kind, split: Split, number: int, first: int) -> ShardInfo:
    with ShardWriter(folder, source, kind, split, number) as writer:
        for i in range(SAMPLES_IN_TAR):
            writer.add(_sample(kind, first + i))
    assert writer.info is not None
    return writer.info


def _sample(kind: Kind, number: int) -> SampleParts:
    num_images = {"text": 0, "interleaved": 1 + number % 4, "video": 3}.get(kind, 1)
    times = [2.0 * i if kind == "video" else None for i in range(num_images)]
    media = [Media(None, mime="image/jpeg", width=64, height=48, source_width=64, source_height=48, t=t) for t in times]
    role = "frame" if kind == "video" else "content"
    images = [
        Segment("frame" if kind == "video" else "image", media=i, t0=t, role=role)  # type: ignore[arg-type]
        for i, t in enumerate(times)
    ]
    caption = f"a lighthouse above a quay, seen in weather {number % 97}"
    regions = (Region(0, 12, 0, (0.2, 0.1, 0.6, 0.9), 0.8, "noun_chunk"), Region(19, 25, 0, (0.1, 0.6, 0.9, 0.95)))
    if kind in ("pair", "grounded"):
        text = [Segment("text", caption, role="caption", regions=regions if kind == "grounded" else ())]
    elif kind == "video":
        text = [Segment("text", "the light turns", t0=1.0, t1=1.9, role="subtitle")]
    else:
        text = [Segment("text", f"On lighthouse {number}\n\n{'It stands above the quay. ' * 10}".strip())]
    segments = sorted([*images, *text], key=lambda s: s.t0 or 0.0) if kind == "video" else [*images, *text]
    document = Document(
        kind, make_key(kind, "synthetic", number), tuple(segments), tuple(media), Provenance("synthetic", str(number))
    )
    return finish_document(document, [_image(number * 7 + i) for i in range(num_images)])


def _image(number: int) -> bytes:
    """Return a small JPEG of a gradient that the number determines."""
    y, x = np.mgrid[0:48, 0:64]
    pixels = np.stack([(x * 3 + number * 37) % 256, (y * 5 + number * 53) % 256, (x + y + number * 11) % 256], axis=-1)
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "JPEG", quality=70)
    return buffer.getvalue()


# --- the rows -------------------------------------------------------------------------------------------------------


def _rows(
    folder: str, shard: ShardInfo, kind: Kind, numbers: _Numbers, rng: np.random.Generator, num_domains: int
) -> pa.Table:
    """Return the rows of a sidecar: byte ranges and shapes of the real samples in turn, all else drawn at random."""
    real = list(read_sidecar(storage.join(folder, shard.sidecar)))
    num = len(numbers)
    turn = np.arange(num) % len(real)
    num_media = np.array([row["num_media"] for row in real])[turn]
    domain = np.minimum((num_domains * rng.random(num) ** 3).astype(np.int64), num_domains - 1)
    domains = _numbered("site-", domain, ".example")
    pages = _numbered("https://www.site-", domain, ".example/page/", numbers)
    lengths = np.maximum(1, rng.lognormal({"pair": 4, "grounded": 4.3, "video": 5}.get(kind, 7), 0.6, num).astype(int))
    days = rng.integers(0, 60, num)
    observed = pa.array([f"2026-{9 + d // 30:02d}-{1 + d % 30:02d}T12:00:00Z" for d in range(60)]).take(pa.array(days))
    columns: dict[str, Any] = {
        "key": synthetic_keys(numbers, kind[0]),
        "kind": pa.repeat(kind, num),
        "lang": _chosen(_LANGUAGES, rng, num),
        "num_media": num_media,
        "num_text_chars": lengths,
        "num_segments": num_media + 1,
        "num_synthetic_segments": (rng.random(num) < 0.02).astype(int),
        "num_regions": np.full(num, 2 if kind == "grounded" else 0),
        "page_url": pages,
        "canonical_url": pa.nulls(num, pa.string()),
        "domain": domains,
        "dataset": pa.repeat(shard.source, num),
        "release": pa.nulls(num, pa.string()),
        "record": _numbered("record-", numbers),
        "file": pa.nulls(num, pa.string()),
        "license": _chosen(_LICENSES, rng, num),
        "dedup_group": _numbered("group-", numbers - (rng.random(num) < 0.1)),
        "policy": pa.repeat("strict", num),
        "allowed": pa.repeat(True, num),
        "reasons": pa.array([[]] * num, SCHEMA.field("reasons").type),
        "pii_hits": (rng.random(num) < 0.01).astype(int),
        "byte_offset": np.array([row["byte_offset"] for row in real])[turn],
        "bytes": np.array([row["bytes"] for row in real])[turn],
        "parts": pa.array([row["parts"] for row in real], SCHEMA.field("parts").type).take(pa.array(turn)),
        "media": _media(real, turn, num_media, numbers, rng),
        "scores": _scores(num, rng) if num_media.any() else pa.array([[]] * num, SCHEMA.field("scores").type),
        "signals": _signals(domain, domains, observed),
    }
    return pa.table([pa.array(columns[f.name]).cast(f.type) for f in SCHEMA], schema=SCHEMA)


def _media(
    real: Sequence[Mapping[str, Any]], turn: _Numbers, num_media: _Numbers, numbers: _Numbers, rng: np.random.Generator
) -> pa.Array:
    total = int(num_media.sum())
    of_sample = np.repeat(numbers, num_media)
    ids = np.arange(total) + int(numbers[0]) * 4
    ids = np.where(rng.random(total) < 0.02, ids - 1, ids)  # some images repeat
    sides = (np.exp(rng.normal(6.1, 0.5, (2, total)))).astype(np.int32) + 32
    shapes = pa.array([row["media"] for row in real], SCHEMA.field("media").type).take(pa.array(turn)).flatten()
    item = SCHEMA.field("media").type.value_type
    licenses = _chosen(_LICENSES, rng, total)
    columns: dict[str, Any] = {
        "part": shapes.field("part"),
        "url": _numbered("https://images.example/", of_sample, "/", ids, ".jpg"),
        "mime": pa.repeat("image/jpeg", total),
        "width": sides[0],
        "height": sides[1],
        "bytes": sides[0].astype(np.int64) * sides[1] // 8,
        "stored_sha256": _digests(ids),
        "source_sha256": _digests(ids + (1 << 40)),
        "license": licenses,
        "license_evidence": pa.compute.if_else(licenses.is_null(), "none-found", "rel-license"),
        "t": shapes.field("t"),
    }
    fields = [pa.array(columns[f.name]).cast(f.type) for f in item]
    return _lists(num_media, pa.StructArray.from_arrays(fields, fields=list(item)))


def _scores(num: int, rng: np.random.Generator) -> pa.Array:
    item = SCHEMA.field("scores").type.value_type
    values = np.stack([np.clip(rng.normal(0.29, 0.05, num), 0, 1), np.clip(rng.normal(5.2, 0.9, num), 0, 10)], axis=1)
    fields = [
        pa.array(["clip_similarity", "aesthetic"] * num),
        pa.repeat("media:0", 2 * num),
        pa.array(values.ravel()),
        pa.repeat("derived", 2 * num),
    ]
    return _lists(np.full(num, 2), pa.StructArray.from_arrays(fields, fields=list(item)))


def _signals(domain: _Numbers, domains: pa.Array, observed: pa.Array) -> pa.Array:
    item = SCHEMA.field("signals").type.value_type
    num = len(domain)
    fields = [
        pa.repeat("robots.txt", num),
        pa.repeat("page", num),
        pa.array(_ROBOTS).take(pa.array(domain % len(_ROBOTS))),
        observed,
        pa.compute.binary_join_element_wise("https://www.", domains, "/robots.txt", ""),
    ]
    return _lists(np.ones(num, int), pa.StructArray.from_arrays(fields, fields=list(item)))


def _lists(lengths: "np.ndarray[Any, Any]", values: pa.Array) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32()), values)


def _numbered(*parts: str | _Numbers) -> pa.Array:
    """Return texts joined of constants and numbers."""
    arrays = [part if isinstance(part, str) else pa.array(part).cast(pa.string()) for part in parts]
    return pa.compute.binary_join_element_wise(*arrays, "")


def _chosen(values: Sequence[str | None], rng: np.random.Generator, num: int) -> pa.Array:
    """Return values drawn at random, each twice as often as the next."""
    places = np.minimum(rng.geometric(0.5, num) - 1, len(values) - 1)
    return pa.array(values, pa.string()).take(pa.array(places))


def _digests(numbers: _Numbers) -> pa.Array:
    """Return 64 hexadecimal digits for each number."""
    parts = [pa.compute.utf8_slice_codeunits(synthetic_keys(numbers + i * 0x51ED27, "x"), 1, 17) for i in range(4)]
    return pa.compute.binary_join_element_wise(*parts, "")


# --- beside the sidecars --------------------------------------------------------------------------------------------


def _write(path: str, table: pa.Table) -> None:
    keeps_metadata = bool(table.schema.metadata)
    with storage.write_whole(path) as file:
        pq.write_table(
            table, file, row_group_size=4096, compression="zstd", compression_level=3, store_schema=keeps_metadata
        )


def _write_tokens(folder: str, shard: ShardInfo, rows: pa.Table, rng: np.random.Generator) -> None:
    """Write a token sidecar with the segments of samples, their images and a text, but without the ids of texts."""
    tokens = np.maximum(1, rows["num_text_chars"].to_numpy() // 4)
    num_media = rows["num_media"].to_numpy()
    num_segments, num = num_media + 1, len(rows)
    ends = np.cumsum(num_segments)
    is_text = np.zeros(int(ends[-1]) if num else 0, bool)
    is_text[ends - 1] = True
    image = token_sidecar.TYPES.index("frame" if shard.kind == "video" else "image")
    inside = np.arange(len(is_text)) - np.repeat(ends - num_segments, num_segments)
    columns: dict[str, Any] = {
        "key": rows["key"],
        "num_tokens": tokens,
        "num_media": rows["num_media"],
        "types": _lists(num_segments, pa.array(np.where(is_text, token_sidecar.TYPES.index("text"), image), pa.int8())),
        "roles": _lists(num_segments, pa.array(["content", "body"]).take(pa.array(is_text.astype(int)))),
        "counts": _lists(num_segments, pa.array(np.where(is_text, np.repeat(tokens, num_segments), 0), pa.int32())),
        "media": _lists(num_segments, pa.array(np.where(is_text, -1, inside), pa.int32())),
        "times": _lists(num_segments, pa.nulls(len(is_text), pa.float64())),
    }
    arrays = [
        pa.chunked_array([pa.array(columns[f.name])]) if f.name in columns else pa.array([[]] * num, f.type)
        for f in token_sidecar.SCHEMA
    ]
    made_from = {
        "schema": token_sidecar.SCHEMA_NAME,
        "shard_sha256": shard.sha256,
        "tokenizer_sha256": _tokenizer_sha256(),
        "version": str(token_sidecar.VERSION),
        "num_tokens": str(int(tokens.sum())),
    }
    table = pa.table(arrays, schema=token_sidecar.SCHEMA).replace_schema_metadata(made_from)
    _write(token_sidecar.token_sidecar_path(token_sidecar.tokens_folder(folder, TOKENIZER), shard.path), table)


def _write_tokens_info(folder: str, manifest: Manifest) -> None:
    path = token_sidecar.tokens_folder(folder, TOKENIZER)
    storage.write_bytes(storage.join(path, "tokenizer.json"), b"{}")
    info = token_sidecar.TokensInfo(
        *(TOKENIZER, "tokenizer.json", _tokenizer_sha256(), manifest.fingerprint, manifest.num_samples, 0),
        token_sidecar.VERSION,
    )
    storage.write_bytes(storage.join(path, token_sidecar.FILE_NAME), info.to_json().encode())


def _tokenizer_sha256() -> str:
    return hashlib.sha256(b"{}").hexdigest()


def _write_drops(folder: str, source: str, num: int) -> dict[str, int]:
    """Write the drops of a source; return their numbers by reason."""
    places = np.arange(num) % len(_REASONS)
    columns = {
        "source": pa.repeat(source, num),
        "stage": pa.repeat("extract", num),
        "reason": pa.array(_REASONS).take(pa.array(places)),
        "unit": pa.repeat("document", num),
        "url": _numbered("https://www.site-", np.arange(num) % 997, ".example/dropped/", np.arange(num)),
    }
    arrays = [pa.array(columns[f.name]) if f.name in columns else pa.nulls(num, f.type) for f in DROP_SCHEMA]
    write_arrow(f"{drops_folder(folder)}/{source}-00000.parquet", pa.table(arrays, schema=DROP_SCHEMA))
    return {reason: int((places == i).sum()) for i, reason in enumerate(_REASONS) if (places == i).any()}


def made_once(folder: Path, num_samples: int) -> str:
    """Return the folder of a synthetic corpus, which a process of its own writes if an earlier run has not done so."""
    corpus = folder / f"corpus-{num_samples}"
    if not (corpus / "manifest.json").exists():
        subprocess.run(
            [sys.executable, "-m", "tools.bench.synthetic_corpus", str(corpus), str(num_samples)], check=True
        )
    return str(corpus)


if __name__ == "__main__":
    build_synthetic_corpus(sys.argv[1], int(sys.argv[2]))
