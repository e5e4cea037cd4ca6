"""Tests of updated code: a stage with a raised version is repeated, with the stages that depend on it and no others."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pipelines import (
    crawl_inputs,
    extract_inputs,
    fetch_inputs,
    filter_inputs,
    part_candidates,
    part_documents,
    shard,
    shard_inputs,
)
from pipelines.crawling import accounts
from pipelines.decisions import measuring, splits
from pipelines.images import normalise
from pipelines.shards.manifest import load_manifest, verify
from tests.corpus_command import Web, build_here, copy_raw_store, published, served, spec_tree, times, write_spec
from tests.mini_web import EAST, NORTH

pytestmark = pytest.mark.slow

FOLDERS = {
    "crawl": "work/warc",
    "extract": "work/candidates",
    "media": "work/raw/media",
    "fetch": "work/raw/documents",
    "features": "work/features",
    "filter": "work/decisions/samples",
    "shard": "work/decisions/shards",
}


class Built(NamedTuple):
    """A finished build, its spec, and the web that it was built from."""

    web: Web
    spec: Path
    out: Path

    def copy(self, to: Path) -> Path:
        shutil.copytree(self.out, to)
        return to


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    folder = tmp_path_factory.mktemp("build")
    with served(folder / "web") as web:
        tree = spec_tree(web.port)
        hosts = [f"{address}:{web.port}" for address in (NORTH, EAST)]
        tree["crawls"]["web"] |= {"hosts": hosts, "max_pages_per_host": 6, "sitemaps": False}
        tree["sources"] = {name: tree["sources"][name] for name in ("stories", "texts")}
        tree["sources"]["texts"]["allow_empty"] = True  # its pages lie behind more than these
        tree["sources"]["texts"]["sharding"] = {"max_samples": 2}
        spec = write_spec(folder / "spec.yaml", tree)
        build_here(spec, folder / "out")
        yield Built(web, spec, folder / "out")


def redone(out: Path, before: dict[str, int]) -> set[str]:
    """Return the stages of which a file has been written since then; `manifest` for `manifest.json` itself."""
    changed = [name for name, at in times(out).items() if before.get(name) != at]
    stages = {stage for stage, folder in FOLDERS.items() for name in changed if name.startswith(f"{folder}/")}
    if any(name.endswith(".tar") for name in changed):
        stages.add("tars")
    return stages | {"manifest" for name in changed if name == "manifest.json"}


def change_result(patch: pytest.MonkeyPatch, module: Any, name: str, change: Callable[[Any], Any]) -> None:
    """Make a function of a stage return something else, as an update of its code would."""
    original = getattr(module, name)
    patch.setattr(module, name, lambda *args, **more: change(original(*args, **more)))


def raise_version(patch: pytest.MonkeyPatch, module: Any, name: str = "VERSION") -> None:
    patch.setattr(module, name, getattr(module, name) + 1)


class Update(NamedTuple):
    """A change of the code: the stage with a raised version, the changed function, and the stages to be repeated."""

    version: tuple[Any, str]  # module and name
    function: tuple[Any, str]
    change: Callable[[Any], Any]
    redone: set[str]


UPDATES = {
    "crawl": Update(
        (crawl_inputs, "VERSION"),
        (accounts, "scope_reason"),
        lambda reason: reason and f"renamed_{reason}",
        {"crawl", "manifest"},
    ),
    "extract": Update(
        (extract_inputs, "VERSION"),
        (part_candidates, "judge_text"),
        lambda judged: replace(judged, lang="xx") if hasattr(judged, "lang") else judged,
        {"extract", "fetch", "features", "filter", "shard", "tars", "manifest"},
    ),
    "fetch": Update(
        (fetch_inputs, "VERSION"),
        (part_documents, "complete"),
        lambda result: replace(result, document=result.document and replace(result.document, lang="xx")),
        {"fetch", "features", "filter", "shard", "tars", "manifest"},
    ),
    "features": Update(
        (normalise, "FEATURES_VERSION"),
        (measuring, "features"),
        lambda found: replace(found, blur=1.0),
        {"features", "filter"},  # and no decision changes because of it
    ),
    "filter": Update(
        (filter_inputs, "VERSION"), (splits, "choose_split"), lambda _: "test", {"filter", "shard", "tars", "manifest"}
    ),
    "shard": Update(
        (shard_inputs, "VERSION"), (shard, "finish_document"), lambda parts: parts, {"shard", "tars", "manifest"}
    ),
    "manifest": Update(
        (shard_inputs, "MANIFEST_VERSION"), (shard, "collect_stats"), lambda stats: stats | {"new": 1}, {"manifest"}
    ),
}


@pytest.mark.parametrize(
    "stage",
    [
        pytest.param(
            stage, marks=pytest.mark.nightly if stage in ("crawl", "extract", "fetch", "features", "manifest") else ()
        )
        for stage in UPDATES
    ],
)
def test_a_raised_version_redoes_its_stage_and_what_depends_on_it(
    stage: str, built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    update = UPDATES[stage]
    out = built.copy(tmp_path / "out")
    asked, before = built.web.requests(), times(out)
    change_result(monkeypatch, *update.function, update.change)
    build_here(built.spec, out)
    assert redone(out, before) == set()  # the reason for versions: without a new one, the old code's results stay
    raise_version(monkeypatch, *update.version)
    build_here(built.spec, out)
    assert redone(out, before) == update.redone
    assert built.web.requests() == asked
    assert verify(str(out), hashes=True) == []
    again = times(out)
    build_here(built.spec, out)
    assert redone(out, again) == set()
    if stage in ("crawl", "extract", "filter"):  # the result is right, not only new
        fresh = copy_raw_store(built.out, tmp_path / "fresh")
        build_here(built.spec, fresh)
        assert published(out) == published(fresh)


def test_what_a_stage_gives_again_redoes_nothing_after_it(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out = built.copy(tmp_path / "out")
    before = times(out)
    raise_version(monkeypatch, extract_inputs)
    build_here(built.spec, out)
    assert redone(out, before) == {"extract"}


@pytest.mark.nightly
def test_no_version_makes_anybody_be_asked_again(built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out = built.copy(tmp_path / "out")
    asked, before = built.web.requests(), times(out)
    for update in UPDATES.values():
        raise_version(monkeypatch, *update.version)
    build_here(built.spec, out)
    assert built.web.requests() == asked
    assert redone(out, before) == {*FOLDERS, "tars", "manifest"} - {"media"}
    accounts = [name for name, at in times(out).items() if name.startswith("work/warc/") and before.get(name) != at]
    assert {name.split("/")[3] for name in accounts} == {"account", "stage.json"}
    assert published(out) == published(built.out)


@pytest.mark.nightly
def test_who_deletes_what_was_fetched_has_it_asked_for_again(built: Built, tmp_path: Path):
    out = built.copy(tmp_path / "out")
    num = len(built.web.requests())
    shutil.rmtree(out / "work" / "raw")
    build_here(built.spec, out)
    new = built.web.requests()[num:]
    assert any("/img/" in path for path in new)
    assert not any("/story/" in path for path in new)
    assert load_manifest(str(out)).funnel == load_manifest(str(built.out)).funnel
    num = len(built.web.requests())
    shutil.rmtree(out / "work" / "warc")
    build_here(built.spec, out, command="crawl")
    new = built.web.requests()[num:]
    assert any("/story/" in path for path in new)
    assert not any("/img/" in path for path in new)
