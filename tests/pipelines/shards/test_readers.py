"""Tests that webdataset, datasets, wids and Megatron-Energon read every kind of shard."""

import json
import shutil
import sqlite3
import warnings
from dataclasses import replace

import datasets
import numpy as np
import pytest
import torch
import webdataset
import wids
import yaml
from braceexpand import braceexpand
from megatron.energon import Cooker, DefaultTaskEncoder, WorkerConfig, get_loader, get_val_dataset
from megatron.energon.flavors.webdataset.prepare import WebdatasetPreparator

from pipelines.document import KINDS, Document
from pipelines.shards.reader_indexes import write_reader_indexes
from pipelines.shards.readme import feature_list, features, part_names
from tests.pipelines.corpus_builder import NUM_SAMPLES, build, sample

NUM_TRAIN = NUM_SAMPLES["train"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("readers") / "corpus"
    return folder, build(str(folder), KINDS)


def samples(kind):
    return [sample(kind, n) for n in range(NUM_TRAIN)]


# --- webdataset -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_webdataset_gives_every_part_byte_for_byte(corpus, kind):
    urls = [str(corpus[0] / s.path) for s in corpus[1].shards_of(f"{kind}s", "train")]
    read = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert [r["__key__"] for r in read] == [s.key for s in samples(kind)]
    for record, expected in zip(read, samples(kind), strict=True):
        assert {k: v for k, v in record.items() if not k.startswith("__")} == dict(expected.parts)


def test_webdataset_decodes_the_images_that_the_json_names(corpus):
    urls = [str(corpus[0] / s.path) for s in corpus[1].shards_of("interleaveds", "train")]
    for record in webdataset.WebDataset(urls, shardshuffle=False).decode("pil"):
        for media in record["json"]["media"]:
            assert record[media["part"]].size == (media["width"], media["height"])


# --- wids -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_wids_reads_any_sample_by_number(corpus, kind, tmp_path):
    index = str(corpus[0] / f"{kind}s" / "wids-train.json")
    dataset = wids.ShardListDataset(index, cache_dir=str(tmp_path), transformations=[])
    assert len(dataset) == NUM_TRAIN
    for number in (6, 0, 3):  # 6 is in the second shard
        record = dataset[number]
        expected = sample(kind, number)
        assert record["__key__"] == expected.key
        assert {k[1:]: v.read() for k, v in record.items() if k.startswith(".")} == dict(expected.parts)
    dataset.close()


# --- Hugging Face datasets ------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_datasets_loads_a_source_by_the_readme_alone(corpus, kind, tmp_path):
    found = datasets.load_dataset(str(corpus[0]), f"{kind}s", cache_dir=str(tmp_path))
    assert {split: len(rows) for split, rows in found.items()} == NUM_SAMPLES
    for row, expected in zip(found["train"], samples(kind), strict=True):
        record = json.loads(dict(expected.parts)["json"])
        assert row["__key__"] == expected.key
        assert row["json"] == record
        parts = {n: v for n, v in row.items() if n not in ("json", "__key__", "__url__") and v is not None}
        assert set(parts) == {name for name, _ in expected.parts if name != "json"}
        for media in record["media"]:
            assert parts[media["part"]].size == (media["width"], media["height"])


def test_datasets_takes_the_features_in_the_call(corpus, tmp_path):
    shards = corpus[1].shards_of("interleaveds", "train")
    explicit = features("interleaved", part_names(str(corpus[0]), shards))
    files = [str(corpus[0] / s.path) for s in shards]
    rows = datasets.load_dataset(
        "webdataset", data_files=files, features=explicit, split="train", cache_dir=str(tmp_path)
    )
    assert [row["002.png"] is not None for row in rows] == [n % 3 == 2 for n in range(NUM_TRAIN)]


def test_datasets_fails_without_features_where_numbers_of_images_differ(corpus, tmp_path):
    files = [str(corpus[0] / s.path) for s in corpus[1].shards_of("interleaveds", "train")]
    with pytest.raises(ValueError, match="don't share the same prefix or the same types"):
        datasets.load_dataset("webdataset", data_files=files, cache_dir=str(tmp_path))


@pytest.mark.parametrize("kind", KINDS)
def test_card_and_call_spell_the_same_features(kind):
    parts = ["json", "jpg", "000.webp", "txt"]
    assert features(kind, parts) == datasets.Features._from_yaml_list(feature_list(kind, parts))


def test_faces_are_a_column_where_they_were_searched():
    columns = [feature_list("pair", ["json", "jpg"], has_faces=has_faces) for has_faces in (False, True)]
    media = [datasets.Features._from_yaml_list(found)["json"]["media"].feature for found in columns]
    box = datasets.List(datasets.Value("float64"))
    assert media[1] == media[0] | {"faces": datasets.List({"box": box, "score": datasets.Value("float64")})}


# --- Megatron-Energon -----------------------------------------------------------------------------------------------


def energon_samples(folder, cookers=(), split="train"):
    class Encoder(DefaultTaskEncoder):
        pass

    Encoder.cookers = [Cooker(c) for c in cookers]
    workers = WorkerConfig(rank=0, world_size=1, num_workers=0)
    dataset = get_val_dataset(folder, split_part=split, worker_config=workers, batch_size=None, task_encoder=Encoder())
    with warnings.catch_warnings():  # torch's, on a machine without an accelerator
        warnings.filterwarnings("ignore", "'pin_memory' argument is set as true but no accelerator")
        return list(get_loader(dataset))


def shipped_cookers(folder):
    """Import the cookers file next to the data, as a user would."""
    names = {}
    exec((folder / ".nv-meta" / "cookers.py").read_text(), names)
    return names


@pytest.mark.slow
def test_energon_reads_pairs_as_captioning_samples(corpus):
    read = energon_samples(corpus[0] / "pairs")
    assert [r.__key__ for r in read] == [s.key for s in samples("pair")]
    assert [r.caption for r in read] == [dict(s.parts)["txt"].decode() for s in samples("pair")]
    assert all(r.image.shape == (3, 24, 32) for r in read)


@pytest.mark.slow
def test_energon_reads_all_segments_of_a_text(corpus):
    read = energon_samples(corpus[0] / "texts")
    assert [r.text for r in read] == [s.document.text for s in samples("text")]


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["interleaved", *(pytest.param(kind, marks=pytest.mark.nightly) for kind in ("video", "grounded"))]
)
@pytest.mark.nightly
def test_energon_reads_crude_kinds_with_the_shipped_cooker(corpus, kind):
    folder = corpus[0] / f"{kind}s"
    read = energon_samples(folder, [shipped_cookers(folder)["cook_interleaved"]])
    for record, expected in zip(read, samples(kind), strict=True):
        segments = expected.document.segments
        assert record.__key__ == expected.key
        assert [x if isinstance(x, str) else None for x in record.sequence] == [s.text for s in segments]
        assert all(x.shape == (3, 24, 32) for x in record.sequence if isinstance(x, torch.Tensor))


