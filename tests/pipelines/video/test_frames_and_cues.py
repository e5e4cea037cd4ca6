import asyncio
import json
import subprocess
from dataclasses import replace

import imageio_ffmpeg
import pytest
from aiohttp import web

from pipelines.candidate import MediaRequest, Track
from pipelines.images.normalise import ImageSettings
from pipelines.video.frames_and_cues import VideoRejected, VideoSettings, fetch_video
from pipelines.video.subtitles import Cue
from pipelines.web.answers import FetchFailure
from pipelines.web.http_client import HttpSettings, PoliteClient
from pipelines.web.permission import PolicySettings

CUES = (("00.500 --> 00:01.000", "a red square"), ("01.200 --> 00:01.600", "moves"), ("03.000 --> 00:03.500", "right"))
TRACK = "WEBVTT\n\n" + "\n".join(f"00:{times}\n{text}\n" for times, text in CUES)
SETTINGS = VideoSettings(image=ImageSettings(image_size=32))


def run_ffmpeg(*args):
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error", *map(str, args)], check=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("video")
    source = ("-f", "lavfi", "-i", "testsrc=size=64x48:rate=10:duration=4", "-pix_fmt", "yuv420p", "-threads", "1")
    run_ffmpeg(*source, "-movflags", "+faststart", folder / "v.mp4")
    run_ffmpeg(*source, "-g", 10, "-f", "hls", "-hls_time", "1", "-hls_list_size", "0", folder / "hls.m3u8")
    return folder


class Site:
    """A web server on loopback that counts requests."""

    def __init__(self, folder):
        self.asked = []
        self.files = {f"/{path.name}": path.read_bytes() for path in folder.iterdir()}
        self.redirects = {}
        self.statuses = {}
        self.headers = {}

    async def answer(self, request):
        path = request.path
        self.asked.append(path)
        if path in self.redirects:
            raise web.HTTPFound(self.redirects[path])
        if path in self.statuses:
            return web.Response(status=self.statuses[path])
        if path not in self.files:
            raise web.HTTPNotFound
        body = self.files[path]
        types = {"html": "text/html", "mp4": "video/mp4", "vtt": "text/vtt", "m3u8": "application/vnd.apple.mpegurl"}
        content_type = types.get(path.rpartition(".")[2], "application/octet-stream")
        return web.Response(
            body=body.encode() if isinstance(body, str) else body,
            headers={"Content-Type": content_type} | self.headers.get(path, {}),
        )


@pytest.fixture
def site(folder):
    return Site(folder)


def _at(origin, track):
    return Track(origin + track) if isinstance(track, str) else replace(track, url=origin + track.url)


