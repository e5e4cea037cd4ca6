"""Tests of the table of drop reasons: it has exactly the reasons that the code writes.

`mypy` checks every place that is typed as a `Reason`; these tests also read the code as a whole.
"""

import ast
import functools
import re
from collections.abc import Iterator
from typing import get_args

import pytest

from pipelines.drop_reasons import FETCHED, GROUPS, REASONS, DeclaredReason, http_reason, meaning
from tests.sources import ROOT, modules, tree
from tools.demo_web.trap_table import TRAPS

Takers = dict[str, set[tuple[int, str]]]


def mentions_reason(annotation: ast.expr | None, names: frozenset[str]) -> bool:
    if annotation is None:
        return False
    return any(isinstance(node, ast.Name) and node.id in names for node in ast.walk(annotation))


def reason_names(code: ast.Module) -> frozenset[str]:
    """Return `Reason`, `Outcome`, and a module's own names for types that contain one."""
    names = frozenset({"Reason", "Outcome"})
    aliases = {
        target.id
        for node in code.body
        if isinstance(node, ast.Assign) and mentions_reason(node.value, names)
        for target in node.targets
        if isinstance(target, ast.Name) and isinstance(node.value, ast.Subscript)
    }
    return names | aliases


def trees() -> list[ast.Module]:
    """Return the code of `pipelines` but for the table itself."""
    return [tree(path) for path in modules() if path.is_relative_to(ROOT / "pipelines") and path.stem != "drop_reasons"]


@functools.cache
def takers() -> Takers:
    """Return place and name of the arguments that are reasons, by name of the function or class."""
    found: Takers = {}
    for code in trees():
        for node in ast.walk(code):
            if isinstance(node, ast.FunctionDef):
                add_parameters(found, node.name, node)
            elif isinstance(node, ast.ClassDef):
                fields = [statement for statement in node.body if isinstance(statement, ast.AnnAssign)]
                for i, field in enumerate(fields):
                    if mentions_reason(field.annotation, frozenset({"Reason", "Outcome"})):
                        found.setdefault(node.name, set()).add((i, ast.unparse(field.target)))
                for method in node.body:
                    if isinstance(method, ast.FunctionDef) and method.name == "__init__":
                        add_parameters(found, node.name, method)
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, set()).update(*(found.get(ast.unparse(base), set()) for base in node.bases))
    return found | {"Refusal": {(0, "reason")}}  # which is defined next to the table


def add_parameters(found: Takers, name: str, function: ast.FunctionDef) -> None:
    given = [a for a in function.args.args if a.arg != "self"]
    for i, parameter in enumerate([*given, *function.args.kwonlyargs]):
        if mentions_reason(parameter.annotation, frozenset({"Reason", "Outcome"})):
            found.setdefault(name, set()).add((i, parameter.arg))


def strings(node: ast.expr | None) -> Iterator[str]:
    """Yield the strings that an expression may be, or contain."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from strings(node.body)
        yield from strings(node.orelse)
    elif isinstance(node, ast.BoolOp | ast.Tuple | ast.List | ast.Set):
        for part in node.values if isinstance(node, ast.BoolOp) else node.elts:
            yield from strings(part)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "frozenset":
        yield from strings(node.args[0])


def first(node: ast.expr | None) -> ast.expr | None:
    """Return the reason in a function's result: all of it, or the first of several items."""
    return node.elts[0] if isinstance(node, ast.Tuple) and node.elts else node


