"""Rows of hostile images, videos and timed text, as lists name them."""

import functools
import io
import itertools
import struct
import subprocess
import tempfile
import zlib
from pathlib import Path

import imageio_ffmpeg
from PIL import Image

from tests.hostile.pages import LAUGHS, OUTSIDE, PAGE, gzip_bomb
from tests.hostile.server import Answer, Answers, Row, chunked, endless, head, redirect, whole
from tests.pipelines.stage_records import image_bytes

JPEG, PNG, GIF = "image/jpeg", "image/png", "image/gif"
_PNG_START = b"\x89PNG\r\n\x1a\n"
_PATH = "/image.jpg"
METADATA = "169.254.169.254"


def chunk(name: bytes, body: bytes) -> bytes:
    """Return a chunk of a PNG."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def header(width: int, height: int, depth: int = 8) -> bytes:
    """Return the header chunk of a grey PNG."""
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0))


@functools.cache
def saved(format: str = "JPEG", **options: object) -> bytes:
    """Return a good image in a format."""
    image, out = Image.open(io.BytesIO(image_bytes(0, (96, 64)))), io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def _image(name: str, answer: Answer, *reasons: str) -> Row:
    return Row(f"image-{name}", f"http://{{host}}{_PATH}", {_PATH: answer}, "media", reasons)


def _image_bombs() -> list[Row]:
    flat = zlib.compress(bytes(1 << 24), 9)
    jpeg = saved()
    frame = jpeg.index(b"\xff\xc0")
    large = bytearray(jpeg)
    struct.pack_into(">HH", large, frame + 5, 65_000, 65_000)
    (length,) = struct.unpack_from(">H", large, 2)
    hidden = b"\xff\xd8\xff\xd0" + bytes(large[2:]).ljust(length, b"\0") + jpeg[2:]
    two_sizes = header(64, 64) + header(9000, 9000)
    gif = bytearray(saved("GIF"))
    struct.pack_into("<HH", gif, 6, 65_000, 65_000)
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(1 << 26), 1))
    profile = chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(1 << 26), 1))
    good = saved("PNG")
    return [
        _image("png-size", whole(_PNG_START + header(60_000, 60_000) + chunk(b"IDAT", flat), PNG), "too_many_pixels"),
        _image("png-two-sizes", whole(_PNG_START + two_sizes + chunk(b"IDAT", flat), PNG), "corrupt_image"),
        _image("png-more-than-its-size", whole(_PNG_START + header(64, 64) + chunk(b"IDAT", flat) + chunk(b"IEND", b""), PNG)),
        _image("png-text", whole(good[:33] + text * 4 + good[33:], PNG), "corrupt_image"),
        _image("png-profile", whole(good[:33] + profile + good[33:], PNG), "corrupt_image"),
        _image("png-negative-size", whole(_PNG_START + header(2**31, 2**31), PNG), "too_many_pixels", "corrupt_image"),
        _image("jpeg-size", whole(bytes(large), JPEG), "too_many_pixels"),
        _image("jpeg-hidden-size", whole(hidden, JPEG), "too_many_pixels"),
        _image("jpeg-no-size", whole(jpeg[: frame + 5] + bytes(4) + jpeg[frame + 9 :], JPEG), "corrupt_image"),
        _image("jpeg-scans", whole(jpeg[:-2] + b"\xff\xda\0\2" * 5000 + b"\xff\xd9", JPEG), "corrupt_image"),
        _image("gif-size", whole(bytes(gif), GIF), "too_many_pixels"),
        _image("gzip", whole(gzip_bomb(jpeg, 512), JPEG, Content_Encoding="gzip"), "too_large"),
        _image("svg-billion-laughs", whole(f"{LAUGHS}<svg>&j;</svg>", "image/svg+xml"), "unsupported_format"),
        _image("svg-external", whole(f"{OUTSIDE}<svg>&a;&j;</svg>", "image/svg+xml"), "unsupported_format"),
        _image("svg-script", whole('<svg onload="x()"><image href="http://{canary}:{port}/"/></svg>', "image/svg+xml"), "unsupported_format"),
    ]  # fmt: skip


HIDDEN = b"<script>hidden payload</script>"
"""What no stored file may hold."""


def _polyglots() -> list[Row]:
    jpeg, png = saved(), saved("PNG")
    comment = b"\xff\xfe" + struct.pack(">H", len(HIDDEN) + 2) + HIDDEN
    zipped = b"PK\x03\x04" + HIDDEN + b"PK\x05\x06" + bytes(18)
    script = b"GIF89a/*" + bytes(9) + b"*/=1;" + HIDDEN
    return [
        _image("polyglot-html-jpeg", whole(jpeg[:2] + comment + jpeg[2:], JPEG)),
        _image("polyglot-html-after-jpeg", whole(jpeg + HIDDEN, "text/html")),
        _image("polyglot-png-zip", whole(png + zipped, PNG)),
        _image("polyglot-png-php", whole(png[:33] + chunk(b"tEXt", b"x\0" + HIDDEN) + png[33:], PNG)),
        _image("polyglot-gif-script", whole(script, GIF), "corrupt_image"),
        _image("polyglot-pdf-jpeg", whole(b"%PDF-1.4\n" + jpeg, JPEG), "unsupported_format"),
        _image("polyglot-html-first", whole(HIDDEN + jpeg, JPEG), "unsupported_format"),
    ]


def _image_bodies() -> list[Row]:
    jpeg = saved()
    half = jpeg[: len(jpeg) // 2]
    stated = head(content_type=JPEG, Content_Length=str(len(jpeg)))
    in_chunks = head(content_type=JPEG, Transfer_Encoding="chunked")
    return [
        _image("endless", Answer(endless(head(content_type=JPEG) + jpeg, bytes(65536))), "too_large"),
        _image("length-of-a-terabyte", Answer([head(content_type=JPEG, Content_Length=str(1 << 40)) + jpeg]), "too_large"),
        _image("trickling", Answer(endless(stated, b"\xff"), 0.1), "timeout"),
        _image("cut", whole(half, JPEG), "corrupt_image"),
        _image("cut-by-the-connection", Answer([stated + half]), "incomplete_body"),
        _image("cut-chunks", Answer([in_chunks, *chunked(jpeg)]), "incomplete_body"),
        _image("cut-png", whole(saved("PNG")[:100], PNG), "corrupt_image"),
        _image("cut-webp", whole(saved("WEBP")[:100], "image/webp"), "corrupt_image"),
        _image("cut-gif", whole(saved("GIF")[:30], GIF), "corrupt_image"),
        _image("cut-avif", whole(saved("AVIF")[:200], "image/avif"), "corrupt_image"),
        _image("nothing", whole(b"", JPEG), "unsupported_format"),
        _image("html", whole(PAGE, JPEG), "unsupported_format"),
        _image("jpeg-as-html", whole(jpeg, "text/html")),
        _image("too-many-headers", whole(jpeg, JPEG, **{f"X-{i}": "y" for i in range(5000)})),
    ]  # fmt: skip


_FORBIDDEN = {
    "canary": "{canary}",
    "canary-decimal": "2130708743",
    "canary-dotless": "127.2311",
    "canary-hex": "0x7f000907",
    "canary-mapped": "[::ffff:127.0.9.7]",
    "canary-octal": "0177.0.011.07",
    "canary-full-width": "１２７．０．９．７",
    "canary-escaped": "%31%32%37.0.9.7",
    "canary-dot": "127.0.9.7.",
    "localhost": "localhost",
    "loopback-v6": "[::1]",
    "link-local-v6": "[fe80::1]",
    "metadata": METADATA,
    "metadata-decimal": "2852039166",
    "metadata-mapped": f"[::ffff:{METADATA}]",
    "metadata-nat64": "[64:ff9b::a9fe:a9fe]",
    "metadata-6to4": "[2002:a9fe:a9fe::]",
    "metadata-octal": "0251.0376.0251.0376",
    "metadata-v6": "[fd00:ec2::254]",
    "multicast": "224.0.0.1",
    "private": "10.0.0.1",
    "unspecified": "0",
    "name-link-local": "link-local.hostile.test",
    "name-loopback": "loopback.hostile.test",
    "name-mapped": "mapped.hostile.test",
    "name-metadata": "metadata.hostile.test",
    "name-metadata-v6": "metadata-v6.hostile.test",
    "name-private": "private.hostile.test",
    "name-rebinding": "rebinding.hostile.test",
}


def _forbidden_hosts() -> list[Row]:
    good = {"/image.jpg": whole(saved(), JPEG)}
    rows: list[Row] = []
    for name, host in _FORBIDDEN.items():
        url = f"http://{host}:{{port}}/{name}.jpg"
        rows.append(Row(f"host-{name}", url, {}, "media", ("private_address",)))
        if not name.startswith("canary-"):
            location = url.encode("utf-8").decode("latin-1")
            rows.append(_image(f"redirect-to-{name}", redirect(location), "private_address"))
    mixed = {"/mixed.jpg": whole(saved(), JPEG)}
    return [
        *rows,
        Row("host-name-mixed", "http://mixed.hostile.test:{port}/mixed.jpg", mixed, "media", ()),
        Row("host-name-unanswered", "http://unanswered.hostile.test/x.jpg", {}, "media", ("dns_failure",)),
        Row("host-name-unknown", "http://unknown.invalid/x.jpg", {}, "media", ("host_not_found", "dns_failure")),
        Row("host-zone", "http://[fe80::1%25eth0]/x.jpg", {}, "document", ("bad_url",)),
        Row("host-behind-user", "http://{host}@{canary}:{port}/x.jpg", {}, "media", ("private_address",)),
        Row("host-behind-backslash", "http://{host}\\@{canary}:{port}/x.jpg", {}, "media", ("http_404",)),
        Row("host-behind-fragment", "http://{canary}:{port}#@{host}/x.jpg", {}, "media", ("private_address",)),
        Row("host-with-credentials", "http://user:hunter2@{host}/image.jpg", good, "media", ()),
    ]


def _schemes() -> list[Row]:
    large = "data:image/jpeg;base64," + "A" * (3 << 20)
    listed = {
        "file": "file:///etc/passwd",
        "ftp": "ftp://{canary}/image.jpg",
        "gopher": "gopher://{canary}:{port}/",
        "javascript": "javascript:alert(1)",
        "data-small": "data:image/jpeg;base64,AAAA",
        "data-large": large,
        "no-scheme": "//{canary}:{port}/image.jpg",
        "long": "http://{host}/" + "x" * 100_000,
    }
    rows = [Row(f"scheme-{name}", url, {}, "document", ("bad_url",)) for name, url in listed.items()]
    redirects = {
        "file": ("file:///etc/passwd", "scheme_not_allowed"),
        "ftp": ("ftp://{canary}/x", "scheme_not_allowed"),
        "data": ("data:image/gif;base64,R0lGODlhAQABAAAAACw=", "scheme_not_allowed"),
        "javascript": ("javascript:alert(1)", "scheme_not_allowed"),
        "credentials": ("http://user:hunter2@{host}/x", "credentials_in_url"),
        "long": ("/" + "x" * 100_000, "invalid_url"),
        "itself": (_PATH, "redirect_loop"),
        "no-host": ("http:///x", "http_404"),
    }
    rows += [_image(f"redirect-to-{name}", redirect(where), reason) for name, (where, reason) in redirects.items()]

    def chain(path: str) -> Answer | None:
        number = path.strip("/")
        return redirect(f"/{int(number) + 1}") if number.isdecimal() else None

    return [*rows, Row("image-redirects-thousands", "http://{host}/1", chain, "media", ("too_many_redirects",))]


# --- video ----------------------------------------------------------------------------------------------------------

_FILM = "/film.mp4"
_MP4, _HLS, _DASH = "video/mp4", "application/vnd.apple.mpegurl", "application/dash+xml"
SECRET = "{secret}"
"""Where a row names the pipe that nothing may open."""


@functools.cache
def film(format: str = "mp4") -> bytes:
    """Return two seconds of video."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"film.{format}"
        source = "testsrc2=size=96x64:rate=8:duration=2"
        options = ("-y", "-loglevel", "error", "-f", "lavfi", "-i", source, "-pix_fmt", "yuv420p", "-threads", "1")
        subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), *options, path], check=True, stdin=subprocess.DEVNULL)
        return path.read_bytes()