@pytest.mark.nightly
def test_energon_reads_the_other_split(corpus):
    assert len(energon_samples(corpus[0] / "pairs", split="val")) == NUM_SAMPLES["val"]


@pytest.mark.nightly
@pytest.mark.slow
def test_energon_leaves_out_an_excluded_sample(corpus, tmp_path):
    folder, manifest = corpus
    shutil.copytree(folder, tmp_path / "c")
    key = sample("pair", 2).key
    write_reader_indexes(str(tmp_path / "c"), manifest, exclude=[f"pairs/train/pairs-000000.tar/{key}"])
    read = energon_samples(tmp_path / "c" / "pairs")
    assert [r.__key__ for r in read] == [s.key for n, s in enumerate(samples("pair")) if n != 2]


@pytest.mark.parametrize("kind", KINDS)
def test_energons_own_prepare_gives_the_same_index(corpus, kind, tmp_path):
    source = f"{kind}s"
    shutil.copytree(corpus[0] / source, tmp_path / source)
    shutil.rmtree(tmp_path / source / ".nv-meta")
    paths = [s.path.removeprefix(f"{source}/") for s in corpus[1].shards_of(source)]
    offsets = {}
    for path in paths:
        index = tmp_path / source / f"{path}.idx"
        offsets[path] = index.read_bytes()
        index.unlink()
    WebdatasetPreparator.prepare_dataset(
        tmp_path / source, paths, split_parts_patterns=[(s, f"{s}/.*") for s in ("train", "val", "test")], workers=1
    )
    theirs, ours = tmp_path / source / ".nv-meta", corpus[0] / source / ".nv-meta"
    for table in ("samples", "sample_parts"):
        assert rows(ours, table) == rows(theirs, table) != []
    assert objects(ours) == objects(theirs)
    assert {path: (tmp_path / source / f"{path}.idx").read_bytes() for path in paths} == offsets
    assert json.loads((ours / ".info.json").read_text()) == json.loads((theirs / ".info.json").read_text())
    assert expanded_splits(ours) == expanded_splits(theirs)


