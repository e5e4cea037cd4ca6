"""Lists of videos with captions: WebVid's csv, HowTo100M's timed speech, and tables of other origin.

A caption is one text before the frames; timed text keeps its times, and the fetch stage puts the frames between it.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal
from urllib.parse import quote

from pydantic import Field

from pipelines.candidate import Candidate, MediaRequest, Track
from pipelines.document import Kind, Segment
from pipelines.errors import UserError
from pipelines.sources import lines
from pipelines.sources.captions import clean_caption
from pipelines.sources.files import Part, expand
from pipelines.sources.origin import (
    Origin,
    Outcome,
    RowError,
    as_dict,
    as_list,
    convert_rows,
    media_url,
    number,
    page_url,
    upstream,
)
from pipelines.sources.tables import open_table, require_text, suffix, table_parts, with_first_rows
from pipelines.sources.url_table import find_columns
from pipelines.sources.where import ListFiles
from pipelines.video.raw_cues import MalformedCue, RawCues, shown_cue
from pipelines.video.subtitles import Subtitles, SubtitlesRejected, join_cues, lost_cues

KINDS: tuple[Kind, ...] = ("video",)
_WEBVID = frozenset({"videoid", "name", "page_dir", "contentUrl"})
_ALIASES = {
    "url": ("url", "video_url", "contenturl", "video"),
    "caption": ("caption", "name", "text", "title"),
    "subtitles_url": ("subtitles_url", "subtitle_url", "captions_url"),
    "lang": ("lang", "language"),
    "page_url": ("page_url",),
}
_SPEECH_COLUMNS = ("start", "end", "text")


class VideoListSettings(ListFiles):
    """A list of videos, each with a caption or timed speech."""

    format: Literal["video_list"] = "video_list"
    columns: dict[str, str] = Field(default={}, description="Column for url, caption, ... if several match")
    header: list[str] | None = Field(
        None, description="Names of the columns of csv and tsv files without a header; null: as the first line shows"
    )
    basis: str | None = Field(
        None, description="Basis on which you hold WebVid, which its author withdrew; stored as its licence; null: none"
    )
    url_template: str = Field(
        "https://www.youtube.com/watch?v={id}", description="URL of a video, for HowTo100M, which lists ids"
    )


def parts(settings: VideoListSettings) -> list[Part]:
    """Split the list at row groups or lines; HowTo100M's JSON and a csv of one video are whole parts."""
    for path, name in expand(settings.files, missing=settings.missing):
        if name.rpartition("/")[2].lower() == "caption.json":
            raise UserError(f"{path}: its stop words are removed: use raw_caption.json")
    return table_parts(settings)


def read(part: Part, settings: VideoListSettings, source_name: str, kind: Kind) -> Iterator[Outcome]:
    """Yield one video per row.

    Raises:
        UserError: If a needed column is missing, or `basis` is not set for WebVid.
    """
    origin = Origin(source_name, kind, part, settings)
    if suffix(part.path) == ".json" and _is_object(part.path):
        if settings.where:
            raise UserError(f"{part.path}: speech by video has no columns that 'where' could judge")
        return convert_rows(origin, lines.read_json_items(part.path), _spoken(settings))
    head, table = with_first_rows(open_table(part, settings.header, settings.where))
    if table.columns[:3] == _SPEECH_COLUMNS:
        return convert_rows(origin, [_one_video(part, table.rows)], _spoken(settings))
    if "video_id" in table.columns and "task_id" in table.columns:
        raise UserError(f"{part.path}: lists ids without speech: use HowTo100M's raw_caption.json")
    is_webvid = set(table.columns) >= _WEBVID
    if is_webvid and not (settings.basis or "").strip():
        raise UserError(
            f"{part.path}: is WebVid, whose author stopped its distribution on 23 February 2024 after a "
            "cease-and-desist letter: state in 'basis' on what basis you hold it"
        )
    if is_webvid:
        origin = replace(origin, settings=settings.model_copy(update={"license": settings.license or settings.basis}))
    columns: dict[str, str] = {}
    if table.columns:
        needed = ("url",) if _has(table.columns, "subtitles_url") else ("url", "caption")
        columns = find_columns(part.path, table.columns, settings.columns, needed, _ALIASES)
        require_text(part.path, head, [columns[role] for role in needed])

    def convert(origin: Origin, locator: str, row: dict[str, Any]) -> list[Outcome]:
        if is_webvid and not str(row["page_dir"] or "").strip():
            raise RowError("missing_page_dir", "not in WebVid as published")
        return [_captioned(origin, locator, row, columns)]

    return convert_rows(origin, table.rows, convert)


