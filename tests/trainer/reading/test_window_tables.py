import subprocess
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest

from model.config import BridgeConfig
from model.sequence import Layout, LayoutConfig
from model.tokenizer import Tokenizer
from pipelines import storage
from pipelines.document import Document, Provenance, Region, Segment
from pipelines.running.runner import Runner
from pipelines.shards.index import index_corpus
from pipelines.shards.token_sidecar import FastEncoder, token_row, write_token_sidecar
from pipelines.text.byte_level_bpe import train_bpe
from pipelines.tokenize import run_tokenize
from tests.pipelines.corpus_builder import image
from tests.trainer.small_corpus import build
from trainer.reading.byte_store import ByteStore, CacheSettings
from trainer.reading.corpus import TrainingCorpus
from trainer.reading.shard_reader import GroupCache
from trainer.reading.window_tables import source_windows, whole_lengths, windows_fingerprint


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return build(tmp_path_factory.mktemp("corpus"))


@pytest.mark.parametrize("family", ["emu", "emu2"])
@pytest.mark.parametrize("frame_times", [False, True])
@pytest.mark.parametrize("seq_len", [24, 48, 4096])
def test_tables_hold_what_the_layout_cuts(folder, family, frame_times, seq_len):
    corpus = TrainingCorpus.open(folder)
    tokenizer = Tokenizer.load(f"{folder}/tokens/bpe-300", family)
    layout = Layout(tokenizer, BridgeConfig(image_slots=4, frame_slots=6), LayoutConfig(frame_times=frame_times))
    for table in source_windows(folder, corpus.manifest, corpus.tokens, layout, seq_len):
        assert table.num_samples + len(table.refused) == 30
        for number in range(table.num_samples):
            shard, row = table.locate(number)
            windows = layout.split(corpus.reader(table.shards[shard]).segments(row), seq_len)
            at = slice(table.first[number], table.first[number + 1])
            assert [w.num_tokens for w in windows] == table.tokens[at].tolist()
            assert [w.num_images for w in windows] == table.images[at].tolist()
            assert table.totals(np.array([number])).tolist() == [sum(w.num_tokens for w in windows)]


def test_tables_of_other_tokens_are_others(folder):
    corpus = TrainingCorpus.open(folder)
    layout = Layout(Tokenizer.load(f"{folder}/tokens/bpe-300", "emu2"), BridgeConfig(), LayoutConfig())
    made = [
        windows_fingerprint(corpus.manifest, replace(corpus.tokens, version=version), layout, 48, "train")
        for version in (1, 2, 2)
    ]
    assert made[0] != made[1] == made[2]


def test_what_cannot_fit_is_refused_with_its_reason(folder):
    corpus = TrainingCorpus.open(folder)
    layout = Layout(Tokenizer.load(f"{folder}/tokens/bpe-300", "emu2"), BridgeConfig(image_slots=64), LayoutConfig())
    pairs = source_windows(folder, corpus.manifest, corpus.tokens, layout, 40)[1]
    assert pairs.num_samples == 0
    assert len(pairs.refused) == 30
    assert pairs.refused[0][1].startswith("too_large: an image takes")


def test_columns_measure_any_mixture_of_segments(tmp_path):
    region = Region(0, 3, 0, (0.0, 0.0, 0.5, 0.5))
    twice = (region, Region(0, 3, 0, (0.5, 0.5, 1.0, 1.0)), Region(4, 7, 0, (0.1, 0.1, 0.2, 0.2)))
    segments = [
        (),
        (Segment("image", media=0),),
        (Segment("text", "one two", role="caption", regions=twice), Segment("image", media=0)),
        (Segment("image", media=0), Segment("text", "one"), Segment("text", "two", regions=(region,))),
        (Segment("frame", media=0, t0=1.0), Segment("text", "a", role="subtitle"), Segment("frame", media=1, t0=2.0)),
        (Segment("text", "a", role="subtitle"), Segment("text", "b", role="transcript"), Segment("text", "c")),
    ]
    encoder = FastEncoder(train_bpe(iter(["one two three"]), 270))
    storage.write_bytes(str(tmp_path / "tokenizer.json"), encoder.content)
    documents = [Document("text", f"k{n}", s, (), Provenance("d", "r")) for n, s in enumerate(segments * 3)]
    path = str(tmp_path / "tokens.parquet")
    write_token_sidecar(path, [token_row(d, encoder) for d in documents], "", "")
    for family in ("emu", "emu2"):
        layout = Layout(Tokenizer.load(tmp_path, family), BridgeConfig(image_slots=4, frame_slots=6), LayoutConfig())
        totals, images, exact = whole_lengths(path, layout)
        reader = TrainingCorpusReader(path)
        for row, document in enumerate(documents):
            windows = layout.split(reader.segments(row), 4096)
            assert bool(exact[row]) == bool(document.segments)
            if windows:
                assert (windows[0].num_tokens, windows[0].num_images) == (totals[row], images[row])