def fetch(site, tmp_path, path, settings=SETTINGS, tracks=(), page_html=None, allowed=("127.0.0.1",), **http):
    """Run `fetch_video` in a thread, against the site."""

    async def run():
        app = web.Application()
        app.router.add_get("/{path:.*}", site.answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        origin = f"http://127.0.0.1:{runner.addresses[0][1]}"
        site.origin = origin
        try:
            options = {"delay_seconds": 0, "max_retries": 0, "backoff_seconds": 0} | http
            policy = PolicySettings(allow_hosts=list(allowed))
            async with PoliteClient(policy, HttpSettings(**options)) as client:
                request = MediaRequest("video", origin + path, None, tuple(_at(origin, t) for t in tracks))
                page = (origin + path, page_html.encode()) if page_html else None
                loop = asyncio.get_running_loop()
                return await asyncio.to_thread(fetch_video, request, client, loop, settings, str(tmp_path), page=page)
        finally:
            await runner.cleanup()

    return asyncio.run(run())


PAGE = (
    "<html><title>t</title><video controls><source src='v.mp4' type='video/mp4'>"
    "<track kind='subtitles' src='t.vtt' srclang='en'></video></html>"
)


def rejected(*args, **options):
    with pytest.raises(VideoRejected) as caught:
        fetch(*args, **options)
    assert caught.value.detail
    return caught.value.reason


def test_a_page_with_video_and_track_becomes_frames_and_cues(site, tmp_path):
    site.files |= {"/page.html": PAGE, "/t.vtt": TRACK}
    video = fetch(site, tmp_path, "/page.html")
    assert [frame.t for frame in video.frames] == [0.5, 1.2, 3.0]
    assert video.cues == (Cue(0.5, 1.0, "a red square"), Cue(1.2, 1.6, "moves"), Cue(3.0, 3.5, "right"))
    assert (video.cues_lang, video.cues_automatic) == ("en", False)
    assert video.url == f"{site.origin}/v.mp4"
    assert (video.frames[0].image.width, video.frames[0].image.height) == (43, 32)
    assert "robots.txt" in {signal.kind for signal in video.signals}
    assert video.fetched_at.endswith("Z")


def test_nothing_is_asked_for_twice(site, tmp_path):
    site.files |= {"/page.html": PAGE, "/t.vtt": TRACK}
    fetch(site, tmp_path, "/page.html")
    media = [path for path in site.asked if not path.endswith((".txt", ".json"))]
    assert sorted(media) == ["/page.html", "/t.vtt", "/v.mp4"]


def test_a_page_at_hand_is_not_asked_for(site, tmp_path):
    site.files |= {"/t.vtt": TRACK}
    video = fetch(site, tmp_path, "/page.html", page_html=PAGE)
    assert len(video.frames) == 3
    assert "/page.html" not in site.asked


def test_a_file_and_its_tracks_are_taken_as_they_are(site, tmp_path):
    site.files["/t.vtt"] = TRACK
    video = fetch(site, tmp_path, "/v.mp4", tracks=["/t.vtt"])
    assert len(video.cues) == 3
    assert site.asked.count("/v.mp4") == 1


def test_a_file_without_a_telling_name_is_found_by_its_type(site, tmp_path):
    site.files["/watch"] = site.files["/v.mp4"]
    settings = SETTINGS.model_copy(update={"frames": "fixed_rate", "frames_per_second": 1})
    assert [f.t for f in fetch(site, tmp_path, "/watch", settings).frames] == [0.0, 1.0, 2.0, 3.0]


def test_segments_of_a_playlist_are_joined_by_yt_dlp_itself(site, tmp_path):
    site.files["/page.html"] = "<html><video src='hls.m3u8'></video></html>"
    video = fetch(site, tmp_path, "/page.html")
    assert [f.t for f in video.frames] == [0.0, 2.0]
    assert {"/hls0.ts", "/hls1.ts", "/hls2.ts", "/hls3.ts"} <= set(site.asked)


def test_frames_without_subtitles_come_at_a_fixed_rate(site, tmp_path):
    video = fetch(site, tmp_path, "/v.mp4")
    assert [f.t for f in video.frames] == [0.0, 2.0]
    assert video.cues == ()
    assert video.cues_lang is None


def test_the_same_video_gives_the_same_bytes(site, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, second = (fetch(site, tmp_path / name, "/v.mp4").frames for name in "ab")
    assert first == second


def test_cues_that_no_frame_separates_are_joined(site, tmp_path):
    site.files["/t.vtt"] = TRACK
    settings = SETTINGS.model_copy(update={"max_frames": 2})
    video = fetch(site, tmp_path, "/v.mp4", settings, tracks=["/t.vtt"])
    assert [frame.t for frame in video.frames] == [0.5, 1.2]
    assert video.cues == (Cue(0.5, 1.0, "a red square"), Cue(1.2, 3.5, "moves right"))
    apart = settings.model_copy(update={"merge_cues": False})
    (tmp_path / "b").mkdir()
    assert len(fetch(site, tmp_path / "b", "/v.mp4", apart, tracks=["/t.vtt"]).cues) == 3


def test_a_track_that_cannot_be_read_gives_way_to_the_next(site, tmp_path):
    site.files |= {"/bad.vtt": "<html>", "/t.vtt": TRACK}
    video = fetch(site, tmp_path, "/v.mp4", tracks=["/gone.vtt", "/bad.vtt", "/t.vtt"])
    assert len(video.cues) == video.num_cues == 3
    lost = [(lost.unit, lost.reason, lost.url) for lost in video.lost_texts]
    assert lost == [
        ("track", "http_404", f"{site.origin}/gone.vtt"),
        ("track", "subtitles_unsupported", f"{site.origin}/bad.vtt"),
    ]
    (tmp_path / "b").mkdir()
    video = fetch(site, tmp_path / "b", "/v.mp4", tracks=["/bad.vtt"])
    assert video.cues == ()
    assert [lost.reason for lost in video.lost_texts] == ["subtitles_unsupported"]


def test_a_cue_that_cannot_be_read_is_lost_alone(site, tmp_path):
    site.files["/t.vtt"] = TRACK.replace("00:01.200 -->", "00:0l.200 -->")
    video = fetch(site, tmp_path, "/v.mp4", tracks=["/t.vtt"])
    assert [cue.text for cue in video.cues] == ["a red square", "right"]
    (lost,) = video.lost_texts
    assert (lost.unit, lost.reason, lost.url, lost.text) == ("cue", "malformed_cue", f"{site.origin}/t.vtt", "moves")


def test_the_server_states_the_encoding_of_subtitles(site, tmp_path):
    site.files["/t.vtt"] = TRACK.replace("moves", "лодка").encode("cp1251")
    site.headers["/t.vtt"] = {"Content-Type": "text/vtt; charset=windows-1251"}
    assert fetch(site, tmp_path, "/v.mp4", tracks=["/t.vtt"]).cues[1].text == "лодка"


def test_tracks_of_machine_translations_alone_are_lost(site, tmp_path):
    translated = [Track("/en.vtt", "en", is_automatic=True), Track("/fr.vtt", "fr", is_automatic=True)]
    video = fetch(site, tmp_path, "/v.mp4", tracks=translated)
    assert [(lost.unit, lost.reason, lost.detail) for lost in video.lost_texts] == [
        ("track", "missing_subtitles", "en"),
        ("track", "missing_subtitles", "fr"),
    ]


def test_a_track_that_may_come_later_fails_the_video_for_now(site, tmp_path):
    site.statuses["/t.vtt"] = 503
    with pytest.raises(FetchFailure) as caught:
        fetch(site, tmp_path, "/v.mp4", tracks=["/t.vtt"])
    assert caught.value.is_transient


@pytest.mark.parametrize("address", ["http://10.1.2.3/v.mp4", "http://169.254.169.254/latest/meta-data"])
def test_a_redirect_to_a_private_address_is_refused(site, tmp_path, address):
    site.redirects["/moved.mp4"] = address
    with pytest.raises(FetchFailure) as caught:
        fetch(site, tmp_path, "/moved.mp4")
    assert caught.value.reason == "private_address"


@pytest.mark.parametrize("source", ["http://10.1.2.3/v.mp4", "http://192.168.0.1/list.m3u8", "//10.0.0.1/v.webm"])
def test_a_page_that_points_to_a_private_address_is_refused(site, tmp_path, source):
    site.files["/page.html"] = f"<html><video src='{source}'></video></html>"
    with pytest.raises((FetchFailure, VideoRejected)) as caught:
        fetch(site, tmp_path, "/page.html")
    assert caught.value.reason == "private_address"


def test_a_playlist_that_points_elsewhere_is_refused(site, tmp_path):
    for target in ("http://10.1.2.3/a.ts", "file:///etc/passwd"):
        site.files["/evil.m3u8"] = f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{target}\n#EXT-X-ENDLIST\n"
        with pytest.raises((FetchFailure, VideoRejected)) as caught:
            fetch(site, tmp_path, "/evil.m3u8")
        assert caught.value.reason in ("private_address", "video_unavailable", "corrupt_video")


def test_a_playlist_posing_as_a_video_opens_nothing(site, tmp_path):
    secret = tmp_path / "secret.ts"
    secret.write_bytes(site.files["/hls0.ts"])
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{secret}\n#EXT-X-ENDLIST\n"
    site.files |= {"/p.mp4": playlist, "/c.mp4": f"ffconcat version 1.0\nfile '{secret}'\n"}
    (tmp_path / "out").mkdir()
    for path in ("/p.mp4", "/c.mp4"):
        assert rejected(site, tmp_path / "out", path) in ("corrupt_video", "video_unavailable")


def test_a_site_that_disallows_the_file_is_obeyed(site, tmp_path):
    site.files |= {"/robots.txt": "User-agent: *\nDisallow: /v.mp4\n", "/page.html": PAGE, "/t.vtt": TRACK}
    with pytest.raises(FetchFailure) as caught:
        fetch(site, tmp_path, "/page.html")
    assert caught.value.reason == "robots_disallowed"
    assert "/v.mp4" not in site.asked


def test_a_refusal_in_the_headers_is_obeyed(site, tmp_path):
    site.headers["/v.mp4"] = {"X-Robots-Tag": "noai"}
    with pytest.raises(FetchFailure) as caught:
        fetch(site, tmp_path, "/v.mp4")
    assert caught.value.reason == "noai"


def test_a_missing_file_keeps_its_status(site, tmp_path):
    with pytest.raises(FetchFailure) as caught:
        fetch(site, tmp_path, "/gone.mp4")
    assert caught.value.reason == "http_404"


def test_a_large_file_is_refused(site, tmp_path):
    with pytest.raises(FetchFailure) as caught:
        fetch(site, tmp_path, "/v.mp4", max_video_bytes=1000)
    assert caught.value.reason == "too_large"
    with pytest.raises(FetchFailure) as caught:
        fetch(site, tmp_path, "/hls.m3u8", SETTINGS.model_copy(update={"max_bytes": 2000}))
    assert caught.value.reason == "too_large"


def test_a_page_without_a_video_has_none(site, tmp_path):
    site.files["/page.html"] = "<html><body><p>text</p></body></html>"
    assert rejected(site, tmp_path, "/page.html") == "no_video"


def test_a_player_of_a_video_site_is_not_followed(site, tmp_path):
    site.files["/page.html"] = "<html><iframe src='https://www.youtube.com/embed/BaW_jenozKc'></iframe></html>"
    assert rejected(site, tmp_path, "/page.html") == "no_video"


def test_a_live_stream_is_refused(site, tmp_path):
    site.files["/live.m3u8"] = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhls0.ts\n"
    assert rejected(site, tmp_path, "/live.m3u8") == "live_stream"


def test_bytes_that_are_no_video_are_corrupt(site, tmp_path):
    site.files["/x.mp4"] = b"\0" * 5000
    assert rejected(site, tmp_path, "/x.mp4") == "corrupt_video"
    site.files["/cut.mp4"] = site.files["/v.mp4"][:900]
    assert rejected(site, tmp_path, "/cut.mp4") == "corrupt_video"


def test_a_reason_keeps_the_evidence(site, tmp_path):
    site.files["/x.mp4"] = b"\0" * 5000
    with pytest.raises(VideoRejected) as caught:
        fetch(site, tmp_path, "/x.mp4")
    assert "robots.txt" in {signal.kind for signal in caught.value.signals}


def test_settings_survive_json():
    assert VideoSettings.model_validate(json.loads(SETTINGS.model_dump_json())) == SETTINGS
