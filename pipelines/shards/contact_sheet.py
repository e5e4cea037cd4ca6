"""A contact sheet: one image with samples of every kind, drawn at random from the tars of a corpus.

Interleaved samples are shown with texts and images in page order, pairs with their captions, grounded pairs with
their boxes and, in the same colours, their phrases, videos with the text between frames. The same corpus and seed
give the same sheet.
"""

import io
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageOps

from pipelines import storage
from pipelines.document import KINDS, Document, Kind
from pipelines.errors import UserError
from pipelines.images.fonts import missing_characters
from pipelines.images.lettering import Run
from pipelines.images.paper import BODY, GAP, GREY, HEADING, INK, SMALL, TITLE, Column, side_by_side, stacked
from pipelines.images.pixels import decode_upright
from pipelines.shards.foreign_samples import read_document
from pipelines.shards.manifest import Manifest, ShardInfo, load_manifest
from pipelines.shards.tar_samples import TarSample, read_index, read_sample

WIDTH = 1400
MARGIN = 28
COLOURS = ("#d6293e", "#1d64d8", "#12833c", "#9333c9", "#b45309", "#0e7490")  # of boxes and their phrases

# Number of samples in a row, and the height in pixels at which a sample is cut off
COLUMNS: dict[Kind, int] = {"interleaved": 3, "pair": 6, "grounded": 5, "video": 2, "text": 3, "conversation": 4}
MAX_HEIGHT: dict[Kind, int] = {
    "interleaved": 850,
    "pair": 400,
    "grounded": 480,
    "video": 360,
    "text": 230,
    "conversation": 600,
}
NUM_FRAMES = 4  # of a video: the first ones
TITLES: dict[Kind, str] = {
    "interleaved": "Interleaved pages",
    "pair": "Image–text pairs",
    "grounded": "Grounded pairs",
    "video": "Videos with subtitles",
    "text": "Text",
    "conversation": "Conversations",
}

Drawn = tuple[Document, TarSample]


class Sheet(NamedTuple):
    """A contact sheet that was written: its number of samples, and the characters that no font here has."""

    num_samples: int
    missing: frozenset[str]


def write_contact_sheet(corpus: str, out: str, *, per_kind: int | None = None, seed: int = 0) -> Sheet:
    """Draw samples of a corpus and write them as one image, PNG or JPEG by its name.

    Args:
        corpus: A folder with a manifest.
        out: Path of the sheet.
        per_kind: Samples of each kind; None: one row.
        seed: Seed of the draw.

    Raises:
        UserError: If there is no corpus, one of its tars cannot be read, or `out` has another format.
    """
    formats = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
    suffix = Path(out).suffix.lower()
    if suffix not in formats:
        raise UserError(f"{out}: a contact sheet must be a .png or a .jpg")
    manifest = load_manifest(corpus)
    samples = {kind: list(draw_samples(corpus, manifest, kind, per_kind or COLUMNS[kind], seed)) for kind in KINDS}
    sheet = contact_sheet(manifest, samples)
    buffer = io.BytesIO()
    if suffix == ".png":
        sheet = sheet.quantize(256, kmeans=2, dither=Image.Dither.NONE)  # 40 % of the bytes
    sheet.save(buffer, formats[suffix], optimize=True, quality=88)
    storage.write_bytes(out, buffer.getvalue())
    texts = (document.text for drawn in samples.values() for document, _ in drawn)
    return Sheet(sum(map(len, samples.values())), frozenset(missing_characters("".join(texts))))


def draw_samples(corpus: str, manifest: Manifest, kind: Kind, num: int, seed: int) -> Iterator[Drawn]:
    """Yield samples of a kind from its training split, if it has one, in random order without repetition.

    Raises:
        UserError: If a tar or its index cannot be read.
    """
    shards = [s for s in manifest.shards if s.kind == kind]
    shards = [s for s in shards if s.split == "train"] or shards
    places = [(shard, i) for shard in shards for i in range(shard.samples)]
    for shard, i in random.Random(f"{seed}/{kind}").sample(places, min(num, len(places))):
        yield _read(corpus, shard, i)


def _read(corpus: str, shard: ShardInfo, number: int) -> Drawn:
    path = storage.join(corpus, shard.path)
    try:
        offsets = read_index(path)
        sample = read_sample(path, int(offsets[number]), int(offsets[number + 1]))
        return read_document(sample, shard.source, images_alone=True), sample
    except (OSError, ValueError, IndexError) as error:
        raise UserError(f"{path}, sample {number}: cannot be read: {error}. Rebuild the corpus") from error


def contact_sheet(manifest: Manifest, samples: dict[Kind, list[Drawn]]) -> Image.Image:
    """Return the samples below each other, kind by kind, under the corpus's name; (WIDTH, as high as needed), RGB."""
    title = Column(WIDTH - 2 * MARGIN, 200)
    title.text([(f"{manifest.name} {manifest.version}", INK)], TITLE)
    title.text([(f"{manifest.num_samples:,} samples, drawn at random from its tars", GREY)], BODY)
    bands = [title.done()]
    for kind in KINDS:
        if samples[kind]:
            bands += [_heading(manifest, kind), *_rows(kind, samples[kind])]
    return stacked(bands, WIDTH, MARGIN)


