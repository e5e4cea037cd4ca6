"""Tests of the synthetic corpus of benchmarks: commands read it as they read a real one."""

import hashlib
from pathlib import Path

import pytest

from pipelines.shards.manifest import load_manifest
from pipelines.shards.sidecar import SCHEMA, read_sidecar
from pipelines.shards.tar_samples import read_sample
from tools.bench.synthetic_corpus import SAMPLES_IN_TAR, TOKENIZER, build_synthetic_corpus
from tools.card.facts import facts_from
from tools.card.samples import draw_samples
from tools.mixture.sizes import read_sizes
from tools.queries.tables import Tables


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("synthetic") / "corpus")
    build_synthetic_corpus(folder, 800, samples_per_shard=150)
    return folder


def test_every_row_has_a_key_of_its_own_and_bytes_that_can_be_read(corpus):
    keys = set()
    for shard in load_manifest(corpus).shards:
        rows = list(read_sidecar(f"{corpus}/{shard.sidecar}"))
        assert len(rows) == shard.samples
        assert list(rows[0]) == SCHEMA.names
        keys |= {row["key"] for row in rows}
        row = rows[-1]
        sample = read_sample(f"{corpus}/{shard.path}", row["byte_offset"], row["byte_offset"] + row["bytes"])
        assert list(sample.parts) == [part["name"] for part in row["parts"]]
        assert row["num_media"] == len(row["media"])
        assert {media["part"] for media in row["media"]} <= set(sample.parts)
    assert len(keys) == 800


def test_commands_read_it(corpus):
    with Tables() as tables:
        facts = facts_from(tables, corpus)
        samples = draw_samples(tables, corpus)
    assert facts["num_samples"] == facts["totals"]["samples"] == 800
    assert facts["num_drops"] == 160
    assert len({row["domain"] for row in facts["domains"]}) > SAMPLES_IN_TAR
    assert all(sample.blocks for sample in samples)
    assert sum(size.samples for size in read_sizes(corpus, TOKENIZER).sources) == 760


def test_equal_arguments_give_equal_bytes(corpus, tmp_path):
    build_synthetic_corpus(str(tmp_path), 800, samples_per_shard=150)

    def digests(folder):
        return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files(folder)}

    def files(folder):
        return [path for path in Path(folder).rglob("*") if path.is_file()]

    assert digests(tmp_path) == digests(corpus)
