"""Tests of `shard.order: append`: a build adds shards to those of an earlier one, which stay as they are."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipelines import storage
from pipelines.document import Document
from pipelines.funnel import check_funnel
from pipelines.shards.manifest import load_manifest, samples_per_source, verify
from pipelines.shards.tar_samples import read_samples
from pipelines.takedowns.staging import recover
from tests.corpus_command import build_here, published, times, write_spec
from tests.mini_web import paragraph
from tests.pipelines.shards.test_readers import energon_samples

LENGTH = 60  # rows of the first month


def text(number: int) -> str:
    return f"{paragraph(f'a-{number}')} {paragraph(f'b-{number}')}"


def write_list(folder: Path, month: str, texts: list[str]) -> None:
    rows = (json.dumps({"text": text, "id": f"{month}-{number}"}) + "\n" for number, text in enumerate(texts))
    (folder / f"{month}.jsonl").write_text("".join(rows))


def tree(folder: Path, *months: str, version: str = "1.0.0", **changes: Any) -> dict[str, Any]:
    source = {
        "kind": "text",
        "input": {"format": "jsonl_text", "files": [str(folder / f"{month}.jsonl") for month in months]},
        "filters": {"text": {"min_words": 20}},
        "sharding": {"max_samples": 16},
    }
    return {
        "name": "months",
        "version": version,
        "shard": {"order": "append"},
        "split": {"val": 0.2, "test": 0.1},
        "sources": {"texts": source},
    } | changes


def build(folder: Path, spec: dict[str, Any], out: Path, code: int = 0) -> None:
    build_here(write_spec(folder / "spec.yaml", spec), out, code=code)


def samples(out: Path) -> dict[str, tuple[str, str]]:
    """Return the split and text of each sample, by key."""
    return {
        sample.key: (shard.split, Document.from_json(sample.parts["json"]).text)
        for shard in load_manifest(str(out)).shards
        for sample in read_samples(str(out / shard.path))
    }


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with lists of two months, and the corpus `out` of the first one."""
    folder = tmp_path_factory.mktemp("append")
    write_list(folder, "may", [text(n) for n in range(LENGTH)])
    longer = [f"{text(n)} And this was added in June." for n in range(5)]  # nearly the same, and longer
    write_list(folder, "june", [*longer, *(text(n) for n in range(LENGTH, LENGTH + 20))])
    build(folder, tree(folder, "may"), folder / "out")
    return folder


@pytest.fixture(scope="module")
def second(first: Path) -> Path:
    """The corpus of the first month to which the second one was added."""
    out = first / "both"
    shutil.copytree(first / "out", out)
    build(first, tree(first, "may", "june"), out)
    return out


@pytest.mark.nightly
def test_the_first_build_is_that_of_a_shuffle(first: Path):
    shuffled = {name: value for name, value in tree(first, "may").items() if name != "shard"}
    build(first, shuffled, first / "shuffled")
    ours, theirs = samples(first / "out"), samples(first / "shuffled")
    assert list(ours) == list(theirs)
    assert ours == theirs
    shutil.rmtree(first / "shuffled")


def test_what_was_published_stays_and_new_shards_follow(first: Path, second: Path):
    before, after = load_manifest(str(first / "out")), load_manifest(str(second))
    kept = {shard.path: shard.sha256 for shard in before.shards}
    assert {shard.path: shard.sha256 for shard in after.shards if shard.path in kept} == kept
    added = [shard for shard in after.shards if shard.path not in kept]
    assert sum(shard.samples for shard in added) == 20
    assert {key: found for key, found in samples(second).items() if key in samples(first / "out")} == samples(
        first / "out"
    )
    assert verify(str(second), hashes=True) == []
    assert check_funnel(after.funnel, samples_per_source(after.shards)) == []
    for split in ("train", "val", "test"):
        names = [shard.path.rpartition("/")[2] for shard in after.shards_of("texts", split)]
        assert names == [f"texts-{number:06d}.tar" for number in range(len(names))]


