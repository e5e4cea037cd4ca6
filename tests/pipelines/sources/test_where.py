"""Tests of `where`: what a condition asks, in every form of a list alike, and what falls without being read."""

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from pipelines.errors import UserError
from pipelines.sources import tables
from pipelines.sources.delimited import PEEKED_ROWS
from pipelines.sources.grit import GritSettings
from pipelines.sources.jsonl_text import JsonlTextSettings
from pipelines.sources.mmc4 import Mmc4Settings
from pipelines.sources.obelics import ObelicsSettings
from pipelines.sources.tables import read_parquet, table_parts
from pipelines.sources.url_table import UrlTableSettings
from pipelines.sources.video_list import VideoListSettings
from pipelines.sources.where import Condition, partition_columns

U = "https://img.example/"
ROWS: list[dict[str, Any]] = [
    {"url": U + "0.jpg", "caption": "zero", "score": 0.2, "width": 800, "language": "en", "taken": "2020-05-01"},
    {"url": U + "1.jpg", "caption": "one", "score": 0.5, "width": 256, "language": "de", "taken": "2021-05-01"},
    {"url": U + "2.jpg", "caption": "two", "score": 0.9, "width": 100, "language": "en", "taken": "2022-05-01"},
    {"url": U + "3.jpg", "caption": "three", "score": None, "width": None, "language": None, "taken": None},
]
FORMS = ("parquet", "csv", "tsv", "jsonl", "json")


def write(path: Path, rows: list[dict[str, Any]], **options: Any) -> str:
    """Write rows as the name's ending says; csv writes null as an empty cell."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, **options)
    elif path.suffix in (".csv", ".tsv"):
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="," if path.suffix == ".csv" else "\t")
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text(json.dumps(rows) if path.suffix == ".json" else "".join(json.dumps(r) + "\n" for r in rows))
    return str(path)


def settings(*files: str, **where: Any) -> UrlTableSettings:
    return UrlTableSettings(files=list(files), where=where)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("where", "kept", "fell"),
    [
        ({"score": {"max": 0.5}}, "zero one", ["where_unmet", "where_unknown"]),
        ({"score": {"max": 0.5, "nulls": "keep"}}, "zero one three", ["where_unmet"]),
        ({"score": {"min": 0.5, "max": 0.5}}, "one", ["where_unmet", "where_unmet", "where_unknown"]),
        ({"WIDTH": {"min": 256}}, "zero one", ["where_unmet", "where_unknown"]),
        ({"width": {"equals": 256}}, "one", ["where_unmet", "where_unmet", "where_unknown"]),
        ({"language": {"in": ["en", "fr"]}}, "zero two", ["where_unmet", "where_unknown"]),
        ({"language": {"not_in": ["en"], "nulls": "keep"}}, "one three", ["where_unmet", "where_unmet"]),
        ({"language": {"not_null": True}}, "zero one two", ["where_unknown"]),
        ({"taken": {"min": "2021-01-01", "max": "2021-12-31"}}, "one", ["where_unmet"] * 2 + ["where_unknown"]),
        ({"score": {"max": 0.5}, "width": {"min": 500}}, "zero", ["where_unmet"] * 2 + ["where_unknown"]),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_every_form_of_a_list_has_the_same_rows_left(tmp_path, read_all, form, where, kept, fell):
    found = read_all(settings(write(tmp_path / f"list.{form}", ROWS), **where), "pair")
    assert (found.texts, found.reasons) == (kept.split(), fell)


@pytest.mark.parametrize("form", FORMS)
def test_a_drop_names_the_row_and_the_first_condition_that_fails(tmp_path, read_all, form):
    path = write(tmp_path / f"list.{form}", ROWS)
    found = read_all(settings(path, score={"max": 0.5}, width={"min": 500}), "pair")
    assert [d.detail for d in found.drops] == ["width (min: 500.0)", "score (max: 0.5)", "score (max: 0.5)"]
    assert {(d.unit, d.key, d.url, d.page_url, d.excerpt) for d in found.drops} == {
        ("document", None, None, None, None)
    }
    assert len({d.record for d in found.drops}) == 3
    assert all(d.record.startswith(f"list.{form} ") for d in found.drops)


def test_rows_that_stay_are_as_they_were(tmp_path, read_all):
    path = write(tmp_path / "list.parquet", ROWS, row_group_size=2)
    everything = {d.key: d for d in read_all(settings(path), "pair").documents}
    some = read_all(settings(path, language={"equals": "en"}), "pair").documents
    assert [d.text for d in some] == ["zero", "two"]
    assert all(everything[d.key] == d for d in some)


def test_an_unknown_column_is_one_line_with_the_nearest(tmp_path, read_all):
    path = write(tmp_path / "list.csv", ROWS)
    with pytest.raises(UserError, match=r"list\.csv: where\.langauge: no such column; did you mean 'language'\?"):
        read_all(settings(path, langauge={"equals": "en"}), "pair")
    with pytest.raises(UserError, match=r"where\.punsafe: no such column; the file has url, caption, score, width, "):
        read_all(settings(path, punsafe={"max": 0.5}), "pair")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "needs one of 'min', 'max', 'equals', 'in', 'not_in', 'matches' and 'not_null'"),
        ({"nulls": "keep"}, "needs one of"),
        ({"not_null": True, "nulls": "keep"}, "contradict each other"),
        ({"in": []}, "at least 1 item"),
        ({"minimum": 3}, "Extra inputs are not permitted"),
    ],
)
def test_a_condition_that_asks_nothing_is_refused(given, message):
    with pytest.raises(ValidationError, match=message):
        Condition.model_validate(given)


def test_settings_without_conditions_are_written_as_before_and_others_can_be_read_again():
    assert "where" not in settings("a.csv").model_dump(mode="json")
    given = settings("a.csv", lang={"in": ["en"]}, score={"max": 0.5, "nulls": "keep"})
    tree = given.model_dump(mode="json")
    assert tree["where"] == {"lang": {"in": ["en"], "nulls": "drop"}, "score": {"max": 0.5, "nulls": "keep"}}
    assert UrlTableSettings.model_validate(tree) == given


def test_what_cannot_be_judged_is_unknown_and_64_bit_ids_are_exact():
    at_most = Condition(max=0.5)
    assert [at_most.verdict(v) for v in (0.5, "0.5", 1, "x", "", float("nan"), True, [])] == [1, 1, 0, 2, 2, 2, 2, 2]
    for wanted in (9007199254740993, "9007199254740993"):
        is_it = Condition(equals=wanted)
        assert [is_it.verdict(v) for v in (9007199254740993, 9007199254740992, "9007199254740993")] == [1, 0, 1]
    assert [Condition(equals=True).verdict(v) for v in (True, False, "True", 1)] == [1, 0, 1, 0]


class Reads:
    """The columns of each read of a row group."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.columns: list[str] = []
        self.batches = 0
        batches = tables.read_batches

        def read_batches(file, handle, group, columns, max_rows):
            if columns is None:
                self.batches += 1
            else:
                self.columns += [f"{group}:{name}" for name in columns]
            return batches(file, handle, group, columns, max_rows)

        monkeypatch.setattr(tables, "read_batches", read_batches)


