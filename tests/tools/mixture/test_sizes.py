"""Tests of the sizes of sources, and of the epochs that weights make of them."""

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.tools.mixture.conftest import done, mistake
from tests.trainer.small_corpus import NUM_SAMPLES, WEIGHTS


def test_text_tokens_and_images_are_those_of_the_sidecars(corpus, found):
    record = found("sizes", "--corpus", corpus, "--image-tokens", "4")
    assert record["schema"] == "dromaius-mixture-sizes/1"
    for source in record["sources"]:
        files = Path(corpus, "tokens", "bpe-300", source["name"], "train").glob("*.parquet")
        rows = [row for path in files for row in pq.read_table(path).to_pylist()]
        assert source["samples"] == len(rows) == NUM_SAMPLES
        assert source["text_tokens"] == {"bpe-300": sum(row["num_tokens"] for row in rows)}
        assert source["images"] == sum(row["num_media"] for row in rows)
        assert source["tokens"] == source["text_tokens"]["bpe-300"] + 4 * source["images"]


def test_with_a_config_they_are_those_of_the_run(corpus, found, write_config):
    record = found("sizes", "--corpus", corpus, "--config", write_config())
    estimated = found("sizes", "--corpus", corpus, "--image-tokens", "4")
    assert [s["images"] for s in record["sources"]] == [s["images"] for s in estimated["sources"]]
    for exact, estimate in zip(record["sources"], estimated["sources"], strict=True):
        special = exact["tokens"] - estimate["tokens"]
        assert special > 0
        assert special <= 4 * (exact["samples"] + exact["images"]) or exact["kind"] == "grounded", "boxes are tokens"
    assert sum(source["share"] for source in record["sources"]) == pytest.approx(1)


def test_epochs_follow_from_weights_and_budget(corpus, found):
    arguments = ("sizes", "--corpus", corpus, "--budget", "10k", "--weights", "pairs=0.25,texts=0.75")
    by_name = {source["name"]: source for source in found(*arguments)["sources"]}
    assert by_name["pairs"]["epochs"] * by_name["pairs"]["tokens"] == pytest.approx(2_500)
    assert by_name["texts"]["epochs"] * by_name["texts"]["tokens"] == pytest.approx(7_500)
    assert by_name["videos"]["epochs"] == 0
    by_samples = {source["name"]: source for source in found(*arguments, "--unit", "samples")["sources"]}
    assert by_samples["texts"]["epochs"] == pytest.approx(3 * by_samples["pairs"]["epochs"])


def test_all_tokenizers_are_shown(corpus, found, tmp_path):
    copy = tmp_path / "corpus"
    shutil.copytree(corpus, copy)
    shutil.copytree(copy / "tokens" / "bpe-300", copy / "tokens" / "other")
    text = (copy / "tokens" / "other" / "tokens.json").read_text()
    (copy / "tokens" / "other" / "tokens.json").write_text(text.replace('"bpe-300"', '"other"'))
    record = found("sizes", "--corpus", str(copy))
    assert record["tokenizers"] == ["bpe-300", "other"]
    assert all(set(source["text_tokens"]) == {"bpe-300", "other"} for source in record["sources"])
    assert "text other" in done("sizes", "--corpus", str(copy), "--tokens", "other")
    assert "choose one" in mistake("solve", "--corpus", str(copy), "--budget", "1k")


def test_what_cannot_be_used_is_told_in_one_line(corpus, tmp_path, write_config):
    assert "no finished corpus here" in mistake("sizes", "--corpus", str(tmp_path))
    assert "no source 'nobody'" in mistake("sizes", "--corpus", corpus, "--weights", "nobody=1", "--budget", "1k")
    assert "sum to 2, not to 1" in mistake("sizes", "--corpus", corpus, "--weights", "pairs=2", "--budget", "1k")
    assert "must be of the form" in mistake("sizes", "--corpus", corpus, "--weights", "pairs")
    assert "has two numbers" in mistake("sizes", "--corpus", corpus, "--weights", "pairs=0.5,pairs=0.5")
    assert "is not a number of tokens" in mistake("sizes", "--corpus", corpus, "--budget", "much")
    assert "give --weights" in mistake("sizes", "--corpus", corpus, "--budget", "1k")
    assert "--config" in mistake("sizes", "--corpus", corpus, "--weights", "pairs=1")
    assert "give --config too" in mistake("sizes", "--corpus", corpus, "--set", "pretrain.steps=3")
    streams = write_config(**{"data.streams": {name: ["x.tar"] for name in WEIGHTS}})
    assert "size of streams is not known" in mistake("sizes", "--corpus", corpus, "--config", streams)


def test_a_corpus_without_tokens_or_with_stale_ones_is_told(corpus, tmp_path):
    copy = tmp_path / "corpus"
    shutil.copytree(corpus, copy)
    shard = next((copy / "tokens" / "bpe-300" / "pairs" / "train").glob("*.parquet"))
    shard.write_bytes(shard.read_bytes()[:-50])
    assert "cannot be read" in mistake("sizes", "--corpus", str(copy))
    shard.unlink()
    assert "missing, but its shard is in the manifest" in mistake("sizes", "--corpus", str(copy))
    shutil.rmtree(copy / "tokens")
    assert "tokenize" in mistake("sizes", "--corpus", str(copy))
