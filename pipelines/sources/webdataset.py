"""Tars of samples: our own corpora, img2dataset's, plain pairs and texts, MMC4 in base64, MINT-1T's PDF documents.

A sample's bytes are used unchanged, without requests to the web. A sample of ours keeps its provenance, signals and
duplicate group; it gets a new key, since one sample may arrive through two sources.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field

from pipelines import storage
from pipelines.candidate import Candidate, MediaRequest, inline_request
from pipelines.document import Build, Document, Kind, Media, Segment, clean_text
from pipelines.shards.foreign_samples import read_document
from pipelines.shards.tar_samples import NO_END, ForwardReader, TarSample, walk_samples
from pipelines.sources import lines, mint, mmc4, url_table
from pipelines.sources.captions import clean_caption
from pipelines.sources.files import Files, Part, whole_files
from pipelines.sources.grit import grounded
from pipelines.sources.origin import (
    BrokenFileError,
    Origin,
    Outcome,
    RowError,
    convert_rows,
    dedup_group,
    number,
    page_url,
)
from pipelines.sources.storyboard import builder_document

KINDS: tuple[Kind, ...] = ("interleaved", "pair", "grounded", "video", "text", "conversation")
_ASPECT_TOLERANCE = 0.02  # of width over height, beyond the rounding of a pixel
_UPRIGHT = ("", "1", "Horizontal (normal)")


class TarSettings(Files):
    """Tars (also .tar.gz) of samples."""

    generator: str | None = Field(None, description="Model that wrote the captions of foreign pairs; null: none did")


class WebDatasetSettings(TarSettings):
    """Tars (also .tar.gz) whose samples are of the source's kind; others are dropped."""

    format: Literal["webdataset"] = "webdataset"
    image_side: Literal["before", "after"] = Field("before", description="MMC4: where to put an image, by its sentence")


def parts(settings: TarSettings) -> list[Part]:
    """Return one part per tar."""
    return whole_files(settings)


def read(part: Part, settings: WebDatasetSettings, source_name: str, kind: Kind) -> Iterator[Outcome]:
    """Yield one candidate per sample, with its bytes."""

    def convert_sample(origin: Origin, locator: str, sample: TarSample) -> list[Outcome]:
        return convert(origin, locator, sample, settings)

    return convert_rows(Origin(source_name, kind, part, settings), samples(part), convert_sample)


def samples(part: Part) -> Iterator[tuple[str, TarSample | RowError]]:
    """Yield the samples of a tar, by the offset of their first member.

    Raises:
        BrokenFileError: If the tar is damaged, cut, or followed by another one; the incomplete sample is not yielded.
    """
    is_plain = lines.compression(part.path) is None
    with lines.open_stream(part.path) as stream:
        forward = ForwardReader(stream).read

        def read(offset: int, length: int) -> bytes:
            if not is_plain and length > lines.MAX_RECORD_BYTES:  # for which a few megabytes of zeros are enough
                raise ValueError(f"{part.name}: a member of {length} bytes in a compressed tar")
            return forward(offset, length)

        try:
            end = storage.size(part.path) if is_plain else NO_END
            for sample in walk_samples(read, part.name, 0, end, is_whole=True):
                yield str(sample.offset), RowError("duplicate_part", sample.fault) if sample.fault else sample
        except ValueError as error:
            raise BrokenFileError(str(error)) from error


def convert(origin: Origin, locator: str, sample: TarSample, settings: TarSettings) -> list[Outcome]:
    """Return the candidate of a sample.

    Raises:
        RowError: If it is of another or an unknown kind, or damaged.
    """
    record: Any = {}
    if "json" in sample.parts:
        try:
            record = json.loads(sample.parts["json"])
        except (ValueError, RecursionError) as error:
            raise RowError("malformed_sample", f"its JSON is damaged: {error}") from error
    record = record if isinstance(record, dict) else {}
    if record.get("schema") == "seq/1":
        return [_own(origin, locator, sample)]
    if "image_info" in record and "text_list" in record:
        _check_kind(origin, "interleaved")
        side = settings.image_side if isinstance(settings, WebDatasetSettings) else "before"
        return mmc4.page_of(origin, locator, record, side)
    if "final_meta.json" in sample.parts:
        _check_kind(origin, "video")
        return [builder_document(origin, locator, sample)]
    if mint.is_paper(record, sample):
        _check_kind(origin, "interleaved")
        return mint.paper_of(origin, locator, record, sample)
    if record.get("status") not in (None, "success"):
        raise RowError("upstream_failed", str(record.get("error_message")))
    return [_foreign(origin, locator, sample, record, settings)]