class TrainingCorpusReader:
    """Reader of segments of a token sidecar that belongs to no corpus."""

    def __init__(self, path: str) -> None:
        from trainer.reading.shard_reader import _GroupedFile, _TokenGroup

        self._group = _TokenGroup.read(_GroupedFile(path, None, ByteStore(), GroupCache()), 0)[0]

    def segments(self, row: int) -> list:
        return self._group.segments(row)


def test_foreign_tars_are_read_after_index(tmp_path):
    import webdataset

    folder = tmp_path / "theirs"
    folder.mkdir()
    with webdataset.TarWriter(str(folder / "00000.tar")) as writer:
        for n in range(6):
            writer.write({"__key__": f"{n:09d}", "jpg": image(n), "txt": f"a caption of {n}"})
        writer.write({"__key__": "000000009", "bin": b"nothing that we read"})
    index_corpus(str(folder))
    run_tokenize(str(folder), None, Runner(), train_bpe=270)
    corpus = TrainingCorpus.open(str(folder))
    layout = Layout(Tokenizer.load(folder / "tokens/bpe-270", "emu2"), BridgeConfig(image_slots=4), LayoutConfig())
    (table,) = source_windows(str(folder), corpus.manifest, corpus.tokens, layout, 64)
    assert table.num_samples == 6
    assert np.array_equal(table.numbers, np.arange(6))
    assert [(key, reason) for key, reason in table.refused] == [("000000009", "not_allowed")]
    shard, row = table.locate(4)
    reader = corpus.reader(table.shards[shard])
    assert reader.image(row, 0) == image(4)
    assert layout.tokenizer.decode(reader.segments(row)[1].ids) == "a caption of 4"
    assert reader.raw(row) == ("000000004", {"jpg": image(4), "txt": b"a caption of 4"})


@pytest.mark.parametrize("form", ["v7", "oldgnu", "gnu", "posix"])
def test_tars_of_every_format_are_read_after_index(tmp_path, form):
    members = tmp_path / "members"
    members.mkdir()
    for n in range(6):
        (members / f"{n}.jpg").write_bytes(image(n))
        (members / f"{n}.txt").write_text(f"a caption of {n}")
    folder = tmp_path / "theirs"
    folder.mkdir()
    names = sorted(path.name for path in members.iterdir())
    tar = ["tar", f"--format={form}", "-C", str(members), "-cf", str(folder / "0.tar"), *names]
    subprocess.run(tar, check=True)
    index_corpus(str(folder))
    run_tokenize(str(folder), None, Runner(), train_bpe=270)
    reader = TrainingCorpus.open(str(folder)).reader("0.tar")
    assert [reader.image(row, 0) for row in range(6)] == [image(n) for n in range(6)]


def test_remote_tars_are_read_through_a_bounded_cache(folder, tmp_path):
    memory = fsspec.filesystem("memory")
    memory.put(folder, "/window-tables/corpus", recursive=True)
    settings = CacheSettings(folder=str(tmp_path), max_bytes=40_000, chunk_bytes=4096)
    remote = TrainingCorpus.open("memory://window-tables/corpus", cache=settings)
    local = TrainingCorpus.open(folder)
    for shard in local.manifest.shards_of("pairs", "train"):
        for row in range(shard.samples):
            assert remote.reader(shard.path).raw(row) == local.reader(shard.path).raw(row)
    sizes = [file.stat().st_size for file in Path(tmp_path).iterdir()]
    assert 4096 <= sum(sizes) <= 40_000
    with pytest.raises(EOFError, match="expected 100 bytes at"):
        ByteStore(settings).read(f"memory://window-tables/corpus/{shard.path}", shard.bytes - 50, 100)
    memory.rm("/window-tables", recursive=True)


def test_the_cache_of_rows_is_bounded():
    cache: GroupCache[int] = GroupCache(max_bytes=100)
    made = []
    for key in (1, 2, 3, 1, 3):
        cache.get(key, lambda key=key: (made.append(key), 40))  # type: ignore[misc]
    assert made == [1, 2, 3, 1]


def test_a_chunk_of_a_remote_tar_that_was_damaged_in_the_cache_is_fetched_again(tmp_path):
    content = bytes(range(256)) * 40
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/cached/a.tar", content)
    settings = CacheSettings(folder=str(tmp_path), chunk_bytes=4096)
    assert ByteStore(settings).read("memory://cached/a.tar", 5000, 100) == content[5000:5100]
    (chunk,) = (file for file in tmp_path.iterdir() if file.is_file())
    damaged = bytearray(chunk.read_bytes())
    damaged[904] ^= 1  # the first of the bytes that are read
    chunk.write_bytes(damaged)
    again = ByteStore(settings)
    assert again.read("memory://cached/a.tar", 5000, 100) == content[5000:5100]
    memory.rm("/cached", recursive=True)
    assert again.read("memory://cached/a.tar", 4096, 4096) == content[4096:8192]  # the whole chunk, from the cache
