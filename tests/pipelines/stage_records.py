"""Small records for the tests of stages: candidates, stored media, specs, and images that all differ."""

import hashlib
import io
from typing import Any

import numpy as np
from PIL import Image

from pipelines.candidate import Candidate, MediaRequest
from pipelines.document import Build, Document, Kind, Media, Provenance, Score, Segment, make_key
from pipelines.drop_reasons import FETCHED
from pipelines.media.raw_store import Blob, StoredItem, StoredMedia
from pipelines.spec import CorpusSpec

PAGE = "https://www.example.org/page/1"


def image_url(i: int) -> str:
    return f"https://images.example.org/{i}.jpg"


def image_bytes(i: int, size: tuple[int, int] = (64, 48), exif_orientation: int | None = None) -> bytes:
    """Return a JPEG of noise, which `i` determines."""
    pixels = np.random.default_rng(i).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    exif = Image.Exif()
    if exif_orientation is not None:
        exif[0x0112] = exif_orientation
    image.save(buffer, "JPEG", quality=90, exif=exif)
    return buffer.getvalue()


def text(words: str, **more: Any) -> Segment:
    return Segment("text", text=words, **more)


def image(i: int) -> Segment:
    return Segment("image", media=i, role="content")


def document(kind: Kind, *segments: Segment, num_media: int = 0, page: str | None = PAGE, **more: Any) -> Document:
    """Return a document without bytes; its group is its page."""
    media = tuple(Media(image_url(i)) for i in range(num_media))
    key = make_key(kind, page or "", *(s.text or "" for s in segments))
    build = Build(dedup_group=hashlib.sha256((page or "").encode()).hexdigest()[:32])
    return Document(kind, key, segments, media, Provenance("test", "1", page_url=page), build=build, **more)


def candidate(document: Document) -> Candidate:
    """Return the candidate that requests each of a document's images."""
    return Candidate(document, tuple(MediaRequest("image", m.url, PAGE) for m in document.media))


def item(name: str, size: int = 100, t: float | None = None) -> StoredItem:
    digest = hashlib.sha256(name.encode()).hexdigest()
    return StoredItem(Blob("g000-x.blobs", 0, size), "image/jpeg", 64, 48, 640, 480, digest[::-1], digest, t)


def fetched(url: str, **more: Any) -> StoredMedia:
    """Return the stored record of an image."""
    return StoredMedia(url, FETCHED, url=url, fetched_at="2026-01-05T10:11:12Z", items=(item(url),), **more)


def scores(*values: float) -> tuple[Score, ...]:
    """Return one score per image."""
    return tuple(Score("upstream", f"media:{i}", value, "upstream") for i, value in enumerate(values))


def spec(sources: dict[str, Any], **more: Any) -> CorpusSpec:
    """Return a spec; a source without an input is one of texts or of pages on loopback."""
    tree = {"name": "test", "version": "1.0.0", "sources": {}, **more}
    for name, source in sources.items():
        tree["crawls"] = {"web": {"seeds": ["http://127.0.0.1:8000/"]}}
        tree["sources"][name] = {"input": {"crawl": "web"}, **source}
    return CorpusSpec.model_validate(tree)
