import multiprocessing
import re
from pathlib import Path

import fsspec
import numpy as np
import pytest

from pipelines import storage
from trainer.reading.byte_store import CacheSettings
from trainer.reading.shared_arrays import Arrays, shared_arrays

MADE: Arrays = {"first": np.arange(5), "tokens": np.arange(4, dtype=np.int32), "refused": np.zeros(0, np.uint8)}


@pytest.fixture
def cache(tmp_path: Path) -> CacheSettings:
    return CacheSettings(folder=str(tmp_path / "cache"))


@pytest.fixture
def store():
    yield "memory://shared-arrays/table.arrow"
    memory = fsspec.filesystem("memory")
    if memory.exists("/shared-arrays"):
        memory.rm("/shared-arrays", recursive=True)


class Maker:
    """Counts how often arrays are computed."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> Arrays:
        self.times += 1
        return MADE


def read(path: str, make, cache: CacheSettings, made_from: str = "a") -> Arrays:
    found = shared_arrays(path, made_from, make, is_whole=lambda arrays: len(arrays["first"]) == 5, cache=cache)
    assert set(found) == set(MADE)
    for name, array in found.items():
        assert array.dtype == MADE[name].dtype
        assert np.array_equal(array, MADE[name])
    return found


def is_mapped(array: np.ndarray, name: str) -> bool:
    """Return whether an array lies in a mapping of a file, by what the kernel says."""
    address = array.__array_interface__["data"][0]
    for line in Path("/proc/self/maps").read_text().splitlines():
        begin, end = (int(part, 16) for part in line.split()[0].split("-"))
        if begin <= address < end:
            return line.endswith(name)
    return False


def test_arrays_are_made_once_and_mapped(tmp_path, cache):
    make, path = Maker(), str(tmp_path / "table.arrow")
    for _ in range(2):
        assert is_mapped(read(path, make, cache)["tokens"], "table.arrow")
    assert make.times == 1
    assert not [file for file in Path(cache.folder).iterdir() if file.suffix == ".arrow"]


def test_those_of_a_store_are_mapped_from_a_copy_on_this_machine(store, cache, tmp_path):
    make = Maker()
    for _ in range(2):
        assert is_mapped(read(store, make, cache)["tokens"], ".arrow")
    read(store, make, CacheSettings(folder=str(tmp_path / "another machine")))
    assert make.times == 1
    (copy,) = Path(cache.folder).glob("*.arrow")
    assert copy.read_bytes() == storage.read_bytes(store)
    read(store, make, cache, "another corpus")
    assert len(list(Path(cache.folder).glob("*.arrow"))) == 2


@pytest.mark.parametrize("from_store", [False, True])
def test_a_damaged_file_is_made_again(tmp_path, store, cache, from_store):
    path = store if from_store else str(tmp_path / "table.arrow")
    make = Maker()
    read(path, make, cache)
    data = bytearray(storage.read_bytes(path))
    data[data.index(MADE["tokens"].tobytes()) + 4] ^= 1
    storage.write_bytes(path, data)
    for file in Path(cache.folder).glob("*.arrow"):
        file.write_bytes(data)
    read(path, make, cache)
    assert make.times == 2


def test_a_corpus_that_cannot_be_written_to_has_its_arrays_in_the_cache(tmp_path, cache):
    (tmp_path / "file").write_bytes(b"")
    make = Maker()
    for _ in range(2):
        assert is_mapped(read(str(tmp_path / "file" / "table.arrow"), make, cache)["tokens"], ".arrow")
    assert make.times == 1


def test_without_any_folder_they_are_in_memory(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    make = Maker()
    inside = str(tmp_path / "file")
    found = read(f"{inside}/table.arrow", make, CacheSettings(folder=f"{inside}/cache"))
    assert make.times == 1
    assert not is_mapped(found["tokens"], ".arrow")


def _read_in_process(path: str, log: str, folder: str) -> None:
    def make() -> Arrays:
        with Path(log).open("a") as file:
            file.write("made\n")
        return MADE

    read(path, make, CacheSettings(folder=folder))


def test_of_processes_that_begin_together_one_makes_them(tmp_path, cache):
    arguments = (str(tmp_path / "table.arrow"), str(tmp_path / "log"), cache.folder)
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_read_in_process, args=arguments) for _ in range(6)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0] * 6
    assert re.fullmatch("made\n", (tmp_path / "log").read_text())
