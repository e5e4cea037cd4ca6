"""Tests of sorted copies: what they find, and that they follow their files through growth, cuts and damage."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import storage
from pipelines.errors import UserError
from tools.queries.sorted_copy import CopySettings, SortedCopy, copy_folder

SCHEMA = pa.schema([("key", pa.string()), ("step", pa.int64())])
SETTINGS = CopySettings(("key", "step"), "SELECT key, step FROM files", SCHEMA)


def key(step: int) -> str:
    return f"k{step * 7919 % 101:03d}"


def write(base: Path, first: int, last: int) -> None:
    steps = list(range(first, last))
    table = pa.table(
        {"key": map(key, steps), "step": steps, "other": steps}, schema=SCHEMA.append(pa.field("other", "int64"))
    )
    (base / "files").mkdir(parents=True, exist_ok=True)
    pq.write_table(table, base / "files" / f"{first:04d}-{last:04d}.parquet")


def copy_of(base: Path, segment_bytes: int = 1) -> SortedCopy:
    stamps = storage.list_stamps(str(base / "files"), ".parquet")
    copy = SortedCopy(str(base / "copy"), SETTINGS, stamps, str(base), segment_bytes)
    assert found(copy, "none") == []  # it is up to date from then on
    return copy


def found(copy: SortedCopy, *keys: str) -> list[int]:
    return sorted(step for table in copy.find(keys) for step in table.column("step").to_pylist())


def segments(base: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in sorted((base / "copy").iterdir())}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    for first in range(0, 1000, 250):
        write(tmp_path, first, first + 250)
    return tmp_path


@pytest.mark.parametrize("segment_bytes", [1, 8000, 1 << 30])
def test_all_rows_of_the_values_are_found_whatever_the_segments(base, segment_bytes):
    copy = copy_of(base, segment_bytes)
    for keys in (("k000",), ("k003", "k100", "k050"), ("none",), ()):
        assert found(copy, *keys) == [step for step in range(1000) if key(step) in keys]


def test_values_of_one_hash_are_told_apart(base, monkeypatch):
    monkeypatch.setattr("tools.queries.sorted_copy._HASH_OF", "length")
    assert found(copy_of(base), "k003", "k100") == [s for s in range(1000) if key(s) in ("k003", "k100")]


def test_tables_are_of_bounded_size(base, monkeypatch):
    monkeypatch.setattr("tools.queries.sorted_copy._ROWS_AT_ONCE", 10)
    tables = list(copy_of(base, 1 << 30).find([key(step) for step in range(60)]))
    assert len(tables) > 50
    assert max(map(len, tables)) == 10


def test_added_files_leave_full_segments_as_they_are(base):
    before = (found(copy_of(base), "k007"), segments(base))
    write(base, 1000, 1250)
    assert found(copy_of(base), "k007") == [s for s in range(1250) if key(s) == "k007"]
    assert segments(base).items() > before[1].items()


def test_what_is_cut_away_and_written_anew_is_followed(base):
    copy_of(base)
    before = segments(base)
    (base / "files" / "0750-1000.parquet").unlink()
    (base / "files" / "0500-0750.parquet").unlink()
    write(base, 500, 600)
    assert found(copy_of(base), "k007") == [s for s in range(600) if key(s) == "k007"]
    assert len(segments(base)) == 3
    assert len(segments(base).items() & before.items()) == 2


def test_a_moved_folder_keeps_its_copy(base, tmp_path):
    copy_of(base)
    before = segments(base)
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("files", "copy"):
        (base / name).rename(moved / name)
    assert found(copy_of(moved), "k007") == [s for s in range(1000) if key(s) == "k007"]
    assert segments(moved) == before


@pytest.mark.parametrize("damage", ["cut", "empty", "gone"])
def test_a_damaged_segment_is_made_again(base, damage):
    copy = copy_of(base)
    path = sorted((base / "copy").iterdir())[1]
    whole = path.read_bytes()
    damaged = {"cut": whole[: len(whole) // 3], "empty": b""}
    path.unlink()
    if damage != "gone":
        path.write_bytes(damaged[damage])
    assert found(copy, *map(key, range(60))) == [s for s in range(1000) if key(s) in set(map(key, range(60)))]
    assert len(path.read_bytes()) == len(whole)


def test_a_segment_that_fails_half_way_is_not_there(base):
    (base / "files" / "0500-0750.parquet").write_bytes(b"PAR1 no table PAR1")
    with pytest.raises(UserError, match=r"0500-0750.parquet: not a whole Parquet file"):
        copy_of(base)
    assert len(segments(base)) == 2


def test_files_without_rows_give_a_copy_without_rows(tmp_path):
    write(tmp_path, 0, 0)
    assert found(copy_of(tmp_path), "k000") == []


def test_a_copy_lies_beside_what_it_is_of_or_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert copy_folder(str(tmp_path), "work", "lookup") == f"{tmp_path}/work/lookup"
    one, two = copy_folder("s3://a/run", "lookup"), copy_folder("s3://b/run", "lookup")
    assert one.startswith(str(tmp_path / "cache"))
    assert one != two
    assert one == copy_folder("s3://a/run/", "lookup")
    if os.geteuid():  # root may write anywhere
        assert copy_folder("/usr", "lookup").startswith(str(tmp_path / "cache"))
