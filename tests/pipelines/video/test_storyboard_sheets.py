import io
import math
import time

import numpy as np
import pytest
from PIL import Image

from pipelines.video.storyboard_sheets import (
    Level,
    Sheet,
    StoryboardRejected,
    best_level,
    cut_sheets,
    level_of_format,
    read_mhtml,
    sheet_index,
    tile_times,
)

LEVEL = Level(tile_width=32, tile_height=18, columns=5, rows=5, num_tiles=60)


def sheet(columns, rows, format="WEBP", first=0, tile=(32, 18), blank=()):
    """Return a sheet whose tile n has a red value of 3 n and a white corner."""
    pixels = np.zeros((rows * tile[1], columns * tile[0], 3), np.uint8)
    for n in range(columns * rows):
        top, left = n // columns * tile[1], n % columns * tile[0]
        if n not in blank:
            pixels[top : top + tile[1], left : left + tile[0], 0] = 3 * (first + n)
            pixels[top : top + 6, left : left + 6] = 255
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format, **({"lossless": True} if format == "WEBP" else {}))
    return out.getvalue()


def mhtml(*parts, boundary=b"b0undary"):
    stub = b"<!DOCTYPE html><html><body>--b0undary\r\n\r\n</body></html>"
    out = b'MIME-Version: 1.0\r\nContent-type: multipart/related; boundary="%b"; type="text/html"\r\n\r\n' % boundary
    out += b"--%b\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: %d\r\n\r\n%b\r\n" % (
        boundary,
        len(stub),
        stub,
    )
    for i, (url, data) in enumerate(parts):
        out += (
            b"--%b\r\nContent-ID: <%d.x@y.invalid>\r\nContent-type: image/jpeg\r\nContent-length: %d\r\n"
            b"Content-location: %b\r\nX.yt-dlp.Duration: 123.400000\r\n\r\n%b\r\n"
            % (boundary, i, len(data), url.encode(), data)
        )
    return out + b"--%b--\r\n\r\n" % boundary


def red(tile):
    return Image.open(io.BytesIO(tile.png)).convert("RGB").getpixel((20, 10))[0]


def test_a_missing_sheet_leaves_its_tiles_out_and_moves_no_other():
    url = "https://i.example/sb/ID/storyboard3_L2/M{}.jpg?sqp=x&sigh=y"
    data = mhtml((url.format(0), sheet(5, 5)), (url.format(2), sheet(5, 2, first=50)))
    sheets = read_mhtml(data)
    assert [s.index for s in sheets] == [0, 2]
    cut = cut_sheets(sheets, LEVEL)
    assert [t.index for t in cut.tiles] == [*range(25), *range(50, 60)]
    assert [red(t) for t in cut.tiles] == [3 * t.index for t in cut.tiles]
    assert cut.dropped == ()


def test_the_index_is_in_the_address():
    assert sheet_index("https://i.example/a/M12.jpg?x=M3.jpg") == 12
    assert sheet_index("https://i.example/a/default.jpg") == 0
    assert sheet_index("https://i.example/a/frames.jpg") is None


def test_webp_under_the_name_jpg_is_read_by_its_bytes():
    cut = cut_sheets([Sheet(0, sheet(5, 5), "https://i.example/M0.jpg")], LEVEL)
    assert len(cut.tiles) == 25


@pytest.mark.parametrize(
    ("num_tiles", "columns", "rows", "num"),
    [(60, 5, 2, 10), (57, 5, 2, 7), (53, 3, 1, 3), (53, 5, 1, 3), (53, 5, 5, 3), (75, 5, 5, 25)],
)
def test_the_last_sheet_may_be_cropped(num_tiles, columns, rows, num):
    level = Level(32, 18, 5, 5, num_tiles)
    cut = cut_sheets([Sheet(2, sheet(columns, rows, first=50))], level)
    assert [t.index for t in cut.tiles] == [*range(50, 50 + num)]


@pytest.mark.parametrize(("columns", "rows"), [(5, 3), (4, 2), (3, 1), (6, 2)])
def test_a_last_sheet_of_another_size_is_left_out(columns, rows):
    cut = cut_sheets([Sheet(0, sheet(5, 5)), Sheet(2, sheet(columns, rows))], LEVEL)
    assert len(cut.tiles) == 25
    assert [(lost.index, lost.reason) for lost in cut.dropped] == [(2, "sheet_grid_mismatch")]


