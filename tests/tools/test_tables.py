"""Tests of SQL over Parquet files: names of any kind, other stores, and files that are not what they should be."""

import os
import signal
import threading

import duckdb
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.errors import RunError, UserError
from tests.pipelines.corpus_builder import build
from tools.queries.tables import Tables

TABLE = pa.table({"key": [f"k{n}" for n in range(1000)], "window": range(1000)})


def count(paths: list[str], columns: tuple[str, ...] = ("key", "window")) -> int:
    with Tables(threads=1) as tables:
        tables.add_files("found", paths, columns)
        return tables.value('SELECT count(*) FROM found WHERE "window" < ?', 500)


def test_signs_of_patterns_in_names_are_names(tmp_path):
    folder = tmp_path / "a[b]=*"
    folder.mkdir()
    pq.write_table(TABLE, folder / "c?.parquet")
    pq.write_table(TABLE, folder / "cd.parquet")
    assert count([str(folder / "c?.parquet")]) == 500


def test_results_larger_than_a_batch_come_whole_while_others_are_asked(tmp_path):
    pq.write_table(pa.concat_tables([TABLE] * 30), tmp_path / "a.parquet")
    with Tables() as tables:
        tables.add_files("found", [str(tmp_path / "a.parquet")], ["key"])
        rows = tables.rows("SELECT key FROM found ORDER BY key")
        num = sum(1 if number % 999 else tables.value("SELECT 1") for number, _ in enumerate(rows))
        assert num == 30_000
        assert next(tables.records("SELECT key FROM found ORDER BY key")) == {"key": "k0"}


def test_a_corpus_on_another_store_is_read_there(tmp_path):
    manifest = build(str(tmp_path / "corpus"), ("pair",))
    fsspec.filesystem("memory").put(str(tmp_path / "corpus"), "/answers", recursive=True)
    for corpus in (str(tmp_path / "corpus"), "memory://answers"):
        with Tables(threads=1) as tables:
            tables.add_sidecars("samples", corpus, manifest.shards, ["key", "num_media"])
            found = list(
                tables.rows("SELECT shard, split, count(*), min(num_media) FROM samples GROUP BY ALL ORDER BY 1")
            )
        shards = sorted((s.path, s.split, s.samples, 1) for s in manifest.shards)
        assert found == shards


@pytest.mark.parametrize("before", [[], ["whole.parquet"]])
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("none.parquet", "missing"),
        ("cut.parquet", "not a whole Parquet file"),
        ("text.parquet", "not a whole Parquet file"),
        ("lacking.parquet", "no column 'window'; it has 'key'"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_what_is_wrong(tmp_path, before, name, expected):
    pq.write_table(TABLE, tmp_path / "whole.parquet")
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "whole.parquet").read_bytes()[:-100])
    (tmp_path / "text.parquet").write_text("no table")
    pq.write_table(TABLE.drop_columns(["window"]), tmp_path / "lacking.parquet")
    with pytest.raises(UserError) as error:
        count([str(tmp_path / part) for part in [*before, name]])
    assert str(error.value).startswith(f"{tmp_path}/{name}: {expected}")
    assert "\n" not in str(error.value)


def test_an_error_that_comes_of_no_file_opens_none(tmp_path, monkeypatch):
    for number in range(3):
        pq.write_table(TABLE, tmp_path / f"{number}.parquet")
    opened = []
    monkeypatch.setattr("tools.queries.tables.check_parquet", lambda path, columns: opened.append(path))
    with Tables(threads=1) as tables:
        tables.add_files("found", [str(path) for path in sorted(tmp_path.iterdir())], ["key"])
        with pytest.raises(duckdb.ParserException):
            tables.value("SELEKT 1")
        with pytest.raises(duckdb.CatalogException):
            tables.value("SELECT 1 FROM none")
        with pytest.raises(RunError, match="out of memory"), tables._mistakes():
            raise duckdb.OutOfMemoryException("no more")
        with pytest.raises(UserError, match="no space left"), tables._mistakes():
            raise duckdb.IOException("could not write: No space left on device")
        with pytest.raises(UserError, match="stopped"), tables._mistakes():
            raise duckdb.InterruptException("Interrupted!")
        assert opened == []
        os.truncate(tmp_path / "1.parquet", 100)
        with pytest.raises(UserError, match="the files cannot be read"):
            tables.value("SELECT count(key) FROM found")
        assert opened == [str(tmp_path / "1.parquet")], "DuckDB names it"


@pytest.mark.parametrize("ask", ["run", "value"])
def test_ctrl_c_ends_a_query_as_it_ends_anything_else(ask):
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run in the background
    try:
        with Tables(threads=1) as tables:
            timer.start()
            with pytest.raises(KeyboardInterrupt):
                getattr(tables, ask)("SELECT sum(hash(range)) FROM range(100_000_000_000)")
    finally:
        signal.signal(signal.SIGINT, before)
