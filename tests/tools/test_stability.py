"""Tests of the population stability index: its values, and that chance is told from change."""

import math
import random

import pytest

from tools.queries.stability import Shift, shifts, stability_index
from tools.queries.tables import Tables


def test_the_index_is_that_of_its_definition_and_zero_for_equal_shares():
    shares = [(0.2, 0.4), (0.5, 0.5), (0.3, 0.1)]
    expected = sum((b - a) * math.log(b / a) for a, b in shares)
    large = 10**9
    found = stability_index([int(a * large) for a, _ in shares], [int(b * large) for _, b in shares])
    assert found == pytest.approx(expected, rel=1e-6)
    assert stability_index([5, 7, 0], [5, 7, 0]) == 0
    assert stability_index([10, 0], [0, 10]) < math.inf


def compare(old: list[dict], new: list[dict]) -> dict[tuple[str, str], Shift]:
    with Tables(threads=1) as tables:
        for name, rows in (("old", old), ("new", new)):
            tables.run(
                f"CREATE TABLE {name} (source VARCHAR, lang VARCHAR, num_text_chars BIGINT, num_media INT,"
                " domain VARCHAR, scores STRUCT(name VARCHAR, target VARCHAR, value DOUBLE, origin VARCHAR)[])"
            )
            for row in rows:
                score = [{"name": "clip", "target": "media:3", "value": row["clip"], "origin": "m"}]
                values = ("pairs", row["lang"], row["length"], 1, row["domain"], score)
                tables.run(f"INSERT INTO {name} VALUES (?, ?, ?, ?, ?, ?)", *values)
        return {(shift.source, shift.what): shift for shift in shifts(tables, "old", "new")}


def draw(rng: random.Random, num: int, **changed: object) -> list[dict]:
    def one() -> dict:
        row = {"lang": rng.choice(["en", "de", None]), "length": int(rng.lognormvariate(5, 1)), "clip": rng.random()}
        return row | {"domain": f"site{rng.randrange(200)}.example"} | changed

    return [one() for _ in range(num)]


def test_two_draws_from_one_source_are_no_shift_and_a_change_is_one():
    rng = random.Random(1)  # of other numbers, one in five shifts something beyond chance
    old, new = draw(rng, 300), draw(rng, 200)
    found = compare(old, new)
    names = {"language", "length", "images", "domain", "score clip of media"}
    assert {what for _, what in found} == names
    assert {shift.words for shift in found.values()} == {"none beyond chance"}
    assert all(shift.num_old == 300 and shift.num_new == 200 for shift in found.values())
    longer = compare(old, [row | {"length": row["length"] * 3} for row in new])
    assert {shift.what for shift in longer.values() if shift.words == "much"} == {"length"}
    scored = compare(old, [row | {"clip": None} for row in new])
    assert {shift.what for shift in scored.values() if shift.words == "much"} == {"score clip of media"}


def test_a_source_that_is_new_has_no_index():
    found = compare([], draw(random.Random(0), 5))
    assert {shift.words for shift in found.values()} == {"only in one of them"}
    assert {shift.psi for shift in found.values()} == {None}
