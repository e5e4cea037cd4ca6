"""Tests of the solver: shares sum to 1, limits hold, UniMax is the paper's, and conflicts are named."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.errors import RunError
from tools.mixture.sizes import CorpusSizes, SourceSize
from tools.mixture.solver import Demands, nearest, rounded, solve, wished_by_temperature

GRID = 1e-6  # of written shares


def sizes_of(**tokens: int) -> CorpusSizes:
    sources = tuple(SourceSize(name, "text", max(1, n // 10) if n else 0, 0, {}, n) for name, n in tokens.items())
    return CorpusSizes("test 1", "0" * 64, (), "test", sources)


def numbered(tokens: list[int]) -> CorpusSizes:
    return sizes_of(**{f"s{i:02d}": n for i, n in enumerate(tokens)})


def unimax(tokens: dict[str, int], budget: float, epochs: float) -> dict[str, float]:
    """Return shares by algorithm 1 of arXiv:2304.09151: from the smallest source on, each gets an equal part of what is
    left of the budget, or its most epochs if these are less."""
    left, shares = budget, {}
    for number, name in enumerate(sorted(tokens, key=lambda name: tokens[name])):
        part = left / (len(tokens) - number)
        shares[name] = min(part, tokens[name] * epochs)
        left -= shares[name]
    return {name: shares[name] / sum(shares.values()) for name in tokens}


many_tokens = st.lists(st.integers(1, 10**12), min_size=1, max_size=12)


@given(many_tokens, st.floats(0.1, 50), st.floats(0.01, 1))
def test_equal_wishes_with_a_cap_are_unimax(tokens: list[int], epochs: float, of_most: float):
    sizes = numbered(tokens)
    budget = of_most * epochs * sizes.tokens
    caps = dict.fromkeys(sizes.names, epochs)
    wanted = unimax({source.name: source.tokens for source in sizes.sources}, budget, epochs)
    num, limits = len(tokens), [min(1.0, epochs * n / budget) for n in tokens]
    assert nearest([1.0] * num, [0.0] * num, limits) == pytest.approx(list(wanted.values()), rel=1e-9, abs=1e-12)
    shares = solve(sizes, Demands(budget, dict.fromkeys(sizes.names, 1.0), caps))
    assert shares == pytest.approx(wanted, abs=num * GRID), "caps are rounded down, and others get the rest"


@given(st.data(), many_tokens, st.floats(0.2, 100))
def test_shares_sum_to_one_within_all_limits(data: st.DataObject, tokens: list[int], temperature: float):
    sizes = numbered(tokens)
    num = len(tokens)
    # Limits around some mixture, so that there is one that satisfies them
    parts = data.draw(st.lists(st.floats(0.001, 1), min_size=num, max_size=num))
    inside = [part / math.fsum(parts) for part in parts]
    budget = data.draw(st.floats(1, 1e12))
    below = data.draw(st.lists(st.floats(0, 1), min_size=num, max_size=num))
    above = data.draw(st.lists(st.floats(1, 5), min_size=num, max_size=num))
    least = {name: share * f for name, share, f in zip(sizes.names, inside, below, strict=True)}
    most = {name: share * f for name, share, f in zip(sizes.names, inside, above, strict=True)}
    caps = {s.name: most[s.name] * budget / s.tokens for s in sizes.sources}
    shares = solve(sizes, Demands(budget, wished_by_temperature(sizes, temperature), caps, least))
    assert math.fsum(shares.values()) == pytest.approx(1, abs=1e-12)
    for source in sizes.sources:
        share = shares[source.name]
        assert least[source.name] - 1e-8 <= share
        assert share * budget / source.tokens <= caps[source.name] * (1 + 1e-6) + 1e-8 * budget / source.tokens


def test_limits_that_leave_one_mixture_hold_where_it_has_endless_decimals():
    shares = solve(numbered([1, 1]), Demands(1, {"s00": 1, "s01": 1}, {"s00": 2 / 3, "s01": 1 / 3}, {"s01": 1 / 3}))
    assert shares == pytest.approx({"s00": 2 / 3, "s01": 1 / 3}, abs=1e-15)


@given(st.lists(st.tuples(st.floats(1e-9, 10), st.floats(0, 0.1), st.floats(0.1, 1)), min_size=10, max_size=20))
def test_sources_between_their_limits_keep_their_wished_ratio(rows: list[tuple[float, float, float]]):
    rows = [(wish, low * 10 / len(rows) / 2, high) for wish, low, high in rows]
    shares = nearest(*map(list, zip(*rows, strict=True)))
    assert math.fsum(shares) == pytest.approx(1, abs=1e-9)
    factors = [
        share / wish
        for (wish, low, high), share in zip(rows, shares, strict=True)
        if low * (1 + 1e-9) < share < high * (1 - 1e-9)
    ]
    assert factors == pytest.approx([factors[0]] * len(factors)) if factors else True
    for (wish, low, high), share in zip(rows, shares, strict=True):
        if factors and share == low:
            assert wish * factors[0] <= low * (1 + 1e-9)
        if factors and share == high:
            assert wish * factors[0] >= high * (1 - 1e-9)


@given(st.lists(st.floats(0.0001, 1), min_size=1, max_size=50))
def test_rounded_shares_have_six_decimals_and_sum_to_one(parts: list[float]):
    shares = [part / math.fsum(parts) for part in parts]
    found = rounded(shares, [0.0] * len(parts), [1.0] * len(parts))
    assert found == pytest.approx(shares, abs=GRID)
    assert all(len(repr(share)) <= 8 or share < 1e-4 for share in found)
    assert sum(round(share * 10**6) for share in found) == 10**6


def test_a_share_that_just_leaves_its_limit_moves():
    wished, low, high = [2.28009976e-03, 3.86780910e-07, 8.53242684e-03], [0.15, 0.12, 0.04], [0.77, 0.33, 0.32]
    assert nearest(wished, low, high) == pytest.approx([0.56, 0.12, 0.32])


def test_temperature_goes_from_proportional_to_equal():
    sizes = sizes_of(large=9000, small=1000)
    wished = {t: solve(sizes, Demands(1e3, wished_by_temperature(sizes, t))) for t in (1.0, 2.0, 1e9)}
    assert wished[1.0] == {"large": 0.9, "small": 0.1}
    assert wished[2.0] == pytest.approx({"large": 0.75, "small": 0.25})
    assert wished[1e9] == pytest.approx({"large": 0.5, "small": 0.5}, abs=1e-6)


def test_sources_that_are_not_wished_or_empty_get_nothing():
    sizes = sizes_of(a=100, b=100, empty=0)
    assert solve(sizes, Demands(10, {"a": 1.0, "empty": 1.0})) == {"a": 1.0, "b": 0.0, "empty": 0.0}
    assert solve(sizes, Demands(10, {"a": 1.0}, min_shares={"b": 0.25})) == {"a": 0.75, "b": 0.25, "empty": 0.0}


def test_what_was_drawn_before_counts_for_the_cap():
    sizes = sizes_of(a=100, b=1000)
    equal = {"a": 1.0, "b": 1.0}
    shares = solve(sizes, Demands(400, equal, {"a": 1.0}, used={"a": 60.0}))
    assert shares == pytest.approx({"a": 0.1, "b": 0.9})


@pytest.mark.parametrize(
    ("demands", "message"),
    [
        (
            {"max_epochs": {"a": 2.0}, "min_shares": {"a": 0.5}},
            r"a is to have at least 0.5 of the tokens, 5 epochs of it, but at most 2 epochs: lower its share to 0.2, "
            r"allow 5 epochs, or lower the budget of 1,000 tokens to 400",
        ),
        ({"min_shares": {"a": 0.7, "b": 0.6}}, r"the least shares sum to 1.3, more than 1: a 0.7, b 0.6"),
        (
            {"max_epochs": {"a": 1.0, "b": 0.5}},
            r"leave 600 of the budget's 1,000 tokens: a 1 epoch \(100 tokens\), b 0.5 epochs \(500 tokens\)",
        ),
        ({"max_shares": {"a": 0.2, "b": 0.3}}, r"leave 500 of the budget's 1,000 tokens: a at most 0.2, b at most 0.3"),
        ({"min_shares": {"a": 0.5}, "max_shares": {"a": 0.4}}, r"a is to have at least 0.5 .* and at most 0.4"),
        ({"min_shares": {"empty": 0.1}}, r"empty is to have at least 0.1 of the tokens, but has no sample"),
        ({"wished": {}}, r"leave 0 of the budget's 1,000 tokens: no source"),
    ],
)
def test_demands_that_conflict_are_named(demands: dict, message: str):
    sizes = sizes_of(a=100, b=1000, empty=0)
    with pytest.raises(RunError, match=f"^no mixture satisfies this: .*{message}"):
        solve(sizes, Demands(**{"budget": 1000, "wished": dict.fromkeys(sizes.names, 1.0)} | demands))


def test_a_small_source_keeps_a_share():
    shares = solve(sizes_of(web=10**13, wiki=10**6, text=10**9), Demands(1e12, {"web": 1e13, "wiki": 1e6, "text": 1e9}))
    assert shares["wiki"] == pytest.approx(1e-7, rel=0.02)
    assert math.fsum(shares.values()) == 1


def test_a_low_temperature_leaves_no_source_out():
    sizes = sizes_of(a=584_051, b=243_738)
    shares = solve(sizes, Demands(600_000, wished_by_temperature(sizes, 1e-3), dict.fromkeys(sizes.names, 1.0)))
    assert shares["a"] == pytest.approx(584_051 / 600_000, abs=1e-5)
