"""Connected components: those of a union-find for any graph, most of them without a single worker."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.pvalue import TaggedOutput
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import given
from hypothesis import strategies as st

from pipelines.decisions import components
from pipelines.decisions.components import (
    NUM_CONTRACTIONS,
    ConnectedComponents,
    both_ends,
    large_star,
    rays,
    small_star,
    take_star,
)
from pipelines.decisions.duplicates import Edge, connected_components
from pipelines.running.shuffle import ShuffleFiles

Rows = list[tuple[str, Any]]


def each_group(rows: Rows, step: Callable[[tuple[str, Iterable[Any]]], Iterator[Any]]) -> list[Any]:
    groups: dict[str, list[Any]] = {}
    for key, value in rows:
        groups.setdefault(key, []).append(value)
    return [found for group in groups.items() for found in step(group)]


def ends(edges: list[Edge]) -> Rows:
    return [end for edge in edges for end in both_ends(edge)]


def contracted(edges: list[Edge], num_turns: int) -> tuple[Rows, list[Edge]]:
    """The ids in stars with their roots, and the edges of all others."""
    for _ in range(num_turns):
        edges = each_group(each_group(ends(edges), large_star), small_star)
    found = each_group(each_group(ends(edges), rays), take_star)
    stars = [row for row in found if not isinstance(row, TaggedOutput)]
    return stars, [row.value for row in found if isinstance(row, TaggedOutput)]


ids = st.integers(0, 40).map("{:02d}".format)
edge_lists = st.lists(st.tuples(ids, ids).filter(lambda edge: edge[0] != edge[1]), max_size=60)


def union_find(edges: list[Edge]) -> dict[str, str]:
    root: dict[str, str] = {}

    def find(node: str) -> str:
        while root.setdefault(node, node) != node:
            node = root[node]
        return node

    for first, second in edges:
        low, high = sorted((find(first), find(second)))
        root[high] = low
    return {node: find(node) for node in sorted(root)}


@given(edges=edge_lists, num_turns=st.integers(0, 4))
def test_stars_and_the_rest_are_the_components_of_a_union_find(edges: list[Edge], num_turns: int):
    stars, left = contracted(edges, num_turns)
    rest = list(connected_components(left))
    assert not {node for node, _ in stars} & {node for node, _ in rest}
    found = sorted([*stars, *rest])
    assert found == list(union_find(edges).items()) == list(connected_components(edges))


def test_clusters_as_bands_link_them_leave_nothing_to_one_worker():
    names = [f"{n:04d}" for n in range(600)]
    clusters = [names[at : at + 30] for at in range(0, 600, 30)]
    bands = [sorted(cluster[at::step]) for cluster in clusters for step in (1, 2, 3) for at in range(step)]
    edges = [(first, other) for first, *others in bands for other in others]
    stars, left = contracted(edges, NUM_CONTRACTIONS)
    assert len(stars) == 600
    assert not left


def test_a_long_chain_is_shortened_and_left_to_one_worker():
    names = [f"{n * 7919 % 1000:04d}" for n in range(1000)]
    chain = list(itertools.pairwise(names))
    stars, left = contracted(chain, NUM_CONTRACTIONS)
    assert not stars
    assert dict(connected_components(left)) == dict.fromkeys(names, "0000")


EDGES = [[("c", "b"), ("x", "y")], [("b", "a"), *((f"l{n + 1:02d}", f"l{n:02d}") for n in range(20))]]


@pytest.mark.parametrize("num_contractions", [None, 1, NUM_CONTRACTIONS])
def test_components_name_the_smallest_id(num_contractions: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    files = ShuffleFiles(str(tmp_path)) if num_contractions is None else None
    monkeypatch.setattr(components, "NUM_CONTRACTIONS", num_contractions)
    expected = [("a", "a"), ("b", "a"), ("c", "a"), ("x", "x"), ("y", "x"), *((f"l{n:02d}", "l00") for n in range(21))]
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        some, more = pipeline | "Some" >> beam.Create(EDGES[0]), pipeline | "More" >> beam.Create(EDGES[1])
        assert_that((some, more) | ConnectedComponents(files), equal_to(expected))
