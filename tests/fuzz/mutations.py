"""Damaged files for fuzz tests: good ones with pieces cut, repeated, swapped or written over."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

P = ParamSpec("P")
T = TypeVar("T")

IN_A_FOLDER = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=settings.default.max_examples // 4
)
"""Settings of a test whose examples write over one another's files in its folder: these take longest."""

MAX_CPU_SECONDS = 5.0
"""Bound of one call on a file of some kilobytes; all are far below, and what takes quadratic time is beyond."""

_BYTES = (
    b"\0",
    b"\xff",
    b"\r\n",
    b"\n",
    b'"',
    b"<",
    b"&",
    b"%",
    b"=",
    b"-1",
    b"0",
    b"9" * 20,
    b"\xef\xbb\xbf",
    b"\xff\xfe",
)


def bounded(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return a result, which must come within the bound.

    Raises:
        AssertionError: If it does not.
    """
    with in_time():
        return work(*args, **kwargs)


@contextmanager
def in_time() -> Iterator[None]:
    """Check that the block ends within the bound, also where it raises."""
    begun = time.thread_time()
    try:
        yield
    finally:
        took = time.thread_time() - begun
        assert took < MAX_CPU_SECONDS, f"{took:.1f} s"


@st.composite
def mutated(draw: st.DrawFn, seeds: Sequence[bytes], tokens: Sequence[bytes] = (), max_edits: int = 6) -> bytes:
    """Return one of the seeds after some edits; `tokens` are pieces that mean something in the format."""
    data = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(0, max_edits))):
        at = draw(st.integers(0, len(data)))
        end = min(len(data), at + draw(st.sampled_from((0, 1, 2, 4, 16, 256, 1 << 16))))
        kind = draw(st.sampled_from(("cut", "repeat", "token", "bytes", "truncate")))
        if kind == "cut":
            data = data[:at] + data[end:]
        elif kind == "repeat":
            data = data[:at] + data[at:end] * draw(st.integers(2, 5)) + data[end:]
        elif kind == "token":
            data = data[:at] + draw(st.sampled_from((*tokens, *_BYTES))) + data[end:]
        elif kind == "bytes":
            new = draw(st.binary(min_size=1, max_size=8))
            data = data[:at] + new + data[at + len(new) :]
        else:
            data = data[:at]
    return data[: 1 << 17]


def texts(seeds: Sequence[str], tokens: Sequence[str] = ()) -> st.SearchStrategy[str]:
    """Return texts that are any, or one of the seeds after some edits."""
    edited = mutated([seed.encode() for seed in seeds], [token.encode() for token in tokens])
    return st.one_of(st.text(max_size=200), edited.map(lambda data: data.decode("utf-8", "replace")))


def pieces_of(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """Return data cut at some places."""
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=6)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def json_values() -> st.SearchStrategy[object]:
    """Return any value of JSON, and the numbers that Python's reader gives beyond."""
    odd = st.sampled_from(
        [float("inf"), float("-inf"), float("nan"), 10**400, -(2**63), "\ud800", "", " ", "\0", "1e999"]
    )
    leaves = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), odd)
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
        max_leaves=8,
    )


@st.composite
def changed_json(draw: st.DrawFn, seeds: Sequence[object]) -> object:
    """Return one of the seeds with some of its values replaced by others, or left out."""
    value = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(1, 3))):
        value = _replaced(draw, value)
    return value


def _replaced(draw: st.DrawFn, value: object) -> object:
    is_here = draw(st.integers(0, 3)) == 0
    if isinstance(value, dict) and value and not is_here:
        key = draw(st.sampled_from(sorted(value)))
        if draw(st.integers(0, 5)) == 0:
            return {name: inner for name, inner in value.items() if name != key}
        return {**value, key: _replaced(draw, value[key])}
    if isinstance(value, list) and value and not is_here:
        at = draw(st.integers(0, len(value) - 1))
        if draw(st.integers(0, 5)) == 0:
            return value[:at] + value[at + 1 :]
        return [*value[:at], _replaced(draw, value[at]), *value[at + 1 :]]
    return draw(json_values())
