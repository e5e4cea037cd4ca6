"""Subjects cut from grounded pairs in tars, as Emu2-Gen learns to draw them (arXiv:2312.13286).

```
user       a red boat [what the box of "a red boat" holds] on a lake [the same of "a lake"]
assistant  [the whole image]
```

Each subject lies on white: what its box holds, or only what its mask covers, where the sample's JSON has
`segmentations`, one for each of its `noun_chunks` in COCO's form (polygons, or counts of pixels by columns). Tars are
those of `webdataset`: our own grounded corpora, or GRIT as img2dataset writes it. A list of URLs is first built as a
corpus of its own.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import cv2
from pydantic import Field

from pipelines.candidate import Candidate, inline_request
from pipelines.document import Document, Drop, Kind, Media, Region, Score, Segment, Signal
from pipelines.images.cutting import Mask, cut_out, places, read_mask
from pipelines.images.pixels import Pixels, decode_upright
from pipelines.shards.tar_samples import TarSample
from pipelines.sources import webdataset
from pipelines.sources.files import Part
from pipelines.sources.origin import Origin, Outcome, RowError, convert_rows, number
from pipelines.sources.webdataset import TarSettings

KINDS: tuple[Kind, ...] = ("conversation",)


class SubjectSettings(TarSettings):
    """Subjects of grounded pairs, as requests for the whole image."""

    format: Literal["subjects"] = "subjects"
    max_subjects: int = Field(4, ge=1, description="Subjects of a request: the largest ones")
    min_area: float = Field(0.02, ge=0, le=1, description="Smallest box of a subject, as a fraction of the image")
    max_area: float = Field(0.9, ge=0, le=1, description="Largest one: beyond it, the subject is the whole image")
    min_side: int = Field(32, ge=1, description="Longer side of the smallest box, in pixels")
    boxes: bool = Field(False, description="Keep the places of the subjects too, as boxes of their phrases")


@dataclass(frozen=True, slots=True)
class _Subject:
    """A phrase of the caption, and the file of what it names."""

    region: Region
    file: bytes


def parts(settings: SubjectSettings) -> list[Part]:
    """Return one part per tar."""
    return webdataset.parts(settings)


def read(part: Part, settings: SubjectSettings, source_name: str, kind: Kind) -> Iterator[Outcome]:
    """Yield one conversation per grounded sample; a subject that cannot be cut is a dropped element."""
    of_pairs = Origin(source_name, "grounded", part, settings)

    def convert(origin: Origin, locator: str, sample: TarSample) -> list[Outcome]:
        [pair] = webdataset.convert(of_pairs, locator, sample, settings)
        assert isinstance(pair, Candidate)  # other kinds, which may have drops, are refused
        if len(pair.document.media) != 1:
            raise RowError("malformed_sample", f"{len(pair.document.media)} images, a grounded sample has one")
        caption = next((segment for segment in pair.document.segments if segment.regions), None)
        if caption is None:
            raise RowError("missing_regions", url=pair.document.media[0].url)
        subjects, drops = _subjects(origin, locator, pair, caption, _segmentations(sample), settings)
        if not subjects:
            raise RowError(drops[0].reason, drops[0].detail, drops[0].url)
        asked = _asked(caption, subjects, with_boxes=settings.boxes)
        return [*drops, _conversation(origin, locator, pair, list(asked), subjects)]

    return convert_rows(Origin(source_name, kind, part, settings), webdataset.samples(part), convert)


def _subjects(
    origin: Origin,
    locator: str,
    pair: Candidate,
    caption: Segment,
    segmentations: "_Segmentations",
    settings: SubjectSettings,
) -> tuple[list[_Subject], list[Drop]]:
    """Return the subjects of a caption, in the order of the text, and the drops of those that cannot be cut.

    Raises:
        RowError: `corrupt_image`.
    """
    [(_, data)], url = pair.inline, pair.document.media[0].url
    try:
        pixels = decode_upright(data)
    except ValueError as error:
        raise RowError("corrupt_image", str(error), url) from error
    subjects: list[_Subject] = []
    drops: list[Drop] = []
    named = [region for region in caption.regions if region.label != "ref_exp"]  # which repeats a shorter phrase
    for i, region in enumerate(sorted(named, key=_area, reverse=True)):
        try:
            if len(subjects) == settings.max_subjects:
                raise RowError("too_many_subjects", f"{len(named)}")
            subjects.append(_Subject(region, _file(pixels, region, segmentations, settings)))
        except RowError as error:
            place = f"{locator} subject {i}"
            drops.append(origin.drop(error.reason, place, unit="element", url=url, detail=error.detail))
    return sorted(subjects, key=lambda one: (one.region.end, one.region.start)), drops


def _file(pixels: Pixels, region: Region, segmentations: "_Segmentations", settings: SubjectSettings) -> bytes:
    """Return the file of a subject.

    Raises:
        RowError: `bad_box`, `subject_too_small`, `subject_too_large` or `bad_mask`.
    """
    x0, y0, x1, y1 = region.box
    if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
        raise RowError("bad_box", f"{region.box}")
    columns, rows = places(pixels, region.box)
    longer = max(columns.stop - columns.start, rows.stop - rows.start)
    if (area := _area(region)) < settings.min_area or longer < settings.min_side:
        raise RowError("subject_too_small", f"{area:.3f} of the image, {longer} pixels")
    if area > settings.max_area:
        raise RowError("subject_too_large", f"{area:.3f} of the image")
    done, data = cv2.imencode(".png", cut_out(pixels, region.box, segmentations.mask(region, pixels)))
    assert done
    return data.tobytes()


def _asked(caption: Segment, subjects: Sequence[_Subject], *, with_boxes: bool) -> Iterator[Segment]:
    """Yield the user's turn: the caption, cut after each phrase that has a subject, with the subjects between."""
    text, done = caption.text or "", 0
    for i, end in enumerate([*(one.region.end for one in subjects), len(text)]):
        piece = text[done:end]
        start = done + len(piece) - len(piece.lstrip())
        if piece.strip():
            regions = tuple(
                replace(one.region, start=one.region.start - start, end=one.region.end - start, media=len(subjects))
                for one in subjects
                if with_boxes and start <= one.region.start and one.region.end <= end
            )
            yield replace(caption, text=piece.strip(), role="user", regions=regions)
        if i < len(subjects):
            yield Segment("image", media=i, role="user")
        done = end


