"""MINT-1T: texts and images of a document in its order, as parallel lists.

Its web pages are parquet whose images are URLs. Its PDF and ArXiv documents are tars, `<key>.json` with the lists and
`<key>.tiff` with all images as its pages; the format `webdataset` reads those.
"""

import io
import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

from PIL import Image

from pipelines.candidate import Candidate, MediaRequest, inline_request
from pipelines.document import Kind, Media, Segment, clean_text, merge_text
from pipelines.images.pixels import MAX_PIXELS
from pipelines.shards.tar_samples import TarSample
from pipelines.sources.files import Part
from pipelines.sources.origin import Origin, Outcome, RowError, as_list, convert_rows, media_url, number, page_url
from pipelines.sources.tables import read_parquet, require_columns, table_parts
from pipelines.sources.warc_index import crawl_id
from pipelines.sources.where import ListFiles

KINDS: tuple[Kind, ...] = ("interleaved",)
TIFF_PARTS = ("tiff", "tif")
_LISTS = ("images", "texts")
_PNG_MODES = frozenset({"1", "L", "LA", "P", "RGB", "RGBA"})
_DAMAGED = (OSError, SyntaxError, EOFError, ValueError, TypeError, KeyError, Image.DecompressionBombError)
_MIN_LANGUAGE_SCORE = 0.5  # of the pages kept upstream, English at 0.65


class MintSettings(ListFiles):
    """MINT-1T's web pages."""

    format: Literal["mint"] = "mint"


class _Held(NamedTuple):
    """An image of a document: what it is, how it is requested, and its bytes if the input has them."""

    media: Media
    request: MediaRequest
    inline: tuple[str, bytes] | None = None


def parts(settings: MintSettings) -> list[Part]:
    """Split the files at row groups."""
    return table_parts(settings)


def read(part: Part, settings: MintSettings, source_name: str, kind: Kind) -> Iterator[Outcome]:
    """Yield the document of each row, and a drop for each image that it loses.

    Raises:
        UserError: If a column is missing.
    """
    require_columns(part, _LISTS)

    def convert(origin: Origin, locator: str, row: dict[str, Any]) -> list[Outcome]:
        page = _page_of(row)

        def image_of(value: Any, _: int) -> _Held:
            url = media_url(value)
            return _Held(Media(url=url), MediaRequest("image", url, page))

        return _document(origin, locator, row, page, image_of)

    return convert_rows(Origin(source_name, kind, part, settings), read_parquet(part, where=settings.where), convert)


def is_paper(record: Mapping[str, Any], sample: TarSample) -> bool:
    """Return whether a tar's sample is one of MINT-1T's documents with the images in one TIFF."""
    has_lists = all(isinstance(record.get(name), list) for name in _LISTS)
    return has_lists and "image_metadata" in record and any(part in sample.parts for part in TIFF_PARTS)


def paper_of(origin: Origin, locator: str, record: Mapping[str, Any], sample: TarSample) -> list[Outcome]:
    """Return the document of a sample, each of whose images is a page of its TIFF, and a drop for each that it loses.

    Raises:
        RowError: If there are more or fewer pages than images.
    """
    page = _page_of(record)
    data = next(sample.parts[part] for part in TIFF_PARTS if part in sample.parts)
    num_listed = sum(image is not None for image in record["images"])
    with _open_tiff(data) as tiff:
        num_pages = int(getattr(tiff, "n_frames", 1))
        if num_pages != num_listed:
            raise RowError("length_mismatch", f"{num_listed} images, {num_pages} pages of the TIFF", page)

        def image_of(_: Any, index: int) -> _Held:
            request, inline = inline_request(_png_of(tiff, index), page)
            return _Held(Media(url=None), request, inline)

        return _document(origin, locator, record, page, image_of, sample.key)


def _document(
    origin: Origin,
    locator: str,
    row: Mapping[str, Any],
    page: str | None,
    image_of: Callable[[Any, int], _Held],
    record: str | None = None,
) -> list[Outcome]:
    images, texts = (as_list(row[name], name) for name in _LISTS)
    if len(images) != len(texts):
        raise RowError("length_mismatch", f"{len(images)} images, {len(texts)} texts", page)
    segments: list[Segment] = []
    held: list[_Held] = []
    outcomes: list[Outcome] = []
    num_images = 0
    for place, (image, text) in enumerate(zip(images, texts, strict=True)):
        if image is not None:
            try:
                held.append(image_of(image, num_images))
                segments.append(Segment("image", media=len(held) - 1, role="content"))
            except RowError as error:
                name = f"{locator} image {place}"
                outcomes.append(
                    origin.drop(error.reason, name, unit="element", url=error.url, page_url=page, detail=error.detail)
                )
            num_images += 1
        if isinstance(text, str) and (cleaned := clean_text(text)):
            segments.append(Segment("text", text=cleaned))
    if not held or len(held) == len(segments):
        return [*outcomes, origin.drop("missing_text" if held else "missing_images", locator, page_url=page)]
    document = origin.document(
        locator,
        merge_text(tuple(segments)),
        [image.media for image in held],
        group=page,
        record=record,
        lang=_language(row),
        page_url=page,
        **_archive(row),
    )
    inline = tuple(dict(image.inline for image in held if image.inline is not None).items())
    return [*outcomes, Candidate(document, tuple(image.request for image in held), inline)]


def _page_of(row: Mapping[str, Any]) -> str | None:
    """Return the URL of a row's page or PDF."""
    described = _described(row)
    found = (row.get("url"), described.get("url"), described.get("WARC-Target-URI"), described.get("document_url"))
    return next((url for value in found if (url := page_url(value)) is not None), None)


def _described(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a row says of its page: an object, or JSON text of one."""
    for name in ("general_metadata", "metadata"):
        value = row.get(name)
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                continue
        if isinstance(value, Mapping):
            return value
    return {}


def _archive(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return where the page is in Common Crawl, as far as the row says so."""
    file = _described(row).get("warc_filename")
    if not isinstance(file, str) or not file:
        return {}
    crawl = crawl_id(file)
    return {"warc_file": file} | ({"crawl": crawl} if crawl is not None else {})


def _language(row: Mapping[str, Any]) -> str | None:
    """Return the language that upstream found, if it is more likely than not."""
    scores = row.get("language_id_whole_page_fasttext")
    if not isinstance(scores, Mapping):
        return None
    found = {str(name): number(value) or -math.inf for name, value in scores.items()}
    best = max(found, key=lambda name: found[name], default=None)
    return best if best is not None and found[best] >= _MIN_LANGUAGE_SCORE else None


def _open_tiff(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=("TIFF",))
    except _DAMAGED as error:
        raise RowError("corrupt_image", f"the TIFF: {error}"[:500]) from error


def _png_of(tiff: Image.Image, index: int) -> bytes:
    """Return a page of a TIFF as a PNG of the same pixels.

    Raises:
        RowError: `too_many_pixels` or `corrupt_image`.
    """
    try:
        tiff.seek(index)
        if tiff.width * tiff.height > MAX_PIXELS:
            raise RowError("too_many_pixels", f"{tiff.width} x {tiff.height}")
        file = io.BytesIO()
        page = tiff if tiff.mode in _PNG_MODES else tiff.convert("RGB")
        page.save(file, "PNG", compress_level=1, icc_profile=None, exif=b"", pnginfo=None)
        return file.getvalue()
    except _DAMAGED as error:
        raise RowError("corrupt_image", f"page {index} of the TIFF: {error}"[:500]) from error