def _video(name: str, answer: Answer, *reasons: str, path: str = _FILM, **more: Answer) -> Row:
    others = {f"/{other}": found for other, found in more.items()}
    answers = {path.partition("#")[0]: answer, **others}
    return Row(f"video-{name}", f"http://{{host}}{path}", answers, "video", reasons)


def _hls(*lines: str, first: str = "#EXT-X-TARGETDURATION:2") -> str:
    segments = "".join(f"#EXTINF:2,\n{line}\n" for line in lines)
    return f"#EXTM3U\n#EXT-X-VERSION:3\n{first}\n{segments}#EXT-X-ENDLIST\n"


def _dash(base: str) -> str:
    return (
        '<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT2S"><Period>'
        '<AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1" codecs="avc1.42c00d" width="96" '
        f'height="64"><BaseURL>{base}</BaseURL></Representation></AdaptationSet></Period></MPD>'
    )


# What a playlist may hold in place of a segment: a file here, an address that is not public, another protocol.
_ELSEWHERE = {
    "file": f"file://{SECRET}",
    "path": SECRET,
    "canary": "http://{canary}:{port}/segment.ts",
    "metadata": f"http://{METADATA}/latest/meta-data/",
    "concat": f"concat:{SECRET}|{SECRET}",
    "subfile": f"subfile,,start,0,end,0,,:{SECRET}",
    "crypto": f"crypto+file://{SECRET}",
    "tcp": "tcp://{canary}:{port}",
    "data": "data:video/mp4;base64,AAAA",
}


