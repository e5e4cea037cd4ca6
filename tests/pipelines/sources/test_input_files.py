"""Input files: what is noted of them, and when they are read again."""

import hashlib
import os

import fsspec
import pytest

from pipelines import storage
from pipelines.sources import input_files
from pipelines.sources.input_files import forget_inputs, record_inputs, recorded_inputs


@pytest.fixture
def hashed(monkeypatch):
    """Names of the files that were read."""
    found = []
    original = input_files.hash_file
    monkeypatch.setattr(input_files, "hash_file", lambda path: (found.append(path), original(path))[1])
    return found


def test_every_file_is_noted_with_size_and_hash_once(tmp_path, hashed):
    out = str(tmp_path / "out")
    files = [(str(tmp_path / name), name) for name in ("b.csv", "a.csv")]
    for path, name in files:
        with open(path, "w") as file:
            file.write(name * 3)
    found = record_inputs(out, {"list": files, "web": files[:1]})
    assert found["list", files[0][0]].sha256 == hashlib.sha256(b"b.csv" * 3).hexdigest()
    noted = recorded_inputs(out, ["web", "list", "none"])
    assert [(f.source, f.file, f.bytes, f.tag) for f in noted] == [
        ("web", "b.csv", 15, None),
        ("list", "a.csv", 15, None),
        ("list", "b.csv", 15, None),
    ]
    hashed.clear()
    assert record_inputs(out, {"list": files, "web": files[:1]}) == found
    assert hashed == []
    os.utime(files[0][0], (1, 1))
    assert record_inputs(out, {"list": files}) == {key: f for key, f in found.items() if key[0] == "list"}
    assert hashed == [files[0][0]]
    forget_inputs(out, ["list"])
    assert [f.source for f in recorded_inputs(out, ["web", "list"])] == ["list", "list"]


def test_a_stores_own_tag_stands_for_the_hash(tmp_path, hashed, monkeypatch):
    fsspec.filesystem("memory").pipe("/inputs/a.csv", b"abc")
    path = "memory://inputs/a.csv"
    (plain,) = record_inputs(str(tmp_path), {"x": [(path, "a.csv")]}).values()
    assert (plain.bytes, plain.sha256, plain.tag) == (3, hashlib.sha256(b"abc").hexdigest(), None)
    monkeypatch.setattr(storage, "tag", lambda info: "etag-1")
    (tagged,) = record_inputs(str(tmp_path), {"y": [(path, "a.csv")]}).values()
    assert (tagged.bytes, tagged.sha256, tagged.tag) == (3, None, "etag-1")
    assert hashed == [path]


def test_tags_of_stores_are_told():
    assert storage.tag({"ETag": '"abc"', "size": 3}) == "abc"
    assert storage.tag({"md5Hash": "x=="}) == "x=="
    assert storage.tag({"size": 3, "type": "file"}) is None
