"""Download of videos by yt-dlp's generic extractor, with every request made by our client.

yt-dlp gets one request handler, ours: whatever it opens passes robots.txt, the address guard and the caps, and it has
no cookies, proxies, plugins, caches, configuration files or external downloaders.
"""

import asyncio
import io
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import yt_dlp
from yt_dlp.extractor.generic import GenericIE
from yt_dlp.extractor.genericembeds import HTML5MediaEmbedIE
from yt_dlp.networking.common import Request, RequestDirector, RequestHandler, Response
from yt_dlp.networking.exceptions import TransportError, UnsupportedRequest
from yt_dlp.utils import KNOWN_EXTENSIONS, YoutubeDLError

from pipelines.candidate import Track
from pipelines.document import Signal
from pipelines.drop_reasons import Reason
from pipelines.video.frames import VideoRejected
from pipelines.video.timed_text import PREFERRED_FORMATS
from pipelines.web.answers import Fetched, FetchFailure
from pipelines.web.http_client import PoliteClient
from pipelines.web.permission import Purpose

_PROTOCOLS = "[protocol~='^(https?|m3u8_native|http_dash_segments)$']"  # what yt-dlp downloads without ffmpeg
_MAX_REQUESTS = 2_000  # of one video: an hour in segments of two seconds
_FORWARDED = ("referer", "range")
_IS_DOCUMENT = re.compile(r"\s*(?:text/html|application/xhtml\+xml|text/xml|application/xml)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class DownloadedVideo:
    """A video file on disk, and what its page and the requests state about it."""

    path: str
    url: str
    fetched_at: str
    lang: str | None
    license: str | None
    tracks: tuple[Track, ...]
    signals: tuple[Signal, ...]


def download_video(
    url: str,
    client: PoliteClient,
    loop: asyncio.AbstractEventLoop,
    folder: str,
    *,
    max_seconds: float,
    max_height: int,
    max_bytes: int,
    page: tuple[str, bytes] | None = None,
) -> DownloadedVideo:
    """Download the video at a URL, or the first one on the page there. Blocks; call it from a thread.

    Args:
        url: URL of a video file, a manifest or a page.
        client: Makes the requests, on `loop`.
        loop: Loop of the client; not this thread's.
        folder: Folder for the file.
        max_seconds: Longer videos are not downloaded.
        max_height: Largest height in pixels to choose, if there is a choice.
        max_bytes: Limit of all requests together; the client caps each.
        page: URL and HTML of a page that has been fetched already.

    Raises:
        VideoRejected: `no_video`, `video_unavailable`, `live_stream` or `too_long`.
        FetchFailure: If a request that was needed failed.
    """
    os.environ["YTDLP_NO_PLUGINS"] = "1"
    with _YoutubeDL(
        {
            "logger": _Silence(),
            "quiet": True,
            "noprogress": True,
            "no_color": True,
            "cachedir": False,
            "outtmpl": {"default": os.path.join(folder, "video.%(ext)s")},
            "format": f"bv*{_PROTOCOLS}[height<=?{max_height}]/wv*{_PROTOCOLS}",
            "playlist_items": "1",
            "retries": 0,
            "fragment_retries": 0,
            "extractor_retries": 0,
            "file_access_retries": 0,
            "skip_unavailable_fragments": False,
            "external_downloader": {"default": "native"},
            "ffmpeg_location": os.path.join(folder, "none"),  # else it would let ffmpeg open URLs
            "fixup": "never",
            "updatetime": False,
            "nopart": True,
        },
        auto_init=False,
    ) as downloader:
        downloader.handler = _PoliteRH(client=client, loop=loop, max_bytes=max_bytes, page=page, logger=None)
        downloader.add_info_extractor(GenericIE())
        downloader.add_info_extractor(HTML5MediaEmbedIE())
        try:
            return _download(downloader, url, folder, max_seconds)
        except YoutubeDLError as error:
            if downloader.handler.failure is not None:
                raise downloader.handler.failure from error
            message = re.sub(r"^(?:ERROR: )?(?:\[\w+\] )?", "", str(error)).strip().partition("\n")[0]
            reason: Reason = "no_video" if "Unsupported URL" in message else "video_unavailable"
            raise VideoRejected(reason, message[:300], tuple(downloader.handler.signals)) from error


def _download(downloader: "_YoutubeDL", url: str, folder: str, max_seconds: float) -> DownloadedVideo:
    info = downloader.extract_info(url, download=False)
    while info and info.get("entries") is not None:
        info = next((entry for entry in info["entries"] if entry), None)
    if not info or not info.get("url"):
        raise VideoRejected("no_video", "nothing to download")
    if info.get("is_live") or info.get("live_status") in ("is_live", "is_upcoming"):
        raise VideoRejected("live_stream", str(info.get("live_status")))
    if info.get("duration") and info["duration"] > max_seconds:
        raise VideoRejected("too_long", f"{info['duration']} s, at most {max_seconds:.0f}")
    path = os.path.join(folder, "video")
    is_done, _ = downloader.dl(path, info)
    if not is_done or not os.path.exists(path):
        if downloader.handler.failure is not None:
            raise downloader.handler.failure
        raise VideoRejected("video_unavailable", "the download did not end")
    handler = downloader.handler
    fetched = handler.media or handler.first
    return DownloadedVideo(
        path=path,
        url=info["url"],
        fetched_at=fetched.fetched_at if fetched else "",
        lang=info.get("language"),
        license=info.get("license"),
        tracks=tuple(_tracks(info)),
        signals=tuple(dict.fromkeys(handler.signals)),
    )


def _tracks(info: dict[str, Any]) -> Iterator[Track]:
    """Yield one track per language, in the format that keeps most information."""
    for name, is_automatic in (("subtitles", False), ("automatic_captions", True)):
        for lang, versions in (info.get(name) or {}).items():
            found = {v.get("ext"): v["url"] for v in reversed(versions) if v.get("url")}
            best = next((found[ext] for ext in PREFERRED_FORMATS if ext in found), next(iter(found.values()), None))
            if best is not None:
                yield Track(best, None if lang in (None, "und") else lang, "subtitles", is_automatic)


class _Silence:
    """Logger that discards what yt-dlp says; its errors arrive as exceptions."""

    def debug(self, message: str) -> None:
        pass

    def warning(self, message: str, **_: Any) -> None:
        pass

    def error(self, message: str) -> None:
        pass


class _PoliteRH(RequestHandler):
    """Handler of yt-dlp's requests through the client. No URL is requested twice.

    `_send`, `_check_extensions` and the lists of what is supported are what `RequestHandler` asks subclasses to define.
    """

    _SUPPORTED_URL_SCHEMES = ("http", "https")
    _SUPPORTED_PROXY_SCHEMES = None
    _SUPPORTED_FEATURES = None

    def __init__(
        self,
        *,
        client: PoliteClient,
        loop: asyncio.AbstractEventLoop,
        max_bytes: int,
        page: tuple[str, bytes] | None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._client, self._loop, self._left = client, loop, max_bytes
        self._page = page
        self._answers: dict[tuple[str, str | None], Fetched] = {}
        self._num_requests = 0
        self.failure: FetchFailure | None = None
        self.first: Fetched | None = None
        self.media: Fetched | None = None
        self.signals: list[Signal] = []

    def _check_extensions(self, extensions: dict[str, Any]) -> None:
        extensions.clear()  # cookies and timeouts: the client has its own

    def _send(self, request: Request) -> Response:
        if request.method not in ("GET", "HEAD") or request.data is not None:
            raise UnsupportedRequest(f"{request.method} requests are not made")
        if self._page is not None and request.url == self._page[0]:
            return Response(io.BytesIO(self._page[1]), request.url, {"Content-Type": "text/html; charset=utf-8"})
        try:
            fetched = self._ask(request)
        except FetchFailure as failure:
            self.failure = failure
            raise TransportError(str(failure), cause=failure) from failure
        headers = {
            name: value
            for name, value in fetched.headers
            if name.lower() not in ("content-encoding", "content-length", "transfer-encoding", "set-cookie")
        }
        headers["Content-Length"] = str(len(fetched.body))
        body = b"" if request.method == "HEAD" else fetched.body
        return Response(io.BytesIO(body), fetched.final_url, headers, fetched.status, fetched.reason)

    def _ask(self, request: Request) -> Fetched:
        key = (request.url, request.headers.get("Range"))
        if key in self._answers:
            return self._answers[key]
        forwarded = tuple((n, v) for n, v in request.headers.items() if n.lower() in _FORWARDED)
        extension = urlsplit(request.url).path.rpartition(".")[2].lower()
        # A URL that may be a page is requested as one: other signals count, and it may be truncated.
        is_first = self.first is None and self._page is None
        is_page = is_first and extension not in (*KNOWN_EXTENSIONS, "m3u8", "mpd")
        fetched = self._fetch(request.url, "page" if is_page else "video", forwarded)
        if is_page and not _IS_DOCUMENT.match(fetched.header("content-type") or ""):
            fetched = self._fetch(request.url, "video", forwarded)
            is_page = False
        self.first = self.first or fetched
        self.media = self.media if is_page else fetched
        for address in {request.url, fetched.final_url}:
            self._answers[address, key[1]] = fetched
        return fetched

    def _fetch(self, url: str, purpose: Purpose, headers: tuple[tuple[str, str], ...]) -> Fetched:
        self._num_requests += 1
        if self._num_requests > _MAX_REQUESTS or self._left <= 0:
            raise FetchFailure("too_large", url, f"{self._num_requests} requests, {self._left} bytes left")
        request = self._client.fetch(url, purpose, headers=headers)
        fetched = asyncio.run_coroutine_threadsafe(request, self._loop).result()
        self._left -= len(fetched.body)
        self.signals += fetched.verdict.signals
        return fetched


class _YoutubeDL(yt_dlp.YoutubeDL):
    """YoutubeDL with one way to the network."""

    handler: _PoliteRH

    def build_request_director(self, handlers: object, preferences: object = None) -> RequestDirector:
        """Build what sends all requests: with our handler, whatever is installed."""
        director = RequestDirector(logger=_Silence())
        director.add_handler(self.handler)
        return director
