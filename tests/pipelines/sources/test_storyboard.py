import io
import json

import pytest
from PIL import Image

from pipelines.errors import UserError
from pipelines.sources.storyboard import StoryboardSettings
from tests.pipelines.sources.storyboard_files import ENTRY, INFO, LARGE, SMALL, VTT, sheet, storyboard


def _video(tmp_path, *, mhtml=None, info=INFO, tracks=(("en.vtt", VTT),)):
    stem = "Odd [name] -Ab_C"
    data = storyboard((0, sheet(4, 0)), (1, sheet(3, 4))) if mhtml is None else mhtml
    (tmp_path / f"{stem}.mhtml").write_bytes(data)
    if info is not None:
        (tmp_path / f"{stem}.info.json").write_text(info if isinstance(info, str) else json.dumps(info))
    for name, text in tracks:
        (tmp_path / f"{stem}.{name}").write_text(text)
    return StoryboardSettings(files=[f"{tmp_path}/*.mhtml"])


def _shown(document):
    return [s.text if s.text else s.t0 for s in document.segments]


def test_tiles_and_subtitles_stand_in_the_order_of_their_times(tmp_path, read_all):
    found = read_all(_video(tmp_path), "video")
    document = found.documents[0]
    assert _shown(document) == [0.0, "first words", 5.0, "second words", 10.0, 15.0, 20.0, 25.0, 30.0]
    assert {s.role for s in document.segments} == {"frame", "subtitle"}
    assert [m.t for m in document.media] == [0.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0]
    assert (document.lang, document.source.record, document.source.page_url) == ("en", "-Ab_C", INFO["webpage_url"])
    assert found.scores()["document t_estimated"] == 1.0
    data = dict(found.candidates[0].inline)
    greys = [Image.open(io.BytesIO(data[r.inline_sha256])).getpixel((0, 0))[0] for r in found.candidates[0].requests]
    assert greys == [0, 30, 60, 90, 120, 150, 180]


def test_a_missing_sheet_shifts_nothing_and_filler_is_a_drop(tmp_path, read_all):
    found = read_all(_video(tmp_path, mhtml=storyboard((1, sheet(3, 4, uniform=[5])))), "video")
    assert [m.t for m in found.documents[0].media] == [20.0, 30.0]
    assert [(d.reason, d.unit) for d in found.drops] == [("tile_near_uniform", "element")]


def test_the_level_is_that_of_the_sheets_addresses(tmp_path, read_all):
    found = read_all(_video(tmp_path, info=INFO | {"formats": [SMALL, ENTRY, LARGE]}), "video")
    assert len(found.documents[0].media) == 7


def test_a_sheet_of_another_size_is_left_out(tmp_path, read_all):
    found = read_all(_video(tmp_path, mhtml=storyboard((0, sheet(4, 0)), (1, sheet(4, 4)))), "video")
    assert len(found.documents[0].media) in (4, 7)
    only = read_all(_video(tmp_path, mhtml=storyboard((0, sheet(1, 0)))), "video")
    assert only.reasons == ["sheet_grid_mismatch", "missing_images"]


def test_machine_captions_are_taken_in_the_original_language_only(tmp_path, read_all):
    translated = _video(tmp_path, info=INFO | {"language": None, "subtitles": {}}, tracks=[("de.vtt", VTT)])
    assert read_all(translated, "video").reasons == ["missing_subtitles"]
    original = _video(tmp_path, info=INFO | {"subtitles": {}}, tracks=[("de.vtt", VTT), ("en-orig.vtt", VTT)])
    (segment, _) = [s for s in read_all(original, "video").documents[0].segments if s.text]
    assert (segment.role, segment.generator) == ("transcript", "automatic captions")


def test_the_format_with_word_times_is_preferred(tmp_path, read_all):
    event = {"tStartMs": 500, "dDurationMs": 1000, "segs": [{"utf8": "from json3"}]}
    tracks = [("en.vtt", VTT), ("en.json3", json.dumps({"events": [event]}))]
    assert read_all(_video(tmp_path, tracks=tracks), "video").texts == ["from json3"]


def test_sheets_may_lie_beside_the_info(tmp_path, read_all):
    _video(tmp_path)
    (tmp_path / "Odd [name] -Ab_C.mhtml").unlink()
    (tmp_path / "Odd [name] -Ab_C_1.webp").write_bytes(sheet(3, 4))
    found = read_all(StoryboardSettings(files=[f"{tmp_path}/*.info.json"]), "video")
    assert [m.t for m in found.documents[0].media] == [20.0, 25.0, 30.0]
    (tmp_path / "Odd [name] -Ab_C_1.webp").unlink()
    assert read_all(StoryboardSettings(files=[f"{tmp_path}/*.info.json"]), "video").reasons == ["missing_images"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"info": None}, "missing_info"),
        ({"info": "{"}, "malformed_row"),
        ({"info": "[]"}, "malformed_row"),
        ({"info": INFO | {"duration": None}}, "missing_duration"),
        ({"info": INFO | {"live_status": "is_live"}}, "live_stream"),
        ({"info": INFO | {"formats": []}}, "storyboard_malformed"),
        ({"mhtml": b"no storyboard"}, "storyboard_malformed"),
        ({"tracks": []}, "missing_subtitles"),
    ],
)
def test_what_cannot_be_used_is_a_drop(tmp_path, read_all, change, reason):
    assert read_all(_video(tmp_path, **change), "video").reasons == [reason]


def test_a_track_that_cannot_be_read_gives_way_to_the_next_and_is_a_drop(tmp_path, read_all):
    tracks = [("en.json3", "{"), ("en.vtt", "WEBVTT\n\n"), ("en.srt", VTT.removeprefix("WEBVTT\n\n"))]
    found = read_all(_video(tmp_path, tracks=tracks), "video")
    assert found.texts == ["first words\n\nsecond words"]
    assert [(d.unit, d.reason) for d in found.drops] == [("track", "subtitles_malformed"), ("track", "subtitles_empty")]
    assert found.drops[1].detail.endswith(".en.vtt: vtt: no cue with words")
    (tmp_path / "Odd [name] -Ab_C.en.srt").unlink()
    found = read_all(_video(tmp_path, tracks=tracks[:2]), "video")
    assert found.documents == []
    assert [d.unit for d in found.drops] == ["track", "track", "document"]
    assert found.reasons == ["subtitles_malformed", "subtitles_empty", "subtitles_malformed"]


def test_a_cue_that_cannot_be_read_is_a_drop_with_its_text(tmp_path, read_all):
    found = read_all(_video(tmp_path, tracks=[("en.vtt", VTT.replace("00:00:05.000", "00:00:0S"))]), "video")
    assert found.texts == ["first words"]
    (drop,) = found.drops
    assert (drop.unit, drop.reason, drop.excerpt) == ("cue", "malformed_cue", "second words")
    assert drop.page_url == INFO["webpage_url"]


def test_other_files_are_refused(tmp_path, read_all):
    (tmp_path / "x.mp4").write_bytes(b"x")
    with pytest.raises(UserError, match=r"should be a \.mhtml"):
        read_all(StoryboardSettings(files=[f"{tmp_path}/x.mp4"]), "video")