def _playlists() -> list[Row]:
    not_fetched = ("scheme_not_allowed", "private_address", "video_unavailable", "no_video", "http_404", "invalid_url")
    concat = f"ffconcat version 1.0\nfile {SECRET}\nfile http://{{canary}}:{{port}}/a.mp4\n"
    xspf = (
        '<?xml version="1.0"?><playlist version="1" xmlns="http://xspf.org/ns/0/"><trackList>'
        f"<track><location>file://{SECRET}</location></track></trackList></playlist>"
    )
    sdp = (
        "v=0\no=- 0 0 IN IP4 {canary}\ns=x\nc=IN IP4 {canary}\nt=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n"
    )
    key = f'#EXT-X-KEY:METHOD=AES-128,URI="file://{SECRET}"'
    rows = []
    for name, place in _ELSEWHERE.items():
        hls = whole(_hls(place), _HLS)
        rows.append(_video(f"hls-{name}", hls, *not_fetched, "corrupt_video", path="/film.m3u8"))
        rows.append(_video(f"hls-{name}-as-mp4", whole(_hls(place), _MP4), "corrupt_video", "no_video"))
        dash = whole(_dash(place), _DASH)
        rows.append(_video(f"dash-{name}", dash, *not_fetched, "corrupt_video", path="/film.mpd"))
    named = {"ffconcat": concat, "xspf": xspf, "sdp": sdp, "m3u": f"{SECRET}\n", "pls": f"[playlist]\nFile1={SECRET}\n"}
    rows += [_video(f"{name}-as-mp4", whole(text, _MP4), "corrupt_video") for name, text in named.items()]
    itself = "#EXT-X-STREAM-INF:BANDWIDTH=1\nfilm.m3u8\n"
    segments = whole(_hls(*(f"{i}.ts" for i in range(5000))), _HLS)
    return [
        *rows,
        _video("hls-key-of-a-file", whole(_hls("a.ts", first=key), _HLS), *not_fetched, path="/film.m3u8"),
        _video("hls-of-itself", whole(f"#EXTM3U\n{itself}", _HLS), "live_stream", path="/film.m3u8"),
        _video("hls-5000-segments", segments, "too_long", path="/film.m3u8"),
        _video("xspf", whole(xspf, "application/xspf+xml"), *not_fetched, path="/film.xspf"),
        _video("dash-entities", whole(f"{LAUGHS}<MPD>&j;</MPD>", _DASH), *not_fetched, path="/film.mpd"),
    ]


