import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.errors import UserError
from pipelines.sources.curator import CuratorSettings

SCHEMA = pa.schema(
    [
        ("sample_id", pa.string()),
        ("position", pa.int32()),
        ("modality", pa.string()),
        ("content_type", pa.string()),
        ("text_content", pa.string()),
        ("binary_content", pa.large_binary()),
        ("source_ref", pa.string()),
        ("materialize_error", pa.string()),
        ("url", pa.string()),
    ]
)
"""The reserved columns of Curator's interleaved tables, and one of the user's."""

PAGE = "https://site.example/p/x"


def _image(colour):
    file = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(file, "PNG")
    return file.getvalue()


def _text(sample, position, text):
    return {"sample_id": sample, "position": position, "modality": "text", "text_content": text}


def _row(sample, position, **more):
    return {"sample_id": sample, "position": position, "modality": "image", "content_type": "image/png"} | more


def _ref(path, member=None):
    return json.dumps({"path": path, "member": member, "byte_offset": 0, "byte_size": 9, "frame_index": None})


def _settings(tmp_path, *rows, **more):
    path = tmp_path / "part.parquet"
    pq.write_table(pa.Table.from_pylist(list(rows), SCHEMA), path, **more)
    return CuratorSettings(files=[str(path)])


def _order(document):
    return [s.text if s.text else s.media for s in document.segments]


def test_the_rows_of_a_sample_are_a_document_in_the_order_of_their_positions(tmp_path, read_all):
    red, blue = _image("red"), _image("blue")
    rows = [
        {"sample_id": "a", "position": -1, "modality": "metadata", "url": PAGE},
        _text("a", 0, "One."),
        _row("a", 2, binary_content=blue),
        _row("a", 1, binary_content=red),
        _text("a", 3, "Two."),
        _row("b", 0, source_ref=_ref("https://cdn.example/b.png")),
        _text("b", 1, "Three."),
    ]
    found = read_all(_settings(tmp_path, *rows, row_group_size=3), "interleaved")
    assert [_order(d) for d in found.documents] == [["One.", 0, 1, "Two."], [0, "Three."]]
    first, second = found.candidates
    assert [dict(first.inline)[r.inline_sha256] for r in first.requests] == [red, blue]
    assert (first.document.source.record, first.document.source.page_url) == ("a", PAGE)
    assert second.requests[0].url == "https://cdn.example/b.png"
    assert found.drops == []


def test_an_image_that_is_not_in_the_table_is_an_element_lost(tmp_path, read_all):
    rows = [
        _text("a", 0, "One."),
        _row("a", 1, source_ref=_ref("/data/shard.tar", "a.tiff")),
        _row("a", 2, materialize_error="no such file"),
        _row("a", 3, binary_content=_image("red")),
        _row("b", 0, source_ref="[]"),
        _text("b", 1, "Two."),
        _row("c", 0, binary_content=_image("red")),
        _text("c", None, "Three."),
    ]
    found = read_all(_settings(tmp_path, *rows), "interleaved")
    assert [_order(d) for d in found.documents] == [["One.", 0]]
    assert [(d.unit, d.reason, d.detail) for d in found.drops] == [
        ("element", "missing_member", "no bytes, and no address on the web"),
        ("element", "missing_member", "no such file"),
        ("element", "missing_member", "no bytes, and no address on the web"),
        ("document", "missing_images", None),
        ("document", "malformed_row", "no sample_id or position"),
    ]


def test_another_table_is_refused_in_one_line(tmp_path, read_all):
    path = tmp_path / "part.parquet"
    pq.write_table(pa.Table.from_pylist([{"sample_id": "a"}]), path)
    with pytest.raises(UserError, match="lacks the columns position, modality, text_content"):
        read_all(CuratorSettings(files=[str(path)]), "interleaved")
