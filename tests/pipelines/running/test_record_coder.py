"""Records that cross a shuffle arrive as they were, in worker processes too, and cost about as much as plain tuples."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import apache_beam as beam
import pytest

from pipelines.running.record_coder import RecordCoder, shuffle_by_fields
from pipelines.running.runner import Runner, run_pipeline


class Found(NamedTuple):
    depth: int
    url: str
    reason: str | None = None

    @property
    def place(self) -> str:
        return f"{self.depth} {self.url}"


shuffle_by_fields(Found)

ROWS = [Found(2, "https://a.example/é"), Found(0, "https://a.example/", "too_deep")]


def read(number: int) -> Iterator[tuple[str, Found]]:
    yield "a", ROWS[number]


def write(grouped: tuple[str, Iterable[Found]], path: Path) -> None:
    path.write_text(json.dumps([[type(found).__name__, found.place, found] for found in sorted(grouped[1])]))


@pytest.mark.parametrize("num_workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_record_is_the_same_class_after_a_shuffle(num_workers: int, tmp_path: Path):
    path = tmp_path / "found.json"

    def build(pipeline: beam.Pipeline) -> None:
        pairs = pipeline | beam.Create([0, 1]) | beam.FlatMap(read)
        assert beam.coders.registry.get_coder(pairs.element_type).value_coder() == RecordCoder(Found)
        _ = pairs | beam.GroupByKey() | beam.Map(write, path)

    run_pipeline("test", Runner("local", num_workers), build)
    assert json.loads(path.read_text()) == [["Found", row.place, list(row)] for row in sorted(ROWS)]


def test_a_record_takes_the_bytes_of_its_fields():
    coder, plain = RecordCoder(Found), beam.coders.FastPrimitivesCoder()
    for row in ROWS:
        assert coder.encode(row) == plain.encode(tuple(row))
        assert len(coder.encode(row)) < len(plain.encode(row))  # a pickle of it
        assert coder.decode(coder.encode(row)) == row
