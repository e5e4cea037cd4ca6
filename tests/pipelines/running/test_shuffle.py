"""Grouping through files gives what Beam's own transforms give, in worker processes and with little memory too."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import apache_beam as beam
import pytest
from apache_beam.testing.util import assert_that, equal_to

from pipelines.running import shuffle
from pipelines.running.runner import Runner, run_pipeline
from pipelines.running.shuffle import CoGroupByKey, GroupByKey, ShuffleFiles, default_memory_bytes, shuffling


class Row(NamedTuple):
    number: int
    text: str = "é"


ROWS: list[tuple[Any, Row]] = [(f"key {n % 700}", Row(n)) for n in range(2_000)]
ROWS += [((n % 3, "x", b"y"), Row(n)) for n in range(50)] + [(n % 7, Row(n)) for n in range(50)]
NAMES = [(f"key {n}", n) for n in range(650, 800)]


def ordered(key: Any, values: Iterable[Any]) -> tuple[Any, list[Any]]:
    return key, sorted(values)


def joined(key: Any, sides: dict[str, Iterable[Any]]) -> tuple[Any, list[Any], list[Any]]:
    return key, sorted(sides["rows"]), sorted(sides["names"])


@pytest.mark.parametrize("memory_bytes", [1 << 30, 2_000])
def test_groups_are_those_of_beam(memory_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shuffle, "_ROWS_PER_FLUSH", 300)
    expected: dict[Any, list[Row]] = {}
    for key, row in ROWS:
        expected.setdefault(key, []).append(row)
    files = ShuffleFiles(str(tmp_path), memory_bytes)
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        first, second = pipeline | "A" >> beam.Create(ROWS[::2]), pipeline | "B" >> beam.Create(ROWS[1::2])
        found = (first, second) | GroupByKey(files) | beam.MapTuple(ordered)
        assert_that(found, equal_to([ordered(key, rows) for key, rows in expected.items()]))


@pytest.mark.parametrize("through_files", [True, False])
def test_joins_have_every_name_of_every_key(through_files: bool, tmp_path: Path):
    files = ShuffleFiles(str(tmp_path)) if through_files else None
    rows = [row for row in ROWS if isinstance(row[0], str)]
    keys = {key for key, _ in [*rows, *NAMES]}
    expected = [(k, sorted(v for key, v in rows if key == k), [n for key, n in NAMES if key == k]) for k in keys]
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        sides = {"rows": pipeline | "R" >> beam.Create(rows), "names": pipeline | "N" >> beam.Create(NAMES)}
        assert_that(sides | CoGroupByKey(files) | beam.MapTuple(joined), equal_to(expected))


def test_nothing_in_gives_nothing(tmp_path: Path):
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        assert_that(pipeline | beam.Create([]) | GroupByKey(ShuffleFiles(str(tmp_path))), equal_to([]))


def write(rows: list[Any], path: Path) -> None:
    path.write_text(json.dumps(sorted(rows)))


@pytest.mark.parametrize("num_workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_files_are_gone_after_the_pipeline(num_workers: int, tmp_path: Path):
    runner, path = Runner("local", num_workers), tmp_path / "found.json"
    (tmp_path / "work" / "shuffle-left").mkdir(parents=True)  # by a killed run
    with shuffling(runner, str(tmp_path)) as files:
        assert files is not None

        def build(pipeline: beam.Pipeline) -> None:
            rows = pipeline | beam.Create(NAMES) | beam.Reshuffle()
            lists = rows | GroupByKey(files) | beam.MapTuple(ordered) | beam.combiners.ToList()
            _ = lists | beam.Map(write, path)

        run_pipeline("test", runner, build)
    assert json.loads(path.read_text()) == sorted([key, [n]] for key, n in NAMES)
    assert list((tmp_path / "work").iterdir()) == []


def test_a_pass_holds_no_more_rows_than_the_memory_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shuffle, "NUM_PARTITIONS", 1)
    writer = shuffle._WriteRuns(str(tmp_path), 0)
    writer.start_bundle()
    for n in range(20_000):
        writer.process((n, "value"))
    ((_, run),) = (found.value for found in writer.finish_bundle())
    size = (tmp_path / Path(run.path).name).stat().st_size
    held: list[int] = []
    read = shuffle._read_run

    def counting(run: Any) -> Any:
        held.append(0)
        return read(run)

    monkeypatch.setattr(shuffle, "_read_run", counting)
    memory = size * shuffle.OBJECT_BYTES // 4
    found = [key for key, _ in shuffle._read_partition((0, [run]), None, memory)]
    assert sorted(found) == list(range(20_000))
    assert len(held) in (4, 5)


def test_keys_with_too_few_values_are_left_out(tmp_path: Path):
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        rows = pipeline | beam.Create([("alone", 1), ("shared", 2), ("shared", 3)])
        found = rows | GroupByKey(ShuffleFiles(str(tmp_path)), least=2) | beam.MapTuple(ordered)
        assert_that(found, equal_to([("shared", [2, 3])]))


def test_other_runners_group_by_themselves(tmp_path: Path):
    with shuffling(Runner("PortableRunner"), str(tmp_path)) as files:
        assert files is None


def test_memory_follows_the_machine_and_its_workers(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shuffle, "_available_bytes", lambda: 1 << 30)
    assert default_memory_bytes(1) == 128 << 20
    assert default_memory_bytes(4) == 32 << 20
    monkeypatch.setattr(shuffle, "_available_bytes", lambda: 1 << 40)
    assert default_memory_bytes(4) == shuffle.MAX_MEMORY_BYTES
