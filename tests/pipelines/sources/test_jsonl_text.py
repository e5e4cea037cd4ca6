import gzip
import json

import pytest
import zstandard

from pipelines.errors import UserError
from pipelines.sources import jsonl_text
from pipelines.sources.jsonl_text import PILE_EXCLUDED, JsonlTextSettings

PILE = [
    {"text": "A web page.", "meta": {"pile_set_name": "Pile-CC"}},
    {"text": "A novel.", "meta": {"pile_set_name": "Books3"}},
    {"text": "Who is it?"},
]


def _settings(tmp_path, data, name, **more):
    (tmp_path / name).write_bytes(data)
    return JsonlTextSettings(files=[str(tmp_path / name)], **more)


def _lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def test_the_pile_needs_a_decision_on_its_components(tmp_path, read_all):
    data = zstandard.compress(_lines(*PILE))
    with pytest.raises(UserError, match="Books3"):
        read_all(_settings(tmp_path, data, "00.jsonl.zst"), "text")


def test_books3_is_left_out_by_default_and_the_component_kept_in_the_record(tmp_path, read_all):
    data = zstandard.compress(_lines(PILE[0])) + zstandard.compress(_lines(*PILE[1:]))
    found = read_all(_settings(tmp_path, data, "00.jsonl.zst", exclude_components="default"), "text")
    assert found.texts == ["A web page."]
    assert found.documents[0].source.record == "Pile-CC:0"
    assert found.reasons == ["excluded_component", "unknown_component"]
    assert "Books3" in PILE_EXCLUDED
    everything = read_all(_settings(tmp_path, data, "00.jsonl.zst", exclude_components=[]), "text")
    assert len(everything.documents) == 3


def test_plain_and_compressed_lines_give_the_same_keys(tmp_path, read_all):
    data = _lines({"text": "One.", "id": 9007199254740993, "url": "https://a.example/1"}, {"text": "Two."})
    plain = read_all(_settings(tmp_path, data, "x.jsonl", part_bytes=8), "text")
    assert [d.source.record for d in plain.documents] == ["9007199254740993", str(data.index(b"\n") + 1)]
    assert plain.documents[0].source.page_url == "https://a.example/1"
    (tmp_path / "gz").mkdir()
    packed = read_all(_settings(tmp_path / "gz", gzip.compress(data), "x.jsonl"), "text")
    assert [d.key for d in packed.documents] == [d.key for d in plain.documents]


def test_rows_without_text_are_drops(tmp_path, read_all):
    data = _lines({"text": ""}, {"text": None}, {"body": "x"}) + b"{\n"
    found = read_all(_settings(tmp_path, data, "x.jsonl"), "text")
    assert found.reasons == ["missing_text"] * 3 + ["malformed_row"]
    assert read_all(_settings(tmp_path, data, "x.jsonl", text_field="body"), "text").texts == ["x"]


def test_a_text_file_is_one_document_or_one_a_line(tmp_path, read_all):
    data = b"\xef\xbb\xbfFirst line.\r\n\r\nSecond line.\n"
    assert read_all(_settings(tmp_path, data, "x.txt"), "text").texts == ["First line.\n\nSecond line."]
    found = read_all(_settings(tmp_path, data, "x.txt", txt_documents="line"), "text")
    assert found.texts == ["First line.", "Second line."]
    assert read_all(_settings(tmp_path, b"caf\xe9", "x.txt"), "text").texts == ["café"]
    assert read_all(_settings(tmp_path, "été à".encode() + b" \xe9 ", "x.txt"), "text").texts == ["été à \ufffd"]
    russian = "У озера стоит старый дом, и видна лодка."
    for encoding in ("cp1251", "koi8-r", "utf-16", "utf-16-le"):
        assert read_all(_settings(tmp_path, russian.encode(encoding), "x.txt"), "text").texts == [russian]


def test_a_text_over_the_limit_is_a_drop_and_not_cut(tmp_path, read_all, monkeypatch):
    monkeypatch.setattr(jsonl_text, "MAX_TEXT_BYTES", 20)
    assert read_all(_settings(tmp_path, b"x" * 21, "x.txt"), "text").reasons == ["record_too_long"]
    found = read_all(_settings(tmp_path, _lines({"text": "x" * 21}, {"text": "y"}), "x.jsonl"), "text")
    assert (found.reasons, found.texts) == (["record_too_long"], ["y"])


def test_a_truncated_file_gives_what_was_read(tmp_path, read_all):
    data = zstandard.compress(_lines({"text": "One."})) + zstandard.compress(_lines({"text": "Two."}))[:-4]
    found = read_all(_settings(tmp_path, data, "x.jsonl.zst"), "text")
    assert (found.texts, found.reasons) == (["One."], ["truncated_file"])


def test_other_files_are_refused(tmp_path, read_all):
    with pytest.raises(UserError, match="should end in"):
        read_all(_settings(tmp_path, b"x", "x.pdf"), "text")
    with pytest.raises(UserError, match="not a JSON Lines file"):
        read_all(_settings(tmp_path, b"plain words", "x.jsonl"), "text")
