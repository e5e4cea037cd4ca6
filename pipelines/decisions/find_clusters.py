"""Clusters of embeddings across all workers: a Beam pipeline that groups a bounded sample of small rows."""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial

import apache_beam as beam
import numpy as np

from pipelines import storage
from pipelines.decisions.semantic import (
    Clusters,
    SemanticDuplicates,
    is_sampled,
    make_clusters,
    sample_position,
)
from pipelines.layout import clusters_path, documents_folder, features_folder
from pipelines.parts import read_rows, sum_counts
from pipelines.running.runner import Runner, run_pipeline
from pipelines.running.shuffle import GroupByKey, ShuffleFiles, shuffling

_Sampled = tuple[float, str, bytes]
"""Place in the order of the sample, key, and embedding."""


def find_clusters(settings: Mapping[str, SemanticDuplicates], out: str, runner: Runner) -> None:
    """Write the clusters of each source that asks for some, from the features of its images.

    Args:
        settings: By source.
        out: The corpus's folder.
        runner: How to run.
    """
    receipts = documents_folder(out).receipts()
    parts = [receipt.part for receipt in receipts]
    totals = {c.source: c.kept for c in sum_counts(receipts) if c.unit == "document" and c.source in settings}

    def build(pipeline: beam.Pipeline, files: ShuffleFiles | None) -> None:
        _ = (
            pipeline
            | "ListParts" >> beam.Create(parts)
            | "Spread" >> beam.Reshuffle()
            | "Sample" >> beam.FlatMap(_sampled, settings, totals, out)
            | "BySource" >> GroupByKey(files)
            | "MakeClusters" >> beam.Map(_write_clusters, settings, totals, out)
        )

    for name in settings:
        storage.remove(clusters_path(out, name))
    with shuffling(runner, out) as files:
        run_pipeline("filter: clusters", runner, partial(build, files=files))


def read_clusters(out: str, source: str) -> Clusters:
    """Return the clusters of a source that has images."""
    with storage.open_read(clusters_path(out, source)) as file, np.load(file) as arrays:
        return Clusters(arrays["centroids"], tuple(arrays["num_blocks"].tolist()))


def _sampled(
    part: str, settings: Mapping[str, SemanticDuplicates], totals: Mapping[str, int], out: str
) -> Iterator[tuple[str, _Sampled]]:
    """Yield (source, sampled embedding) of the documents of a part."""
    for row in read_rows(features_folder(out).file(part, ".parquet"), ["source", "key", "embedding"]):
        asked = settings.get(row["source"])
        if asked is not None and row["embedding"] and is_sampled(row["key"], totals[row["source"]], asked):
            yield row["source"], (sample_position(row["key"], asked), row["key"], row["embedding"])


def _write_clusters(
    grouped: tuple[str, Iterable[_Sampled]],
    settings: Mapping[str, SemanticDuplicates],
    totals: Mapping[str, int],
    out: str,
) -> str:
    source, rows = grouped[0], sorted(grouped[1])
    found = make_clusters([embedding for _, _, embedding in rows], totals[source], settings[source])
    with storage.write_whole(clusters_path(out, source)) as file:
        np.savez(file, centroids=found.centroids, num_blocks=np.array(found.num_blocks, np.int64))
    return source
