"""Tests of the allowed imports between modules, as drawn in `docs/architecture.md`.

Packages import only downwards; within `pipelines`, stages import parts and parts import the vocabulary. Stages exchange
files: none imports another. There is no circle of imports between modules or folders.
"""

import ast
import functools
from pathlib import Path

import pytest

from tests.sources import PACKAGES, ROOT, modules, nodes, tree

STAGES = {"crawl", "extract", "fetch", "filter", "shard", "tokenize"}
ABOVE_STAGES = {
    "corpus",
    "__main__",
    "forkserver_preload",
}  # they run the stages: all in order, by command, in a worker
RIM = STAGES | ABOVE_STAGES | {"runner", "local_workers", "beam_internals", "failures", "worker_pool"}
BEAM_MODULES = RIM | {"duplicates", "find_duplicates", "host_buckets", "record_coder", "shuffle", "index_archive"}
BEAM_MODULES |= {"find_host_boilerplate", "indexed_records", "known_urls", "rounds", "components", "find_clusters"}
AUDIT = {
    ROOT / "tools" / "audit" / "command.py": {"runner"},
    ROOT / "tools" / "audit" / "pipeline.py": {"runner"},
}
"""The audit runs as a pipeline of its own, on the same runners: it reads tars, which one machine may not be able to."""
VOCABULARY = {"errors", "document", "drop_reasons", "candidate", "settings", "storage", "parts", "layout", "funnel"}
ROOMS = {  # folders of the trainer, and what each may import of it; only `__main__` may import all
    "__init__": set(),
    "plan": {"plan"},
    "reading": {"plan", "reading"},
    "config": {"plan", "reading"},
    "engine": {"plan", "reading", "config", "engine"},
    "tasks": {"plan", "reading", "config", "engine", "tasks"},
    "loop": {"plan", "reading", "config", "engine", "tasks"},
    "evaluation": {"plan", "reading", "config", "engine", "tasks", "evaluation"},
    "benchmarks": {"engine", "reading", "evaluation", "benchmarks"},
    "launch": set(),
}
DECODER = {ROOT / "model" / "images.py": {"pipelines.images.pixels.decode_upright"}}
"""The model reads image files as corpora do, so that both see the same."""
MAY_IMPORT = {
    "model": {"model"},
    "pipelines": {"pipelines"},
    "trainer": {"trainer", "model", "pipelines"},
    "tools": {"tools", "trainer", "model", "pipelines"},
}


@functools.cache
def imports(path: Path, *, top_level_only: bool = False) -> frozenset[str]:
    found: set[str] = set()
    for node in tree(path).body if top_level_only else nodes(path):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def ours(path: Path) -> set[str]:
    return {name for name in imports(path) if name.split(".")[0] in PACKAGES}


def pipeline_modules(path: Path) -> set[str]:
    """Return the names of the modules of `pipelines` that a file imports, and of their folders."""
    return {part for name in ours(path) if name.startswith("pipelines.") for part in name.split(".")[1:3]}


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_packages_import_downwards_only(path: Path):
    package = path.relative_to(ROOT).parts[0]
    assert {name.split(".")[0] for name in ours(path) - DECODER.get(path, set())} <= MAY_IMPORT[package]
    if package in ("trainer", "tools"):
        assert pipeline_modules(path) & RIM <= AUDIT.get(path, set()), "tools and trainer take parts, never stages"


@pytest.mark.parametrize("path", sorted((ROOT / "pipelines").rglob("*.py")), ids=lambda p: p.name)
def test_beam_stays_at_the_rim_of_pipelines(path: Path):
    names = {name.split(".")[0] for name in imports(path)}
    if path.stem not in BEAM_MODULES:
        assert "apache_beam" not in names
        assert not pipeline_modules(path) & RIM, "parts do not import stages"
    if path.stem in VOCABULARY:
        assert {part for name in ours(path) for part in name.split(".")[1:2]} <= VOCABULARY
    top = {name.split(".")[0] for name in imports(path, top_level_only=True)}
    assert "torch" not in top, "a crawl worker needs no torch"
    assert "torch" not in names or path.stem == "text_match"


def test_beam_stays_in_one_module_of_the_tools():
    """Whoever answers for data on a machine of their own needs no runner; benchmarks measure the stages themselves."""
    others = [path for path in (ROOT / "tools").rglob("*.py") if path.parent.name != "bench"]
    found = [path for path in others if any(name.split(".")[0] == "apache_beam" for name in imports(path))]
    assert found == [ROOT / "tools" / "audit" / "pipeline.py"]


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_stages_meet_in_files_only(stage: str):
    others = (STAGES | ABOVE_STAGES) - {stage}
    assert not pipeline_modules(ROOT / "pipelines" / f"{stage}.py") & others


@pytest.mark.parametrize("path", sorted((ROOT / "trainer").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_trainers_rooms_keep_their_rules(path: Path):
    room = path.relative_to(ROOT).parts[1].removesuffix(".py")
    used = {name.split(".")[1] for name in ours(path) if name.startswith("trainer.")}
    if room == "__main__":
        return
    assert used <= ROOMS[room], f"{room} may import {', '.join(sorted(ROOMS[room]))}"
    if room == "plan":
        assert not {name.split(".")[0] for name in imports(path)} & {"torch", "model"}, "the plan needs no model"


def module_graph() -> dict[str, set[str]]:
    """Return the modules of this project that each module imports, by name; a package has its folder's name."""
    found = {".".join(path.relative_to(ROOT).with_suffix("").parts): ours(path) for path in modules()}
    found = {name.removesuffix(".__init__"): imported for name, imported in found.items()}

    def resolve(name: str) -> str | None:
        while name and name not in found:
            name = name.rpartition(".")[0]
        return name or None

    edges = {name: {r for r in map(resolve, imported) if r and r != name} for name, imported in found.items()}
    for name in edges:  # a package's __init__ is its map; importing one of its modules is not a circle
        edges[name] = {r for r in edges[name] if not name.startswith(f"{r}.")}
    return edges


def folder_graph(package: str) -> dict[str, set[str]]:
    """Return the folders of a package that each of its folders imports; each top-level module is a separate node."""
    names = {".".join(path.parent.relative_to(ROOT).parts) for path in modules()} - set(PACKAGES)

    def node(module: str) -> str:
        folder = module.rpartition(".")[0]
        return folder if folder in names else module

    edges: dict[str, set[str]] = {}
    for name, imported in module_graph().items():
        if name.split(".")[0] == package:
            edges.setdefault(node(name), set()).update(node(r) for r in imported if r.split(".")[0] == package)
    return {name: imported - {name} for name, imported in edges.items()}


def assert_no_circle(edges: dict[str, set[str]]) -> None:
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"a circle of imports: {' -> '.join((*trail[trail.index(name) :], name))}"
        if name not in done:
            for other in sorted(edges[name]):
                visit(other, (*trail, name))
            done.add(name)

    for name in sorted(edges):
        visit(name, ())


def test_no_circle_joins_modules():
    assert_no_circle(module_graph())


@pytest.mark.parametrize("package", PACKAGES)
def test_no_circle_joins_folders(package: str):
    assert_no_circle(folder_graph(package))


def test_the_top_level_is_as_fixed():
    fixed = {"pipelines", "corpus_specs", "trainer", "model", "tools", "tests", "docs", "requirements"}
    folders = {p.name for p in ROOT.iterdir() if p.is_dir() and not p.name.startswith(".") and p.name != "build"}
    assert folders - {"dromaius.egg-info", "__pycache__"} <= fixed
