import json

import pytest

from pipelines.shards.stats import collect_stats
from tests.pipelines.corpus_builder import build, sample, write_shard


@pytest.fixture(scope="module")
def stats(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("stats"))
    return collect_stats(folder, build(folder).shards)


def test_samples_are_counted_by_source_split_and_kind(stats):
    assert stats["totals"]["samples"] == 45
    assert stats["kinds"] == {"grounded": 9, "interleaved": 9, "pair": 9, "text": 9, "video": 9}
    assert {s: {p: c["samples"] for p, c in splits.items()} for s, splits in stats["sources"].items()} == {
        f"{kind}s": {"train": 7, "val": 2} for kind in ("interleaved", "pair", "grounded", "video", "text")
    }
    assert stats["sources"]["videos"]["val"]["num_media"] == 4
    assert stats["totals"]["num_regions"] == 18
    assert stats["totals"]["pii_hits"] == 0
    assert stats["allowed"] == {"true": 45}


def test_what_is_unknown_is_counted_as_unknown(stats):
    assert stats["languages"] == {"en": 45}
    assert stats["licenses"] == {"unknown": 45}
    assert stats["media_types"] == {"image/jpeg": 48, "image/png": 3, "image/webp": 3} | {
        "image/webp": 6,
        "image/jpeg": 45,
    }
    assert stats["media_shorter_side"] == {"under 64": 54}
    assert stats["domains"] == {"num_domains": 1, "num_samples_without": 0, "top": {"example.org": 45}}


def test_repeats_are_counted(tmp_path):
    """Two samples of one group, and an image that is in two samples."""
    shards = [
        write_shard(str(tmp_path), "pair", "train", 0, [sample("pair", 0), sample("pair", 1)]),
        write_shard(str(tmp_path), "grounded", "train", 0, [sample("grounded", 0)]),
    ]
    assert collect_stats(str(tmp_path), shards)["duplicates"] == {
        "num_repeated_images": 1,
        "num_dedup_groups": 2,
        "num_samples_sharing_a_group": 2,
    }


def test_equal_corpora_have_equal_statistics(stats, tmp_path):
    again = collect_stats(str(tmp_path), build(str(tmp_path)).shards)
    assert json.dumps(again) == json.dumps(stats)
    assert collect_stats(str(tmp_path), [])["totals"] == {}