def rows(meta, table):
    with sqlite3.connect(f"file:{meta / 'index.sqlite'}?mode=ro", uri=True) as database:
        return sorted(database.execute(f"SELECT * FROM {table}"))


def objects(meta):
    """Return tables and indexes with their columns."""
    with sqlite3.connect(f"file:{meta / 'index.sqlite'}?mode=ro", uri=True) as database:
        names = database.execute("SELECT type, name FROM sqlite_master ORDER BY name").fetchall()
        columns = {n: database.execute(f"PRAGMA {k}_info({n})").fetchall() for k, n in names}
    return names, columns


def expanded_splits(meta):
    parts = yaml.safe_load((meta / "split.yaml").read_text())["split_parts"]
    return {split: [path for name in names for path in braceexpand(name)] for split, names in parts.items()}


# --- the record -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_json_reads_back_as_the_document(kind):
    for item in samples(kind):
        assert Document.from_json(dict(item.parts)["json"]) == item.document


def test_the_index_is_what_energon_calls_one(corpus):
    path = corpus[0] / corpus[1].shards[0].path
    offsets = np.fromfile(f"{path}.idx", "<u8")
    assert offsets[0] == 0
    assert len(offsets) == corpus[1].shards[0].samples + 1


def test_the_code_in_the_readme_runs(tmp_path, monkeypatch):
    build(str(tmp_path / "corpus"), ("pair", "text"))
    (tmp_path / "wids").mkdir()
    monkeypatch.chdir(tmp_path / "corpus")
    monkeypatch.setenv("WIDS_CACHE", str(tmp_path / "wids"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf"))
    text = (tmp_path / "corpus" / "README.md").read_text()
    code = text.partition("```python\n")[2].partition("```")[0]
    assert "load_dataset" in code
    exec(compile(code, "README.md", "exec"), {})


def test_the_index_of_a_split_that_is_gone_is_removed(corpus, tmp_path):
    folder, manifest = corpus
    shutil.copytree(folder, tmp_path / "c")
    train_only = replace(manifest, shards=tuple(s for s in manifest.shards if s.split == "train"))
    write_reader_indexes(str(tmp_path / "c"), train_only)
    assert sorted(p.name for p in (tmp_path / "c" / "pairs").glob("wids-*")) == ["wids-train.json"]


def test_equal_corpora_have_equal_files(corpus, tmp_path):
    build(str(tmp_path), KINDS)
    ours = {p.relative_to(tmp_path): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    theirs = {p.relative_to(corpus[0]): p.read_bytes() for p in corpus[0].rglob("*") if p.is_file()}
    theirs = {p: data for p, data in theirs.items() if not p.name.endswith(".lock")}  # of Hugging Face datasets
    assert ours == theirs
