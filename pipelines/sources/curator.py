"""Interleaved tables of NeMo Curator: a row of parquet for each text and each image, which a `sample_id` joins.

The rows of a sample stand together and say their `position`. An image has its bytes in the table (`binary_content`, as
the writer with `materialize_on_write` leaves them), or is an address on the web (`source_ref`), which is requested.
"""

import itertools
import json
from collections.abc import Iterator
from typing import Any, Literal

from pipelines.candidate import Candidate, MediaRequest, inline_request
from pipelines.document import Kind, Media, Segment, clean_text, merge_text
from pipelines.sources.files import Files, Part, whole_files
from pipelines.sources.origin import Origin, Outcome, RowError, convert_rows, media_url, page_url
from pipelines.sources.tables import read_parquet, require_columns

KINDS: tuple[Kind, ...] = ("interleaved",)
_NEEDED = ("sample_id", "position", "modality", "text_content")

_Row = dict[str, Any]


class CuratorSettings(Files):
    """Tables that NeMo Curator's interleaved pipeline wrote."""

    format: Literal["curator"] = "curator"


def parts(settings: CuratorSettings) -> list[Part]:
    """Return one part per file: the rows of a sample may lie in two row groups."""
    return whole_files(settings)


def read(part: Part, settings: CuratorSettings, source_name: str, kind: Kind) -> Iterator[Outcome]:
    """Yield the document of each sample, and a drop for each image that it loses.

    Raises:
        UserError: If a column is missing.
    """
    require_columns(part, _NEEDED)
    return convert_rows(Origin(source_name, kind, part, settings), _samples(part), _document)


def _samples(part: Part) -> Iterator[tuple[str, list[_Row]]]:
    """Yield the rows of each sample, by the place of the first."""
    rows = ((at, row) for at, row in read_parquet(part) if not isinstance(row, RowError))
    for _, group in itertools.groupby(rows, lambda item: item[1]["sample_id"]):
        items = list(group)
        yield items[0][0], [row for _, row in items]


def _document(origin: Origin, locator: str, rows: list[_Row]) -> list[Outcome]:
    """Return the document of a sample.

    Raises:
        RowError: If it has no id, or a row has no place.
    """
    name = rows[0]["sample_id"]
    if name is None or any(not isinstance(row["position"], int) for row in rows):
        raise RowError("malformed_row", "no sample_id or position")
    page = next((url for row in rows if (url := page_url(row.get("url"))) is not None), None)
    segments: list[Segment] = []
    media: list[Media] = []
    requests: list[MediaRequest] = []
    inline: dict[str, bytes] = {}
    outcomes: list[Outcome] = []
    for row in sorted(rows, key=lambda row: row["position"]):
        if row["modality"] == "text" and (text := clean_text(str(row["text_content"] or ""))):
            segments.append(Segment("text", text=text))
        if row["modality"] != "image":
            continue
        try:
            medium, request = _image(row, page, inline)
        except RowError as error:
            place = f"{locator} image {row['position']}"
            outcomes.append(
                origin.drop(error.reason, place, unit="element", url=error.url, page_url=page, detail=error.detail)
            )
            continue
        segments.append(Segment("image", media=len(media), role="content"))
        media.append(medium)
        requests.append(request)
    if not media or len(media) == len(segments):
        return [*outcomes, origin.drop("missing_text" if media else "missing_images", locator, page_url=page)]
    document = origin.document(
        locator, merge_text(tuple(segments)), media, group=page or f"{origin.source} {name}", record=str(name),
        page_url=page,
    )  # fmt: skip
    return [*outcomes, Candidate(document, tuple(requests), tuple(inline.items()))]


def _image(row: _Row, page: str | None, inline: dict[str, bytes]) -> tuple[Media, MediaRequest]:
    """Return the image of a row and its request; the bytes that the row has are added to `inline`.

    Raises:
        RowError: `missing_member` if it has neither bytes nor an address.
    """
    data = row.get("binary_content")
    if data:
        request, (digest, content) = inline_request(data.encode() if isinstance(data, str) else data, page)
        inline[digest] = content
        return Media(url=None), request
    try:
        place = json.loads(row.get("source_ref") or "{}")
    except (ValueError, TypeError, RecursionError):
        place = None
    path = place.get("path") if isinstance(place, dict) and place.get("member") is None else None
    if not (isinstance(path, str) and path.startswith(("http://", "https://"))):
        error = row.get("materialize_error")
        raise RowError("missing_member", str(error)[:200] if error else "no bytes, and no address on the web")
    url = media_url(path)
    return Media(url=url), MediaRequest("image", url, page)
