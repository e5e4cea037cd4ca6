import json

import pytest

from pipelines.candidate import Track
from pipelines.errors import UserError
from pipelines.sources.video_list import VideoListSettings

WEBVID = (
    "videoid,name,page_idx,page_dir,duration,contentUrl\n"
    '900000017,"Slow rain, on a ""tin"" roof",12001,012001_012050,PT00H01M14S,https://media.example/rain.mp4\n'
    "0900000018,No folder,12001,,PT00H00M14S,https://media.example/none.mp4\n"
)
SPEECH = {
    "AbCdEfGhIjK": {
        "start": [0.0, 1.9, 6.0, 7.0],
        "end": [3.1, 5.0, 8.0, 9.0],
        "text": ["today we fix a bike", "we fix a bike that slipped", float("nan"), "done"],
    },
    "-_startsOdd": {"start": [1.0], "end": [2.0], "text": ["hello there"]},
    "lengths": {"start": [1.0], "end": [2.0, 3.0], "text": ["x"]},
    "odd": {"start": [None, 1.0, 3.0], "end": [2.0, None, 4.0], "text": ["when", "x < 2 and y > 1", "a --> b"]},
    "silent": {"start": [1.0], "end": [2.0], "text": [None]},
    "broken": [1, 2],
}


def _settings(tmp_path, text, name, **more):
    (tmp_path / name).write_text(text)
    return VideoListSettings(files=[str(tmp_path / name)], **more)


def test_webvid_needs_a_stated_basis(tmp_path, read_all):
    with pytest.raises(UserError, match="on what basis you hold it"):
        read_all(_settings(tmp_path, WEBVID, "results_2M_val.csv", basis=" "), "video")


def test_webvid_rows_are_videos_with_a_caption_before_the_frames(tmp_path, read_all):
    found = read_all(_settings(tmp_path, WEBVID, "results_2M_val.csv", basis="research exception"), "video")
    document, candidate = found.documents[0], found.candidates[0]
    assert [(s.text, s.role) for s in document.segments] == [('Slow rain, on a "tin" roof', "caption")]
    assert document.media == ()
    assert (candidate.requests[0].type, candidate.requests[0].url) == ("video", "https://media.example/rain.mp4")
    assert (document.source.record, document.source.license) == ("900000017", "research exception")
    assert found.scores() == {"document duration_seconds": 74.0}
    assert found.reasons == ["missing_page_dir"]


def test_a_list_of_ones_own_may_name_subtitles_and_the_page(tmp_path, read_all):
    rows = [
        {"url": "https://v.example/1.mp4", "caption": "a boat", "page_url": "https://v.example/p", "lang": "en",
         "subtitles_url": "https://v.example/1.vtt"},
        {"url": "https://v.example/2.mp4", "subtitles_url": "https://v.example/2.vtt"},
        {"url": "https://v.example/3.mp4", "caption": ""},
        {"url": "", "caption": "x"},
    ]  # fmt: skip
    found = read_all(_settings(tmp_path, "\n".join(map(json.dumps, rows)), "v.jsonl"), "video")
    assert found.texts == ["a boat", ""]
    assert found.candidates[0].requests[0].tracks == (Track("https://v.example/1.vtt", "en"),)
    assert found.documents[0].lang == "en"
    assert found.reasons == ["missing_caption", "missing_url"]


def test_a_plain_list_is_read_in_either_order(tmp_path, read_all):
    text = "https://v.example/1.mp4\ta boat\nhttps://v.example/2.mp4\ta car\n"
    assert read_all(_settings(tmp_path, text, "list.txt"), "video").texts == ["a boat", "a car"]
    with pytest.raises(UserError, match="known as the caption"):
        read_all(_settings(tmp_path, "https://v.example/1.mp4\n", "urls.txt"), "video")


def test_howto100m_speech_keeps_its_times_without_overlap_and_repetition(tmp_path, read_all):
    found = read_all(_settings(tmp_path, json.dumps(SPEECH), "raw_caption.json"), "video")
    segments = found.documents[0].segments
    assert [(s.text, s.t0, s.t1) for s in segments] == [
        ("today we fix a bike", 0.0, 1.9),
        ("that slipped", 1.9, 5.0),
        ("done", 7.0, 9.0),
    ]
    assert {(s.role, s.generator) for s in segments} == {("transcript", "automatic captions")}
    assert found.candidates[1].requests[0].url == "https://www.youtube.com/watch?v=-_startsOdd"
    assert found.documents[1].source.record == "-_startsOdd"
    odd = found.documents[2].segments
    assert [(s.text, s.t0, s.t1) for s in odd] == [("x < 2 and y > 1", 1.0, 3.0), ("a --> b", 3.0, 4.0)]
    assert found.reasons == ["length_mismatch", "malformed_cue", "missing_caption", "malformed_row"]
    assert (found.drops[1].unit, found.drops[1].excerpt) == ("cue", "when")


def test_howto100m_as_a_csv_a_video(tmp_path, read_all):
    text = "start,end,text\n0.0,1.5,mix the flour\n1.2,3.0,and salt\n,,\n"
    settings = _settings(tmp_path, text, "AbC.csv", url_template="https://v.example/{id}.mp4")
    found = read_all(settings, "video")
    assert [(s.text, s.t1) for s in found.documents[0].segments] == [("mix the flour", 1.2), ("and salt", 3.0)]
    assert found.candidates[0].requests[0].url == "https://v.example/AbC.mp4"


def test_howto100m_without_its_raw_speech_is_refused(tmp_path, read_all):
    with pytest.raises(UserError, match="stop words"):
        read_all(_settings(tmp_path, "{}", "caption.json"), "video")
    ids = "video_id,category_1,category_2,rank,task_id\nAbC,Food,,1,7\n"
    with pytest.raises(UserError, match="raw_caption"):
        read_all(_settings(tmp_path, ids, "HowTo100M_v1.csv"), "video")


def test_two_columns_for_the_caption_are_chosen_between(tmp_path, read_all):
    text = "url,title,caption\nhttps://v.example/1.mp4,T,C\n"
    with pytest.raises(UserError, match="title and caption could both be the caption"):
        read_all(_settings(tmp_path, text, "v.csv"), "video")
    assert read_all(_settings(tmp_path, text, "v.csv", columns={"caption": "title"}), "video").texts == ["T"]