def test_duplicates_of_older_samples_are_not_added(second: Path):
    assert not [found for _, found in samples(second).values() if "added in June" in found]
    (row,) = [row for row in load_manifest(str(second)).funnel if (row.stage, row.unit) == ("filter", "document")]
    assert row.dropped["near_duplicate_text"] == 5


@pytest.mark.nightly
@pytest.mark.slow
def test_energon_reads_it_whole(second: Path):
    read = {split: energon_samples(second / "texts", split=split) for split in ("train", "val", "test")}
    assert {sample.__key__: split for split, found in read.items() for sample in found} == {
        key: split for key, (split, _) in samples(second).items()
    }
    assert sum(map(len, read.values())) == LENGTH + 20


def test_a_version_is_added(first: Path, second: Path):
    assert load_manifest(str(first / "out")).version == "1.0.0"
    assert load_manifest(str(second)).version == "1.1.0"


def test_a_rerun_changes_nothing(first: Path, second: Path):
    before, written = published(second), times(second)
    build(first, tree(first, "may", "june"), second)
    assert published(second) == before
    assert {name: at for name, at in times(second).items() if not name.startswith("work/")} == {
        name: at for name, at in written.items() if not name.startswith("work/")
    }


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("sources", "texts", "filters", "text", "min_words"), 30, "sources.texts.filters.text.min_words is 30"),
        (("split", "val"), 0.3, "split.val is 0.3"),
        (("sources",), {"others": None}, "sources.texts: missing, but it has published samples"),
    ],
)
def test_other_settings_of_what_is_published_are_refused(
    first: Path, second: Path, path: tuple[str, ...], value: Any, message: str, capsys: pytest.CaptureFixture[str]
):
    spec = json.loads(json.dumps(tree(first, "may", "june")))
    place = spec
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value if value != {"others": None} else {"others": spec["sources"]["texts"]}
    before = published(second)
    copy = first / "refused"
    shutil.copytree(second, copy)
    from tests.corpus_command import run_here

    _, error = run_here(
        "corpus", "--spec", write_spec(first / "other.yaml", spec), "--out", copy, "--workers", "1", code=2
    )
    assert message in error
    assert published(copy) == before
    shutil.rmtree(copy)


@pytest.mark.nightly
def test_a_new_source_is_added(first: Path, second: Path, tmp_path: Path):
    out = shutil.copytree(second, tmp_path / "out")
    write_list(tmp_path, "july", [text(n) for n in range(200, 210)])
    spec = tree(first, "may", "june", version="1.5.0")
    july = json.loads(json.dumps(spec["sources"]["texts"]))
    july["input"]["files"] = [str(tmp_path / "july.jsonl")]
    build(tmp_path, spec | {"sources": spec["sources"] | {"july": july}}, out)
    manifest = load_manifest(str(out))
    assert manifest.version == "1.5.0"
    assert samples_per_source(manifest.shards) == {"texts": LENGTH + 20, "july": 10}
    assert verify(str(out), hashes=True) == []
    before = published(second)
    assert {name for name in before if name.endswith(".tar")} <= {
        name for name, digest in published(out).items() if before.get(name) == digest
    }


@pytest.mark.parametrize(
    "patched", ["pipelines.storage.move", pytest.param("pipelines.shard.write_manifest", marks=pytest.mark.nightly)]
)
def test_a_kill_in_between_leaves_the_earlier_corpus(
    first: Path, second: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patched: str
):
    class Killed(BaseException):
        pass

    moved: list[int] = []

    def move(source: str, target: str) -> None:
        moved.append(1)
        if len(moved) == 3:
            raise Killed
        real(source, target)

    def commit(*_: object) -> None:
        raise Killed

    real = storage.move
    out = shutil.copytree(first / "out", tmp_path / patched)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(patched, commit if patched.endswith("write_manifest") else move)
        build(first, tree(first, "may", "june"), out)
    if (out / "manifest.json").exists():
        assert load_manifest(str(out)) == load_manifest(str(first / "out"))
        assert verify(str(out), hashes=True) == []
    recover(str(out))
    build(first, tree(first, "may", "june"), out)
    assert published(out) == published(second)
