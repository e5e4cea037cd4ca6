"""A video as frames and cues: downloaded, its timed text chosen and parsed, frames extracted, the file discarded."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field

from pipelines.candidate import MediaRequest, Track
from pipelines.document import Signal
from pipelines.text.encodings import charset_of
from pipelines.video.frame_text import merge_cues
from pipelines.video.frames import Frame, FrameSettings, VideoRejected, extract_frames
from pipelines.video.subtitles import (
    Cue,
    LostText,
    Subtitles,
    SubtitleSettings,
    SubtitlesRejected,
    choose_track,
    lost_cues,
    parse_subtitles,
)
from pipelines.web import urls
from pipelines.web.answers import FetchFailure
from pipelines.web.http_client import PoliteClient

__all__ = ["Frame", "VideoMedia", "VideoRejected", "VideoSettings", "fetch_video"]


class VideoSettings(FrameSettings):
    """Settings that turn a video into frames and text."""

    max_height: int = Field(
        default=720, gt=0, description="Largest height in pixels to download, if there is a choice."
    )
    max_bytes: int = Field(
        default=512 << 20, gt=0, description="Bytes of all requests of one video; each also obeys http's cap."
    )
    merge_cues: bool = Field(
        default=True, description="Join cues that no frame separates, as YT-Storyboard-1B's builder does."
    )
    subtitles: SubtitleSettings = Field(default=SubtitleSettings(), description="How timed text is chosen and parsed.")


@dataclass(frozen=True, slots=True)
class VideoMedia:
    """A video as it is stored: frames in time order, and cues, empty if it has no timed text.

    `num_cues` are those of the track, before some are joined; `lost_texts` are the tracks and cues that it does not
    have.
    """

    url: str
    fetched_at: str
    frames: tuple[Frame, ...]
    cues: tuple[Cue, ...]
    cues_lang: str | None
    cues_automatic: bool
    num_cues: int
    lost_texts: tuple[LostText, ...]
    license: str | None
    signals: tuple[Signal, ...]


def fetch_video(
    request: MediaRequest,
    client: PoliteClient,
    loop: asyncio.AbstractEventLoop,
    settings: VideoSettings,
    folder: str,
    *,
    page: tuple[str, bytes] | None = None,
) -> VideoMedia:
    """Fetch a video and its timed text and take the frames. Blocks; call it from a thread.

    Args:
        request: URL of a video file, a manifest or a page with one; its tracks take precedence over the page's.
        client: Makes all requests, on `loop`.
        loop: Loop of the client; not this thread's.
        settings: Selection of frames and text.
        folder: An empty folder for the file; the caller removes it.
        page: URL and HTML of a page that has been fetched already.

    Raises:
        VideoRejected: With one of `drop_reasons.VIDEO_FILES` or `IMAGE_FILES`.
        FetchFailure: If a necessary request failed; for timed text only if a later attempt may succeed.
    """
    from pipelines.video.download import download_video  # loads yt-dlp: half a second

    assert request.url is not None
    found = download_video(
        request.url,
        client,
        loop,
        folder,
        max_seconds=settings.max_seconds,
        max_height=settings.max_height,
        max_bytes=settings.max_bytes,
        page=page,
    )
    lang = found.lang or _only_language(request.tracks)
    track, timed, lost = _fetch_subtitles(request.tracks or found.tracks, lang, client, loop, settings.subtitles)
    cues = timed.cues if timed is not None else ()
    num_cues = len(cues)
    try:
        frames = extract_frames(found.path, [cue.t0 for cue in cues], settings)
    except VideoRejected as rejected:
        raise VideoRejected(rejected.reason, rejected.detail, found.signals) from rejected
    if settings.merge_cues:
        cues = merge_cues(cues, [frame.t for frame in frames])
    lang = (track.lang or "").removesuffix("-orig") or (timed.lang if timed else None) if track else None
    return VideoMedia(
        url=found.url,
        fetched_at=found.fetched_at,
        frames=frames,
        cues=cues,
        cues_lang=lang,
        cues_automatic=track is not None and track.is_automatic,
        num_cues=num_cues,
        lost_texts=lost,
        license=found.license,
        signals=found.signals,
    )


def _only_language(tracks: Sequence[Track]) -> str | None:
    """Return the spoken language if all machine-written tracks of a page have one: then none are translations."""
    languages = {track.lang for track in tracks if track.is_automatic}
    return next(iter(languages)) if len(languages) == 1 else None


def _fetch_subtitles(
    tracks: Sequence[Track],
    lang: str | None,
    client: PoliteClient,
    loop: asyncio.AbstractEventLoop,
    settings: SubtitleSettings,
) -> tuple[Track | None, Subtitles | None, tuple[LostText, ...]]:
    """Return the best track that can be fetched and parsed, its contents, and what is lost: other tracks and its cues.

    Raises:
        FetchFailure: If a track could not be fetched now, but may be later.
    """
    left = list(tracks)
    lost: list[LostText] = []
    while (track := choose_track(left, lang)) is not None:
        left.remove(track)
        url = urls.without_credentials(track.url)
        try:
            fetched = asyncio.run_coroutine_threadsafe(client.fetch(track.url, "text"), loop).result()
            charset = charset_of(fetched.header("content-type"))
            found = parse_subtitles(fetched.body, is_automatic=track.is_automatic, charset=charset, settings=settings)
            return track, found, (*lost, *lost_cues(found, url))
        except FetchFailure as failure:
            if failure.is_transient:
                raise
            lost.append(LostText("track", failure.reason, failure.detail, url))
        except SubtitlesRejected as rejected:
            lost.append(LostText("track", rejected.reason, rejected.detail, url))
    translated = [track for track in left if track.is_automatic]
    lost += [LostText("track", "missing_subtitles", t.lang, urls.without_credentials(t.url)) for t in translated]
    return None, None, tuple(lost)
