from pathlib import Path

import pyarrow as pa

from pipelines import storage
from pipelines.document import Drop
from pipelines.drop_reasons import http_reason
from pipelines.parts import (
    DROP_SCHEMA,
    MIN_TABLED,
    Count,
    PartFolder,
    Tally,
    digest,
    read_rows,
    stable_hash,
    stage_inputs,
    sum_counts,
    write_table,
)


def finish(folder: PartFolder, part: str, inputs: str = "x"):
    tally = Tally("extract")
    tally.keep("pages", "document", 2)
    tally.drop(Drop(source="pages", stage="extract", reason="too_few_words", unit="document", key="a"))
    return folder.finish(part, inputs, tally, {})


def test_a_receipt_says_what_was_kept_and_dropped(tmp_path: Path):
    folder = PartFolder(str(tmp_path))
    finish(folder, "p0")
    finish(folder, "p1")
    assert sum_counts(folder.receipts()) == [Count("pages", "extract", "document", 4, {"too_few_words": 2})]
    assert [row["reason"] for path in folder.drops() for row in read_rows(path)] == ["too_few_words"] * 2


def test_a_finished_part_is_done_once_for_the_same_inputs(tmp_path: Path):
    folder, calls = PartFolder(str(tmp_path)), []
    for inputs in ("x", "x", "y"):
        folder.once("p0", inputs, lambda inputs=inputs: calls.append(inputs) or finish(folder, "p0", inputs))
    assert calls == ["x", "y"]


def test_parts_of_an_earlier_run_are_removed(tmp_path: Path):
    folder = PartFolder(str(tmp_path))
    finish(folder, "p0")
    finish(folder, "p1")
    folder.keep_only({"p1"})
    assert [receipt.part for receipt in folder.receipts()] == ["p1"]
    assert len(folder.drops()) == 1


def test_a_stage_is_finished_for_its_inputs_only(tmp_path: Path):
    folder = PartFolder(str(tmp_path))
    assert not folder.is_finished("x")
    folder.end("x")
    assert folder.is_finished("x")
    assert not folder.is_finished("y")
    folder.begin()
    assert not folder.is_finished("x")


def test_equal_rows_are_equal_bytes(tmp_path: Path):
    rows = [Drop(source="s", stage="fetch", reason=http_reason(404), unit="media", url="https://a.example/").row()] * 3
    paths = [str(tmp_path / name) for name in ("a", "b")]
    assert len({write_table(path, rows, DROP_SCHEMA) for path in paths}) == 1
    assert storage.read_bytes(paths[0]) == storage.read_bytes(paths[1])


def test_lone_surrogates_are_written_as_the_replacement_character(tmp_path: Path):
    schema = pa.schema([("a", pa.string()), ("b", pa.list_(pa.struct([("c", pa.string())])))])
    rows = [{"a": "x\ud800", "b": [{"c": "\udfff"}]}, {"a": None, "b": [{"c": "\ud83d\ude00"}]}]
    path = str(tmp_path / "a.parquet")
    write_table(path, rows, schema)
    assert list(read_rows(path)) == [{"a": "x\ufffd", "b": [{"c": "\ufffd"}]}, {"a": None, "b": [{"c": "\U0001f600"}]}]


def test_a_part_is_made_from_its_stages_code_and_from_what_it_depends_on():
    assert stage_inputs(1, "a", {"b": 2}) == stage_inputs(1, "a", {"b": 2})
    assert len({stage_inputs(1, "a"), stage_inputs(2, "a"), stage_inputs(1, "b")}) == 3


def test_hashes_do_not_change_between_versions():
    assert stable_hash("a") == 0xCA978112CA1BBDCA
    assert digest("a", 1) != digest("a1")


def test_receipts_are_read_from_one_table_once_a_stage_has_ended(tmp_path, monkeypatch):
    folder = PartFolder(str(tmp_path))
    for n in range(MIN_TABLED):
        folder.finish(f"p{n:03d}", "inputs", Tally("extract"), {}, num=n)
    (tmp_path / "account").mkdir()
    (tmp_path / "account" / "x.json").write_text("of another folder")
    before = folder.receipts()
    folder.end("all")
    folder.finish("p001", "other inputs", Tally("extract"), {})  # as by a takedown
    read: list[str] = []
    plain = storage.read_bytes
    monkeypatch.setattr(storage, "read_bytes", lambda path: (read.append(path), plain(path))[1])
    after = folder.receipts()
    assert [path for path in read if path.endswith(".json")] == [folder.file("p001", ".json")]
    assert [r.part for r in after] == [r.part for r in before]
    assert [r.inputs for r in after[:3]] == ["inputs", "other inputs", "inputs"]
    folder.keep_only({"p001"})
    assert [r.inputs for r in folder.receipts()] == ["other inputs"]
    folder.begin()
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["p001.json"]
