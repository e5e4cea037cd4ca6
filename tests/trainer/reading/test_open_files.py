"""Tests under a limit on open files: everything is read, and no sample is blamed for what a process may not open."""

import contextlib
import errno
import io
import os
import resource
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from pipelines import storage
from pipelines.errors import RunError
from pipelines.funnel import FunnelRow
from pipelines.running.runner import Runner
from pipelines.shards.manifest import Manifest, sort_shards, write_manifest
from pipelines.tokenize import run_tokenize
from tests.pipelines.corpus_builder import sample, write_shard
from tests.trainer.conftest import TREE, changed
from tests.trainer.ranks import in_ranks
from tests.trainer.small_corpus import Opened, take
from tests.trainer.trial_runs import consumed, losses
from trainer import __main__
from trainer.plan.mixture import Phase
from trainer.reading import open_files as module
from trainer.reading.byte_store import ByteStore, CacheSettings
from trainer.reading.open_files import OpenFiles, most_open_files
from trainer.reading.shard_reader import DamagedSample

LIMIT = 64
NUM_SHARDS = 40
WEIGHTS = {"pairs": 0.5, "texts": 0.5}


@pytest.fixture(scope="module")
def many_shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A corpus with more tars of each source than a process may open files."""
    corpus = str(tmp_path_factory.mktemp("many"))
    shards = []
    for kind in ("pair", "text"):
        shards += [
            write_shard(corpus, kind, "train", number, [sample(kind, 2 * number + n) for n in range(2)])
            for number in range(NUM_SHARDS)
        ]
    funnel = tuple(FunnelRow(name, "shard", "sample", 2 * NUM_SHARDS, 2 * NUM_SHARDS, {}) for name in WEIGHTS)
    write_manifest(corpus, Manifest("many", "1", "0" * 64, sort_shards(shards, [*WEIGHTS]), funnel, {}, tuple(WEIGHTS)))
    run_tokenize(corpus, None, Runner(), train_bpe=300)
    return corpus


def with_few_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (LIMIT, LIMIT))
    module.open_files.cache_clear()


def read_everything(world, corpus: str, num_threads: int) -> tuple[set[str], list[str], int]:
    """Read a corpus under the limit; return the shards and reasons of bad samples, and the most descriptors."""
    with_few_files()
    opened = Opened(corpus)
    plan = opened.plan(phases=(Phase(weights=WEIGHTS),))
    shards, bad, most = set(), [], 0
    for step in take(opened.loader(plan, num_threads=num_threads), 30):
        shards |= {row.shard for row in step.rows}
        bad += [row.reason for row in step.bad]
        most = max(most, len(os.listdir("/proc/self/fd")))
    return shards, bad, most


@pytest.mark.slow
@pytest.mark.parametrize("num_threads", [0, 4])
def test_more_shards_than_files_are_read(many_shards, num_threads):
    ((shards, bad, most),) = in_ranks(1, read_everything, many_shards, num_threads)
    assert len(shards) == 2 * NUM_SHARDS
    assert bad == []
    assert most <= LIMIT


def train(world, *arguments: str) -> tuple[int, str]:
    """Run `python -m trainer ...` under the limit; return exit code and stderr."""
    with_few_files()
    sys.argv = ["trainer", *arguments]
    err = io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        try:
            __main__.main()
        except SystemExit as ended:
            return int(ended.code or 0), err.getvalue()
    raise AssertionError("main returned")


@pytest.mark.slow
def test_a_run_trains_on_more_shards_than_files(many_shards, tmp_path):
    changes = {"mixture.phases": [{"weights": WEIGHTS}], "data.reader": {"num_threads": 2}, "steps": 30}
    path, out = tmp_path / "run.yaml", tmp_path / "out"
    path.write_text(yaml.safe_dump(changed(TREE, {f"pretrain.{key}": value for key, value in changes.items()})))
    ((code, err),) = in_ranks(1, train, "pretrain", "--config", str(path), "--corpus", many_shards, "--out", str(out))
    assert (code, len(losses(out))) == (0, 30), err
    assert len({row["shard"] for row in consumed(out)}) > LIMIT
    assert not (out / "quarantine.jsonl").exists()


# --- the parts ------------------------------------------------------------------------------------------------------


def test_the_file_used_longest_ago_is_closed(tmp_path):
    paths = [str(tmp_path / name) for name in "abcd"]
    for path in paths:
        Path(path).write_bytes(path[-1:].encode())
    files = OpenFiles(3)
    handles = [files.get(path).handle for path in paths[:3]]
    assert files.get(paths[0]).handle == handles[0]
    files.get(paths[3])
    assert len(files) == 3
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(handles[1])
    assert files.get(paths[0]).handle == handles[0]
    held = files.get(paths[2])
    for path in [*paths[:2], paths[3]]:
        files.get(path)
    assert os.pread(held.handle, 1, 0) == b"c"  # closed only when nothing reads from it


def test_a_file_that_takes_long_to_open_keeps_no_other_waiting(tmp_path):
    pipe, plain = tmp_path / "pipe", tmp_path / "plain"
    os.mkfifo(pipe)  # opening it waits for somebody who writes
    plain.write_bytes(b"p")
    files = OpenFiles(3)
    with ThreadPoolExecutor(2) as pool:
        slow, quick = pool.submit(files.get, str(pipe)), pool.submit(files.get, str(plain))
        try:
            assert os.pread(quick.result(timeout=10).handle, 1, 0) == b"p"
            assert not slow.done()
        finally:
            pipe.open("wb").close()
        slow.result()
    assert len(files) == 2


def test_a_file_that_two_threads_open_is_open_once(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    files = OpenFiles(3)
    with ThreadPoolExecutor(2) as pool:
        found = [pool.submit(files.get, str(pipe)) for _ in range(2)]
        with pipe.open("wb"):  # both open it, however late
            first, second = (each.result(timeout=10) for each in found)
    assert first is second
    assert len(files) == 1


@pytest.mark.parametrize(
    ("limit", "most"), [(64, 16), (1024, 256), (1 << 20, 512), (resource.RLIM_INFINITY, 512), (2, 1)]
)
def test_a_part_of_the_descriptors_stays_for_others(monkeypatch, limit, most):
    monkeypatch.setattr(resource, "getrlimit", lambda number: (limit, limit))
    assert most_open_files() == most


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_files_are_closed_until_there_is_room(tmp_path, number):
    (tmp_path / "a").touch()
    files = OpenFiles(3)
    files.get(str(tmp_path / "a"))

    def work() -> str:
        if len(files):
            raise OSError(number, os.strerror(number))
        return "done"

    assert files.with_room(work) == "done"
    with pytest.raises(
        RunError, match=r"^too many open files.*: this process may have \d+; allow more with `ulimit -n`"
    ):
        files.with_room(lambda: (_ for _ in ()).throw(OSError(number, os.strerror(number))))


def failing(error: OSError):
    def read(*arguments: object) -> bytes:
        raise error

    return read


@pytest.mark.parametrize(
    "number", [errno.EMFILE, errno.ENOMEM, errno.EACCES, errno.ENOENT, errno.ETIMEDOUT, errno.ESTALE]
)
def test_no_sample_is_blamed_for_what_the_machine_cannot(many_shards, monkeypatch, number):
    opened = Opened(many_shards)
    reader = opened.corpus.reader("pairs/train/pairs-000000.tar")
    assert reader.image(0, 0)
    monkeypatch.setattr(os, "pread", failing(OSError(number, os.strerror(number))))
    with pytest.raises(RunError, match=f"pairs-000000.tar: cannot be read: {os.strerror(number)}"):
        reader.image(0, 0)


def test_a_bad_sector_is_a_damaged_sample(many_shards, monkeypatch):
    reader = Opened(many_shards).corpus.reader("pairs/train/pairs-000000.tar")
    assert reader.image(0, 0)
    monkeypatch.setattr(os, "pread", failing(OSError(errno.EIO, os.strerror(errno.EIO))))
    with pytest.raises(DamagedSample, match="Input/output error"):
        reader.image(0, 0)


def test_a_store_that_refuses_is_no_damaged_sample(many_shards, tmp_path, monkeypatch):
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.put(many_shards, "/open-files/corpus", recursive=True)
    from trainer.reading.corpus import TrainingCorpus

    corpus = TrainingCorpus.open(
        "memory://open-files/corpus", cache=CacheSettings(folder=str(tmp_path), chunk_bytes=512)
    )
    reader = corpus.reader("pairs/train/pairs-000000.tar")
    assert reader.key(0)
    monkeypatch.setattr(storage, "read_range", failing(OSError(errno.EIO, "We encountered an internal error")))
    with pytest.raises(RunError, match="cannot be read: We encountered an internal error"):
        reader.image(0, 0)
    memory.rm("/open-files", recursive=True)


def test_chunks_of_a_file_that_was_replaced_are_not_read_again(tmp_path):
    settings = CacheSettings(folder=str(tmp_path), chunk_bytes=4)
    for content in (b"0123456789", b"abcdefghij"):
        storage.write_bytes("memory://replaced/tar", content)
        assert ByteStore(settings).read("memory://replaced/tar", 2, 5) == content[2:7]
    storage.remove("memory://replaced/tar")


def test_a_file_of_a_store_has_positions_and_no_descriptor(tmp_path):
    (tmp_path / "a").write_bytes(b"0123456789")
    file = ByteStore().file(str(tmp_path / "a"))
    assert (file.read(3), file.tell(), file.read()) == (b"012", 3, b"3456789")
    assert (file.read(1), file.read()) == (b"", b"")
    assert (file.seek(-4, os.SEEK_END), file.read(2), file.seek(-1, os.SEEK_CUR), file.read(1)) == (6, b"67", 7, b"7")
    assert io.BufferedReader(file).readline
