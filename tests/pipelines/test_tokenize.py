import hashlib
from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from model.segment import grounded_text
from model.tokenizer import Tokenizer
from pipelines import storage
from pipelines.errors import UserError
from pipelines.running.runner import Runner
from pipelines.shards.manifest import load_manifest
from pipelines.shards.token_sidecar import (
    FastEncoder,
    is_current,
    load_encoder,
    load_tokens,
    read_token_rows,
    token_row,
)
from pipelines.text.byte_level_bpe import train_bpe
from pipelines.tokenize import read_texts, run_tokenize
from tests.pipelines import corpus_builder

NUM_TOKENS = 300
BARE = {"regions": [{"segment": 9, "start": 0, "end": 0, "box": []}]}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("corpus"))
    corpus_builder.build(path)
    run_tokenize(path, None, Runner(), train_bpe=NUM_TOKENS)
    return path


def encoder() -> FastEncoder:
    return FastEncoder(train_bpe(iter(["a dock beside boat 3, café"] * 3), NUM_TOKENS))


def test_every_sample_has_a_row_with_its_text_and_images(corpus):
    manifest = load_manifest(corpus)
    tokenizer = Tokenizer.load(f"{corpus}/tokens/bpe-{NUM_TOKENS}", "emu2")
    assert tokenizer.base_vocab_size == NUM_TOKENS
    for shard in manifest.shards:
        rows = list(read_token_rows(f"{corpus}/tokens/bpe-{NUM_TOKENS}/{shard.path.removesuffix('.tar')}.parquet"))
        documents = list(read_texts(corpus, shard))
        assert [row["key"] for row in rows] == [d.key for d in documents]
        for row, document in zip(rows, documents, strict=True):
            assert len(row["ids"]) == sum(row["counts"]) == row["num_tokens"]
            assert row["media"] == [-1 if s.media is None else s.media for s in document.segments]
            assert row["times"] == [s.t0 for s in document.segments]
            assert row["num_media"] == len(document.media)
            begin = 0
            for segment, count in zip(document.segments, row["counts"], strict=True):
                assert tokenizer.decode(row["ids"][begin : begin + count]) == (segment.text or "")
                begin += count


def test_phrases_are_whole_tokens_as_the_model_cuts_them(tmp_path):
    document = corpus_builder.sample("grounded", 3).document
    found = encoder()
    storage.write_bytes(str(tmp_path / "tokenizer.json"), found.content)
    row = token_row(document, found)
    (text,) = (s for s in document.segments if s.text)
    regions = [(r.start, r.end, r.box) for r in text.regions]
    expected = grounded_text(text.text, regions, Tokenizer.load(tmp_path, "emu2"))
    assert row["ids"] == expected.ids.tolist()
    assert [(r["start"], r["end"]) for r in row["regions"]] == [(p.start, p.end) for p in expected.phrases]
    assert {r["segment"] for r in row["regions"]} == {1}
    overlapping = replace(text.regions[1], start=3)
    segments = (document.segments[0], replace(text, regions=(text.regions[0], overlapping)))
    assert len(token_row(replace(document, segments=segments), found)["regions"]) == 1


def test_special_tokens_in_a_text_are_text():
    ids = encoder().encode("<s></s><unk>")
    assert not {0, 1, 2} & set(ids)
    assert len(ids) > 3


def test_a_rerun_keeps_what_is_current_and_makes_anew_what_is_not(corpus):
    manifest = load_manifest(corpus)
    folder = f"{corpus}/tokens/bpe-{NUM_TOKENS}"
    paths = storage.list_files(folder, ".parquet")
    assert len(paths) == len(manifest.shards)
    before = {path: (hashlib.sha256(storage.read_bytes(path)).hexdigest()) for path in paths}
    storage.remove(paths[0])
    storage.write_bytes(f"{folder}/gone/train/gone-000000.parquet", storage.read_bytes(paths[1]))
    info = run_tokenize(corpus, f"{folder}/tokenizer.json", Runner(), name=f"bpe-{NUM_TOKENS}")
    assert {
        p: hashlib.sha256(storage.read_bytes(p)).hexdigest() for p in storage.list_files(folder, ".parquet")
    } == before
    assert info == load_tokens(corpus, manifest, f"bpe-{NUM_TOKENS}")
    shard = manifest.shards[0]
    mine = next(s for s in manifest.shards if s.path.split("/")[-1][:-4] in paths[0])
    assert is_current(paths[0], mine, info.tokenizer_sha256, info.version)
    assert not is_current(paths[0], mine, info.tokenizer_sha256, info.version + 1)
    assert not is_current(paths[0], replace(shard, sha256="0" * 64), info.tokenizer_sha256, info.version)
    assert not is_current(paths[0], shard, "0" * 64, info.version)