def written_in(code: ast.Module, taking: Takers) -> Iterator[str]:
    """Yield the strings in places where a reason is expected."""
    names = reason_names(code)
    for node in ast.walk(code):
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            for place, name in taking.get(called, ()):
                yield from strings(node.args[place] if place < len(node.args) else None)
                yield from (s for k in node.keywords if k.arg == name for s in strings(k.value))
            if called == "replace":
                yield from (
                    s for k in node.keywords if k.arg in ("reason", "reasons", "outcome") for s in strings(k.value)
                )
            if called in ("append", "adding") and "reasons" in ast.unparse(node.func) + called.replace(
                "adding", "reasons"
            ):
                yield from (s for a in [*node.args, *(k.value for k in node.keywords)] for s in strings(a))
        elif isinstance(node, ast.AnnAssign) and mentions_reason(node.annotation, names):
            if isinstance(node.value, ast.Dict) and isinstance(node.annotation, ast.Subscript):
                is_key = mentions_reason(node.annotation.slice.elts[0], names)
                for part in node.value.keys if is_key else node.value.values:
                    yield from strings(part)
            else:
                yield from strings(node.value)
        elif isinstance(node, ast.AugAssign):
            target = ast.unparse(node.target)
            if target.endswith("reasons"):
                yield from strings(node.value)
        elif isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "outcome":
                    yield from strings(value)
        elif isinstance(node, ast.FunctionDef) and mentions_reason(node.returns, names):
            for inner in ast.walk(node):
                if isinstance(inner, ast.Return | ast.Yield):
                    yield from strings(first(inner.value))


@functools.cache
def written() -> frozenset[str]:
    return frozenset(reason for code in trees() for reason in written_in(code, takers())) - {FETCHED}


def test_every_reason_has_its_meaning_once():
    assert set(get_args(DeclaredReason)) == REASONS.keys() - {"http_<status>"}
    assert sum(map(len, GROUPS.values())) == len(REASONS)
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", reason) for reason in REASONS if reason != "http_<status>")
    assert all(words and not words.endswith(".") for words in REASONS.values())


def test_every_reason_that_is_written_is_declared():
    assert written() - REASONS.keys() == set()


def test_every_declared_reason_is_written():
    assert REASONS.keys() - written() == {"http_<status>"}


@pytest.mark.parametrize(
    ("code", "reasons"),
    [
        ("raise RowError('gone', 'detail')", {"gone"}),
        ("raise UnwantedRowError('gone', 'detail')", {"gone"}),
        ("origin.drop('gone' if lost else 'late', place)", {"gone", "late"}),
        ("Drop(source='s', stage='fetch', reason='gone', unit='media')", {"gone"}),
        ("row | {'outcome': 'gone'}", {"gone"}),
        ("def why(n: int) -> Reason | None:\n return 'gone' if n else None", {"gone"}),
        ("def why(n: int) -> tuple[Reason, str]:\n return 'gone', 'detail'", {"gone"}),
        ("_RULES: dict[int, Reason] = {1: 'gone'}", {"gone"}),
        ("SkippedElement('gone')", {"gone"}),
        ("self._skip('gone', reference)", {"gone"}),
        ("self._skipped_image(image, 'gone' if hidden else 'late')", {"gone", "late"}),
        ("_COUNTED: dict[str, Reason] = {'svg': 'gone'}", {"gone"}),
        ("reasons.append('gone')", {"gone"}),
    ],
)
def test_a_reason_is_found_wherever_one_is_written(code: str, reasons: set[str]):
    assert set(written_in(ast.parse(code), takers())) == reasons


def test_a_status_is_a_reason_of_its_own():
    assert http_reason(404) == "http_404"


def test_reasons_for_which_the_demo_web_is_refused_are_declared():
    reasons = {re.sub(r"^http_\d+$", "http_<status>", reason) for trap in TRAPS for reason in trap.reasons}
    assert reasons
    assert reasons <= REASONS.keys()


@pytest.mark.parametrize("reason", sorted(REASONS.keys() - {"http_<status>"}))
def test_every_declared_reason_means_what_the_table_says(reason):
    assert meaning(reason) == REASONS[reason]


@pytest.mark.parametrize(
    ("reason", "expected"), [("http_404", True), ("http_x", False), ("http_", False), ("x", False)]
)
def test_statuses_share_a_meaning_and_unknown_reasons_have_none(reason, expected):
    assert meaning(reason) == (REASONS["http_<status>"] if expected else None)
