"""The sidecar of a tar: one row per sample in tar order, so that statistics, takedown and indexes never open tars."""

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import storage
from pipelines.document import Document
from pipelines.shards.tar_samples import TarSample

_ROW_GROUP = 4096

_PART = pa.struct({"name": pa.string(), "offset": pa.int64(), "bytes": pa.int64()}.items())
_MEDIA = pa.struct(
    [
        ("part", pa.string()),
        ("url", pa.string()),
        ("mime", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("bytes", pa.int64()),
        ("stored_sha256", pa.string()),
        ("source_sha256", pa.string()),
        ("license", pa.string()),
        ("license_evidence", pa.string()),
        ("t", pa.float64()),
    ]
)
_SCORE = pa.struct([("name", pa.string()), ("target", pa.string()), ("value", pa.float64()), ("origin", pa.string())])
_SIGNAL = pa.struct([(n, pa.string()) for n in ("kind", "target", "value", "observed_at", "url")])

SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("kind", pa.string()),
        ("lang", pa.string()),
        ("num_media", pa.int32()),
        ("num_text_chars", pa.int64()),  # code points
        ("num_segments", pa.int32()),
        ("num_synthetic_segments", pa.int32()),
        ("num_regions", pa.int32()),
        ("page_url", pa.string()),
        ("canonical_url", pa.string()),
        ("domain", pa.string()),  # registered domain of the page; without a page, of the first image
        ("dataset", pa.string()),
        ("release", pa.string()),
        ("record", pa.string()),
        ("file", pa.string()),
        ("license", pa.string()),  # of the dataset or page; an image's own is in `media`
        ("dedup_group", pa.string()),
        ("policy", pa.string()),
        ("allowed", pa.bool_()),
        ("reasons", pa.list_(pa.string())),
        ("pii_hits", pa.int32()),
        ("byte_offset", pa.int64()),  # of the sample's first header in the tar
        ("bytes", pa.int64()),  # up to the next sample
        ("parts", pa.list_(_PART)),  # `offset` is that of a part's bytes in the tar
        ("media", pa.list_(_MEDIA)),
        ("scores", pa.list_(_SCORE)),
        ("signals", pa.list_(_SIGNAL)),
    ]
)


def sidecar_row(document: Document, sample: TarSample) -> dict[str, Any]:
    """Return the row of a sample, from its document and its position in the tar."""
    source, build, decision = document.source, document.build, document.decision
    urls = [source.page_url or source.canonical_url, *(m.url for m in document.media)]
    return {
        "key": document.key,
        "kind": document.kind,
        "lang": document.lang,
        "num_media": len(document.media),
        "num_text_chars": document.num_text_chars,
        "num_segments": len(document.segments),
        "num_synthetic_segments": sum(s.origin == "synthetic" for s in document.segments),
        "num_regions": sum(len(s.regions) for s in document.segments),
        "page_url": source.page_url,
        "canonical_url": source.canonical_url,
        "domain": _domain(next((u for u in urls if u), None)),
        "dataset": source.dataset,
        "release": source.release,
        "record": source.record,
        "file": source.file,
        "license": source.license,
        "dedup_group": build.dedup_group,
        "policy": decision.policy,
        "allowed": decision.allowed,
        "reasons": list(decision.reasons),
        "pii_hits": build.pii_hits,
        "byte_offset": sample.offset,
        "bytes": sample.end - sample.offset,
        "parts": [{"name": n, "offset": sample.places[n], "bytes": len(b)} for n, b in sample.parts.items()],
        "media": [{field.name: getattr(m, field.name) for field in _MEDIA} for m in document.media],
        "scores": [{field.name: getattr(s, field.name) for field in _SCORE} for s in document.scores],
        "signals": [{field.name: getattr(s, field.name) for field in _SIGNAL} for s in document.signals],
    }


def write_sidecar(path: str, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows of `sidecar_row`, in tar order, atomically; equal rows give equal bytes."""
    table = pa.Table.from_pylist(list(rows), schema=SCHEMA)
    with storage.write_whole(path) as file:
        pq.write_table(
            table, file, row_group_size=_ROW_GROUP, compression="zstd", compression_level=3, store_schema=False
        )


def read_sidecar(path: str, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """Yield the rows of a sidecar, or some of their columns, in tar order."""
    with storage.open_read(path) as file:
        for batch in pq.ParquetFile(file).iter_batches(_ROW_GROUP, columns=None if columns is None else list(columns)):
            yield from batch.to_pylist()


def _domain(url: str | None) -> str | None:
    from pipelines.web.urls import registered_domain  # needs the public-suffix list; reading sidecars does not

    if url is None or not url.startswith(("http://", "https://")):
        return None
    try:
        return registered_domain(url) or None
    except ValueError:  # the URL in a foreign tar may be anything
        return None
