"""With little memory a build takes more parts, passes and reads, and its shards are the same to the byte."""

import json
from pathlib import Path

import pytest

from pipelines import candidate_parts, shard
from pipelines.extract import run_extract
from pipelines.fetch import run_fetch
from pipelines.filter import run_filter
from pipelines.layout import candidates_folder
from pipelines.media import raw_store
from pipelines.parts import read_rows
from pipelines.running import shuffle
from pipelines.running.runner import Runner
from pipelines.spec import CorpusSpec
from tests.mini_web import paragraph


def listed(path: Path, num_rows: int) -> CorpusSpec:
    """Return the spec of a list of texts, of which every fifth is the one before it."""
    texts = ["\n\n".join(paragraph(f"text {n - (n % 5 == 4)} {i}") for i in range(5)) for n in range(num_rows)]
    path.write_text("".join(json.dumps({"id": str(n), "text": text}) + "\n" for n, text in enumerate(texts)))
    sharding = {"max_samples": 7}
    texts_source = {"kind": "text", "input": {"format": "jsonl_text", "files": [str(path)]}, "sharding": sharding}
    policy = {"user_agent": "Dromaius (mail@example.org)"}
    tree = {"name": "test", "version": "1.0.0", "policy": policy, "sources": {"texts": texts_source}}
    return CorpusSpec.model_validate(tree)


def keys(out: str) -> list[list[str]]:
    folder = candidates_folder(out)
    return [[row["key"] for row in read_rows(folder.file(part, ".parquet"))] for part in folder.names()]


def test_a_long_list_becomes_several_parts_and_a_shorter_one_leaves_none(tmp_path: Path, monkeypatch):
    given, out = listed(tmp_path / "texts.jsonl", 10), str(tmp_path / "out")
    run_extract(given, out, Runner())
    (whole,) = keys(out)
    monkeypatch.setattr(candidate_parts, "MAX_ROWS", 4)
    again = str(tmp_path / "again")
    run_extract(given, again, Runner())
    assert candidates_folder(again).names() == ["texts-00000", "texts-00000-0001", "texts-00000-0002"]
    assert [len(part) for part in keys(again)] == [4, 4, 2]
    assert sorted(key for part in keys(again) for key in part) == whole
    run_extract(listed(tmp_path / "texts.jsonl", 3), again, Runner())
    assert [len(part) for part in keys(again)] == [3]


@pytest.mark.nightly
@pytest.mark.slow
def test_shards_are_the_same_however_little_memory_there_is(tmp_path: Path, monkeypatch):
    given = listed(tmp_path / "texts.jsonl", 60)
    found = []
    for name in ("much", "little"):
        if name == "little":
            monkeypatch.setattr(candidate_parts, "MAX_BYTES", 4_000)
            monkeypatch.setattr(shuffle, "default_memory_bytes", lambda num_workers: 500)
            monkeypatch.setattr(shuffle, "_ROWS_PER_FLUSH", 10)
            monkeypatch.setattr(raw_store, "READ_BYTES", 3_000)
        out = str(tmp_path / name)
        run_extract(given, out, Runner())
        run_fetch(given, out, Runner())
        run_filter(given, out, Runner())
        found.append((run_shard_of(given, out), len(candidates_folder(out).names())))
    (shards, num_parts), (others, num_others) = found
    assert shards == others
    assert sum(samples for _, _, samples in shards) == 48
    assert len(shards) >= 7
    assert num_parts == 1 < num_others


def run_shard_of(given: CorpusSpec, out: str) -> list[tuple[str, str, int]]:
    return [(s.path, s.sha256, s.samples) for s in shard.run_shard(given, out, Runner()).shards]
