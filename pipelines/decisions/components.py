"""Connected components of graphs that are larger than a worker's memory.

On a cluster edges are contracted into stars first: each node is linked to the smallest of its neighbours, by turns from
above and from below (large-star and small-star, Kiveris et al. 2014, https://doi.org/10.1145/2670979.2670997). What has
become a star is a component; one worker takes what has not, as long chains. On one machine, which groups through files,
one worker takes all edges: that is faster, and what they take is in `docs/limits.md`.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, NamedTuple

import apache_beam as beam
from apache_beam.pvalue import TaggedOutput

from pipelines.decisions.duplicates import Edge, connected_components
from pipelines.running.record_coder import shuffle_by_fields
from pipelines.running.shuffle import ShuffleFiles, WriteRows, read_written

NUM_CONTRACTIONS = 3
"""Turns of both; duplicates are linked to the first of their band, so that most components are stars after two."""


class Ray(NamedTuple):
    """An end of an edge, seen from the smaller end, and whether that edge is its only one."""

    end: str
    is_leaf: bool


shuffle_by_fields(Ray)


class ConnectedComponents(beam.PTransform):
    """Return (id, smallest id of its component) for every id in edges (id, id) of one or several collections.

    The ends of an edge differ.

    Args:
        files: Where rows are written meanwhile, for one worker that reads them; None: the runner groups by itself.
    """

    def __init__(self, files: ShuffleFiles | None = None) -> None:
        super().__init__()
        self._files = files

    def expand(self, edges: Any) -> beam.PCollection:
        sides = edges if isinstance(edges, tuple) else (edges,)
        if self._files is not None:  # the one group is of files, of which the edges are read one after another
            written = tuple(side | f"Write{i}" >> WriteRows(self._files) for i, side in enumerate(sides))
            return _on_one_worker(written | "AllEdges" >> beam.Flatten(), read_written)
        left = sides | "AllEdges" >> beam.Flatten()
        for turn in range(NUM_CONTRACTIONS):
            left = left | f"Contract{turn}" >> _Contract()
        split = (
            left
            | "Ends" >> beam.FlatMap(both_ends).with_output_types(tuple[str, str])
            | "AtNodes" >> beam.GroupByKey()
            | "Rays" >> beam.FlatMap(rays).with_output_types(tuple[str, Ray])
            | "AtCentres" >> beam.GroupByKey()
            | "TakeStars" >> beam.FlatMap(take_star).with_outputs("left", main="stars")
        )
        return (split.stars, _on_one_worker(split.left, None)) | "AllComponents" >> beam.Flatten()


class _Contract(beam.PTransform):
    def expand(self, edges: beam.PCollection) -> beam.PCollection:
        return (
            edges
            | "Ends" >> beam.FlatMap(both_ends).with_output_types(tuple[str, str])
            | "AtNodes" >> beam.GroupByKey()
            | "LargeStar" >> beam.FlatMap(large_star).with_output_types(tuple[str, str])
            | "AtLargerEnds" >> beam.GroupByKey()
            | "SmallStar" >> beam.FlatMap(small_star).with_output_types(tuple[str, str])
        )


def _on_one_worker(edges: beam.PCollection, read: Callable[[Any], Iterable[Edge]] | None) -> beam.PCollection:
    return (
        edges
        | "OneGroup" >> beam.Map(lambda edge: (0, edge))
        | "Gather" >> beam.GroupByKey()
        | "Connect" >> beam.FlatMap(_connect, read).with_output_types(tuple[str, str])
    )


def _connect(
    grouped: tuple[int, Iterable[Any]], read: Callable[[Any], Iterable[Edge]] | None
) -> Iterator[tuple[str, str]]:
    edges = grouped[1] if read is None else itertools.chain.from_iterable(map(read, grouped[1]))
    yield from connected_components(edges)


# --- stars ----------------------------------------------------------------------------------------------------------


def both_ends(edge: Edge) -> Iterator[Edge]:
    """Yield (node, neighbour) for both nodes of an edge."""
    first, second = edge
    yield first, second
    yield second, first


def large_star(node: tuple[str, Iterable[str]]) -> Iterator[Edge]:
    """Yield (node, smaller node): the larger neighbours of a node, linked to the smallest among it and all of them."""
    name, neighbours = node[0], set(node[1])
    smallest = min(name, min(neighbours))
    yield from ((each, smallest) for each in neighbours if each > name)


def small_star(node: tuple[str, Iterable[str]]) -> Iterator[Edge]:
    """Yield (node, smaller node): a node and its neighbours, which are smaller, linked to the smallest of them."""
    name, smaller = node[0], set(node[1])
    smallest = min(smaller)
    yield name, smallest
    yield from ((each, smallest) for each in smaller if each != smallest)


def rays(node: tuple[str, Iterable[str]]) -> Iterator[tuple[str, Ray]]:
    """Yield (smaller neighbour, ray) for each edge to one, and of a node between others a ray to itself."""
    name, neighbours = node[0], set(node[1])
    smaller = [each for each in neighbours if each < name]
    is_leaf = len(neighbours) == 1
    yield from ((each, Ray(name, is_leaf)) for each in smaller)
    if smaller and not is_leaf:
        yield name, Ray(name, is_leaf=False)


def take_star(
    centre: tuple[str, Iterable[Ray]],
) -> Iterator[tuple[str, str] | TaggedOutput[Literal["left"], Edge]]:
    """Yield (id, root) of the nodes of a component that is a star, or the edges of what is not one."""
    name, ends = centre[0], set(centre[1])
    if all(ray.is_leaf for ray in ends):
        yield name, name
        yield from ((ray.end, name) for ray in ends)
        return
    yield from (TaggedOutput("left", (name, ray.end)) for ray in ends if ray.end != name)
