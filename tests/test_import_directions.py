"""Who may import whom: the drawing in docs/architecture.md, held."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("model", "pipelines", "tools", "trainer")
STAGES = {
    "runner",
    "forkserver_preload",
    "local_workers",
    "crawl",
    "extract",
    "fetch",
    "filter",
    "shard",
    "tokenize",
    "corpus",
    "__main__",
}
BEAM_MODULES = STAGES | {"duplicates", "find_duplicates", "host_buckets", "warc_ledger"}
VOCABULARY = {"errors", "document", "candidate", "settings", "storage"}
MAY_IMPORT = {
    "model": {"model"},
    "pipelines": {"pipelines"},
    "trainer": {"trainer", "model", "pipelines"},
    "tools": {"tools", "trainer", "model", "pipelines"},
}


def modules() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def imports(path: Path, *, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text())
    found = set()
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def ours(path: Path) -> set[str]:
    return {name for name in imports(path) if name.split(".")[0] in PACKAGES}


def pipeline_modules(path: Path) -> set[str]:
    """Names of the modules of `pipelines` that a file imports, and of the folders they are in."""
    return {part for name in ours(path) if name.startswith("pipelines.") for part in name.split(".")[1:3]}


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_packages_import_downwards_only(path: Path):
    package = path.relative_to(ROOT).parts[0]
    assert {name.split(".")[0] for name in ours(path)} <= MAY_IMPORT[package]
    if package in ("trainer", "tools"):
        assert not pipeline_modules(path) & STAGES, "tools and trainer take parts, never stages"


@pytest.mark.parametrize("path", sorted((ROOT / "pipelines").rglob("*.py")), ids=lambda p: p.name)
def test_beam_stays_at_the_rim_of_pipelines(path: Path):
    names = {name.split(".")[0] for name in imports(path)}
    if path.stem not in BEAM_MODULES:
        assert "apache_beam" not in names
        assert not pipeline_modules(path) & STAGES, "parts do not import stages"
    if path.stem in VOCABULARY:
        assert {name.split(".")[1] for name in ours(path)} <= VOCABULARY
    top = {name.split(".")[0] for name in imports(path, top_level_only=True)}
    assert "torch" not in top, "a crawl worker needs no torch"
    assert "torch" not in names or path.stem == "text_match"


def test_there_is_no_circle():
    graph = {}
    for path in modules():
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        graph[name] = ours(path)
    known = set(graph)

    def resolve(name: str) -> str | None:
        while name and name not in known:
            name = name.rpartition(".")[0]
        return name or None

    edges = {name: {r for r in map(resolve, found) if r and r != name} for name, found in graph.items()}
    for name in list(edges):  # a package's __init__ is its map; importing a module of it is no circle
        edges[name] = {r for r in edges[name] if not name.startswith(f"{r}.")}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"a circle of imports: {' -> '.join((*trail, name))}"
        if name not in done:
            for other in sorted(edges[name]):
                visit(other, (*trail, name))
            done.add(name)

    for name in sorted(edges):
        visit(name, ())


def test_the_top_level_is_as_fixed():
    fixed = {"pipelines", "corpus_specs", "trainer", "model", "tools", "tests", "docs", "requirements"}
    folders = {p.name for p in ROOT.iterdir() if p.is_dir() and not p.name.startswith(".") and p.name != "build"}
    assert folders - {"dromaius.egg-info", "__pycache__"} <= fixed
