"""The project's own source files, as syntax trees."""

import ast
import functools
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("model", "pipelines", "tools", "trainer")


@functools.cache
def modules() -> tuple[Path, ...]:
    """Return all files of the packages, sorted."""
    return tuple(sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")))


@functools.cache
def tree(path: Path) -> ast.Module:
    """Return the syntax tree of a file, which is parsed once per process."""
    return ast.parse(path.read_text())


@functools.cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """Return all nodes of a file."""
    return tuple(ast.walk(tree(path)))
