"""Batches of parquet rows take bounded memory whatever their cells share."""

import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.sources import parquet_batches
from pipelines.sources.files import Part
from pipelines.sources.parquet_batches import read_batches
from pipelines.sources.tables import read_parquet
from pipelines.sources.where import Condition

LONG = "a long text " * 1000  # 12 kB
NESTED = pa.struct([("texts", pa.list_(pa.string())), ("of", pa.map_(pa.string(), pa.string()))])


def sizes(path: Path, columns: list[str] | None = None) -> list[int]:
    with open(path, "rb") as handle:
        file = pq.ParquetFile(handle)
        return [len(batch) for batch in read_batches(file, handle, 0, columns, 256)]


@pytest.fixture(autouse=True)
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_batches, "MAX_BATCH_BYTES", 10 * len(LONG))


def write(path: Path, table: pa.Table) -> Path:
    pq.write_table(table, path, store_schema=False)
    return path


def test_rows_that_share_a_long_text_come_few_at_a_time(tmp_path: Path):
    table = pa.table({"text": [LONG if i % 2 else "short" for i in range(600)], "number": range(600)})
    path = write(tmp_path / "a.parquet", table)
    assert path.stat().st_size < 4 * len(LONG)  # the text stands in it once
    assert set(sizes(path)) == {10}
    assert sizes(path, ["number"]) == [256, 256, 88]
    rows = [row for _, row in read_parquet(Part(str(path), "a.parquet"))]
    assert rows == table.to_pylist()


def test_a_text_that_lists_repeat_counts_as_often_as_a_row_has_it(tmp_path: Path):
    values = [{"texts": [LONG] * 4, "of": [("key", "value")]} for _ in range(40)]
    path = write(tmp_path / "a.parquet", pa.table({"nested": pa.array(values, NESTED)}))
    assert max(sizes(path)) == 1
    assert sum(sizes(path)) == 40


@pytest.mark.parametrize("use_dictionary", [True, False])
def test_short_cells_and_long_ones_that_differ_come_in_whole_batches(tmp_path: Path, use_dictionary: bool):
    table = pa.table({"text": [f"text {i}" for i in range(300)], "none": pa.nulls(300, pa.string())})
    pq.write_table(table, tmp_path / "a.parquet", use_dictionary=use_dictionary)
    assert sizes(tmp_path / "a.parquet") == [256, 44]
    pq.write_table(table.slice(0, 0), tmp_path / "b.parquet", use_dictionary=use_dictionary)
    assert sizes(tmp_path / "b.parquet") == []


def test_a_condition_on_a_column_reads_it_in_batches_too(tmp_path: Path):
    table = pa.table({"text": [LONG if i % 2 else "short" for i in range(2000)]})
    path = write(tmp_path / "a.parquet", table)
    where = {"text": Condition.model_validate({"in": ["short"]})}
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    rows = iter(read_parquet(Part(str(path), "a.parquet"), where=where))
    assert next(rows)[1] == {"text": "short"}
    assert pa.default_memory_pool().max_memory() - before < 1000 * len(LONG)
    assert tracemalloc.get_traced_memory()[1] < 100 * len(LONG)
    tracemalloc.stop()
    assert sum(isinstance(row, dict) for _, row in rows) == 999
