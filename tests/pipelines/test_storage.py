import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import fsspec
import pytest
from botocore.exceptions import ClientError
from fsspec.implementations.memory import MemoryFileSystem

from pipelines import storage
from pipelines.errors import UserError


def test_a_file_appears_when_its_block_ends_and_not_before(tmp_path: Path):
    path = str(tmp_path / "a" / "file")
    with storage.write_whole(path) as file:
        file.write(b"whole")
        assert not storage.exists(path)
        assert storage.list_files(str(tmp_path)) == []
    assert storage.read_bytes(path) == b"whole"


def test_an_error_in_the_block_leaves_the_old_file_and_nothing_else(tmp_path: Path):
    path = str(tmp_path / "file")
    storage.write_bytes(path, b"old")
    with pytest.raises(RuntimeError), storage.write_whole(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert storage.read_bytes(path) == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_killed_writer_leaves_nothing_under_the_name_and_its_leftover_is_removed(tmp_path: Path):
    script = (
        "import os, signal\n"
        "from pipelines import storage\n"
        f"with storage.write_whole({str(tmp_path / 'file')!r}) as file:\n"
        "    file.write(b'half'); file.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == -signal.SIGKILL
    assert len(os.listdir(tmp_path)) == 1
    assert storage.list_files(str(tmp_path)) == []
    assert storage.remove_leftovers(str(tmp_path)) == 1
    assert os.listdir(tmp_path) == []


def test_a_range_that_ends_beyond_the_file_is_an_error(tmp_path: Path):
    path = str(tmp_path / "file")
    storage.write_bytes(path, b"0123456789")
    assert storage.read_range(path, 3, 4) == b"3456"
    with pytest.raises(EOFError, match="expected 4 bytes at offset 8, found 2"):
        storage.read_range(path, 8, 4)


def test_fsspec_urls_behave_like_local_paths():
    base = "memory://dromaius-test"
    storage.write_bytes(storage.join(base, "a", "one.json"), b"0123")
    storage.write_bytes(storage.join(base, "b.json"), b"x")
    assert storage.list_files(base, ".json") == [f"{base}/a/one.json", f"{base}/b.json"]
    assert storage.read_range(f"{base}/a/one.json", 1, 2) == b"12"
    assert storage.size(f"{base}/b.json") == 1
    with pytest.raises(RuntimeError), storage.write_whole(f"{base}/half") as file:
        file.write(b"half")
        raise RuntimeError
    assert not storage.exists(f"{base}/half")
    storage.remove(base)
    assert not storage.exists(f"{base}/b.json")


def test_a_file_url_names_the_same_file(tmp_path: Path):
    storage.write_bytes(f"file://{tmp_path}/a/one", b"0123")
    assert storage.read_bytes(str(tmp_path / "a" / "one")) == b"0123"
    assert storage.exists(f"file://{tmp_path}/a/one")
    assert storage.list_files(f"file://{tmp_path}") == [f"file://{tmp_path}/a/one"]
    assert storage.read_range(f"file://{tmp_path}/a/one", 1, 2) == b"12"


def test_an_unknown_scheme_is_refused_in_one_line():
    with pytest.raises(UserError, match=r"^nowhere://bucket/x: Protocol not known: nowhere$"):
        storage.exists("nowhere://bucket/x")


@pytest.mark.slow
def test_a_store_that_denies_access_is_reported_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    line = r"^s3://bucket/x: NoCredentialsError: Unable to locate credentials; check the credentials and the address$"
    with pytest.raises(UserError, match=line):
        storage.exists("s3://bucket/x")
    with pytest.raises(UserError, match=line):
        storage.read_bytes("s3://bucket/x")
    with pytest.raises(UserError, match=line):
        storage.write_bytes("s3://bucket/x", b"0")


def test_what_a_store_does_not_have_is_no_mistake_of_its_address():
    with pytest.raises(FileNotFoundError):
        storage.size("memory://dromaius-test/none")


@pytest.mark.parametrize("scheme", ["", "memory://"])
def test_a_moved_file_takes_the_place_of_another(scheme: str, tmp_path: Path):
    old, new = f"{scheme}{tmp_path}/old", f"{scheme}{tmp_path}/folder/new"
    storage.write_bytes(old, b"moved")
    storage.write_bytes(new, b"replaced")
    storage.move(old, new)
    assert storage.read_bytes(new) == b"moved"
    assert not storage.exists(old)


def test_a_store_that_can_only_be_read_is_told_in_one_line(tmp_path: Path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(__file__, "a")
    with pytest.raises(UserError, match="this store can only be read; copy the folder to another"):
        storage.move(f"tar://a::{tmp_path}/a.tar", f"tar://b::{tmp_path}/a.tar")


class Listing(MemoryFileSystem):
    """A store in memory whose listings are kept, as those of object stores are."""

    protocol = "listing"

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.replace("listing://", "memory://"))

    def ls(self, path, detail=True, **options):
        path = self._strip_protocol(path)
        if path not in self.dircache:
            self.dircache[path] = super().ls(path, detail=True, **options)
        found = self.dircache[path] if path in self.dircache else super().ls(path, detail=True, **options)
        return found if detail else [info["name"] for info in found]


def test_what_another_process_wrote_to_a_store_is_listed():
    fsspec.register_implementation("listing", Listing, clobber=True)
    theirs = fsspec.filesystem("listing", skip_instance_cache=True)  # shares the files, and no listing
    storage.write_bytes("listing://bucket/a", b"1")
    assert storage.list_files("listing://bucket") == ["listing://bucket/a"]
    theirs.pipe_file("/bucket/b", b"2")
    assert storage.list_files("listing://bucket") == ["listing://bucket/a", "listing://bucket/b"]
    assert storage.exists("listing://bucket/b")
    theirs.rm("/bucket", recursive=True)


class Buckets(MemoryFileSystem):
    """An object store, in which making a folder makes its bucket."""

    protocol = "oss"
    buckets = {"/there"}

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.replace("oss://", "memory://"))

    def makedirs(self, path, exist_ok=False):
        self.buckets.add("/" + path.split("/")[1])

    def put_file(self, lpath, rpath, **options):
        if "/" + rpath.split("/")[1] not in self.buckets:
            raise FileNotFoundError("The specified bucket does not exist.")
        super().put_file(lpath, rpath, **options)

    def pipe_file(self, path, value, mode="overwrite", **options):
        if "/" + path.split("/")[1] not in self.buckets:
            raise FileNotFoundError("The specified bucket does not exist.")
        super().pipe_file(path, value, mode, **options)


def test_a_mistyped_bucket_is_not_made():
    fsspec.register_implementation("oss", Buckets, clobber=True)
    storage.write_bytes("oss://there/a/b", b"1")
    assert storage.read_bytes("oss://there/a/b") == b"1"
    with pytest.raises(UserError, match=r"oss://thare/a/b: cannot be written: .*bucket does not exist.*check the addr"):
        storage.write_bytes("oss://thare/a/b", b"1")
    with pytest.raises(UserError, match=r"oss://thare/a/b: cannot be written: .*bucket does not exist.*check the addr"):
        storage.write_new("oss://thare/a/b", b"1")
    assert not storage.exists("oss://thare/a/b")
    storage.remove("oss://there/a")


def test_a_file_is_written_only_if_there_is_none():
    path = "memory://dromaius-test/new"
    assert storage.write_new(path, b"first")
    assert not storage.write_new(path, b"second")
    assert storage.read_bytes(path) == b"first"
    storage.remove(path)


class RacingStore(MemoryFileSystem):
    """A store in which another writer is always a moment faster."""

    protocol = "racing"

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.replace("racing://", "memory://"))

    def pipe_file(self, path, value, mode="overwrite", **options):
        error = OSError(22, "At least one of the pre-conditions you specified did not hold")
        if mode == "create":
            raise error from ClientError({"ResponseMetadata": {"HTTPStatusCode": 412}}, "PutObject")
        super().pipe_file(path, value, mode, **options)


def test_a_store_decides_who_of_two_writes_first():
    fsspec.register_implementation("racing", RacingStore, clobber=True)
    assert not storage.write_new("racing://bucket/new", b"1")
