"""A takedown of a corpus made of lists: later builds work, and what was added by a crawl or list stays out too."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.funnel import check_funnel
from pipelines.shards.manifest import load_manifest, samples_per_source, verify
from tests.corpus_command import Web, build_here, served, spec_tree, write_spec
from tests.pipelines.test_append import samples, text, write_list
from tests.tools.takedown.test_taken_out_of_a_build import takedown

pytestmark = pytest.mark.slow

LENGTH = 40
SHARED = 7
"""Number of the text that both sources have."""


def tree(folder: Path) -> dict[str, Any]:
    """Return a spec of two lists with one text in common."""

    def source(name: str) -> dict[str, Any]:
        return {
            "kind": "text",
            "input": {"format": "jsonl_text", "files": [str(folder / f"{name}.jsonl")]},
            "filters": {"text": {"min_words": 20}},
            "sharding": {"max_samples": 16},
        }

    return {
        "name": "lists",
        "version": "1.0.0",
        "split": {"val": 0.2, "test": 0.1},
        "sources": {"first": source("first"), "second": source("second")},
    }


def build(folder: Path, spec: dict[str, Any], out: Path) -> None:
    build_here(write_spec(folder / "spec.yaml", spec), out)
    manifest = load_manifest(str(out))
    assert check_funnel(manifest.funnel, samples_per_source(manifest.shards)) == []
    assert verify(str(out), hashes=True) == []


def texts(out: Path) -> list[str]:
    return [found for _, found in samples(out).values()]


def key_of(out: Path, wanted: str) -> str:
    return next(key for key, (_, found) in samples(out).items() if found == wanted)


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lists")
    write_list(folder, "first", [text(n) for n in range(LENGTH)])
    write_list(folder, "second", [text(SHARED), *(text(n) for n in range(100, 100 + LENGTH))])
    build(folder, tree(folder), folder / "out")
    return folder


CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "split": lambda spec: spec["split"].update(val=0.3),
    "filter": lambda spec: spec["sources"]["first"]["filters"].update(duplicates={"min_jaccard": 0.95}),
    "extract": lambda spec: spec["sources"]["first"]["filters"]["text"].update(min_words=21),
}


@pytest.mark.parametrize(
    "change", [pytest.param(name, marks=() if name == "extract" else pytest.mark.nightly) for name in CHANGES]
)
def test_a_later_build_leaves_it_out(lists: Path, tmp_path: Path, change: str):
    out = shutil.copytree(lists / "out", tmp_path / "out")
    takedown(out, "--key", key_of(out, text(3)))
    spec = tree(lists)
    CHANGES[change](spec)
    build(tmp_path, spec, out)
    assert text(3) not in texts(out)
    assert set(texts(out)) >= {text(n) for n in range(LENGTH) if n not in (3, SHARED)}


def test_equal_texts_of_other_sources_go_too(lists: Path, tmp_path: Path):
    out = shutil.copytree(lists / "out", tmp_path / "out")
    assert texts(out).count(text(SHARED)) == 2
    printed = takedown(out, "--key", key_of(out, text(SHARED)))
    assert [line.split()[-1] for line in printed.splitlines() if line.split()[:1] in (["first"], ["second"])][2:] == [
        "key",
        "text",
    ]
    assert text(SHARED) not in texts(out)
    assert verify(str(out), hashes=True) == []
    before = sorted(texts(out))
    for changes in (
        {"split": {"val": 0.3, "test": 0.1}},
        {"split": {"val": 0.3, "test": 0.1}, "shard": {"order": "append"}},
    ):
        spec = tree(lists) | changes
        if "shard" in changes:
            write_list(tmp_path, "more", [text(SHARED), text(500)])
            spec["sources"]["second"]["input"]["files"].append(str(tmp_path / "more.jsonl"))
            before = sorted([*before, text(500)])
        build(tmp_path, spec, out)
        assert sorted(texts(out)) == before


@pytest.mark.nightly
def test_a_source_of_which_all_was_taken(lists: Path, tmp_path: Path):
    out = shutil.copytree(lists / "out", tmp_path / "out")
    spec = tree(lists)
    keys = [key for key, (_, found) in samples(out).items() if found in {text(n) for n in range(LENGTH)}]
    takedown(out, *(argument for key in keys for argument in ("--key", key)))
    build(tmp_path, spec, out)
    shutil.rmtree(out / "work")
    build(tmp_path, spec, out)
    assert not set(texts(out)) & {text(n) for n in range(LENGTH)}


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with served(tmp_path_factory.mktemp("web")) as found:
        yield found


@pytest.mark.nightly
def test_more_of_a_crawl_is_added_after_a_takedown(web: Web, tmp_path: Path):
    spec = spec_tree(web.port) | {"shard": {"order": "append"}}
    spec["sources"] = {"texts": spec["sources"]["texts"]}
    spec["crawls"]["web"]["max_depth"] = 1
    build(tmp_path, spec, tmp_path / "out")
    before = samples(tmp_path / "out")
    taken = min(before)
    takedown(tmp_path / "out", "--key", taken)
    spec["crawls"]["web"]["max_depth"] = 5
    build(tmp_path, spec, tmp_path / "out")
    after = samples(tmp_path / "out")
    assert set(before) - {taken} < set(after)
    assert taken not in after
    assert before[taken][1] not in texts(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "additions.jsonl").read_text().splitlines()[-1])
