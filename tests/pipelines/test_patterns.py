"""Tests that every regular expression which meets foreign text takes time in proportion to it.

A pattern that backtracks over itself stops a crawl: 40 digits in a file name once took for ever. So each pattern of the
packages below is timed by the methods that its module calls, on strings of a hundred thousand characters made from
the pattern itself: what it repeats, alone and alternating, behind each beginning of what it matches. Of these strings,
the three that take longest at a tenth of the length are tried at full length.
"""

import ast
import functools
import importlib
import itertools
import pkgutil
import re
import signal
import time
from collections.abc import Callable, Iterator
from operator import itemgetter
from re import _constants, _parser  # type: ignore[attr-defined]
from typing import Any, NamedTuple, TypeGuard

import pytest

import pipelines
from tests import sources

ROOMS = ("crawling", "decisions", "images", "media", "pages", "shards", "sources", "text", "video", "web")
NUM_CHARS = 100_000
MAX_SECONDS = 1.0  # of a search that needs milliseconds; a quadratic one needs minutes
METHODS = ("search", "match", "fullmatch", "sub", "subn", "findall", "finditer", "split")
BOUNDED = {  # by the text that they are given
    "pipelines.pages.html._WRITTEN": "what a parser has written, which ends every comment and script",
    "pipelines.text.assignment._WORD_BEFORE": "40 characters",
    "pipelines.web.permission._CONTACT": "the user's own setting",
}
CATEGORIES = {
    _constants.CATEGORY_DIGIT: "1",
    _constants.CATEGORY_SPACE: " ",
    _constants.CATEGORY_WORD: "a",
    _constants.CATEGORY_NOT_DIGIT: "a",
    _constants.CATEGORY_NOT_SPACE: "a",
    _constants.CATEGORY_NOT_WORD: "-",
}


class Use(NamedTuple):
    """A pattern, where it stands, and the methods by which it is used."""

    where: str
    pattern: re.Pattern[Any]
    methods: tuple[str, ...]

    def __str__(self) -> str:
        return self.where


def modules() -> Iterator[Any]:
    for name in ("pipelines", *(f"pipelines.{room}" for room in ROOMS)):
        for found in pkgutil.iter_modules(importlib.import_module(name).__path__):
            if not found.ispkg and found.name != "__main__":
                yield importlib.import_module(f"{name}.{found.name}")