def test_pixels_that_are_no_multiple_of_the_tile_are_left_out():
    cut = cut_sheets([Sheet(0, sheet(5, 5, tile=(33, 18)))], LEVEL)
    assert [lost.reason for lost in cut.dropped] == ["sheet_grid_mismatch"]


def test_the_grid_alone_counts_where_the_number_of_tiles_is_unknown():
    cut = cut_sheets([Sheet(0, sheet(5, 5)), Sheet(1, sheet(5, 2, first=25))], Level(32, 18, 5, 5))
    assert len(cut.tiles) == 35


def test_filler_tiles_are_left_out_and_named():
    cut = cut_sheets([Sheet(0, sheet(5, 5, blank={0, 24}))], LEVEL)
    assert [t.index for t in cut.tiles] == [*range(1, 24)]
    assert [(lost.index, lost.reason) for lost in cut.dropped] == [(0, "tile_near_uniform"), (24, "tile_near_uniform")]


@pytest.mark.parametrize("data", [b"", b"<html>", b"RIFF\0\0\0\0WEBPVP8 "])
def test_an_unreadable_sheet_is_named(data):
    assert [lost.reason for lost in cut_sheets([Sheet(0, data)], LEVEL).dropped] == ["sheet_unreadable"]


def test_a_broken_container_is_refused():
    whole = mhtml(("https://i.example/M0.jpg", sheet(5, 5)))
    for data in (b"", b"hello", whole[:-200], whole.replace(b"Content-length", b"Content-width")):
        with pytest.raises(StoryboardRejected):
            read_mhtml(data)


def test_an_unknown_interval_is_whole_seconds_where_they_fit():
    times = tile_times(94, 464.0)
    assert (times[1], times[92], times[93]) == (5.0, 460.0, 464.0)
    assert tile_times(100, 1010.0)[1] == 10.0
    assert tile_times(100, 302.0)[1] == 3.0
    assert tile_times(10, 14.4)[1] == 1.44


@pytest.mark.parametrize("interval", [1, 2, 5, 10, 3, 20])
def test_the_interval_is_the_one_whose_number_of_tiles_fits(interval):
    for seconds in range(40 * interval, 100 * interval, 7):
        for spare in (0, 1, 2) if interval in (1, 2, 5, 10) else (1,):  # players use these four
            num_tiles = math.floor(seconds / interval) + spare
            assert tile_times(num_tiles, float(seconds))[1] == interval, (seconds, num_tiles)
    assert tile_times(49, 95.0)[48] == 95.0  # 2 s, not the mean of 1.94, which is 2.9 s off at the end
    assert tile_times(3, 10.0) == [0.0, 5.0, 10.0]


@pytest.mark.parametrize(("seconds", "last"), [(499.0, 494.01), (505.0, 499.95), (992.0, 982.08), (1010.0, 999.9)])
def test_a_small_fixed_grid_is_spread_over_the_video(seconds, last):
    entry = {"width": 48, "height": 27, "rows": 10, "columns": 10, "fps": 100 / seconds}
    level = level_of_format(entry, seconds)
    assert tile_times(level.num_tiles, seconds, is_even=level.is_even)[99] == last
    for other in ({"height": 90}, {"rows": 5}, {"fps": 0.05}):
        assert not level_of_format({**entry, **other}, seconds).is_even


def test_the_layout_comes_from_the_info_json():
    entry = {"format_id": "sb1", "ext": "mhtml", "width": 160, "height": 90, "rows": 5, "columns": 5, "fps": 0.2025}
    info = {"formats": [{**entry, "format_id": "sb2", "width": 48, "height": 27}, entry, {"ext": "mp4", "width": 1920}]}
    assert best_level(info) == entry
    assert best_level({"formats": [{"ext": "mp4"}]}) is None
    assert level_of_format(entry, 464.0) == Level(160, 90, 5, 5, num_tiles=94)
    assert level_of_format(entry, None).num_tiles is None
    for broken in ({}, {**entry, "width": None}, {**entry, "rows": 0}):
        with pytest.raises(StoryboardRejected):
            level_of_format(broken, 1.0)


def test_a_container_of_endless_headers_is_refused_at_once():
    begun = time.process_time()
    for data in (b"--a:b\n" * 50_000, b"--" * 100_000, (b"--" * 100 + b"\n") * 1000):
        with pytest.raises(StoryboardRejected):
            read_mhtml(data)
    assert time.process_time() - begun < 3
