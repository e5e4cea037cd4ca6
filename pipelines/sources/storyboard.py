"""Storyboards that yt-dlp wrote: `<name>.mhtml` with `<name>.info.json` and `<name>.<lang>.vtt` or similar.

Instead of the mhtml there may be single sheets, `<name>_<n>.webp`. Tiles are frames with the times that the storyboard
implies; subtitles are placed between them by their own times. The tars of the storyboard builder released by Emu's
authors are also read, through `webdataset`.
"""

import glob
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple

from pipelines import storage
from pipelines.candidate import Candidate, MediaRequest, Track, inline_request
from pipelines.document import Kind, Media, Score, Segment, clean_text
from pipelines.errors import UserError
from pipelines.shards.tar_samples import TarSample
from pipelines.sources.files import CompanionFile, Files, Part, whole_files
from pipelines.sources.origin import Origin, Outcome, RowError, convert_rows, number, page_url, upstream
from pipelines.video.frame_text import sequence
from pipelines.video.storyboard_sheets import (
    MAX_TILES,
    Level,
    Sheet,
    StoryboardRejected,
    best_level,
    cut_sheets,
    level_of_format,
    list_of,
    read_mhtml,
    tile_times,
)
from pipelines.video.subtitles import LostText, Subtitles, SubtitlesRejected, choose_track, lost_cues, parse_subtitles
from pipelines.video.timed_text import PREFERRED_FORMATS, Format
from pipelines.web.licenses import license_id

KINDS: tuple[Kind, ...] = ("video",)
_SHEET = re.compile(r"_(\d{1,4})\.(?:webp|jpe?g|png)$")
_LIVE = ("is_live", "is_upcoming", "post_live")


class StoryboardSettings(Files):
    """yt-dlp's storyboards with subtitles: list the `.mhtml`, or the `.info.json` next to single sheets."""

    format: Literal["storyboard"] = "storyboard"


def parts(settings: StoryboardSettings) -> list[Part]:
    """Return one part per video."""
    found = whole_files(settings)
    for part in found:
        if not part.path.endswith((".mhtml", ".info.json")):
            raise UserError(f"{part.path}: should be a .mhtml, or the .info.json next to its sheets")
    return found


def companion_files(settings: StoryboardSettings) -> list[CompanionFile]:
    """Return the files of each video besides the one that the spec names: information, sheets and subtitles."""
    found: list[CompanionFile] = []
    for part in whole_files(settings):
        stem = part.path.removesuffix(".mhtml").removesuffix(".info.json")
        folder = len(part.path) - len(part.name)
        others = [path for path in _files_of(stem) if path != part.path and _is_read(path[len(stem) :])]
        found += [CompanionFile(path, path[folder:], part.path) for path in others]
    return found


def _is_read(ending: str) -> bool:
    """Return whether a file whose name begins with a video's is read with it."""
    is_text = any(ending.startswith(".") and ending.endswith(f".{format}") for format in PREFERRED_FORMATS)
    return is_text or ending == ".info.json" or _SHEET.fullmatch(ending) is not None


def read(part: Part, settings: StoryboardSettings, source_name: str, kind: Kind) -> Iterator[Outcome]:
    """Yield the video of a storyboard, and a drop for each sheet or tile that it loses."""
    stem = part.path.removesuffix(".mhtml").removesuffix(".info.json")
    return convert_rows(Origin(source_name, kind, part, settings), [("0", stem)], _video)