def patterns_in(value: Any) -> Iterator[re.Pattern[Any]]:
    if isinstance(value, re.Pattern):
        yield value
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            yield from patterns_in(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from patterns_in(item)


@functools.cache
def calls() -> dict[str, set[str]]:
    """The methods that any module calls, by the name of what it calls them on."""
    found: dict[str, set[str]] = {}
    for path in sources.modules():
        if path.is_relative_to(sources.ROOT / "pipelines"):
            for name, method in re.findall(rf"\b(\w+)\.({'|'.join(METHODS)})\(", path.read_text()):
                found.setdefault(name, set()).add(method)
    return found


def called_methods(name: str) -> tuple[str, ...]:
    """The methods by which any module uses a pattern of this name; all of them if it is passed on."""
    return tuple(sorted(calls().get(name, ()))) or ("search", "fullmatch", "sub")


def text_of(node: ast.expr) -> str | bytes | None:
    """The pattern in a call, with a letter for what is put into an f-string."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "w" for part in node.values)
    return None


def is_of_re(called: ast.expr) -> TypeGuard[ast.Attribute]:
    return isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name) and called.value.id == "re"


def inline_uses(module: Any) -> Iterator[Use]:
    """Patterns that are written where they are used."""
    name = module.__name__
    for node in sources.nodes(sources.ROOT / f"{name.replace('.', '/')}.py"):
        if isinstance(node, ast.Call) and is_of_re(node.func) and node.args:
            method, text = node.func.attr, text_of(node.args[0])
            if method not in METHODS or text is None:
                continue
            flags = sum(
                getattr(re, flag) for flag in re.findall(r"re\.([A-Z]+)", ast.unparse(node)) if hasattr(re, flag)
            )
            yield Use(f"{name}:{node.lineno}", re.compile(text, flags), (method,))


@functools.cache
def uses() -> list[Use]:
    found: dict[tuple[Any, int], Use] = {}
    for module in modules():
        for name, value in vars(module).items():
            for pattern in patterns_in(value):
                use = Use(f"{module.__name__}.{name}", pattern, called_methods(name))
                found.setdefault((pattern.pattern, pattern.flags), use)
        for use in inline_uses(module):
            found.setdefault((use.pattern.pattern, use.pattern.flags), use)
    return sorted(found.values(), key=str)


# --- strings that a pattern may take long on ------------------------------------------------------------------------


def char_of(items: list[tuple[Any, Any]]) -> str:
    """A character of a set."""
    is_negated = items[0][0] is _constants.NEGATE
    for op, value in items[is_negated:]:
        if op is _constants.LITERAL:
            found = chr(value)
        elif op is _constants.RANGE:
            found = chr(value[0])
        else:
            found = CATEGORIES[value]
        if not is_negated:
            return found
    refused = {chr(v) for op, v in items if op is _constants.LITERAL}
    ranges = [v for op, v in items if op is _constants.RANGE]
    kinds = {CATEGORIES[v] for op, v in items if op is _constants.CATEGORY}
    candidates = (c for c in "a1 -.x\t(<é," if c not in refused | kinds)
    return next((c for c in candidates if not any(lo <= ord(c) <= hi for lo, hi in ranges)), "~")


def example(tree: Any) -> str:
    """A string that the pattern matches, or nearly: groups and what may repeat once, the first branch."""
    pieces = []
    for op, value in tree:
        if op is _constants.LITERAL:
            pieces.append(chr(value))
        elif op is _constants.NOT_LITERAL:
            pieces.append("a" if value != ord("a") else "b")
        elif op is _constants.ANY:
            pieces.append("x")
        elif op is _constants.IN:
            pieces.append(char_of(value))
        elif op is _constants.CATEGORY:
            pieces.append(CATEGORIES[value])
        elif op in (_constants.MAX_REPEAT, _constants.MIN_REPEAT, _constants.POSSESSIVE_REPEAT):
            pieces.append(example(value[2]) * min(max(value[0], 1), 20))
        elif op is _constants.SUBPATTERN:
            pieces.append(example(value[-1]))
        elif op is _constants.BRANCH:
            pieces.append(example(value[1][0]))
        elif op is _constants.ATOMIC_GROUP:
            pieces.append(example(value))
    return "".join(pieces)


def repeated(tree: Any) -> Iterator[str]:
    """An example of each thing that the pattern repeats, and each literal of its sets."""
    for op, value in tree:
        if op in (_constants.MAX_REPEAT, _constants.MIN_REPEAT, _constants.POSSESSIVE_REPEAT):
            yield example(value[2])
            yield from repeated(value[2])
        elif op is _constants.SUBPATTERN:
            yield from repeated(value[-1])
        elif op is _constants.BRANCH:
            for branch in value[1]:
                yield example(branch)
                yield from repeated(branch)
        elif op is _constants.IN:
            for kind, item in value:
                if kind is _constants.CATEGORY:
                    yield CATEGORIES[item]
                elif kind is _constants.LITERAL:
                    yield chr(item)


def attacks(pattern: re.Pattern[Any], num_chars: int) -> list[Any]:
    """Return the strings, in the same order for every length."""
    found = strings(pattern, num_chars)
    return list(found if isinstance(pattern.pattern, str) else map(as_bytes, found))


def strings(pattern: re.Pattern[Any], num_chars: int) -> Iterator[str]:
    text = pattern.pattern if isinstance(pattern.pattern, str) else pattern.pattern.decode("latin-1")
    tree = _parser.parse(text, pattern.flags & ~re.DEBUG & ~re.UNICODE)
    whole = example(tree)[:200]
    pumps = [pump for pump in dict.fromkeys([*repeated(tree), whole, "\n", "1"]) if pump][:9]
    prefixes = [whole[:n] for n in sorted({0, len(whole) // 2, max(len(whole) - 1, 0), len(whole)})]
    for pump, prefix in itertools.product(pumps, prefixes):
        yield prefix + pump * (num_chars // len(pump)) + "\0"
    for one, two in itertools.permutations(pumps[:5], 2):
        yield (one + two) * (num_chars // len(one + two)) + "\0"
        yield one * (num_chars // 2 // len(one)) + two * (num_chars // 2 // len(two)) + "\0"


# --- how long it takes ----------------------------------------------------------------------------------------------


class TooLongError(Exception):
    """A search was interrupted."""


def interrupt(*_: object) -> None:
    raise TooLongError


def seconds(work: Callable[[], object], limit: float) -> float:
    """How long it takes the processor, or infinity if it was interrupted."""
    before = signal.signal(signal.SIGPROF, interrupt)
    begun = time.process_time()
    try:
        signal.setitimer(signal.ITIMER_PROF, limit)
        work()
        signal.setitimer(signal.ITIMER_PROF, 0)
    except TooLongError:
        return float("inf")
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    return time.process_time() - begun


def run(pattern: re.Pattern[Any], method: str, text: Any) -> None:
    if method in ("sub", "subn"):
        getattr(pattern, method)(text[:0], text)
    elif method == "finditer":
        for _ in pattern.finditer(text):
            pass
    else:
        getattr(pattern, method)(text)


def as_bytes(text: str) -> bytes:
    """Return an attack on a pattern of bytes, in which U+00FF stands for the byte 0xFF."""
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode()


def longest(pattern: re.Pattern[Any], method: str) -> tuple[float, Any]:
    """How long a method takes on the string on which it takes longest, and the string."""
    texts = attacks(pattern, NUM_CHARS)

    def tried(text: Any, limit: float) -> float:
        return seconds(functools.partial(run, pattern, method, text), limit)

    short = []
    for text, whole in zip(attacks(pattern, NUM_CHARS // 10), texts, strict=True):
        short.append(tried(text, MAX_SECONDS / 5))
        if short[-1] > MAX_SECONDS / 10 and (took := tried(whole, 1.1 * MAX_SECONDS)) > MAX_SECONDS:
            return took, whole
    slowest = sorted(range(len(short)), key=short.__getitem__)[-3:]
    return max(((tried(texts[i], 1.1 * MAX_SECONDS), texts[i]) for i in slowest), key=itemgetter(0))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pattern", "method"),
    [
        (r"^image\s*(\d+|[A-Z](?=[.–-]?\d))([.–-]?\d+)*[a-z]?\s*([.:)–—-]+\s*|$)", "sub"),
        (r"(^|/)(blank|pixel)([._-]?(\d+|x|img))*\.(gif|png)$", "search"),
        (r"((?:.*/|)[^.]+)[.]([^/]*)", "fullmatch"),
        (r"(?m)^\s*(https?://\S+)\s*$", "findall"),
        (r"\s+$", "sub"),
        (r"(a|aa)+$", "match"),
        (r"\w+@\w+", "search"),
        (rb"\xff+[^\x00\xff]", "search"),
    ],
)
def test_patterns_that_backtrack_are_found_out(pattern: str | bytes, method: str) -> None:
    compiled: re.Pattern[Any] = re.compile(pattern)
    assert longest(compiled, method)[0] > MAX_SECONDS


def test_patterns_are_found() -> None:
    names = {use.where for use in uses()}
    assert len(names) > 80
    assert {"pipelines.pages.kinds._FIGURE_NUMBER", "pipelines.web.licenses._CC_URL", *BOUNDED} <= names
    assert pipelines.__path__


@pytest.mark.slow
@pytest.mark.parametrize("use", [use for use in uses() if use.where not in BOUNDED], ids=str)
def test_each_pattern_takes_time_in_proportion_to_the_text(use: Use) -> None:
    for method in use.methods:
        took, text = longest(use.pattern, method)
        assert took < MAX_SECONDS, f"{use.pattern.pattern!r}.{method}: {took:.1f} s on {text[:60]!r}"