def test_a_raised_version_makes_all_anew(tmp_path, monkeypatch):
    path = str(tmp_path)
    manifest = corpus_builder.build(path, ("text", "pair"))
    first = run_tokenize(path, None, Runner(), train_bpe=NUM_TOKENS)
    monkeypatch.setattr("pipelines.tokenize.token_row", lambda document, encoder: token_row(document, encoder) | BARE)
    assert run_tokenize(path, None, Runner(), train_bpe=NUM_TOKENS) == first
    for module in ("tokenize", "shards.token_sidecar"):
        monkeypatch.setattr(f"pipelines.{module}.VERSION", first.version + 1)
    again = run_tokenize(path, None, Runner(), train_bpe=NUM_TOKENS)
    assert again == replace(first, version=first.version + 1) == load_tokens(path, manifest)
    paths = storage.list_files(path + "/tokens", ".parquet")
    assert [row["regions"] for p in paths for row in read_token_rows(p)] == [BARE["regions"]] * manifest.num_samples


def test_tokens_that_name_no_version_are_of_the_first(corpus, tmp_path):
    shard = load_manifest(corpus).shards[0]
    path = f"{corpus}/tokens/bpe-{NUM_TOKENS}/{shard.path.removesuffix('.tar')}.parquet"
    table = pq.read_table(path)
    metadata = {k: v for k, v in table.schema.metadata.items() if k != b"version"}
    older = str(tmp_path / "older.parquet")
    pq.write_table(table.replace_schema_metadata(metadata), older)
    assert is_current(older, shard, metadata[b"tokenizer_sha256"].decode(), 1)
    assert not is_current(older, shard, metadata[b"tokenizer_sha256"].decode(), 2)


@pytest.mark.slow
def test_workers_change_no_byte(corpus, tmp_path):
    other = str(tmp_path / "corpus")
    corpus_builder.build(other)
    run_tokenize(other, None, Runner(num_workers=2), train_bpe=NUM_TOKENS)
    names = [p[len(corpus) :] for p in storage.list_files(f"{corpus}/tokens")]
    assert names == [p[len(other) :] for p in storage.list_files(f"{other}/tokens")]
    assert all(storage.read_bytes(corpus + n) == storage.read_bytes(other + n) for n in names)


def test_tokens_that_do_not_fit_are_refused(tmp_path):
    path = str(tmp_path)
    manifest = corpus_builder.build(path, ("text",))
    with pytest.raises(UserError, match="which tokens\\? There are none"):
        load_tokens(path, manifest)
    info = run_tokenize(path, None, Runner(), train_bpe=NUM_TOKENS)
    assert load_tokens(path, manifest) == info
    with pytest.raises(UserError, match="no finished tokens of 'llama'"):
        load_tokens(path, manifest, "llama")
    with pytest.raises(UserError, match="made from another build"):
        load_tokens(path, replace(manifest, shards=manifest.shards[1:]))
    folder = f"{path}/tokens/bpe-{NUM_TOKENS}"
    storage.write_bytes(f"{folder}/tokenizer.json", encoder().content)
    with pytest.raises(UserError, match="not the tokenizer that made these tokens"):
        load_tokens(path, manifest)
    storage.write_bytes(f"{folder}/tokens.json", b"{}")
    with pytest.raises(UserError, match=r"tokens\.json: cannot be used"):
        load_tokens(path, manifest)


def test_a_tar_of_another_build_is_refused(tmp_path):
    path = str(tmp_path)
    manifest = corpus_builder.build(path, ("text",))
    tar = f"{path}/{manifest.shards[0].path}"
    storage.write_bytes(tar, storage.read_bytes(tar) + bytes(512))
    with pytest.raises(UserError, match="from another build"):
        run_tokenize(path, None, Runner(), train_bpe=NUM_TOKENS)


def test_what_is_no_tokenizer_is_refused(corpus, tmp_path):
    with pytest.raises(UserError, match="not a tokenizer: give"):
        load_encoder(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="cannot be used: not a tokenizer"):
        load_encoder(str(tmp_path))
    with pytest.raises(UserError, match="either --tokenizer or --train-bpe"):
        run_tokenize(corpus, None, Runner())
    with pytest.raises(UserError, match="has at least 259"):
        train_bpe(iter(()), 100)


def test_training_is_deterministic():
    texts = [
        f"the {a} {b} on the {c}" for a in ["red", "green", "blue"] for b in ["cat", "dog"] for c in ["mat", "bed"]
    ]
    assert train_bpe(iter(texts), 320) == train_bpe(iter(texts), 320)
