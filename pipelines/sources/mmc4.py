"""MMC4: sentences of a page, and its images, each assigned to a sentence by CLIP.

The images have no position on the page: each is put before or after its sentence, by setting, and the sample records
which. Sentences between two images form one text.
"""

import base64
import binascii
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field

from pipelines.candidate import Candidate, MediaRequest, inline_request
from pipelines.document import Kind, Media, Score, Segment, clean_text
from pipelines.sources import lines
from pipelines.sources.files import Part, expand
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
from pipelines.sources.tables import head_objects, with_where
from pipelines.sources.where import Clause, Condition, ListFiles, clauses_of, first_fall, partition_columns

KINDS: tuple[Kind, ...] = ("interleaved",)

# These of the shards 0..23098 never existed, so a range over all shards is not a mistake.
_NEVER_PUBLISHED = (3218, 3267, 5064, 5146, 7119, 8991, 9750, 11899, 15127, 15252, 16996, 17369, 17499, 17818)
_MISSING = re.compile(rf"shard_0*({'|'.join(map(str, _NEVER_PUBLISHED))})_v\d")


class Mmc4Settings(ListFiles):
    """MMC4's documents, as published (zip or jsonl); its form in tars is read by `webdataset`."""

    format: Literal["mmc4"] = "mmc4"
    image_side: Literal["before", "after"] = Field("before", description="Where to put an image, by its sentence")


def parts(settings: Mmc4Settings) -> list[Part]:
    """Split plain files into byte ranges; zips are whole parts."""
    files = expand(settings.files, may_be_missing=_MISSING, missing=settings.missing)
    found = [part for path, name in files for part in lines.line_parts(path, name, settings.part_bytes)]
    return [replace(part, index=i) for i, part in enumerate(found)]


def read(part: Part, settings: Mmc4Settings, source_name: str, kind: Kind) -> Iterator[Outcome]:
    """Yield one interleaved document per line, and a drop for each image that it loses.

    Raises:
        UserError: If the file is not JSON Lines.
    """

    of_pages, of_images = _conditions(part, settings.where)
    rows = with_where(part, lines.read_json_lines(part), of_pages)

    def convert(origin: Origin, locator: str, row: dict[str, Any]) -> list[Outcome]:
        return page_of(origin, locator, row, settings.image_side, of_images)

    return convert_rows(Origin(source_name, kind, part, settings), rows, convert)


def _conditions(part: Part, where: Mapping[str, Condition]) -> tuple[dict[str, Condition], list[Clause]]:
    """Return the conditions on pages, and those on images: `where` names keys of both."""
    if not where:
        return {}, []
    if not (head := head_objects(part)):
        return dict(where), []  # then every page is judged
    infos = [info for row in head if isinstance(row.get("image_info"), list) for info in row["image_info"]]
    image_keys = dict.fromkeys(key for info in infos if isinstance(info, dict) for key in info)
    page_keys = dict.fromkeys(key for row in head for key in row)
    names = [*image_keys, *(key for key in (*page_keys, *partition_columns(part.path)) if key not in image_keys)]
    clauses = zip(where, clauses_of(part.path, names, where), strict=True)
    of_images = {name: clause for name, clause in clauses if clause.column in image_keys}
    return {name: c for name, c in where.items() if name not in of_images}, list(of_images.values())


