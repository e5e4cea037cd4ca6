import pyarrow.parquet as pq

from pipelines.document import Drop
from pipelines.shards.drops import write_drops


def drops(num):
    return [
        Drop(source="news", stage="fetch", reason="timeout", unit="media", url=f"https://a.example/{i}.jpg")
        for i in range(num)
    ]


def read(path):
    return pq.read_table(path).to_pylist()


def test_every_drop_is_a_row_in_order(tmp_path):
    (path,) = write_drops(str(tmp_path), "news", drops(3))
    assert path == f"{tmp_path}/drops/news-00000.parquet"
    assert read(path) == [d.row() for d in drops(3)]
    assert list(read(path)[0]) == [
        *("source", "stage", "reason", "unit", "key", "url", "page_url", "record", "excerpt", "detail")
    ]


def test_a_new_file_begins_after_so_many_rows(tmp_path):
    paths = write_drops(str(tmp_path), "news", iter(drops(5)), rows_per_file=2)
    assert [p.rpartition("/")[2] for p in paths] == [f"news-{i:05d}.parquet" for i in range(3)]
    assert [row for p in paths for row in read(p)] == [d.row() for d in drops(5)]


def test_files_of_an_earlier_build_are_removed_and_those_of_other_sources_stay(tmp_path):
    write_drops(str(tmp_path), "news", drops(5), rows_per_file=2)
    write_drops(str(tmp_path), "news-video", drops(1))
    assert len(write_drops(str(tmp_path), "news", drops(2), rows_per_file=2)) == 1
    assert sorted(p.name for p in tmp_path.rglob("*.parquet")) == ["news-00000.parquet", "news-video-00000.parquet"]
    assert write_drops(str(tmp_path), "news", []) == []
    assert sorted(p.name for p in tmp_path.rglob("*.parquet")) == ["news-video-00000.parquet"]


def test_equal_drops_are_equal_bytes(tmp_path):
    (first,) = write_drops(str(tmp_path / "a"), "news", drops(100))
    (second,) = write_drops(str(tmp_path / "b"), "news", drops(100))
    with open(first, "rb") as a, open(second, "rb") as b:
        assert a.read() == b.read()