def _own(origin: Origin, locator: str, sample: TarSample) -> Candidate:
    """Return the candidate of a sample of schema seq/1."""
    document = _document(origin, sample)
    _check_kind(origin, document.kind)
    if any(s.media is not None and not 0 <= s.media < len(document.media) for s in document.segments):
        raise RowError("malformed_sample", "a segment names a medium that is not listed")
    group = document.build.dedup_group or dedup_group(document.source.page_url or sample.key)
    extras = {name: value for name, value in document.extras.items() if name == "other_captions"}
    own = replace(document, key=origin.key(locator), build=Build(dedup_group=group), extras=extras)
    return _with_bytes(own, sample)


def _foreign(
    origin: Origin, locator: str, sample: TarSample, record: dict[str, Any], settings: TarSettings
) -> Candidate:
    """Return the candidate of a sample that another tool wrote."""
    found = _document(origin, sample)
    is_grounded = origin.kind == "grounded" and found.kind == "pair" and "noun_chunks" in record
    if not is_grounded:
        _check_kind(origin, found.kind)
    if found.kind == "pair" and page_url(record.get("url")) and isinstance(record.get("caption"), str):
        columns = {"url": "url", "caption": "caption", "width": "original_width", "height": "original_height"}
        pair = url_table.pair_of(origin, locator, record, columns, settings.generator)
        if is_grounded:
            _check_view(record)
            pair = grounded(pair, record, record["caption"])
        document = replace(pair.document, source=replace(pair.document.source, record=sample.key))
        media = (replace(document.media[0], part=found.media[0].part),)
        return _with_bytes(replace(document, media=media), sample)
    if is_grounded:
        raise RowError("missing_caption")
    segments = tuple(_cleaned(s, settings.generator) for s in found.segments)
    if any(s.type == "text" and not s.text for s in segments):
        raise RowError("missing_text")
    page = page_url(found.source.page_url)
    group = page or (found.media[0].url if found.media else None)
    document = origin.document(
        locator, segments, found.media, group=group, record=sample.key, lang=found.lang, page_url=page
    )
    return _with_bytes(document, sample)


def _document(origin: Origin, sample: TarSample) -> Document:
    try:
        return read_document(sample, origin.source)
    except (ValueError, KeyError, TypeError) as error:
        raise RowError("malformed_sample", str(error)) from error


def _check_kind(origin: Origin, kind: Kind) -> None:
    if kind != origin.kind:
        raise RowError("other_kind", kind)


def _cleaned(segment: Segment, generator: str | None) -> Segment:
    if segment.type != "text" or segment.text is None:
        return segment
    if segment.role != "caption":
        return replace(segment, text=clean_text(segment.text))
    origin: Literal["source", "synthetic"] = "source" if generator is None else "synthetic"
    return replace(segment, text=clean_caption(segment.text), origin=origin, generator=generator)


def _with_bytes(document: Document, sample: TarSample) -> Candidate:
    """Return the candidate whose images are members of the sample, with new measurements of their bytes."""
    requests: list[MediaRequest] = []
    inline: dict[str, bytes] = {}
    media: list[Media] = []
    for item in document.media:
        data = sample.parts.get((item.part or "").lower())
        if not data:
            raise RowError("missing_member", item.part)
        request, (digest, content) = inline_request(data, document.source.page_url)
        requests.append(request)
        inline[digest] = content
        media.append(
            Media(
                url=item.url,
                alt=item.alt,
                t=item.t,
                fetched_at=item.fetched_at,
                license=item.license,
                license_evidence=item.license_evidence,
                credit=item.credit,
            )
        )
    return Candidate(replace(document, media=tuple(media)), tuple(requests), tuple(inline.items()))


def _check_view(record: dict[str, Any]) -> None:
    """Check that boxes are of the whole upright image, not of one that was cropped, padded or stored rotated.

    Raises:
        RowError: `boxes_cropped` or `boxes_rotated`.
    """
    sizes = [number(record.get(name)) for name in ("width", "height", "original_width", "original_height")]
    if all(size is not None and size > 0 for size in sizes):
        width, height, before_width, before_height = (float(size or 0) for size in sizes)
        rounding = 1 / width + 1 / height
        if abs(width * before_height / (height * before_width) - 1) > _ASPECT_TOLERANCE + rounding:
            raise RowError("boxes_cropped", f"{before_width:g}x{before_height:g} became {width:g}x{height:g}")
    try:
        exif = json.loads(record.get("exif") or "{}")
    except (ValueError, TypeError):
        exif = {}
    orientation = next((str(v) for k, v in exif.items() if k.endswith("Orientation")), "") if exif else ""
    if orientation not in _UPRIGHT:
        raise RowError("boxes_rotated", orientation)