def page_of(
    origin: Origin,
    locator: str,
    row: Mapping[str, Any],
    side: Literal["before", "after"] = "before",
    of_images: Iterable[Clause] = (),
) -> list[Outcome]:
    """Return drops for the images that an MMC4 object loses, then its document.

    Args:
        origin: The part.
        locator: The object's position.
        row: The object.
        side: Where an image goes, by its sentence.
        of_images: Conditions on `image_info`; an image that does not meet one is lost.

    Raises:
        RowError: `malformed_row`, `length_mismatch`, `missing_text` or `missing_images`.
    """
    url = page_url(row.get("url"))
    sentences = as_list(row.get("text_list"), "text_list")
    infos = [as_dict(info, "image_info") for info in as_list(row.get("image_info"), "image_info")]
    matrix = row.get("similarity_matrix")
    if matrix is not None and (
        len(as_list(matrix, "similarity_matrix")) != len(infos)
        or any(len(as_list(line, "similarity_matrix")) != len(sentences) for line in matrix)
    ):
        raise RowError("length_mismatch", "similarity_matrix is not images by sentences", url)
    if not any(isinstance(s, str) and s.strip() for s in sentences):
        raise RowError("missing_text", url=url)

    outcomes: list[Outcome] = []
    placed: list[tuple[int, int]] = []
    for index, info in enumerate(infos):
        sentence = info.get("matched_text_index")
        if (unwanted := first_fall(info, of_images)) is not None:
            place = f"{locator} image {index}"
            outcomes.append(origin.drop(unwanted.reason, place, unit="element", page_url=url, detail=unwanted.detail))
        elif isinstance(sentence, int) and 0 <= sentence < len(sentences):
            placed.append((sentence, index))
        else:
            detail = f"sentence {sentence} of {len(sentences)}"
            place = f"{locator} image {index}"
            outcomes.append(origin.drop("bad_text_index", place, unit="element", page_url=url, detail=detail))

    at_sentence: dict[int, list[int]] = {}
    media: list[Media] = []
    requests: list[MediaRequest] = []
    inline: list[tuple[str, bytes]] = []
    scores = [Score("image_before_sentence", "document", float(side == "before"), "derived")]
    for sentence, index in sorted(placed):
        info = infos[index]
        try:
            request, data = _request(info, url)
        except RowError as error:
            place = f"{locator} image {index}"
            outcomes.append(origin.drop(error.reason, place, unit="element", page_url=url, detail=error.detail))
            continue
        at_sentence.setdefault(sentence, []).append(len(media))
        target = f"media:{len(media)}"
        scores.append(upstream("matched_sim", target, info.get("matched_sim")))
        scores.append(upstream("matched_text_index", target, sentence))
        faces = info.get("face_detections")
        scores.append(upstream("num_faces", target, len(faces) if isinstance(faces, list) else None))
        media.append(Media(url=page_url(info.get("raw_url"))))
        requests.append(request)
        inline += data
    if not media:
        outcomes.append(origin.drop("missing_images", locator, page_url=url))
        return outcomes

    document = origin.document(
        locator, _in_order(sentences, at_sentence, side), media, group=url, scores=scores, page_url=url
    )
    return [*outcomes, Candidate(document, tuple(requests), tuple(inline))]


def _in_order(sentences: list[Any], at_sentence: Mapping[int, list[int]], side: str) -> list[Segment]:
    """Return texts and images; sentences between images are joined by a space."""
    segments: list[Segment] = []
    run: list[str] = []

    def close() -> None:
        text = clean_text(" ".join(run))
        run.clear()
        if text:
            segments.append(Segment("text", text=text))

    for index, sentence in enumerate(sentences):
        images = [Segment("image", media=m, role="content") for m in at_sentence.get(index, [])]
        if images and side == "before":
            close()
            segments += images
        if isinstance(sentence, str) and sentence.strip():
            run.append(sentence.strip())
        if images and side == "after":
            close()
            segments += images
    close()
    return segments


def _request(info: Mapping[str, Any], url: str | None) -> tuple[MediaRequest, list[tuple[str, bytes]]]:
    """Return the request for an image, and its bytes if the record contains them in base64."""
    encoded = info.get("image_base64")
    if encoded is None:
        return MediaRequest("image", media_url(info.get("raw_url")), url), []
    try:
        data = base64.b64decode(str(encoded), validate=True)
    except (binascii.Error, ValueError) as error:
        raise RowError("bad_base64", str(error)) from error
    if not data:
        raise RowError("bad_base64", "empty")
    request, item = inline_request(data, url)
    return request, [item]
