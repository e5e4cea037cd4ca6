import hashlib
import json
import os
import shutil
from dataclasses import replace

import pytest

from pipelines.errors import UserError
from pipelines.shards.manifest import (
    InputFile,
    Manifest,
    load_manifest,
    sort_shards,
    verify,
    write_manifest,
)
from tests.pipelines.corpus_builder import build


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("manifest") / "corpus"
    return folder, build(str(folder), ("pair", "text"))


@pytest.fixture
def corpus(built, tmp_path):
    shutil.copytree(built[0], tmp_path / "corpus")
    return tmp_path / "corpus"


def test_the_file_has_the_keys_of_the_contract(built):
    folder, manifest = built
    record = json.loads((folder / "manifest.json").read_text())
    assert list(record) == [
        *(
            "schema",
            "name",
            "version",
            "spec_sha256",
            "fingerprint",
            "sources",
            "shards",
            "funnel",
            "tools",
            "code",
            "inputs",
        )
    ]
    assert record["schema"] == "dromaius-manifest/1"
    assert record["sources"][0] == {"name": "pairs", "kind": "pair", "splits": ["train", "val"]}
    assert list(record["shards"][0]) == ["path", "source", "kind", "split", "sha256", "bytes", "samples"]
    assert record["funnel"][0] == {
        "source": "pairs",
        "stage": "shard",
        "unit": "sample",
        "in": 9,
        "kept": 9,
        "dropped": {},
    }
    lines = "".join(f"{s['path']} {s['sha256']}\n" for s in record["shards"])
    assert record["fingerprint"] == hashlib.sha256(lines.encode()).hexdigest() == manifest.fingerprint


def test_a_manifest_reads_back_as_it_was(built):
    folder, manifest = built
    assert load_manifest(str(folder)) == manifest
    assert Manifest.from_json(manifest.to_json()).to_json() == manifest.to_json()
    files = (InputFile("list", "a.csv", 3, "ab"), InputFile("web", "b.warc.gz", 9, None, "etag"))
    full = replace(manifest, code={"version": "0.1.0", "commit": "c0ffee"}, inputs=files)
    assert Manifest.from_json(full.to_json()) == full
    record = json.loads(manifest.to_json())
    del record["code"], record["inputs"]  # of a build before they were named
    assert Manifest.from_json(json.dumps(record)) == manifest


def test_shards_stand_by_source_split_and_number(built):
    shards = built[1].shards
    assert sort_shards(reversed(shards), ["pairs", "texts"]) == shards
    assert [s.path for s in shards[:3]] == [
        "pairs/train/pairs-000000.tar",
        "pairs/train/pairs-000001.tar",
        "pairs/val/pairs-000000.tar",
    ]
    assert built[1].shards_of("pairs", "val") == shards[2:3]
    assert built[1].num_samples == 18


def test_totals_are_those_of_the_shards_of_each_split(built):
    manifest = built[1]
    totals = manifest.totals()
    assert totals.keys() == {(source.name, split) for source in manifest.sources for split in source.splits}
    for (source, split), found in totals.items():
        shards = manifest.shards_of(source, split)
        assert found == (len(shards), sum(s.samples for s in shards), sum(s.bytes for s in shards))


# --- loading --------------------------------------------------------------------------------------------------------


def test_a_folder_without_a_manifest_says_what_makes_one(tmp_path):
    with pytest.raises(UserError, match=r"manifest.json: missing.*python -m pipelines index --corpus"):
        load_manifest(str(tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: "{", "Expecting property name"),
        (lambda record: "[]", "its schema is None"),
        (lambda record: json.dumps(record | {"schema": "dromaius-manifest/2"}), "its schema is 'dromaius-manifest/2'"),
        (lambda record: json.dumps({k: v for k, v in record.items() if k != "funnel"}), "a key is missing.*'funnel'"),
        (lambda record: json.dumps(record | {"shards": record["shards"][1:]}), "its fingerprint does not fit"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_refused(corpus, change, message):
    path = corpus / "manifest.json"
    path.write_text(change(json.loads(path.read_text())))
    with pytest.raises(UserError, match=f"manifest.json: not a valid manifest: .*{message}"):
        load_manifest(str(corpus))


# --- verifying ------------------------------------------------------------------------------------------------------


def test_a_whole_corpus_has_no_faults(built):
    assert verify(str(built[0]), hashes=True) == []


def one_fault(corpus, **options):
    (fault,) = verify(str(corpus), **options)
    assert "\n" not in fault
    assert fault.startswith("pairs/train/pairs-000000.tar: ")
    return fault


def test_a_missing_shard_is_found(corpus):
    (corpus / "pairs/train/pairs-000000.tar").unlink()
    assert "pairs-000000.tar: missing" in one_fault(corpus)


def test_a_shard_of_another_size_is_found(corpus):
    os.truncate(corpus / "pairs/train/pairs-000000.tar", 10_240)
    assert "10240 bytes, the manifest says" in one_fault(corpus)


def test_changed_bytes_are_found_where_asked_for(corpus):
    path = corpus / "pairs/train/pairs-000000.tar"
    data = bytearray(path.read_bytes())
    data[600] ^= 1
    path.write_bytes(data)
    assert verify(str(corpus)) == []
    assert "the bytes were changed" in one_fault(corpus, hashes=True)


def test_a_stale_index_is_found(corpus):
    folder = corpus / "pairs/train"
    shutil.copy(folder / "pairs-000001.tar.idx", folder / "pairs-000000.tar.idx")
    assert "lists 1 samples, the manifest says 6" in one_fault(corpus)


def test_an_index_that_reaches_beyond_its_tar_is_found(corpus):
    index = corpus / "pairs/train/pairs-000000.tar.idx"
    index.write_bytes(index.read_bytes()[:-8] + (1 << 30).to_bytes(8, "little"))
    assert "a stale index" in one_fault(corpus)


def test_a_missing_index_is_found(corpus):
    (corpus / "pairs/train/pairs-000000.tar.idx").unlink()
    assert "pairs-000000.tar.idx: missing" in one_fault(corpus)


def test_a_sidecar_of_another_shard_is_found(corpus):
    folder = corpus / "pairs/train"
    shutil.copy(folder / "pairs-000001.parquet", folder / "pairs-000000.parquet")
    assert "its sidecar has 1 rows, the manifest says 6 samples" in one_fault(corpus)


def test_a_missing_sidecar_is_found(corpus):
    (corpus / "pairs/train/pairs-000000.parquet").unlink()
    assert "its sidecar" in one_fault(corpus)


def test_a_funnel_that_does_not_add_up_is_found(corpus, built):
    write_manifest(str(corpus), replace(built[1], funnel=()))
    assert verify(str(corpus))[0] == "pairs: its shards contain 9 samples, its last row says no row"
