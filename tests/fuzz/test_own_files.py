"""Fuzz tests of files that people or we ourselves write: specs, answers, takedown lists, sidecars, indexes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from hypothesis import assume, example, given
from hypothesis import strategies as st

from pipelines.block_list import SCHEMA as BLOCK_SCHEMA
from pipelines.block_list import BlockList, load_block_list, normal_url, sha256_of
from pipelines.document import Document
from pipelines.errors import UserError
from pipelines.layout import block_list_path
from pipelines.parts import write_table
from pipelines.settings import dump_yaml
from pipelines.shards.tar_samples import index_path, read_index, write_index
from pipelines.shards.token_sidecar import made_from, read_token_rows, write_token_sidecar
from pipelines.spec import CorpusSpec, load_spec
from tests.fuzz.mutations import IN_A_FOLDER, changed_json, in_time, mutated
from tools.card.answers import Answers, load_answers, template
from tools.takedown.requests import collect, read_list

_SPEC: dict[str, Any] = {
    "name": "fuzz",
    "version": "1.0.0",
    "policy": {"user_agent": "x (+https://x.example/)", "allow_hosts": ["127.0.0.1:80", "10.0.0.0/8"]},
    "http": {"delay_seconds": 1, "timeout_seconds": 1.5},
    "crawls": {"web": {"seeds": ["https://x.example/"], "hosts": ["x.example"], "max_depth": 3}},
    "sources": {
        "pages": {
            "kind": "text",
            "input": {"crawl": "web", "include": ["/a"]},
            "filters": {"text": {"rules": "gopher"}},
        },
        "list": {"kind": "pair", "input": {"format": "url_table", "files": ["a.csv"], "where": {"w": {"min": 1}}}},
    },
    "split": {"val": 0.1, "rules": [{"pattern": "/1$", "split": "val"}]},
}


def _refused_in_one_line(read: Any, path: Path) -> None:
    with in_time():
        try:
            read(path)
        except UserError as refused:
            text = str(refused)
        else:
            return
    assert text.startswith(str(path))


@given(changed_json([_SPEC]))
@example({**_SPEC, "sources": {"pages": {"kind": [], "input": {"crawl": "web"}}}})
@example(
    {**_SPEC, "sources": {"pages": {"kind": "text", "input": {"crawl": "web"}, "filters": {"text": {"rules": []}}}}}
)
@IN_A_FOLDER
def test_a_spec_is_read_or_refused_in_one_line(tmp_path: Path, tree: Any):
    path = tmp_path / "spec.yaml"
    path.write_text(json.dumps(tree))
    _refused_in_one_line(load_spec, path)


@given(
    mutated(
        [yaml.safe_dump(_SPEC).encode()],
        (b"&a ", b"*a", b"<<: ", b"!!python/object:x ", b"? ", b"- ", b": ", b"\t", b"{"),
    )
)
@IN_A_FOLDER
def test_text_of_a_spec_is_read_or_refused_in_one_line(tmp_path: Path, data: bytes):
    path = tmp_path / "spec.yaml"
    path.write_bytes(data)
    _refused_in_one_line(load_spec, path)


@given(st.integers(0, 99), st.floats(0, 0.5), st.sampled_from(["shuffle", "append"]), st.text(max_size=20))
@IN_A_FOLDER
def test_a_resolved_spec_is_read_as_itself(tmp_path: Path, seed: int, val: float, order: str, words: str):
    assume(words.isprintable())
    tree = {**_SPEC, "seed": seed, "split": {"val": val}, "shard": {"order": order}, "description": words}
    spec = CorpusSpec.model_validate(tree)
    path = tmp_path / "spec.resolved.yaml"
    path.write_text(dump_yaml(spec), encoding="utf-8")
    assert load_spec(path) == spec


@given(mutated([template().encode(), b"motivation: {answer: words}\n"], (b"[", b"{", b": ", b"- ", b"answer: ")))
@IN_A_FOLDER
def test_answers_are_read_or_refused_in_one_line(tmp_path: Path, data: bytes):
    path = tmp_path / "answers.yaml"
    path.write_bytes(data)
    _refused_in_one_line(lambda file: load_answers(str(file)), path)


def test_the_template_of_answers_has_none(tmp_path: Path):
    path = tmp_path / "answers.yaml"
    path.write_text(template())
    assert load_answers(str(path)) == (Answers(), False)


_REQUESTS = (
    b"url https://x.example/a # why\ndomain x.example\nprefix https://x.example/b/\n" + b"ab" * 32 + b"\n",
    "domain b\u00fccher.example\nhttps://user:pw@x.example/?token=1\nvideo youtube:abc\n# comment\n".encode(),
)


@given(mutated(_REQUESTS, (b"url ", b"domain ", b"prefix ", b"video ", b"key ", b"sha256 ", b"://", b"*")))
@IN_A_FOLDER
def test_a_list_of_takedowns_is_read_or_refused_with_its_line(tmp_path: Path, data: bytes):
    path = tmp_path / "requests.txt"
    path.write_bytes(data)
    with in_time():
        try:
            found = list(read_list(str(path)))
        except UserError as refused:
            message = str(refused)
            assert message.startswith(f"{path}:")
            return
    assert not found or collect({}, [str(path)]) == sorted(set(found))


# --- files of a corpus ----------------------------------------------------------------------------------------------

_URLS = st.from_regex(r"https?://[a-z]{1,5}\.example(:8080)?/[a-z/?=&%0-9]{0,12}", fullmatch=True)


@given(st.lists(_URLS, max_size=6, unique=True), _URLS)
@IN_A_FOLDER
def test_a_block_list_holds_what_was_taken_down_and_nothing_else(tmp_path: Path, urls: list[str], other: str):
    rows = [{"type": "url", "sha256": sha256_of(normal_url(url) or url), "length": None, "takedown": 1} for url in urls]
    write_table(block_list_path(str(tmp_path)), rows, BLOCK_SCHEMA)
    block = load_block_list(str(tmp_path))
    assert isinstance(block, BlockList)
    assert all(block.url(url) for url in urls)
    assert block.url(other) == (normal_url(other) in {normal_url(url) for url in urls})


@given(st.lists(st.integers(1, 1 << 20), min_size=1, max_size=9))
@IN_A_FOLDER
def test_a_written_index_is_read(tmp_path: Path, sizes: list[int]):
    path = str(tmp_path / "x.tar")
    offsets = [0, *(512 * int(n) for n in np.cumsum(sizes))]
    write_index(path, offsets)
    assert read_index(path).tolist() == offsets


@given(st.binary(max_size=64))
@IN_A_FOLDER
def test_a_damaged_index_is_refused_or_rises(tmp_path: Path, data: bytes):
    path = str(tmp_path / "x.tar")
    Path(index_path(path)).write_bytes(data)
    try:
        found = read_index(path)
    except UserError as refused:
        message = str(refused)
        assert "Delete and rebuild it" in message
        return
    assert (np.diff(found) > 0).all()
    assert not (found % 512).any()


def _sidecar(path: Path, texts: list[list[int]]) -> list[dict[str, Any]]:
    rows = [
        {
            "key": f"k{i}", "num_tokens": len(ids), "num_media": 0, "types": [0], "roles": ["body"], "counts": [len(ids)],
            "media": [-1], "times": [None], "ids": ids, "regions": [],
        }
        for i, ids in enumerate(texts)
    ]  # fmt: skip
    write_token_sidecar(str(path), rows, "a" * 64, "b" * 64)
    return rows


@given(st.lists(st.lists(st.integers(0, 2**31 - 1), max_size=9), max_size=5))
@IN_A_FOLDER
def test_a_written_token_sidecar_is_read(tmp_path: Path, texts: list[list[int]]):
    path = tmp_path / "x.parquet"
    rows = _sidecar(path, texts)
    assert list(read_token_rows(str(path))) == rows
    found = made_from(str(path))
    assert found is not None
    assert (found["num_rows"], found["num_tokens"]) == (str(len(rows)), str(sum(map(len, texts))))


@given(st.data())
@IN_A_FOLDER
def test_a_damaged_token_sidecar_counts_as_none(tmp_path: Path, data: st.DataObject):
    whole, path = tmp_path / "whole.parquet", tmp_path / "x.parquet"
    if not whole.exists():
        _sidecar(whole, [[1, 2, 3], []])
    path.write_bytes(data.draw(mutated([whole.read_bytes()], (b"PAR1", b"shard_sha256"))))
    with in_time():
        found = made_from(str(path))
    assert found is None or found["num_rows"].isdecimal()


_DOCUMENT = {
    "schema": "seq/1", "kind": "pair", "key": "k" * 32, "lang": "en",
    "segments": [{"type": "image", "media": 0, "role": "content"}, {"type": "text", "text": "A boat", "role": "caption"}],
    "media": [{"url": "https://x.example/a.jpg", "part": "jpg"}], "source": {"dataset": "d", "record": "1"},
    "signals": [], "scores": [], "build": {"dedup_group": "g"}, "extras": {},
}  # fmt: skip


@given(changed_json([_DOCUMENT]))
def test_a_document_is_read_as_it_was_written_or_is_a_value_error(tree: Any):
    with in_time():
        try:
            found = Document.from_json(json.dumps(tree))
        except (ValueError, KeyError, TypeError):  # what the reader of tars takes for a malformed sample
            return
        text = found.to_json()
    assert Document.from_json(text) == found or "NaN" in text
