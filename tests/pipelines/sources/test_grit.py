import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.errors import UserError
from pipelines.sources.grit import GritSettings

ROW = {
    "id": 7002000117474,
    "url": "https://cdn.example/h.jpg",
    "caption": "a wooden boat beside a grey dock",
    "width": 1024,
    "height": 682,
    "clip_similarity_vitb32": 0.34,
    "noun_chunks": [[0, 13, 0.08, 0.41, 0.55, 0.93, 0.81], [21, 32, 0.5, 0.6, 0.99, 0.97, 0.66]],
    "ref_exps": [[0, 32, 0.08, 0.41, 0.55, 0.93, 0.81], [21, 32, 0.5, 0.6, 0.99, 0.97, 0.66]],
}


def _jsonl(tmp_path, *rows):
    path = tmp_path / "grit.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return GritSettings(files=[str(path)])


def _regions(document):
    (text,) = [s for s in document.segments if s.type == "text"]
    return [(text.text[r.start : r.end], r.label, r.box, r.score) for r in text.regions]


def test_phrases_keep_their_boxes_scores_and_labels(tmp_path, read_all):
    found = read_all(_jsonl(tmp_path, ROW), "grounded")
    assert _regions(found.documents[0]) == [
        ("a wooden boat", "noun_chunk", (0.08, 0.41, 0.55, 0.93), 0.81),
        ("a grey dock", "noun_chunk", (0.5, 0.6, 0.99, 0.97), 0.66),
        ("a wooden boat beside a grey dock", "ref_exp", (0.08, 0.41, 0.55, 0.93), 0.81),
    ]
    assert [s.type for s in found.documents[0].segments] == ["image", "text"]
    assert found.documents[0].source.record == "7002000117474"
    assert found.scores()["document num_bad_regions"] == 0.0
    assert found.scores()["media:0 upstream_width"] == 1024.0


def test_offsets_that_parquet_made_floats_are_read(tmp_path, read_all):
    path = tmp_path / "grit.parquet"
    pq.write_table(pa.Table.from_pylist([ROW | {"noun_chunks": [[0.0, 13.0, 0.08, 0.41, 0.55, 0.93, 0.81]]}]), path)
    found = read_all(GritSettings(files=[str(path)], ref_exps=False), "grounded")
    assert [r[0] for r in _regions(found.documents[0])] == ["a wooden boat"]


def test_several_boxes_of_one_phrase_are_several_regions(tmp_path, read_all):
    chunks = [[0, 13, 0.1, 0.1, 0.2, 0.2, None], [0, 13, 0.3, 0.3, 0.4, 0.4, 0.5]]
    found = read_all(_jsonl(tmp_path, ROW | {"noun_chunks": chunks, "ref_exps": []}), "grounded")
    assert [(r[2][0], r[3]) for r in _regions(found.documents[0])] == [(0.1, None), (0.3, 0.5)]


def test_spans_follow_a_caption_that_is_cleaned(tmp_path, read_all):
    caption = " Tom &amp;amp; a cafe\u0301"
    start = caption.index("a cafe")
    chunks = [[start, len(caption), 0.1, 0.1, 0.2, 0.2, 0.9]]
    found = read_all(_jsonl(tmp_path, ROW | {"caption": caption, "noun_chunks": chunks, "ref_exps": []}), "grounded")
    assert found.texts == ["Tom & a café"]
    assert [r[0] for r in _regions(found.documents[0])] == ["a café"]


def test_overshoot_is_clamped_and_the_box_kept(tmp_path, read_all):
    chunks = [[0, 13, -0.005, 0.0, 1.004, 0.5, 0.9]]
    found = read_all(_jsonl(tmp_path, ROW | {"noun_chunks": chunks, "ref_exps": None}), "grounded")
    assert _regions(found.documents[0])[0][2] == (0.0, 0.0, 1.0, 0.5)


@pytest.mark.parametrize(
    ("chunk", "reason"),
    [
        ([0, 33, 0.1, 0.1, 0.2, 0.2, 0.9], "bad_span"),
        ([-1, 3, 0.1, 0.1, 0.2, 0.2, 0.9], "bad_span"),
        ([3, 3, 0.1, 0.1, 0.2, 0.2, 0.9], "bad_span"),
        ([0.5, 3, 0.1, 0.1, 0.2, 0.2, 0.9], "bad_span"),
        ([None, 3, 0.1, 0.1, 0.2, 0.2, 0.9], "bad_span"),
        (["x"], "bad_span"),
        ("x", "bad_span"),
        ([0, 13, 0.1, 0.1, 0.1, 0.2, 0.9], "bad_box"),
        ([0, 13, 0.1, 0.1, 1.2, 0.2, 0.9], "bad_box"),
        ([0, 13, 0.1, float("nan"), 0.2, 0.2, 0.9], "bad_box"),
    ],
)
def test_a_damaged_region_is_lost_alone_and_the_document_with_its_last(tmp_path, read_all, chunk, reason):
    good = ROW["noun_chunks"][0]
    one = read_all(_jsonl(tmp_path, ROW | {"noun_chunks": [chunk, good], "ref_exps": []}), "grounded")
    assert len(_regions(one.documents[0])) == 1
    assert one.scores()["document num_bad_regions"] == 1.0
    none = read_all(_jsonl(tmp_path, ROW | {"noun_chunks": [chunk], "ref_exps": []}), "grounded")
    assert none.reasons == [reason]


def test_a_caption_without_regions_is_a_pair_only(tmp_path, read_all):
    settings = _jsonl(tmp_path, ROW | {"noun_chunks": [], "ref_exps": []})
    assert read_all(settings, "grounded").reasons == ["missing_regions"]
    assert read_all(settings, "pair").texts == [ROW["caption"]]


def test_a_list_without_regions_is_refused(tmp_path, read_all):
    with pytest.raises(UserError, match="noun_chunks"):
        read_all(_jsonl(tmp_path, {"url": "https://a.example/1.jpg", "caption": "x"}), "grounded")