def _heading(manifest: Manifest, kind: Kind) -> Image.Image:
    """Return the name of a kind between rules, and the number of samples per source and split."""
    column = Column(WIDTH - 2 * MARGIN, 200)
    column.rule()
    counts = []
    for source in (s for s in manifest.sources if s.kind == kind):
        splits = (f"{sum(s.samples for s in manifest.shards_of(source.name, p)):,} {p}" for p in source.splits)
        counts.append(f"{source.name}: {', '.join(splits)}")
    column.text([(TITLES[kind], INK)], HEADING)
    column.text([(" · ".join(counts), GREY)], SMALL)
    return column.done()


def _rows(kind: Kind, samples: Sequence[Drawn]) -> Iterator[Image.Image]:
    """Yield rows of samples, with as many columns as the kind has."""
    columns = COLUMNS[kind]
    width = (WIDTH - 2 * MARGIN - (columns - 1) * GAP) // columns
    for start in range(0, len(samples), columns):
        cells = [_CELLS[kind](*drawn, width, MAX_HEIGHT[kind]) for drawn in samples[start : start + columns]]
        yield side_by_side(cells, width)


# --- one sample -----------------------------------------------------------------------------------------------------


def _in_order(document: Document, sample: TarSample, width: int, height: int) -> Image.Image:
    """Return texts and images in order, with boxes and phrases if there are any."""
    column = Column(width, height)
    is_pair = document.kind in ("pair", "grounded")
    for segment in document.segments:
        if segment.text is not None:
            regions = [(r.start, r.end) for r in segment.regions]
            runs = _coloured(segment.text, regions, GREY if segment.role == "caption" and not is_pair else INK)
            column.text(runs, HEADING - 3 if segment.role in ("heading", "title") else BODY)
        elif segment.media is not None:
            image = _image(document, sample, segment.media)
            image = ImageOps.contain(image, (width, width if is_pair else 170), Image.Resampling.LANCZOS)
            boxes = [r.box for s in document.segments for r in s.regions if r.media == segment.media]
            column.image(_with_boxes(image, boxes))
    return column.done()


def _film(document: Document, sample: TarSample, width: int, height: int) -> Image.Image:
    """Return frames from left to right, each above its time and the text until the next one."""
    cells: list[Column] = []
    cell_width = (width - NUM_FRAMES * GAP // 2) // NUM_FRAMES
    for segment in document.segments:
        if segment.media is not None:
            if len(cells) == NUM_FRAMES:
                break
            cells.append(Column(cell_width, height))
            image = _image(document, sample, segment.media)
            cells[-1].image(ImageOps.contain(image, (cell_width, cell_width), Image.Resampling.LANCZOS))
            cells[-1].text([(_clock(segment.t0), GREY)], SMALL)
        elif segment.text is not None:
            if not cells:  # text before the first frame
                cells.append(Column(cell_width, height))
            times = f"{_clock(segment.t0)}–{_clock(segment.t1)} " if segment.t0 is not None else ""
            cells[-1].text([(times, GREY), (segment.text, INK)], SMALL + 2)
    return side_by_side([cell.done() for cell in cells], cell_width, GAP // 2)


_CELLS: dict[Kind, Callable[[Document, TarSample, int, int], Image.Image]] = {
    **dict.fromkeys(KINDS, _in_order),
    "video": _film,
}


def _clock(seconds: float | None) -> str:
    return "" if seconds is None else f"{int(seconds) // 60}:{seconds % 60:04.1f}"


def _image(document: Document, sample: TarSample, media: int) -> Image.Image:
    part = document.media[media].part
    assert part is not None, "a packed sample must name the members of its media"
    return Image.fromarray(decode_upright(sample.parts[part])[:, :, ::-1])


def _with_boxes(image: Image.Image, boxes: Iterable[tuple[float, float, float, float]]) -> Image.Image:
    draw = ImageDraw.Draw(image)
    width, height = image.size
    for (x0, y0, x1, y1), colour in zip(boxes, _colours(), strict=False):
        draw.rectangle((x0 * width, y0 * height, x1 * width - 1, y1 * height - 1), outline=colour, width=3)
    return image


def _coloured(text: str, spans: Iterable[tuple[int, int]], colour: str) -> list[Run]:
    """Return text in runs of one colour: spans in the colours of their boxes, the rest in `colour`."""
    colours = [colour] * len(text)
    for (start, end), of_box in zip(spans, _colours(), strict=False):
        colours[start:end] = [of_box] * (end - start)
    return list(zip(text, colours, strict=True))


def _colours() -> Iterator[str]:
    while True:
        yield from COLOURS
