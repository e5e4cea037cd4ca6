"""Duplicates across all workers: Beam transforms that shuffle only small rows, never text or images."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, TypedDict

import apache_beam as beam
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.windowed_value import WindowedValue

from pipelines.decisions.components import ConnectedComponents
from pipelines.decisions.duplicates import (
    ClusterMember,
    Duplicate,
    DuplicateSettings,
    Edge,
    Fingerprint,
    Member,
    band_rows,
    choose_kept,
    link_band,
    read_band_key,
)
from pipelines.running.record_coder import shuffle_by_fields
from pipelines.running.shuffle import CoGroupByKey, GroupByKey, ShuffleFiles

shuffle_by_fields(ClusterMember)

MEMBERS_AT_ONCE = 1 << 16
"""Members of bands that a worker holds to find equal ones: 20 MB."""


_Row = tuple[bytes, tuple[str, bytes]]
"""The key of a band and the fields of a `Member`: a text has 15 of them, and a plain tuple is written fastest."""


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
        cut = fingerprints | "CutIntoBands" >> beam.ParDo(_CutIntoBands(self._settings)).with_outputs(
            "equal", main="members"
        )
        linked = (
            cut.members
            | "MeetInBands" >> GroupByKey(self._files, least=2)
            | "LinkInBands" >> beam.FlatMap(_link_band, self._settings).with_output_types(tuple[Edge, int])
        )
        edges = (
            (linked, cut.equal)
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


class _CutIntoBands(beam.DoFn):
    """Yield (key of a band, member), of equal members of a bundle only the first, and the edges to the others.

    So no band has more equal members than there are bundles, however often a text or an image occurs.
    """

    def __init__(self, settings: Mapping[str, DuplicateSettings]) -> None:
        self._settings = settings

    def start_bundle(self) -> None:
        self._first: dict[tuple[bytes, bytes], str] = {}

    def process(self, fingerprint: Fingerprint) -> Iterator[_Row | TaggedOutput[Literal["equal"], tuple[Edge, int]]]:
        for key, member in band_rows(fingerprint, self._settings[fingerprint.scope]):
            first = self._first.setdefault((key, member.sketch), member.id)
            if first != member.id:
                self._first[key, member.sketch] = min(first, member.id)
                yield TaggedOutput("equal", ((min(first, member.id), max(first, member.id)), read_band_key(key)[0]))
        if len(self._first) >= MEMBERS_AT_ONCE:
            yield from self._flush()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        yield from map(GlobalWindows.windowed_value, self._flush())

    def _flush(self) -> Iterator[_Row]:
        yield from ((key, (first, sketch)) for (key, sketch), first in self._first.items())
        self._first = {}


def _link_band(
    grouped: tuple[bytes, Iterable[tuple[str, bytes]]], settings: dict[str, DuplicateSettings]
) -> Iterator[tuple[Edge, int]]:
    key, members = grouped
    rule, scope = read_band_key(key)
    for edge in link_band(key, map(Member._make, members), settings[scope]):
        yield edge, rule


def _strictest(key: Any, rules: Iterable[int]) -> tuple[Any, int]:
    return key, min(rules)


def _ends(row: tuple[Edge, int]) -> Iterator[tuple[str, int]]:
    (first, second), rule = row
    yield first, rule
    yield second, rule


def _priority(fingerprint: Fingerprint) -> tuple[str, float]:
    return fingerprint.id, float(fingerprint.priority)


def _member(joined: tuple[str, _JoinedRecord]) -> Iterator[tuple[str, ClusterMember]]:
    identifier, sides = joined
    if len(sides["priority"]) != 1:
        raise ValueError(f"record {identifier} has {len(sides['priority'])} fingerprints; ids must be unique")
    for root in sides["root"]:
        yield root, ClusterMember(identifier, sides["priority"][0], sides["rule"][0])