def _video(origin: Origin, locator: str, stem: str) -> list[Outcome]:
    """Return drops for skipped images, then the document of the files that begin with `stem`.

    Raises:
        RowError: If something is missing or damaged, also with the reasons of storyboards and subtitles.
    """
    paths = _files_of(stem)
    info = _info(stem, paths)
    seconds = number(info.get("duration"))
    if seconds is None or seconds <= 0:
        raise RowError("missing_duration")
    try:
        sheets = _sheets(origin.part.path, stem, paths)
        level = _level(info, sheets, seconds)
    except StoryboardRejected as rejected:
        raise RowError(rejected.reason, rejected.detail) from rejected
    page = page_url(info.get("webpage_url"))
    subtitles, lost_texts = _subtitles(stem, paths, info)
    outcomes: list[Outcome] = [
        origin.drop(
            text.reason, locator, unit=text.unit, page_url=page, excerpt=text.text, detail=_detail_of(stem, text)
        )
        for text in lost_texts
    ]
    if subtitles is None:
        first = lost_texts[0]
        return [*outcomes, origin.drop(first.reason, locator, page_url=page, detail=_detail_of(stem, first))]
    cut = cut_sheets(sheets, level)
    outcomes += [
        origin.drop(
            lost.reason,
            f"{locator} {'tile' if lost.reason.startswith('tile') else 'sheet'} {lost.index}",
            unit="element",
            page_url=page,
            detail=lost.detail,
        )
        for lost in cut.dropped
    ]
    if not cut.tiles:
        return [*outcomes, origin.drop("missing_images", locator, page_url=page)]

    times = tile_times(level.num_tiles or cut.tiles[-1].index + 1, seconds, is_even=level.is_even)
    licence = info.get("license") if isinstance(info.get("license"), str) else None
    frames = _Frames()
    frame_times = [times[min(tile.index, len(times) - 1)] for tile in cut.tiles]
    for tile, t in zip(cut.tiles, frame_times, strict=True):
        frames.add(tile.png, t)
    segments = sequence(frame_times, subtitles.content.cues, is_automatic=subtitles.is_automatic)
    scores = [
        Score("t_estimated", "document", 1.0, "derived"),
        upstream("duration_seconds", "document", seconds),
        upstream("age_limit", "document", info.get("age_limit")),
    ]
    document = origin.document(
        locator,
        segments,
        [
            Media(
                url=None,
                t=t,
                license=(license_id(licence) or licence) if licence else None,
                license_evidence="video-metadata" if licence else "none-found",
            )
            for t in frames.times
        ],
        group=page or str(info.get("id") or origin.part.name),
        record=str(info["id"]) if info.get("id") else None,
        lang=subtitles.lang,
        scores=scores,
        page_url=page,
    )
    return [*outcomes, Candidate(document, tuple(frames.requests), tuple(frames.inline.items()))]


class _Frames:
    """Images of a video, in the order in which they are added."""

    def __init__(self) -> None:
        self.requests: list[MediaRequest] = []
        self.inline: dict[str, bytes] = {}
        self.times: list[float | None] = []

    def add(self, data: bytes, t: float | None) -> Segment:
        """Add an image and return its segment."""
        request, (digest, content) = inline_request(data)
        self.requests.append(request)
        self.inline[digest] = content
        self.times.append(t)
        return Segment("frame", media=len(self.times) - 1, t0=t, role="frame", origin="derived")


def _files_of(stem: str) -> list[str]:
    """Return the files whose names begin with the video's, sorted."""
    if storage.is_local(stem):
        return sorted(glob.glob(glob.escape(stem) + "*"))
    with storage.remote(stem) as (fs, inner):
        return sorted(str(fs.unstrip_protocol(p)) for p in fs.glob(inner.replace("[", "[[]") + "*"))


