"""Storyboards as yt-dlp writes them, for tests."""

import io
import json

from PIL import Image, ImageDraw

# 7 tiles of 64x36 in sheets of 2x2, one every 5 s of a video of 35 s.
ENTRY = {
    "format_id": "sb0", "ext": "mhtml", "format_note": "storyboard", "width": 64, "height": 36, "rows": 2,
    "columns": 2, "fps": 0.2, "fragments": [{"url": f"https://i.example/M{n}.jpg?s=1"} for n in range(2)],
}  # fmt: skip
SMALL = ENTRY | {"format_id": "sb1", "width": 32, "fragments": [{"url": "https://i.example/default.jpg"}]}
LARGE = ENTRY | {"format_id": "sb0", "width": 480, "fragments": [{"url": "https://i.example/L3/M0.jpg"}]}
INFO = {
    "id": "-Ab_C", "duration": 35, "language": "en", "webpage_url": "https://v.example/watch?v=-Ab_C",
    "license": "Creative Commons Attribution license (reuse allowed)", "formats": [SMALL, ENTRY],
    "subtitles": {"en": [{}]}, "automatic_captions": {"de": [{}], "en-orig": [{}]},
}  # fmt: skip
VTT = "WEBVTT\n\n00:00:00.500 --> 00:00:04.000\nfirst words\n\n00:00:05.000 --> 00:00:09.000\nsecond words\n"


def sheet(num, first, uniform=()):
    """Return a sheet of tiles with a cross whose grey value encodes their index; WebP under the name .jpg."""
    columns, rows = min(num, 2), -(-num // 2)
    sheet = Image.new("RGB", (columns * 64, rows * 36), "black")
    draw = ImageDraw.Draw(sheet)
    for place in range(num):
        x, y = place % 2 * 64, place // 2 * 36
        grey = (first + place) * 30
        draw.rectangle((x, y, x + 63, y + 35), fill=(grey, grey, grey))
        if first + place not in uniform:
            draw.rectangle((x + 10, y + 10, x + 40, y + 30), fill="white")
    file = io.BytesIO()
    sheet.save(file, "WEBP", lossless=True)
    return file.getvalue()


def storyboard(*sheets):
    """Return the mhtml that yt-dlp makes of sheets, each with its index."""
    boundary = b"----boundary"
    data = b'MIME-Version: 1.0\r\nContent-Type: multipart/related; boundary="--boundary"\r\n\r\n'
    page = b"<html></html>"
    data += b"--" + boundary + b"\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: %d\r\n\r\n" % len(page)
    data += page + b"\r\n"
    for index, sheet in sheets:
        data += b"--" + boundary + (
            b"\r\nContent-ID: <%d>\r\nContent-type: image/jpeg\r\nContent-length: %d\r\n"
            b"Content-location: https://i.example/M%d.jpg?s=1\r\nX.yt-dlp.Duration: 20.0\r\n\r\n"
        ) % (index, len(sheet), index)  # fmt: skip
        data += sheet + b"\r\n"
    return data + b"--" + boundary + b"--\r\n"


def write_video(folder, page):
    """Write the storyboard, information and subtitles of a video, whose page is at that address."""
    stem = "Odd [name] -Ab_C"
    (folder / f"{stem}.mhtml").write_bytes(storyboard((0, sheet(4, 0)), (1, sheet(3, 4))))
    (folder / f"{stem}.info.json").write_text(json.dumps(INFO | {"webpage_url": page}))
    (folder / f"{stem}.en.vtt").write_text(VTT)
