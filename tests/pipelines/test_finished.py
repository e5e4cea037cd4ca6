"""A rerun of a finished corpus does nothing, without Beam; whatever a build depends on makes it unfinished."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines import crawl_inputs, extract_inputs, fetch_inputs, filter_inputs, shard_inputs
from pipelines.corpus import build_corpus
from pipelines.finished import finished_corpus
from pipelines.images import normalise
from pipelines.running.runner import Runner
from pipelines.spec import CorpusSpec, load_spec
from tests import ports
from tests.corpus_command import ROOT, write_spec
from tests.mini_web import paragraph

_CODE = """
import sys
from pipelines.__main__ import commands
commands(sys.argv[1:], standalone_mode=False)
print(sorted({"apache_beam", "torch", "pandas", "img2dataset"} & sys.modules.keys()))
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a spec, its list and the corpus."""
    folder = tmp_path_factory.mktemp("finished")
    texts = ["\n\n".join(paragraph(f"text {n} {i}") for i in range(5)) for n in range(6)]
    listed = folder / "texts.jsonl"
    listed.write_text("".join(json.dumps({"id": str(n), "text": text}) + "\n" for n, text in enumerate(texts)))
    tree = {
        "name": "test",
        "version": "1.0.0",
        "policy": {"user_agent": "Dromaius (mail@example.org)"},
        "sources": {"texts": {"kind": "text", "input": {"format": "jsonl_text", "files": [str(listed)]}}},
    }
    spec = load_spec(str(write_spec(folder / "spec.yaml", tree)), ())
    assert finished_corpus(spec, str(folder / "out")) is None
    build_corpus(spec, str(folder / "out"), Runner())
    return folder


def written(built: Path) -> dict[Path, int]:
    """Return when each file of the corpus was written, besides those that every command writes."""
    files = (path for path in (built / "out").rglob("*") if path.is_file() and path.name != "lock")
    return {path: path.stat().st_mtime_ns for path in files if path.parent.name != "inputs"}


def spec_of(built: Path, *overrides: str) -> CorpusSpec:
    return load_spec(str(built / "spec.yaml"), overrides)


@pytest.mark.slow
def test_a_rerun_of_a_finished_corpus_imports_no_beam(built: Path) -> None:
    before = written(built)
    command = [sys.executable, "-c", _CODE, "corpus", "--spec", built / "spec.yaml", "--out", built / "out"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    *_, summary, loaded = done.stdout.splitlines()
    assert loaded == "[]"
    assert summary.startswith(f"{built}/out: 6 samples in 1 shards")
    assert written(built) == before


def test_what_is_finished_is_what_a_build_would_leave_as_it_is(built: Path) -> None:
    spec, out = spec_of(built), str(built / "out")
    manifest = finished_corpus(spec, out)
    assert manifest is not None
    assert manifest == build_corpus(spec, out, Runner())


@pytest.mark.parametrize(
    "override",
    [
        "version=1.0.1",
        "sources.texts.filters.text.min_words=60",  # extract
        "sources.texts.filters.spoken.min_words=9",  # extract and fetch
        "sources.texts.filters.duplicates.min_jaccard=0.9",  # filter
        "split.val=0.5",
        "sources.texts.sharding.max_samples=2",  # shard
    ],
)
def test_another_setting_makes_it_unfinished(built: Path, override: str) -> None:
    assert finished_corpus(spec_of(built, override), str(built / "out")) is None


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (extract_inputs, "VERSION"),
        (fetch_inputs, "VERSION"),
        (filter_inputs, "VERSION"),
        (normalise, "FEATURES_VERSION"),
        (shard_inputs, "VERSION"),
        (shard_inputs, "MANIFEST_VERSION"),
    ],
)
def test_a_newer_version_of_a_stage_makes_it_unfinished(
    built: Path, module: object, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, name, 1000)
    assert finished_corpus(spec_of(built), str(built / "out")) is None


def _renamed(path: Path) -> Path:
    return path.with_name(f"{path.name}.gone")


@pytest.mark.parametrize(
    "find",
    [
        lambda folder: folder / "texts.jsonl",
        lambda folder: folder / "out" / "manifest.json",
        lambda folder: folder / "out" / "work" / "candidates" / "stage.json",
        lambda folder: folder / "out" / "work" / "decisions" / "samples" / "stage.json",
        lambda folder: next((folder / "out" / "texts").rglob("*.tar")),
    ],
)
def test_a_missing_file_makes_it_unfinished(built: Path, find: Callable[[Path], Path]) -> None:
    path = find(built)
    path.rename(_renamed(path))
    try:
        assert finished_corpus(spec_of(built), str(built / "out")) is None
    finally:
        _renamed(path).rename(path)
    assert finished_corpus(spec_of(built), str(built / "out")) is not None


def test_another_line_of_a_list_makes_it_unfinished(built: Path) -> None:
    listed = built / "texts.jsonl"
    before = listed.read_text()
    listed.write_text(before + before.splitlines()[0].replace('"0"', '"7"') + "\n")
    try:
        assert finished_corpus(spec_of(built), str(built / "out")) is None
    finally:
        listed.write_text(before)
    assert finished_corpus(spec_of(built), str(built / "out")) is not None


def test_a_crawl_is_finished_by_the_inputs_that_it_notes(tmp_path: Path) -> None:
    tree = {
        "name": "test",
        "version": "1.0.0",
        "policy": {"user_agent": "Dromaius (mail@example.org)"},
        "crawls": {"web": {"seeds": ["http://127.0.0.1:1/"], "hosts": ["127.0.0.1:1"]}},
        "sources": {"texts": {"kind": "text", "input": {"crawl": "web"}}},
    }
    spec, out = CorpusSpec.model_validate(tree), str(tmp_path)
    files = crawl_inputs.archive_files(spec, "web", out)
    inputs = crawl_inputs.crawl_inputs(spec, "web", files)
    assert crawl_inputs.load_progress(out, "web").finished is None
    other = spec.crawls["web"].model_copy(update={"max_pages_per_host": 3})
    changed = spec.model_copy(update={"crawls": {"web": other}})
    assert crawl_inputs.crawl_inputs(changed, "web", files) != inputs


@pytest.mark.nightly
@pytest.mark.slow
def test_a_list_that_the_spec_itself_serves_is_read_from_its_server(built: Path, tmp_path: Path) -> None:
    address = f"127.0.0.1:{ports.free_port(['127.0.0.1'])}"
    (tmp_path / "served").mkdir()
    listed = tmp_path / "served" / "texts.jsonl"
    listed.write_bytes((built / "texts.jsonl").read_bytes())
    spec = spec_of(
        built,
        f"sources.texts.input.files=[http://{address}/texts.jsonl]",
        f"serve=[{{addresses: [{address}], folder: {listed.parent}}}]",
    )
    out = str(tmp_path / "out")
    manifest = build_corpus(spec, out, Runner())
    assert finished_corpus(spec, out) == manifest
    listed.write_text(listed.read_text().replace("text 0", "text nil", 1) + "\n")
    assert finished_corpus(spec, out) is None
