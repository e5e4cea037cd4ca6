"""Samples of a corpus to look at: drawn by a hash of their keys, their images small and as data URIs."""

import base64
import io
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from PIL import Image

from pipelines import storage
from pipelines.command_line import printable
from pipelines.document import Document, Region, Segment
from pipelines.errors import UserError
from pipelines.images.pixels import decode_upright
from pipelines.shards.foreign_samples import read_document
from pipelines.shards.tar_samples import TarSample, read_sample
from tools.output import progress
from tools.queries.tables import Tables

NUM_OF_KIND = {"interleaved": 3, "pair": 8, "grounded": 4, "video": 2, "text": 3, "conversation": 3}
OTHER_KINDS = 3
MAX_IMAGES = 6
"""Images of a sample that are shown."""

MAX_CHARS = 600
"""Characters of a sample that are shown."""

SIDE = 224
"""Longer side of a thumbnail in pixels; those of samples with several images are smaller."""

NUM_COLOURS = 6
_DRAWN = """
SELECT kind, source, arg_min({{key: key, split: split, shard: shard, byte_offset: byte_offset, bytes: bytes,
    domain: domain, license: license, lang: lang, signals: len(signals)}}, md5(key), {num}) AS drawn
FROM samples WHERE allowed GROUP BY kind, source ORDER BY kind, source
"""


@dataclass(frozen=True, slots=True)
class Box:
    """A box on an image in percent of its sides, and the number of its colour."""

    x: float
    y: float
    width: float
    height: float
    colour: int


@dataclass(frozen=True, slots=True)
class Block:
    """One segment: runs of text with the number of their colour, or an image; times in seconds into a video."""

    role: str
    runs: Sequence[tuple[str, int | None]] = ()
    image: str | None = None
    width: int = 0
    height: int = 0
    boxes: Sequence[Box] = ()
    t0: float | None = None
    t1: float | None = None


@dataclass(frozen=True, slots=True)
class Shown:
    """A sample as a page shows it: texts printable, but not escaped for HTML."""

    kind: str
    source: str
    split: str
    key: str
    domain: str | None
    license: str | None
    lang: str | None
    num_signals: int
    blocks: list[Block] = field(default_factory=list)
    is_cut: bool = False


def draw_samples(tables: Tables, corpus: str) -> list[Shown]:
    """Return some samples of each kind, from its sources in turn; the same corpus gives the same samples.

    Args:
        tables: Has the corpus's `samples`.
        corpus: The corpus's folder.

    Raises:
        UserError: If a tar cannot be read where its sidecar says that a sample is.
    """
    most = max(NUM_OF_KIND.values())
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for row in tables.records(_DRAWN.format(num=most)):
        found.setdefault(row["kind"], {})[row["source"]] = row["drawn"]
    shown = []
    with progress("reading samples"):
        for kind, sources in sorted(found.items()):
            turns = itertools.zip_longest(*([(source, row) for row in rows] for source, rows in sources.items()))
            drawn = [pair for turn in turns for pair in turn if pair is not None]
            for source, row in drawn[: NUM_OF_KIND.get(kind, OTHER_KINDS)]:
                shown.append(_shown(corpus, kind, source, row))
    return shown


def _shown(corpus: str, kind: str, source: str, row: dict[str, Any]) -> Shown:
    path = storage.join(corpus, row["shard"])
    try:
        sample = read_sample(path, row["byte_offset"], row["byte_offset"] + row["bytes"])
        document = read_document(sample, source, images_alone=True)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: cannot be read where its sidecar says that {row['key']} is: {error}. "
            f"`python -m tools audit --corpus {corpus}` finds all that is damaged"
        ) from error
    texts = {name: None if row[name] is None else printable(row[name][:80]) for name in ("domain", "license", "lang")}
    blocks, is_cut = _blocks(document, sample)
    return Shown(
        kind, source, row["split"], printable(row["key"][:80]), **texts, num_signals=row["signals"] or 0, blocks=blocks,
        is_cut=is_cut,
    )  # fmt: skip


def _blocks(document: Document, sample: TarSample) -> tuple[list[Block], bool]:
    """Return the segments that are shown, and whether some are not."""
    side = SIDE if len(document.media) <= 1 else SIDE * 5 // 7
    colours: dict[tuple[float, ...], int] = {}
    for region in (r for s in document.segments for r in s.regions):
        colours.setdefault(region.box, len(colours) % NUM_COLOURS)
    most = MAX_CHARS if len(document.media) == 0 else MAX_CHARS // 3  # of a segment, so that images are seen as well
    blocks: list[Block] = []
    num_chars = num_images = 0
    for segment in document.segments:
        if num_images == MAX_IMAGES or num_chars >= MAX_CHARS:
            break
        if segment.media is not None:
            blocks.append(_image_block(document, sample, segment, side, colours))
            num_images += 1
        elif segment.text is not None:
            text = segment.text[: min(most, MAX_CHARS - num_chars)]
            num_chars += min(most, len(segment.text))
            runs = list(_runs(text, segment.regions, colours))
            if len(text) < len(segment.text):
                runs.append(("…", None))
            blocks.append(Block(segment.role, runs=runs, t0=segment.t0, t1=segment.t1))
    return blocks, len(blocks) < len(document.segments)


def _image_block(
    document: Document, sample: TarSample, segment: Segment, side: int, colours: dict[tuple[float, ...], int]
) -> Block:
    assert segment.media is not None
    boxes = {r.box for s in document.segments for r in s.regions if r.media == segment.media}
    drawn = [
        Box(round(100 * x0, 2), round(100 * y0, 2), round(100 * (x1 - x0), 2), round(100 * (y1 - y0), 2), colours[box])
        for box in sorted(boxes, key=colours.__getitem__)
        for x0, y0, x1, y1 in [box]
    ]
    part = document.media[segment.media].part
    thumbnail = _thumbnail(sample.parts.get(part or "", b""), side)
    uri, width, height = thumbnail or (None, side, side * 2 // 3)
    return Block(segment.role, image=uri, width=width, height=height, boxes=drawn, t0=segment.t0)


def _thumbnail(data: bytes, side: int) -> tuple[str, int, int] | None:
    """Return an image as a data URI of WebP, and its size; None if it cannot be decoded."""
    try:
        pixels = decode_upright(data)
    except ValueError:
        return None
    height, width = pixels.shape[:2]
    scale = min(1.0, side / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = pixels if scale == 1.0 else cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(small[:, :, ::-1])).save(buffer, "WEBP", quality=72, method=4)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}", *size


def _runs(
    text: str, regions: Sequence[Region], colours: dict[tuple[float, ...], int]
) -> Iterator[tuple[str, int | None]]:
    """Yield text in runs of one colour: phrases in the colours of their boxes, of overlapping ones the first."""
    done = 0
    for region in sorted(regions, key=lambda r: (r.start, r.end)):
        start, end = max(done, region.start), min(region.end, len(text))
        if start < end and region.start >= done:
            yield from ((_readable(part), None) for part in [text[done:start]] if part)
            yield _readable(text[start:end]), colours[region.box]
            done = end
    if done < len(text):
        yield _readable(text[done:]), None


def _readable(text: str) -> str:
    """Return text in which only line breaks are left of what does not print."""
    return "\n".join(printable(line) for line in text.split("\n"))