def _films() -> list[Row]:
    body = film()
    stated = head(content_type=_MP4, Content_Length=str(len(body)))
    avi = b"RIFF\xff\xff\xff\x7fAVI LIST" + _hls(f"file://{SECRET}").encode()
    page = "/watch"
    og = f'<meta property="og:video" content="file://{SECRET}">'
    return [
        _video("endless", Answer(endless(head(content_type=_MP4) + body, bytes(65536))), "too_large"),
        _video("trickling", Answer(endless(stated, b"\0"), 0.1), "timeout"),
        _video("cut", whole(body[: len(body) // 2], _MP4), "corrupt_video"),
        _video("cut-by-the-connection", Answer([stated + body[:500]]), "incomplete_body"),
        _video("html", whole(PAGE, _MP4), "corrupt_video", "no_video"),
        _video("avi-of-a-playlist", whole(avi, "video/x-msvideo"), "corrupt_video", "no_video", path="/film.avi"),
        _video("image", whole(saved(), _MP4), "corrupt_video"),
        _video("redirect-to-file", redirect(f"file://{SECRET}"), "scheme_not_allowed"),
        _video("redirect-to-canary", redirect("http://{canary}:{port}/"), "private_address"),
        _video("redirect-loop", redirect(_FILM), "redirect_loop"),
        _video("page-of-file", whole(f'<video src="file://{SECRET}"></video>{PAGE}'), "no_video", "video_unavailable", path=page),
        _video("page-of-canary", whole(f'<video src="http://{{canary}}:{{port}}/a.mp4"></video>{PAGE}'), "private_address", path=page),
        _video("page-meta-of-file", whole(f"<head>{og}</head>{PAGE}"), "no_video", "video_unavailable", path=page),
        _video("page-of-search", whole(f'<meta property="og:video" content="ytsearch9:cats">{PAGE}'), "no_video", "http_404", "video_unavailable", path=page),
        _video("page-refresh-to-file", whole(f'<meta http-equiv="refresh" content="0;url=file://{SECRET}">{PAGE}'), "no_video", "video_unavailable", path=page),
        _video("page-redirect-to-file", redirect(f"file://{SECRET}"), "scheme_not_allowed", path=page),
        _video("page-smuggled", whole(PAGE), "no_video", path=f"{page}#__youtubedl_smuggle=%7B%22to_generic%22%3A1%7D"),
    ]  # fmt: skip


def _tracks() -> list[Row]:
    def timed(name: str, answer: Answer, *reasons: str, track: str = "http://{host}/track") -> Row:
        answers: Answers = {_FILM: whole(film(), _MP4), "/track": answer}
        return Row(f"track-{name}", f"http://{{host}}{_FILM}", answers, "track", reasons, track=track)

    ttml = "<tt><body><div><p begin='1s'>&j;&a;</p></div></body></tt>"
    vtt = "text/vtt"
    deep = f"<tt><body>{'<div>' * 50_000}<p begin='1s'>x</p></body></tt>"
    return [
        timed("billion-laughs", whole(LAUGHS + ttml, "application/ttml+xml"), "subtitles_malformed"),
        timed("external-entities", whole(OUTSIDE + ttml, "application/ttml+xml"), "subtitles_malformed"),
        timed("deep", whole(deep, "application/ttml+xml"), "subtitles_malformed"),
        timed("deep-json", whole('{"events":' + "[" * 100_000, "application/json"), "subtitles_malformed"),
        timed("endless", Answer(endless(head(content_type=vtt) + b"WEBVTT\n\n", b"x" * 65536)), "too_large"),
        timed("bomb", whole(gzip_bomb(b"WEBVTT\n\n"), vtt, Content_Encoding="gzip"), "too_large"),
        timed("binary", whole(bytes(range(256)), vtt), "subtitles_unsupported"),
        timed("html", whole(PAGE, vtt), "subtitles_unsupported"),
        timed("canary", whole(b"", vtt), "private_address", track="http://{canary}:{port}/track.vtt"),
        timed("redirect-to-file", redirect("file:///etc/passwd"), "scheme_not_allowed"),
    ]


def image_rows() -> list[Row]:
    """Return all rows of a list of images."""
    groups = (_image_bombs, _polyglots, _image_bodies, _forbidden_hosts, _schemes)
    return list(itertools.chain.from_iterable(group() for group in groups))


def video_rows() -> list[Row]:
    """Return all rows of a list of videos."""
    return [*_playlists(), *_films(), *_tracks()]