def test_of_a_row_group_without_rows_left_nothing_else_is_read(tmp_path, monkeypatch):
    rows = [{"url": f"{U}{n}.jpg", "caption": f"{n}", "width": 100 * (n // 10), "score": n / 40} for n in range(40)]
    given = settings(write(tmp_path / "list.parquet", rows, row_group_size=10), width={"min": 200}, score={"min": 0.9})
    reads = Reads(monkeypatch)
    (part,) = table_parts(given)
    found = list(read_parquet(part, where=given.where))
    assert [row["caption"] for _, row in found if isinstance(row, dict)] == ["36", "37", "38", "39"]
    assert [at for at, _ in found] == [f"{n // 10}/{n % 10}" for n in range(40)]
    assert reads.columns == ["2:score", "3:score"]  # statistics say that no width of the first two is enough
    assert reads.batches == 1


def test_folders_of_partitions_are_columns(tmp_path, read_all):
    assert partition_columns("s3://b/lang=en/day=2024-01-31/t=__HIVE_DEFAULT_PARTITION__/a%3D1=x/p.parquet") == {
        "lang": "en", "day": "2024-01-31", "t": None}  # fmt: skip
    bare = [{k: row[k] for k in ("url", "caption")} for row in ROWS[:2]]
    for form in ("parquet", "csv", "jsonl"):
        for lang in ("en", "de"):
            write(tmp_path / form / f"lang={lang}" / f"p.{form}", bare)
        found = read_all(settings(f"{tmp_path}/{form}/*/*.{form}", lang={"equals": "en"}), "pair")
        assert [(d.text, d.lang) for d in found.documents] == [("zero", "en"), ("one", "en")]
        assert found.reasons == ["where_unmet"] * 2
        assert [d.record.split()[0] for d in found.drops] == [f"lang=de/p.{form}"] * 2


def test_the_column_of_a_file_goes_before_that_of_its_folder(tmp_path, read_all):
    path = write(tmp_path / "language=fr" / "p.parquet", ROWS)
    assert read_all(settings(path, language={"equals": "en"}), "pair").texts == ["zero", "two"]


def test_images_of_mmc4_fall_on_their_own(tmp_path, read_all):
    infos = [
        {"raw_url": f"{U}{n}.jpg", "matched_text_index": n, "matched_sim": sim} for n, sim in enumerate((0.3, 0.1))
    ]
    page = {"url": "https://p.example/", "text_list": ["A.", "B."], "image_info": infos, "could_have_url_duplicate": 0}
    rows = [page, page | {"could_have_url_duplicate": 1}]
    where = {"matched_sim": {"min": 0.2}, "could_have_url_duplicate": {"equals": 0}}
    given = Mmc4Settings(files=[write(tmp_path / "docs.jsonl", rows)], where=where)
    found = read_all(given, "interleaved")
    assert [[m.url for m in d.media] for d in found.documents] == [[U + "0.jpg"]]
    assert [(d.unit, d.reason, d.detail) for d in found.drops] == [
        ("element", "where_unmet", "matched_sim (min: 0.2)"),
        ("document", "where_unmet", "could_have_url_duplicate (equals: 0)"),
    ]
    with pytest.raises(UserError, match="did you mean 'matched_sim'"):
        read_all(Mmc4Settings(files=given.files, where={"matched_simm": {"min": 0.2}}), "interleaved")


def test_a_dot_leads_into_objects(tmp_path, read_all):
    page = {"url": "https://p.example/", "fluency_prob": 0.9}
    rows = [
        {
            "images": [U, None],
            "texts": [None, "Text."],
            "metadata": [{"width": 1}, None],
            "general_metadata": page | more,
        }
        for more in ({}, {"fluency_prob": 0.1})
    ]
    where = {"general_metadata.fluency_prob": {"min": 0.5}}
    structs = ObelicsSettings(files=[write(tmp_path / "a.parquet", rows)], where=where)
    texts = [row | {"general_metadata": json.dumps(row["general_metadata"])} for row in rows]
    strings = ObelicsSettings(files=[write(tmp_path / "b.parquet", texts)], where=where)
    for given in (structs, strings):
        found = read_all(given, "interleaved")
        assert (len(found.documents), found.reasons) == (1, ["where_unmet"])
    pile = [{"text": f"{name}.", "meta": {"pile_set_name": name}} for name in ("Pile-CC", "Github")]
    given = {"exclude_components": [], "where": {"meta.pile_set_name": {"in": ["Pile-CC"]}}}
    files = [write(tmp_path / "pile.jsonl", pile)]
    assert read_all(JsonlTextSettings(files=files, **given), "text").texts == ["Pile-CC."]


def test_videos_grounded_pairs_and_texts_have_conditions_too(tmp_path, read_all):
    videos = [{"url": f"{U}{n}.mp4", "caption": f"{n}", "duration": n} for n in (5, 50)]
    given = VideoListSettings(files=[write(tmp_path / "v.csv", videos)], where={"duration": {"max": 30}})
    assert read_all(given, "video").texts == ["5"]
    boxes = [ROWS[n] | {"noun_chunks": [[0, 3, 0.0, 0.0, 1.0, 1.0, 0.9]]} for n in (0, 2)]
    grit = GritSettings(files=[write(tmp_path / "g.jsonl", boxes)], where={"width": {"min": 256}})
    assert read_all(grit, "grounded").texts == ["zero"]
    texts = [{"text": f"Text {n}.", "language_score": n} for n in (0.5, 0.9)]
    fine = JsonlTextSettings(files=[write(tmp_path / "t.parquet", texts)], where={"language_score": {"min": 0.65}})
    assert read_all(fine, "text").texts == ["Text 0.9."]
    (tmp_path / "a.txt").write_text("Text.")
    with pytest.raises(UserError, match=r"a\.txt: a text file has no columns"):
        read_all(JsonlTextSettings(files=[str(tmp_path / "a.txt")], where={"text": {"not_null": True}}), "text")
    (tmp_path / "raw.json").write_text('{"a": {"start": [], "end": [], "text": []}}')
    with pytest.raises(UserError, match=r"raw\.json: speech by video has no columns"):
        read_all(VideoListSettings(files=[str(tmp_path / "raw.json")], where={"a": {"not_null": True}}), "video")


def test_rows_after_a_head_that_cannot_be_read_are_judged(tmp_path, read_all):
    rows = "".join(json.dumps({"text": f"Text {n}.", "score": n}) + "\n" for n in (0.5, 0.9))
    (tmp_path / "t.jsonl").write_text("{broken\n" * PEEKED_ROWS + rows)
    given = JsonlTextSettings(files=[str(tmp_path / "t.jsonl")], where={"score": {"min": 0.65}})
    assert read_all(given, "text").texts == ["Text 0.9."]


def test_pages_of_mmc4_after_a_head_that_cannot_be_read_are_judged(tmp_path, read_all):
    page = {"url": "https://p.example/", "text_list": ["A."], "image_info": [{"raw_url": U, "matched_text_index": 0}]}
    rows = "".join(json.dumps(page | {"score": n}) + "\n" for n in (0.5, 0.9))
    (tmp_path / "docs.jsonl").write_text("{broken\n" * PEEKED_ROWS + rows)
    given = Mmc4Settings(files=[str(tmp_path / "docs.jsonl")], where={"score": {"min": 0.65}})
    assert len(read_all(given, "interleaved").documents) == 1
