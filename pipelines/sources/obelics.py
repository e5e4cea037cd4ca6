"""OBELICS and OmniCorpus: texts and images of a page in its order, as parallel lists in parquet.

OBELICS stores two columns as JSON strings, OmniCorpus as structs; both forms are read. A "read more" element of the
page left a token in OBELICS' text, which is a boundary between documents and never text.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field

from pipelines.candidate import Candidate, MediaRequest
from pipelines.document import Kind, Media, Score, Segment, clean_text, merge_text
from pipelines.drop_reasons import Reason
from pipelines.sources.files import Part
from pipelines.sources.origin import (
    Origin,
    Outcome,
    RowError,
    as_dict,
    as_list,
    convert_rows,
    media_url,
    page_url,
    upstream,
)
from pipelines.sources.tables import read_parquet, require_columns, table_parts
from pipelines.sources.where import ListFiles
from pipelines.web import urls

KINDS: tuple[Kind, ...] = ("interleaved",)
BOUNDARY = "END_OF_DOCUMENT_TOKEN_TO_BE_REPLACED"
_COLUMNS = ("images", "texts", "metadata", "general_metadata")
_PAGE_SCORES = ("fluency_prob", "non_advertisement_prob", "politics_prob", "porn_prob", "toxic_prob")
_IMAGE_SCORES = {
    "aesthetic_prob": ("aesthetic_prob",),
    "unsafe_prob": ("unsafe_prob",),
    "upstream_width": ("original_width", "width"),
    "upstream_height": ("original_height", "height"),
}


class ObelicsSettings(ListFiles):
    """OBELICS, preferably its configuration without opted-out documents, or OmniCorpus-CC."""

    format: Literal["obelics", "omnicorpus"] = "obelics"
    boundary: Literal["split", "join"] = Field(
        "split", description="At the token of a 'read more' element: split the document, or join the parts"
    )
    resolve_urls: bool = Field(
        True, description="Resolve relative image URLs again: upstream resolved them from the domain's root"
    )


@dataclass(slots=True)
class _Piece:
    """A document under construction."""

    segments: list[Segment] = field(default_factory=list)
    media: list[Media] = field(default_factory=list)
    scores: list[Score] = field(default_factory=list)


def parts(settings: ObelicsSettings) -> list[Part]:
    """Split the files at row groups."""
    return table_parts(settings)


def read(part: Part, settings: ObelicsSettings, source_name: str, kind: Kind) -> Iterator[Outcome]:
    """Yield the documents of each row (several if a boundary splits it), and a drop for each image they lose.

    Raises:
        UserError: If a column is missing.
    """
    require_columns(part, _COLUMNS)

    def convert(origin: Origin, locator: str, row: dict[str, Any]) -> list[Outcome]:
        return _documents(origin, locator, row, settings)

    rows = read_parquet(part, list(_COLUMNS), settings.where)
    return convert_rows(Origin(source_name, kind, part, settings), rows, convert)


def _documents(origin: Origin, locator: str, row: Mapping[str, Any], settings: ObelicsSettings) -> list[Outcome]:
    images, texts = as_list(row["images"], "images"), as_list(row["texts"], "texts")
    page = as_dict(_parsed(row["general_metadata"], "general_metadata") or {}, "general_metadata")
    url = page_url(page.get("url"))
    if len(images) != len(texts):
        raise RowError("length_mismatch", f"{len(images)} images, {len(texts)} texts", url)
    infos = _parallel(_parsed(row["metadata"], "metadata"), images, url)

    outcomes: list[Outcome] = []
    pieces = [_Piece()]
    for index, (image, text, info) in enumerate(zip(images, texts, infos, strict=True)):
        if (image is None) == (text is None):
            raise RowError("malformed_row", f"place {index} holds not exactly one of image and text", url)
        if text is not None:
            _add_text(pieces, str(text), settings.boundary)
            continue
        try:
            _add_image(pieces[-1], image, info, url, settings.resolve_urls)
        except RowError as error:
            place = f"{locator} image {index}"
            outcomes.append(
                origin.drop(error.reason, place, unit="element", url=error.url, page_url=url, detail=error.detail)
            )
    page_scores = [upstream(name, "document", page[name]) for name in _PAGE_SCORES if name in page]
    provenance: dict[str, Any] = {
        "page_url": url,
        "warc_file": _text_or_none(page.get("warc_filename")),
        "warc_offset": _int_or_none(page.get("warc_record_offset")),
        "warc_length": _int_or_none(page.get("warc_record_length")),
    }
    record = _text_or_none(page.get("id"))
    kept = [piece for piece in pieces if piece.segments] or pieces[:1]
    for number, piece in enumerate(kept):
        ending = f"#d{number:02d}" if len(kept) > 1 else ""
        if not piece.media or not any(s.text for s in piece.segments):
            reason: Reason = "missing_text" if piece.media else "missing_images"
            outcomes.append(origin.drop(reason, locator + ending, page_url=url))
            continue
        document = origin.document(
            locator + ending,
            merge_text(tuple(piece.segments)),
            piece.media,
            group=url,
            record=record and record + ending,
            scores=page_scores + piece.scores,
            **provenance,
        )
        requests = tuple(MediaRequest("image", m.url, url) for m in piece.media)
        outcomes.append(Candidate(document, requests))
    return outcomes


def _add_text(pieces: list[_Piece], text: str, boundary: str) -> None:
    """Append a text, starting a new document at each boundary line."""
    for number, piece in enumerate(text.split(BOUNDARY)):
        if number and boundary == "split":
            pieces.append(_Piece())
        if cleaned := clean_text(piece):
            pieces[-1].segments.append(Segment("text", text=cleaned))


def _add_image(piece: _Piece, image: Any, info: Mapping[str, Any], page: str | None, resolve: bool) -> None:
    unformatted = info.get("unformatted_src")
    base = page_url(info.get("document_url")) or page
    url = None
    if resolve and base and isinstance(unformatted, str) and _is_relative(unformatted):
        url = urls.resolve(base, unformatted)
    url = url or media_url(image)
    target = f"media:{len(piece.media)}"
    for name, keys in _IMAGE_SCORES.items():
        key = next((key for key in keys if key in info), None)
        if key is not None:
            piece.scores.append(upstream(name, target, info[key]))
    alt = info.get("alt_text")
    piece.segments.append(Segment("image", media=len(piece.media), role="content"))
    piece.media.append(Media(url=url, alt=clean_text(alt) or None if isinstance(alt, str) else None))


def _is_relative(reference: str) -> bool:
    """Return whether a URL depends on the page's folder, for which upstream's resolution was wrong."""
    try:
        return bool(reference.strip()) and not reference.startswith(("/", "#")) and not urlsplit(reference).scheme
    except ValueError:
        return False


def _parallel(metadata: Any, images: list[Any], url: str | None) -> list[dict[str, Any]]:
    """Return the metadata of each position; OmniCorpus may list only images, which the length shows."""
    infos = as_list(metadata if metadata is not None else [], "metadata")
    if len(infos) not in (len(images), num := sum(image is not None for image in images), 0):
        raise RowError("length_mismatch", f"{len(infos)} metadata for {len(images)} places, {num} images", url)
    if len(infos) != len(images):
        compact = iter(infos)
        infos = [next(compact, None) if image is not None else None for image in images]
    return [info if isinstance(info, dict) else {} for info in infos]


def _parsed(value: Any, what: str) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise RowError("malformed_row", f"{what} is no JSON") from error


def _text_or_none(value: Any) -> str | None:
    return str(value) if isinstance(value, str | int) and str(value) else None


def _int_or_none(value: Any) -> int | None:
    is_number = isinstance(value, int) or (isinstance(value, str) and re.fullmatch("[0-9]{1,18}", value))
    return int(value) if is_number and abs(int(value)) < 1 << 63 else None