def _conversation(
    origin: Origin, locator: str, pair: Candidate, asked: Sequence[Segment], subjects: Sequence[_Subject]
) -> Candidate:
    """Return the conversation of a pair, in whose split it stays; what is said of the image holds for its parts."""
    document, [whole] = pair.document, pair.media_requests
    files = [inline_request(one.file, document.source.page_url) for one in subjects]
    [image] = document.media
    shown = Media(image.url, license=image.license, license_evidence=image.license_evidence, credit=image.credit)
    made = replace(
        document,
        kind=origin.kind,
        key=origin.key(locator),
        segments=(*asked, Segment("image", media=len(files), role="assistant")),
        media=(*([shown] * len(files)), image),
        signals=tuple(_signals(document, len(files))),
        scores=tuple(_scores(document, len(files))),
        extras={},
    )
    inline = dict(pair.inline) | dict(item for _, item in files)
    return Candidate(made, (*(request for request, _ in files), whole), tuple(inline.items()))


def _signals(document: Document, num_subjects: int) -> Iterator[Signal]:
    for signal in document.signals:
        if signal.target == "media:0":
            yield from (replace(signal, target=f"media:{i}") for i in range(num_subjects + 1))
        else:
            yield signal


def _scores(document: Document, num_subjects: int) -> Iterator[Score]:
    for score in document.scores:
        if score.target == "media:0":
            yield replace(score, target=f"media:{num_subjects}")
        elif score.target == "document":
            yield score


def _area(region: Region) -> float:
    x0, y0, x1, y1 = region.box
    return (x1 - x0) * (y1 - y0)


@dataclass(frozen=True, slots=True)
class _Segmentations:
    """Segmentations of a sample by the boxes of their phrases; `drawn_in`: width and height, if they are stated."""

    by_box: dict[tuple[float | None, ...], Any]
    drawn_in: tuple[float, float] | None = None

    def mask(self, region: Region, pixels: Pixels) -> Mask | None:
        """Return the mask of a region, or None if there is none.

        Raises:
            RowError: `bad_mask`.
        """
        found = self.by_box.get(region.box)
        if found is None:
            return None
        size = (pixels.shape[1], pixels.shape[0])
        try:
            return read_mask(found, self.drawn_in or size, size)
        except ValueError as error:
            raise RowError("bad_mask", str(error)) from error


def _segmentations(sample: TarSample) -> _Segmentations:
    """Return the segmentations in a sample's JSON, in which the reading of its pair has found phrases.

    Raises:
        RowError: `length_mismatch` if there is not one for each phrase.
    """
    record = json.loads(sample.parts["json"])
    chunks, found = record.get("noun_chunks"), record.get("segmentations")
    if found is None or not isinstance(chunks, list):
        return _Segmentations({})
    if not isinstance(found, list) or len(found) != len(chunks):
        raise RowError("length_mismatch", "segmentations and noun_chunks")
    boxes = (tuple(map(_clamped, chunk[2:6])) if isinstance(chunk, list) else () for chunk in chunks)
    width, height = number(record.get("original_width")), number(record.get("original_height"))
    return _Segmentations(dict(zip(boxes, found, strict=True)), (width, height) if width and height else None)


def _clamped(value: Any) -> float | None:
    """Return a side of a box as `grit` reads it."""
    found = number(value)
    return None if found is None else min(max(found, 0.0), 1.0)
