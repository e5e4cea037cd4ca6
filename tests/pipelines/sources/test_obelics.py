import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.errors import UserError
from pipelines.sources.obelics import BOUNDARY, ObelicsSettings

PAGE = {"url": "https://site.example/p/x", "warc_filename": "crawl-data/a.warc.gz", "warc_record_offset": 123,
        "warc_record_length": "4567"}  # fmt: skip
IMAGE = {"document_url": PAGE["url"], "unformatted_src": "/a.jpg", "src": "https://cdn.example/a.jpg",
         "alt_text": "a kayak", "original_width": 1024, "original_height": 683}  # fmt: skip
ROW = {
    "images": ["https://cdn.example/a.jpg", None],
    "texts": [None, "First paragraph.\n\nSecond paragraph."],
    "metadata": json.dumps([IMAGE, None]),
    "general_metadata": json.dumps(PAGE),
}
LISTS = {"images": pa.list_(pa.string()), "texts": pa.list_(pa.string())}


def _settings(tmp_path, *rows, **more):
    path = tmp_path / "part.parquet"
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return ObelicsSettings(files=[str(path)], **more)


def _order(document):
    return [s.text if s.text else document.media[s.media].url for s in document.segments]


def test_a_page_is_read_in_its_order_with_its_json_in_strings(tmp_path, read_all):
    found = read_all(_settings(tmp_path, ROW), "interleaved")
    document = found.documents[0]
    assert _order(document) == ["https://cdn.example/a.jpg", "First paragraph.\n\nSecond paragraph."]
    assert document.media[0].alt == "a kayak"
    assert found.scores() == {"media:0 upstream_width": 1024.0, "media:0 upstream_height": 683.0}
    source = document.source
    assert (source.page_url, source.warc_file) == (PAGE["url"], PAGE["warc_filename"])
    assert (source.warc_offset, source.warc_length) == (123, 4567)
    assert found.candidates[0].requests[0].page_url == PAGE["url"]


def test_a_boundary_splits_the_page_into_documents_of_one_group(tmp_path, read_all):
    image = "https://cdn.example/b.jpg"
    row = ROW | {
        "images": [ROW["images"][0], None, image, None],
        "texts": [None, f"One.\n\n{BOUNDARY}\n\nTwo.", None, f"{BOUNDARY}\n\nThree."],
        "metadata": json.dumps([IMAGE, None, {}, None]),
    }
    found = read_all(_settings(tmp_path, row), "interleaved")
    assert [_order(d) for d in found.documents] == [[ROW["images"][0], "One."], ["Two.", image]]
    assert [d.source.record for d in found.documents] == ["0/0#d00", "0/0#d01"]
    assert len({d.build.dedup_group for d in found.documents}) == 1
    assert found.reasons == ["missing_images"]
    joined = read_all(_settings(tmp_path, row, boundary="join"), "interleaved")
    assert [_order(d) for d in joined.documents] == [[ROW["images"][0], "One.\n\nTwo.", image, "Three."]]
    assert BOUNDARY not in joined.documents[0].to_json()


def test_relative_addresses_are_resolved_against_the_page_anew(tmp_path, read_all):
    image = IMAGE | {"unformatted_src": "img/a b.jpg", "src": "https://site.example/img/a.jpg"}
    row = ROW | {"images": [image["src"], None], "metadata": json.dumps([image, None])}
    assert read_all(_settings(tmp_path, row), "interleaved").documents[0].media[0].url == (
        "https://site.example/p/img/a%20b.jpg"
    )
    kept = read_all(_settings(tmp_path, row, resolve_urls=False), "interleaved")
    assert kept.documents[0].media[0].url == image["src"]


def test_rows_of_the_wrong_form_are_drops(tmp_path, read_all):
    rows = [
        ROW | {"images": ["https://cdn.example/a.jpg"]},
        ROW | {"metadata": json.dumps([IMAGE, None, None])},
        ROW | {"images": [ROW["images"][0]] * 2},
        ROW | {"images": [None, None]},
        ROW | {"metadata": "{"},
        ROW | {"general_metadata": "[]x"},
        ROW | {"images": None},
        ROW | {"texts": [None, "  "]},
    ]
    found = read_all(_settings(tmp_path, *rows), "interleaved")
    assert found.reasons == [*["length_mismatch"] * 2, *["malformed_row"] * 5, "missing_text"]


def test_an_image_without_a_usable_address_is_a_drop_of_its_own(tmp_path, read_all):
    row = ROW | {"images": ["data:image/png;base64,xx", None, ROW["images"][0]], "texts": [None, "Text.", None]}
    found = read_all(_settings(tmp_path, row | {"metadata": "[null, null, null]"}), "interleaved")
    assert [(d.reason, d.unit) for d in found.drops] == [("bad_url", "element")]
    assert _order(found.documents[0]) == ["Text.", ROW["images"][0]]


@pytest.mark.parametrize("is_compact", [False, True])
def test_omnicorpus_has_structs_whose_list_may_be_compact(tmp_path, read_all, is_compact):
    info = {"width": 800, "height": 600, "aesthetic_prob": 0.4, "unsafe_prob": None}
    row = {
        "general_metadata": {"url": PAGE["url"], "id": "ab12", "fluency_prob": 0.97, "porn_prob": 0.0},
        "images": [None, "https://site.example/1.jpg"],
        "texts": ["Opening text.", None],
        "metadata": [info] if is_compact else [None, info],
    }
    found = read_all(_settings(tmp_path, row, format="omnicorpus"), "interleaved")
    assert found.documents[0].source.record == "ab12"
    assert found.scores() == {
        "document fluency_prob": 0.97,
        "document porn_prob": 0.0,
        "media:0 aesthetic_prob": 0.4,
        "media:0 unsafe_prob": None,
        "media:0 upstream_width": 800.0,
        "media:0 upstream_height": 600.0,
    }


def test_a_file_without_the_columns_is_refused(tmp_path, read_all):
    with pytest.raises(UserError, match="lacks the columns texts, metadata"):
        read_all(_settings(tmp_path, {"images": ["x"], "general_metadata": "{}"}), "interleaved")
