from functools import partial

import numpy as np
import pytest

from pipelines.shards.sidecar import read_sidecar
from tests.pipelines.corpus_builder import sample
from tests.trainer.small_corpus import build
from trainer.reading.corpus import TrainingCorpus
from trainer.tasks.single_images import num_images, sources_by_media


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> TrainingCorpus:
    return TrainingCorpus.open(build(tmp_path_factory.mktemp("corpus")))


@pytest.mark.parametrize("captioned", [False, True])
def test_every_image_that_is_allowed_is_a_window(corpus, captioned):
    for source in sources_by_media(corpus, f"images-{captioned}", partial(num_images, captioned=captioned)):
        expected = [
            (shard, row, number)
            for shard, path in enumerate(source.shards)
            for row, found in enumerate(read_sidecar(f"{corpus.folder}/{path.removesuffix('.tar')}.parquet"))
            for number in range(found["num_media"] if not captioned else source.kind in ("pair", "grounded"))
            if found["allowed"]
        ]
        windows = [
            (*source.locate(n), number)
            for n in range(source.num_samples)
            for number in range(source.first[n + 1] - source.first[n])
        ]
        assert windows == expected
        assert source.tokens.tolist() == source.images.tolist() == [1] * len(expected)
        assert not source.tokens.strides[0]
        assert not source.refused


def test_samples_that_are_not_allowed_are_told_by_their_keys(tmp_path):
    folder = build(tmp_path, ("pair",))
    corpus = TrainingCorpus.open(folder)
    refused = {sample("pair", 3).key, sample("pair", 21).key}
    _forbid(folder, corpus, refused)
    (source,) = sources_by_media(corpus, "images", partial(num_images, captioned=True))
    assert {key for key, reason in source.refused if reason == "not_allowed"} == refused
    keys = {corpus.reader(source.shards[s]).key(row) for s, row in map(source.locate, range(source.num_samples))}
    assert keys == {sample("pair", n).key for n in range(30)} - refused
    assert np.array_equal(source.totals(np.arange(source.num_samples)), np.ones(28))


def _forbid(folder: str, corpus: TrainingCorpus, keys: set[str]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for shard in corpus.manifest.shards_of("pairs", "train"):
        table = pq.read_table(f"{folder}/{shard.sidecar}")
        allowed = pa.array([key not in keys for key in table.column("key").to_pylist()])
        table = table.set_column(table.schema.get_field_index("allowed"), "allowed", allowed)
        pq.write_table(table, f"{folder}/{shard.sidecar}", row_group_size=4096)
