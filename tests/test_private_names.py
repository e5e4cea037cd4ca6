"""What other libraries keep to themselves is used in few places, each of which has tests of what it relies on.

A release may change such names without a word. They stand in modules named `<library>_internals.py`, beside which
`tests/` has a module that says what breaks; everything else goes by public names.
"""

import ast
import functools
import importlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.sources import PACKAGES, ROOT, modules

INTERNAL_MODULES = (
    "apache_beam.internal",
    "apache_beam.runners.portability.fn_api_runner",
    "apache_beam.runners.worker",
    "apache_beam.transforms.environments",
)
"""Without an underscore, but documented as internal or as experimental."""

PUBLIC = {"os._exit", "_make", "_replace"}
"""With an underscore, but documented."""

ELSEWHERE = {  # outside the modules of internals
    "pipelines/running/forkserver.py": {"multiprocessing.forkserver._forkserver", "_forkserver_pid", "_stop"},
    "tools/bench/training.py": {"_train", "_after"},  # ours: trainer.loop.Training
}
OVERRIDDEN = {  # private names that a library asks subclasses to define, by the class that does
    "model.hub.modeling_dromaius.DromaiusForCausalLM": {"_supports_sdpa", "_init_weights"},  # tests/model/test_hub.py
    "pipelines.video.download._PoliteRH": {  # tests/pipelines/video/test_download.py
        "_send",
        "_check_extensions",
        "_SUPPORTED_URL_SCHEMES",
        "_SUPPORTED_PROXY_SCHEMES",
        "_SUPPORTED_FEATURES",
    },
}


def is_private(name: str) -> bool:
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__"))


def defined(tree: ast.AST) -> Iterator[str]:
    """All names that a file gives to something, be it in a module, in a class or to its own objects."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and is_own(node.value):
            yield node.attr


def is_own(value: ast.expr) -> bool:
    return ast.unparse(value) in ("self", "cls", "super()")


@functools.cache
def inheritable(module: str) -> frozenset[str]:
    """What is defined in a module of ours, and in those of ours that it imports from."""
    path = ROOT / f"{module.replace('.', '/')}.py"
    if module.split(".")[0] not in PACKAGES or not path.exists():
        return frozenset()
    tree = ast.parse(path.read_text())
    return frozenset(defined(tree)).union(*map(inheritable, sources(tree)))


def sources(tree: ast.AST) -> set[str]:
    return {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}


def imported(tree: ast.AST) -> dict[str, str]:
    """What a file imports from elsewhere: full names, by the names it uses for them."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.split(".")[0]
                found[alias.asname or top] = alias.name if alias.asname else top
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return {name: full for name, full in found.items() if full.split(".")[0] not in (*PACKAGES, "__future__")}


def private_uses(source: str) -> set[str]:
    """Private names that a file uses without defining them: of objects, and of what it imports or inherits."""
    tree = ast.parse(source)
    names, own = imported(tree), set(defined(tree))
    inherited = own.union(*map(inheritable, sources(tree)))
    plain = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    found = {
        name
        for name in plain | set(names.values())
        if any(map(is_private, name.split("."))) or name.startswith(INTERNAL_MODULES)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            first, *rest = ast.unparse(node).split(".")
            if first in names:
                found.add(".".join([names[first], *rest]))
            elif node.attr not in (inherited if is_own(node.value) else own):
                found.add(node.attr)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr", "hasattr", "delattr"):
            name = node.args[1]
            if isinstance(name, ast.Constant) and is_private(name.value):
                found.add(name.value)
    return found - PUBLIC


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import torch\ntorch._dynamo.reset()", {"torch._dynamo"}),
        ("import torch._inductor.config", {"torch._inductor.config"}),
        ("import torch as t\nt.nn._reduction", {"torch.nn._reduction"}),
        ("from torch._C import Node", {"torch._C.Node"}),
        ("from torch.nn import _reduction as r\nr.get_enum", {"torch.nn._reduction"}),
        ("from apache_beam.runners.worker import sdk_worker", {"apache_beam.runners.worker.sdk_worker"}),
        ("def f(model):\n    return model.block._hidden_of_theirs", {"_hidden_of_theirs"}),
        ("class A(B):\n    def f(self):\n        return self._hidden_of_theirs", {"_hidden_of_theirs"}),
        ("def f(x):\n    return getattr(x, '_hidden_of_theirs', None)", {"_hidden_of_theirs"}),
        ("import os\nos._exit(1)", set()),
        ("from torch.nn import __version__\nx.__dict__", set()),
        ("from model.image_decoder import _buffer_name", set()),
    ],
)
def test_private_names_are_seen(source: str, found: set[str]) -> None:
    assert private_uses(source) == found


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_others_private_names_stand_in_modules_of_internals(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    if not path.stem.endswith("_internals"):
        assert private_uses(path.read_text()) <= ELSEWHERE.get(name, set())


def test_exceptions_are_needed() -> None:
    for name, allowed in ELSEWHERE.items():
        assert private_uses((ROOT / name).read_text()) == allowed, name


@pytest.mark.parametrize("path", [p for p in modules() if p.stem.endswith("_internals")], ids=lambda p: p.name)
def test_a_module_of_internals_has_tests(path: Path) -> None:
    inside = path.relative_to(ROOT).parent
    assert (ROOT / "tests" / inside / f"test_{path.name}").exists()


def classes() -> Iterator[type[Any]]:
    """All classes of ours, by importing all modules."""
    for path in modules():
        if path.stem not in ("__main__", "lmms_eval_model"):  # the latter is imported by lmms-eval, where that is
            module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
            yield from (c for _, c in inspect.getmembers(module, inspect.isclass) if c.__module__ == module.__name__)


@pytest.mark.slow
def test_no_class_redefines_what_its_base_keeps_to_itself() -> None:
    """Unless a library asks for it: a name of ours that a base uses as well would change what it does."""
    found: dict[str, set[str]] = {}
    for ours in classes():
        theirs = [
            base for base in ours.__mro__ if base.__module__.split(".")[0] not in {*PACKAGES, *sys.stdlib_module_names}
        ]
        private = {name for base in theirs for name in vars(base) if is_private(name)}
        if redefined := {name for name in vars(ours) if name in private and not name.startswith("_abc")}:
            found[f"{ours.__module__}.{ours.__qualname__}"] = redefined
    assert found == OVERRIDDEN
