"""Tests of Croissant: mlcroissant finds no fault in it, and loads the samples by it."""

import fnmatch
import itertools
import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from pipelines.shards.manifest import hash_file
from tests.tools.card.conftest import HOSTILE, write_answers
from tools.card.answers import Answers, load_answers
from tools.card.croissant import render_croissant
from tools.card.facts import Fact, Facts

KINDS = ("interleaved", "pair", "grounded", "video", "text")

mlcroissant = pytest.importorskip("mlcroissant")


pytestmark = pytest.mark.filterwarnings("ignore:ConjunctiveGraph is deprecated")


@pytest.fixture(scope="module")
def loaded(corpus, facts, tmp_path_factory):
    """The corpus with its croissant.json, as mlcroissant reads it; and the JSON."""
    folder = Path(shutil.copytree(corpus, tmp_path_factory.mktemp("croissant") / "corpus"))
    write_answers(folder / "answers.yaml")
    text = render_croissant(facts, load_answers(str(folder / "answers.yaml"))[0])
    (folder / "croissant.json").write_text(text)
    return mlcroissant.Dataset(jsonld=str(folder / "croissant.json")), json.loads(text)


def missing_properties(record):
    """Return the properties that Croissant 1.1 requires and a record lacks; mlcroissant does not say all of them."""
    required = ("name", "description", "license", "url", "creator", "datePublished", "distribution")
    return [name for name in required if not record.get(name)]


def test_the_tars_are_listed_once(loaded):
    sets = {item["@id"]: item for item in loaded[1]["distribution"] if item["@type"] == "cr:FileSet"}
    assert {name for name, item in sets.items() if "containedIn" not in item} == {"sidecars", "tars"}
    assert all(item.get("containedIn", [{"@id": "tars"}]) == [{"@id": "tars"}] for item in sets.values())
    assert sets["tars"]["includes"] == sorted(f"{k}s/{s}/*.tar" for k in KINDS for s in ("train", "val"))


def test_tars_that_the_manifest_does_not_name_are_in_no_set(corpus, facts, tmp_path):
    folder = Path(shutil.copytree(corpus, tmp_path / "corpus"))
    tar = next((folder / "pairs/train").glob("*.tar"))
    others = ("pairs/train/other [1].tar", "texts/train/below/other.tar", "videos/train/other.parquet")
    for other in others:
        (folder / other).parent.mkdir(exist_ok=True)
        shutil.copy(tar, folder / other)
    there = Facts(str(folder), facts.manifest, {name: Fact(facts[name], facts.origin(name)) for name in facts})
    record = json.loads(render_croissant(there, Answers()))
    for name, suffix in (("tars", ".tar"), ("sidecars", ".parquet")):
        (patterns,) = (item["includes"] for item in record["distribution"] if item["@id"] == name)
        files = [path.relative_to(folder).as_posix() for path in folder.rglob(f"*{suffix}")]
        fitting = {path for path in files if any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)}
        assert fitting == {shard.path if name == "tars" else shard.sidecar for shard in facts.manifest.shards}
        assert {f"pairs/val/*{suffix}", f"groundeds/train/*{suffix}"} < set(patterns)


def test_there_is_no_fault_and_no_warning(loaded):
    dataset, record = loaded
    assert not dataset.metadata.ctx.issues.errors
    assert not dataset.metadata.ctx.issues.warnings
    assert missing_properties(record) == []
    assert record["conformsTo"] == ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"]
    assert record["@context"]["containedIn"] == "cr:containedIn"


def test_records_load_from_the_sidecars_with_their_splits(loaded):
    records = list(itertools.islice(loaded[0].records("samples"), 100))
    assert len(records) == 45
    assert Counter(record["samples/split"] for record in records) == {b"train": 35, b"val": 10}
    assert {record["samples/kind"] for record in records} == {b"interleaved", b"pair", b"grounded", b"video", b"text"}
    first = min(records, key=lambda record: record["samples/key"])
    assert first["samples/domain"] == b"example.org"
    assert first["samples/allowed"]


def test_every_file_has_its_hash_and_size(loaded, corpus):
    files = [item for item in loaded[1]["distribution"] if item["@type"] == "cr:FileObject"]
    assert len(files) == 30
    for file in files:
        path = Path(corpus, file["contentUrl"])
        assert file["sha256"] == hash_file(str(path))
        assert file["contentSize"] == f"{path.stat().st_size} B"


def test_provenance_and_responsible_properties(loaded):
    record = loaded[1]
    assert record["prov:wasDerivedFrom"] == [{"@type": "prov:Entity", "name": "crawl sites"}]
    assert record["prov:wasAttributedTo"]["name"] == "The answer about creator."
    assert record["prov:wasGeneratedBy"]["description"] == "dromaius test"
    assert record["rai:dataCollectionType"] == ["Web Scraping"]
    assert record["rai:annotationsPerItem"].startswith("18 boxes")
    assert record["rai:dataUseCases"] == [
        "The answer about intended_use.",
        "Not suitable: The answer about unsuitable_use.",
    ]
    assert loaded[0].metadata.data_collection.startswith("Web pages were crawled (60 were found)")


def test_what_is_not_answered_is_left_out(facts):
    record = json.loads(render_croissant(facts, Answers()))
    assert missing_properties(record) == ["license", "url", "creator", "datePublished"]
    assert "null" not in json.dumps({k: v for k, v in record.items() if k != "@context"})


def test_hostile_names_stay_texts(hostile_facts):
    text = render_croissant(hostile_facts, Answers())
    assert not set("<>&") & set(text)
    assert json.loads(text)["name"] == HOSTILE[0]
