"""What yt-dlp asks its own handlers of requests to define still does what it is for; each failure says what is lost."""

import sys

import pytest
import yt_dlp.globals
from yt_dlp.networking import Request
from yt_dlp.networking.exceptions import RequestError, UnsupportedRequest

from pipelines.video.download import _PoliteRH, _YoutubeDL, download_video
from pipelines.video.frames import VideoRejected

URL = "http://a.example/page.html"
PAGE = b"<html><title>no video</title></html>"


@pytest.fixture
def downloader():
    with _YoutubeDL({"quiet": True, "proxy": "socks5://127.0.0.1:9", "http_headers": {}}, auto_init=False) as found:
        found.handler = _PoliteRH(client=None, loop=None, max_bytes=0, page=(URL, PAGE), logger=None)
        yield found


def test_what_yt_dlp_opens_goes_through_our_handler(downloader):
    said = "requests would go out past robots.txt and the address guard: build_request_director or _send is not asked"
    assert downloader.urlopen(URL).read() == PAGE, said
    with pytest.raises(UnsupportedRequest, match="POST requests are not made"):
        downloader.handler.send(Request(URL, data=b"x"))


def test_other_schemes_are_refused_before_the_handler_is_asked(downloader):
    said = "files of this machine could be read as videos: _SUPPORTED_URL_SCHEMES is not looked at"
    for url in ("file:///etc/passwd", "ftp://a.example/v.mp4"):
        with pytest.raises(RequestError) as caught:
            downloader.urlopen(url)
        assert "scheme" in str(caught.value) or "file://" in str(caught.value), said


def test_proxies_and_extensions_are_no_reason_to_refuse(downloader):
    said = "all downloads would fail where a proxy is set, or cookies or a timeout are asked for"
    request = Request(URL, proxies={"all": "socks5://127.0.0.1:9"}, extensions={"timeout": 1.0, "cookiejar": None})
    downloader.handler.validate(request)  # _SUPPORTED_PROXY_SCHEMES, _SUPPORTED_FEATURES, _check_extensions
    assert downloader.urlopen(request).read() == PAGE, said


def test_no_plugin_is_loaded(tmp_path, monkeypatch):
    plugin = tmp_path / "yt_dlp_plugins" / "extractor" / "ours.py"
    plugin.parent.mkdir(parents=True)
    plugin.write_text("loaded = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(yt_dlp.globals.all_plugins_loaded, "value", False)
    monkeypatch.setenv("YTDLP_NO_PLUGINS", "")
    with pytest.raises(VideoRejected):
        download_video(URL, None, None, str(tmp_path), max_seconds=1, max_height=1, max_bytes=1, page=(URL, PAGE))
    said = "code of others would run in workers: YTDLP_NO_PLUGINS is not looked at"
    assert not [name for name in sys.modules if name.startswith("yt_dlp_plugins.extractor.ours")], said