def _captioned(origin: Origin, locator: str, row: Mapping[str, Any], columns: Mapping[str, str]) -> Candidate:
    def cell(role: str) -> Any:
        return row.get(columns[role]) if role in columns else None

    url, page = media_url(cell("url")), page_url(cell("page_url"))
    caption = clean_caption(cell("caption")) if isinstance(cell("caption"), str) else ""
    subtitles = page_url(cell("subtitles_url"))
    if not caption and subtitles is None:
        raise RowError("missing_caption", url=url)
    lang = cell("lang") if isinstance(cell("lang"), str) and re.fullmatch(r"[a-z]{2,3}", cell("lang")) else None
    own = next((row[name] for name in ("videoid", "video_id", "id") if isinstance(row.get(name), str | int)), None)
    document = origin.document(
        locator,
        (Segment("text", text=caption, role="caption"),) if caption else (),
        group=page or url,
        record=str(own) if own is not None else None,
        lang=lang,
        scores=[upstream("duration_seconds", "document", _duration(row["duration"]))] if "duration" in row else [],
        page_url=page,
    )
    tracks = (Track(subtitles, lang),) if subtitles else ()
    return Candidate(document, (MediaRequest("video", url, page, tracks),))


def _spoken(settings: VideoListSettings) -> Any:
    """Return the converter of (video id, parallel lists of start, end and text)."""

    def convert(origin: Origin, video: str, speech: Any) -> list[Outcome]:
        row = as_dict(speech, "the video")
        starts, ends, texts = (as_list(row.get(name), name) for name in _SPEECH_COLUMNS)
        if not len(starts) == len(ends) == len(texts):
            raise RowError("length_mismatch", f"{len(starts)} starts, {len(ends)} ends, {len(texts)} texts")
        url = media_url(settings.url_template.format(id=quote(video, safe="")))
        found = _lines_of_speech(starts, ends, texts, url)
        lost = [
            origin.drop(cue.reason, video, unit=cue.unit, url=url, excerpt=cue.text, detail=cue.detail)
            for cue in lost_cues(found, url)
        ]
        segments = [
            Segment("text", cue.text, t0=cue.t0, t1=cue.t1, role="transcript", generator="automatic captions")
            for cue in found.cues
        ]
        document = origin.document(video, segments, group=url, record=video)
        return [*lost, Candidate(document, (MediaRequest("video", url),))]

    return convert


def _lines_of_speech(starts: list[Any], ends: list[Any], texts: list[Any], url: str) -> Subtitles:
    """Return speech in order of time, without overlap or repeats of display captions; NaN is silence.

    Raises:
        RowError: `missing_caption`.
    """
    found = RawCues()
    for start, end, text in zip(starts, ends, texts, strict=True):
        if not isinstance(text, str) or not text.strip():
            continue
        first, last = number(start), number(end)
        if first is None or first < 0:
            found.malformed.append(MalformedCue(f"{start} to {end}", text))
        else:
            found.cues.append(shown_cue(first, last, [text]))
    try:
        return join_cues(found, "speech", may_roll=True)
    except SubtitlesRejected as rejected:
        raise RowError("missing_caption", rejected.detail, url) from rejected


def _one_video(part: Part, rows: Iterator[tuple[str, Any]]) -> tuple[str, Any]:
    """Return a csv of one video, named by its id, in the form of HowTo100M's JSON."""
    cells = [row for _, row in rows if isinstance(row, dict)]
    return part.name.rpartition("/")[2].partition(".csv")[0], {c: [r[c] for r in cells] for c in _SPEECH_COLUMNS}


def _is_object(path: str) -> bool:
    with lines.open_text(path) as file:
        return file.read(1 << 16).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"{"


def _has(columns: tuple[str, ...], role: str) -> bool:
    return any(name.lower() in _ALIASES[role] for name in columns)


def _duration(value: Any) -> float | None:
    """Return seconds, also from WebVid's `PT00H00M17S`; None if there are none."""
    match = re.fullmatch(r"PT(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?", str(value or "").strip())
    if match is None:
        return number(value)
    hours, minutes, seconds = (float(group or 0) for group in match.groups())
    return hours * 3600 + minutes * 60 + seconds
