"""Tests of `diff`: each difference is planted in a copy of a small corpus, and exactly it is seen."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest
import yaml
from click.testing import CliRunner

from pipelines.document import Score, Signal, Split
from pipelines.errors import UserError
from pipelines.funnel import FunnelRow
from pipelines.shards.manifest import InputFile, Manifest, load_manifest, sort_shards, write_manifest
from pipelines.shards.writer import SampleParts, finish_document
from tests.pipelines.corpus_builder import image, sample, write_shard
from tools.__main__ import commands

SPEC = {
    "name": "tiny",
    "filters": {"min_words": 3, "languages": ["en", "de"]},
    "crawls": [{"seeds": ["http://a.test/"]}],
}
TEXTS, PAIRS = [sample("text", n) for n in range(8)], [sample("pair", n) for n in range(8)]
EMPTY = ("shards", "settings", "versions", "inputs", "drops", "added", "removed", "changed")


def write(folder: Path, samples: dict[tuple[str, Split], list[SampleParts]], **changes: Any) -> str:
    """Write a corpus of texts and pairs; returns its folder."""
    kinds = {"texts": "text", "pairs": "pair"}
    shards = [write_shard(str(folder), kinds[s], split, 0, held) for (s, split), held in samples.items() if held]  # type: ignore[arg-type]
    funnel = []
    for source in kinds:
        num = sum(shard.samples for shard in shards if shard.source == source)
        funnel += [
            FunnelRow(source, "extract", "document", num + 5, num, {"too_few_words": 3, "wrong_language": 2}),
            FunnelRow(source, "shard", "sample", num, num, {}),
        ]
    given = {
        "name": "tiny",
        "version": "1",
        "spec_sha256": "0" * 64,
        "funnel": tuple(funnel),
        "tools": {"dromaius": "1"},
    }
    manifest = Manifest(shards=sort_shards(shards, list(kinds)), source_names=tuple(kinds), **given | changes)
    (folder / "spec.resolved.yaml").write_text(yaml.safe_dump(SPEC))
    write_manifest(str(folder), manifest)
    return str(folder)


def held(
    texts: list[SampleParts] = TEXTS, pairs: list[SampleParts] = PAIRS
) -> dict[tuple[str, Split], list[SampleParts]]:
    return {("texts", "train"): texts[:6], ("texts", "val"): texts[6:], ("pairs", "train"): pairs}


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write(tmp_path_factory.mktemp("old"), held())


def diff(old: str, new: str, tmp_path: Path, code: int) -> tuple[dict[str, Any], str]:
    """Run the command; return its JSON and what it printed."""
    done = CliRunner().invoke(commands, ["diff", old, new, "--json", str(tmp_path / "d.json")], standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    assert done.return_value == code
    return json.loads((tmp_path / "d.json").read_text()), done.stdout


def found(old: str, new: str, tmp_path: Path) -> dict[str, Any]:
    """Return the lists of differences that are not empty."""
    return {name: rows for name, rows in diff(old, new, tmp_path, 1)[0].items() if name in EMPTY and rows}


def changed(item: SampleParts, **changes: Any) -> SampleParts:
    """Return a sample with other values in its document, packed again."""
    blobs = [blob for part, blob in item.parts if part not in ("json", "txt")]
    return finish_document(replace(item.document, **changes, extras={}), blobs)


def test_equal_corpora_are_equal(old, tmp_path):
    shutil.copytree(old, tmp_path / "copy")
    record, printed = diff(old, str(tmp_path / "copy"), tmp_path, 0)
    assert record["schema"] == "dromaius-diff/1"
    assert record["equal"]
    assert not any(record[name] for name in EMPTY)
    assert {row["psi"] for row in record["distributions"]} == {0}
    assert printed.startswith("equal: ")


def test_other_software_with_equal_results_is_no_difference(old, tmp_path):
    new = write(tmp_path / "new", held(), tools={"dromaius": "2"})
    record, printed = diff(old, new, tmp_path, 0)
    assert record["software"] == [{"name": "dromaius", "old": "1", "new": "2"}]
    assert "software that made them" in printed


def test_added_and_removed_samples_are_listed_and_nothing_else(old, tmp_path):
    new = write(tmp_path / "new", held(texts=[*TEXTS[1:7], sample("text", 20), TEXTS[7]]))
    record, printed = diff(old, new, tmp_path, 1)
    moved = {"source": "texts", "split": "train", "key": TEXTS[6].key, "aspects": ["place"]}
    assert record["changed"] == [moved]
    assert record["added"] == [{"source": "texts", "split": "val", "key": sample("text", 20).key}]
    assert record["removed"] == [{"source": "texts", "split": "train", "key": TEXTS[0].key}]
    assert [s["name"] for s in record["shards"]] == ["texts/train/texts-000000.tar", "texts/val/texts-000000.tar"]
    rows = {(row["source"], row["split"]): row for row in record["samples"]}
    assert {name: rows["texts", "val"][name] for name in ("old", "new", "added", "removed", "changed")} == {
        "old": 2,
        "new": 2,
        "added": 1,
        "removed": 0,
        "changed": 0,
    }
    assert rows["pairs", "train"]["changed"] == 0
    assert "different: " in printed.splitlines()[-1]


LICENSE = "https://creativecommons.org/licenses/by/4.0/"


@pytest.mark.parametrize(
    ("aspect", "change"),
    [
        (
            "text",
            lambda d: {"segments": (d.segments[0], replace(d.segments[1], text=d.segments[1].text.replace("a", "o")))},
        ),
        ("text", lambda d: {"segments": (d.segments[0], replace(d.segments[1], text=d.segments[1].text + "!"))}),
        ("language", lambda d: {"lang": "de"}),
        ("rights", lambda d: {"source": replace(d.source, license=LICENSE)}),
        ("rights", lambda d: {"signals": (Signal("robots.txt", "page", "allow"),)}),
        ("scores", lambda d: {"scores": (Score("clip", "media:0", 0.5, "m"),)}),
        ("origin", lambda d: {"source": replace(d.source, page_url="https://other.example.org/")}),
        ("origin", lambda d: {"media": (replace(d.media[0], url="https://other.example.org/a.jpg"),)}),
    ],
)
def test_a_change_is_seen_in_what_it_is_of(old, tmp_path, aspect: str, change: Callable[[Any], dict[str, Any]]):
    item = PAIRS[3]
    new = write(tmp_path / "new", held(pairs=[*PAIRS[:3], changed(item, **change(item.document)), *PAIRS[4:]]))
    where = {"source": "pairs", "split": "train", "key": item.key}
    assert found(old, new, tmp_path)["changed"] == [where | {"aspects": [aspect]}]


def test_other_bytes_of_an_image_are_seen(old, tmp_path):
    document = PAIRS[3].document
    media = replace(document.media[0], stored_sha256=None, part=None)
    other = finish_document(replace(document, media=(media,), extras={}), [image(77)])
    new = write(tmp_path / "new", held(pairs=[*PAIRS[:3], other, *PAIRS[4:]]))
    assert [row["aspects"] for row in found(old, new, tmp_path)["changed"]] == [["images"]]


def test_samples_that_are_only_built_anew_have_not_changed(old, tmp_path):
    again = [changed(item, build=replace(item.document.build, config_sha256="1" * 64)) for item in PAIRS]
    record, _ = diff(old, write(tmp_path / "new", held(pairs=again)), tmp_path, 1)
    assert (record["changed"], record["added"], record["removed"]) == ([], [], [])
    assert {row["source"]: row["build"] for row in record["samples"] if row["split"] == "train"} == {
        "pairs": 8,
        "texts": 0,
    }


def test_another_order_in_a_shard_changes_the_shard_alone(old, tmp_path):
    differences = found(old, write(tmp_path / "new", held(pairs=PAIRS[::-1])), tmp_path)
    assert differences.keys() == {"shards"}


def test_settings_versions_inputs_and_drops_are_seen(old, tmp_path):
    manifest = load_manifest(old)
    funnel = [replace(row, dropped={"too_few_words": 5}) if row.stage == "extract" else row for row in manifest.funnel]
    inputs = (InputFile("texts", "a.jsonl", 5, "2" * 64),)
    new = write(tmp_path / "new", held(), version="2", funnel=tuple(funnel), inputs=inputs)
    spec = SPEC | {
        "filters": {"min_words": 4, "languages": ["en"]},
        "crawls": [{"seeds": ["http://a.test/"], "depth": 1}],
    }
    Path(new, "spec.resolved.yaml").write_text(yaml.safe_dump(spec))
    drops = [("too_few_words", 3, 5), ("wrong_language", 2, 0)]
    assert found(old, new, tmp_path) == {
        "versions": [{"name": "version", "old": "1", "new": "2"}],
        "inputs": [{"name": "texts a.jsonl", "old": None, "new": "2" * 64}],
        "settings": [
            {"name": "filters.languages", "old": ["en", "de"], "new": ["en"]},
            {"name": "filters.min_words", "old": 3, "new": 4},
            {"name": "crawls.0.depth", "old": None, "new": 1},
        ],
        "drops": [
            {"source": source, "stage": "extract", "unit": "document", "reason": reason, "old": before, "new": after}
            for source in ("texts", "pairs")
            for reason, before, after in drops
        ],
    }


def test_a_source_that_is_gone_is_all_removed(old, tmp_path):
    record, printed = diff(old, write(tmp_path / "new", held(pairs=[])), tmp_path, 1)
    assert {row["key"] for row in record["removed"]} == {item.key for item in PAIRS}
    assert "only in one of them" in printed


def test_hostile_text_is_printed_as_text(old, tmp_path):
    new = write(tmp_path / "new", held(), version="1\x1b[2J\u202e")
    _, printed = diff(old, new, tmp_path, 1)
    assert "1\\x1b[2J\\u202e" in printed
    assert all(c.isprintable() or c == "\n" for c in printed)


@pytest.mark.slow
def test_corpora_on_another_store(old, tmp_path):
    store = fsspec.filesystem("memory")
    new = write(tmp_path / "new", held(pairs=[*PAIRS[1:7], changed(PAIRS[7], lang="de")]))
    here = diff(old, new, tmp_path, 1)[0]
    for name, folder in (("old", old), ("new", new)):
        store.put(folder, f"/compared/{name}", recursive=True)
    there = diff("memory://compared/old", "memory://compared/new", tmp_path, 1)[0]
    store.rm("/compared", recursive=True)
    assert {**here, "old": None, "new": None} == {**there, "old": None, "new": None}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("manifest.json", "missing: no finished corpus here"),
        ("pairs/train/pairs-000000.parquet", "missing"),
        ("pairs/train/pairs-000000.tar", "cannot be read where its sidecar says a sample is"),
    ],
)
def test_a_corpus_that_lacks_a_file_is_refused(old, tmp_path, path, expected):
    new = write(tmp_path / "new", held(pairs=PAIRS[::-1]))
    Path(new, path).unlink()
    with pytest.raises(UserError, match=rf"{path}: {expected}"):
        diff(old, new, tmp_path, 2)
    assert not (tmp_path / "d.json").exists()


def test_a_truncated_sidecar_is_named_even_if_the_shards_are_equal(old, tmp_path):
    new = write(tmp_path / "new", held())
    sidecar = Path(new, "texts/val/texts-000000.parquet")
    sidecar.write_bytes(sidecar.read_bytes()[:-50])
    with pytest.raises(UserError, match=r"texts/val/texts-000000.parquet: not a whole Parquet file"):
        diff(old, new, tmp_path, 2)
