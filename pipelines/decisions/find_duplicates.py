"""Duplicates across all workers: Beam transforms that shuffle only small rows, never text or images."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypedDict

import apache_beam as beam

from pipelines.decisions.duplicates import (
    ClusterMember,
    Duplicate,
    DuplicateSettings,
    Edge,
    Fingerprint,
    Member,
    band_rows,
    choose_kept,
    connected_components,
    link_band,
    read_band_key,
)
from pipelines.running.record_coder import shuffle_by_fields
from pipelines.running.shuffle import CoGroupByKey, GroupByKey, ShuffleFiles, WriteRows, read_written

shuffle_by_fields(Member, ClusterMember)


class _JoinedRecord(TypedDict):
    """The priority of a record; if it has duplicates, its strictest rule and the smallest id of its cluster."""

    priority: list[float]
    rule: list[int]
    root: list[str]


class FindDuplicates(beam.PTransform):
    """Find the `Duplicate`s, members of clusters, among `Fingerprint`s; a record without duplicates gives none.

    The result depends neither on the order of the input nor on the workers.
    """

    def __init__(self, settings: Mapping[str, DuplicateSettings], files: ShuffleFiles | None = None) -> None:
        super().__init__()
        self._settings, self._files = dict(settings), files

    def expand(self, fingerprints: beam.PCollection) -> beam.PCollection:
        edges = (
            fingerprints
            | "CutIntoBands" >> beam.FlatMap(_band_rows, self._settings).with_output_types(tuple[bytes, Member])
            | "MeetInBands" >> GroupByKey(self._files)
            | "LinkInBands" >> beam.FlatMap(_link_band, self._settings).with_output_types(tuple[Edge, int])
            | "SameEdges" >> GroupByKey(self._files)
            | "EachEdgeOnce" >> beam.MapTuple(_strictest).with_output_types(tuple[Edge, int])
        )
        rules = (
            edges
            | "EndsOfEdges" >> beam.FlatMap(_ends).with_output_types(tuple[str, int])
            | "RulesOfEach" >> GroupByKey(self._files)
            | "StrictestRule" >> beam.MapTuple(_strictest).with_output_types(tuple[str, int])
        )
        priorities = fingerprints | "Priorities" >> beam.Map(_priority).with_output_types(tuple[str, float])
        roots = edges | "Edges" >> beam.Keys() | "FindClusters" >> ConnectedComponents(self._files)
        return (
            {"priority": priorities, "rule": rules, "root": roots}
            | "JoinRecords" >> CoGroupByKey(self._files)
            | "ByCluster" >> beam.FlatMap(_member).with_output_types(tuple[str, ClusterMember])
            | "GroupClusters" >> GroupByKey(self._files)
            | "ChooseKept" >> beam.FlatMapTuple(choose_kept).with_output_types(Duplicate)
        )


class ConnectedComponents(beam.PTransform):
    """Return (id, smallest id of its component) for every id in edges (id, id) of one or several collections.

    One worker loads all edges.
    """

    def __init__(self, files: ShuffleFiles | None = None) -> None:
        super().__init__()
        self._files = files

    def expand(self, edges: Any) -> beam.PCollection:
        sides = edges if isinstance(edges, tuple) else (edges,)
        if self._files is None:
            gathered = sides | "AllEdges" >> beam.Flatten() | "OneGroup" >> beam.Map(lambda edge: (0, edge))
        else:  # the group is of files, of which the edges are read one after another
            written = tuple(side | f"Write{i}" >> WriteRows(self._files) for i, side in enumerate(sides))
            gathered = written | "AllEdges" >> beam.Flatten() | "OneGroup" >> beam.Map(lambda run: (0, run))
        read = read_written if self._files is not None else None
        return (
            gathered
            | "Gather" >> beam.GroupByKey()
            | "Connect" >> beam.FlatMap(_connect, read).with_output_types(tuple[str, str])
        )


def _band_rows(fingerprint: Fingerprint, settings: dict[str, DuplicateSettings]) -> Iterator[tuple[bytes, Member]]:
    return band_rows(fingerprint, settings[fingerprint.scope])


def _link_band(
    grouped: tuple[bytes, Iterable[Member]], settings: dict[str, DuplicateSettings]
) -> Iterator[tuple[Edge, int]]:
    key, members = grouped
    rule, scope = read_band_key(key)
    for edge in link_band(key, members, settings[scope]):
        yield edge, rule


def _strictest(key: Any, rules: Iterable[int]) -> tuple[Any, int]:
    return key, min(rules)


def _ends(row: tuple[Edge, int]) -> Iterator[tuple[str, int]]:
    (first, second), rule = row
    yield first, rule
    yield second, rule


def _priority(fingerprint: Fingerprint) -> tuple[str, float]:
    return fingerprint.id, float(fingerprint.priority)


def _connect(
    grouped: tuple[int, Iterable[Any]], read: Callable[[Any], Iterable[Edge]] | None
) -> Iterator[tuple[str, str]]:
    edges = grouped[1] if read is None else itertools.chain.from_iterable(map(read, grouped[1]))
    yield from connected_components(edges)


def _member(joined: tuple[str, _JoinedRecord]) -> Iterator[tuple[str, ClusterMember]]:
    identifier, sides = joined
    if len(sides["priority"]) != 1:
        raise ValueError(f"record {identifier} has {len(sides['priority'])} fingerprints; ids must be unique")
    for root in sides["root"]:
        yield root, ClusterMember(identifier, sides["priority"][0], sides["rule"][0])