def _info(stem: str, paths: list[str]) -> dict[str, Any]:
    path = next((p for p in paths if p.endswith(".info.json") and len(p) == len(stem) + len(".info.json")), None)
    if path is None:
        raise RowError("missing_info", "no .info.json beside it")
    try:
        info = json.loads(storage.read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise RowError("malformed_row", f".info.json: {error}") from error
    if not isinstance(info, dict):
        raise RowError("malformed_row", ".info.json holds no object")
    if info.get("live_status") in _LIVE:
        raise RowError("live_stream", str(info["live_status"]))
    return info


def _sheets(path: str, stem: str, paths: list[str]) -> list[Sheet]:
    if path.endswith(".mhtml"):
        return read_mhtml(storage.read_bytes(path))
    found = [(int(m[1]), p) for p in paths if (m := _SHEET.fullmatch(p, p.rfind("_"))) and p.rfind("_") == len(stem)]
    if not found:
        raise RowError("missing_images", "no sheets beside it")
    return [Sheet(index, storage.read_bytes(p)) for index, p in sorted(found)]


def _level(info: dict[str, Any], sheets: list[Sheet], seconds: float) -> Level:
    """Return the storyboard's layout by a sheet's URL; else the one that yt-dlp was asked for, else the best."""
    addresses = {sheet.url for sheet in sheets if sheet.url}
    formats = [f for f in list_of(info.get("formats")) if isinstance(f, dict)]
    fetched = next((f for f in formats if any(_url_of(x) in addresses for x in list_of(f.get("fragments")))), None)
    asked = info if info.get("columns") else None
    return level_of_format(fetched or asked or best_level(info) or {}, seconds)


def _url_of(fragment: Any) -> str | None:
    url = fragment.get("url") if isinstance(fragment, dict) else None
    return url if isinstance(url, str) else None


class _SpokenText(NamedTuple):
    """The track of a video that could be read, whether a machine wrote it, and its language."""

    content: Subtitles
    is_automatic: bool
    lang: str | None


def _subtitles(stem: str, paths: list[str], info: dict[str, Any]) -> tuple[_SpokenText | None, list[LostText]]:
    """Return the best track of the spoken language that can be read, and the tracks and cues that are lost.

    Raises:
        RowError: `missing_subtitles`, if there is none to choose.
    """
    human, automatic = (
        tracks if isinstance(tracks := info.get(name), dict) else {} for name in ("subtitles", "automatic_captions")
    )
    formats: dict[Track, Format] = {}
    for format in PREFERRED_FORMATS:
        for path in paths:
            if path.endswith(f".{format}") and path.startswith(stem + "."):
                lang = path[len(stem) + 1 : -len(format) - 1] or None
                is_automatic = (lang or "").endswith("-orig") or (lang not in human and lang in automatic)
                formats[Track(path, lang, is_automatic=is_automatic)] = format
    spoken = info.get("language") if isinstance(info.get("language"), str) else None
    lost: list[LostText] = []
    left = sorted(formats, key=lambda t: t.lang or "")  # of a language the best format stays first
    while (track := choose_track(left, spoken)) is not None:
        left.remove(track)
        try:
            found = parse_subtitles(storage.read_bytes(track.url), formats[track], is_automatic=track.is_automatic)
        except SubtitlesRejected as rejected:
            lost.append(LostText("track", rejected.reason, rejected.detail, track.url))
            continue
        lang = re.split("[-_]", (track.lang or found.lang or spoken or "").lower())[0]
        lang = lang if re.fullmatch("[a-z]{2,3}", lang) else ""
        return _SpokenText(found, track.is_automatic, lang or None), [*lost, *lost_cues(found, track.url)]
    if not lost:
        raise RowError("missing_subtitles", f"none found; {len(left)} that are translations by a machine")
    return None, lost


def _detail_of(stem: str, text: LostText) -> str:
    """Return the ending of a track's file name, and what was found in it."""
    return f"{(text.url or '')[len(stem) :]}: {text.detail}"


def builder_document(origin: Origin, locator: str, sample: TarSample) -> Candidate:
    """Return the video of a sample `{id}.{i}.txt`, `{id}.{i}.png`, `{id}.final_meta.json`; text i precedes image i.

    Raises:
        RowError: `malformed_sample`, `missing_images` or `missing_text`.
    """
    try:
        meta = json.loads(sample.parts["final_meta.json"])
        texts = {name: data.decode("utf-8") for name, data in sample.parts.items() if name.endswith(".txt")}
    except ValueError as error:
        raise RowError("malformed_sample", str(error)) from error
    duration = number(meta.get("duration")) if isinstance(meta, dict) else None
    names = _by_number(sample.parts, "png|jpg|webp")
    text_names = _by_number(texts, "txt")
    count = number(meta.get("frame_num")) if isinstance(meta, dict) else None
    total = int(count) if count is not None and count > 0 else len(names)
    if max(total, *names, *text_names, 0) > MAX_TILES:
        raise RowError("malformed_sample", f"more than {MAX_TILES} frames")
    times = tile_times(total, duration) if duration is not None and total else []
    segments: list[Segment] = []
    frames = _Frames()
    for index in sorted({*names, *text_names}):  # by number: members sort as 0, 1, 10, 2
        if text := clean_text(texts[text_names[index]]) if index in text_names else "":
            segments.append(Segment("text", text, role="transcript", generator="automatic captions"))
        if index in names:
            t = times[min(index, len(times) - 1)] if times else None
            segments.append(frames.add(sample.parts[names[index]], t))
    if not frames.times:
        raise RowError("missing_images")
    if not any(s.text for s in segments):
        raise RowError("missing_text")
    media = [Media(url=None, t=t) for t in frames.times]
    scores = [Score("t_estimated", "document", 1.0, "derived")]
    document = origin.document(locator, segments, media, record=sample.key, group=sample.key, scores=scores)
    return Candidate(document, tuple(frames.requests), tuple(frames.inline.items()))


def _by_number(names: Iterable[str], endings: str) -> dict[int, str]:
    """Return the members of a sample that a number names, by that number."""
    found = ((re.fullmatch(rf"([0-9]+)\.(?:{endings})", name), name) for name in names)
    return {int(match[1][:20]): name for match, name in found if match is not None}
