"""Tests of numbers as people read them."""

import pytest

from tools import numbers


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, "unknown"), (0, "0"), (1234567, "1,234,567"), (5.0, "5"), (0.12345, "0.1235"), (12345.6, "12,346")],
)
def test_counts(value, expected):
    assert numbers.count(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1 kB"), (999_600, "1 MB"), (61_982_720, "62 MB"), (4e15, "4 PB")],
)
def test_sizes(value, expected):
    assert numbers.size(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"), [(999, "999"), (9999, "9,999"), (12_345, "12.3K"), (999_999, "1M"), (2.5e9, "2.5B")]
)
def test_short_numbers(value, expected):
    assert numbers.short(value) == expected


@pytest.mark.parametrize(
    ("part", "whole", "expected"),
    [(0, 5, "0 %"), (5, 5, "100 %"), (1, 10**6, "<0.1 %"), (10**6 - 1, 10**6, ">99.9 %"), (1, 8, "12 %"), (1, 0, "–")],
)
def test_shares_are_never_none_or_all_unless_they_are(part, whole, expected):
    assert numbers.percent(part, whole) == expected


def test_times():
    assert numbers.day("2026-01-05T10:11:12Z") == "5 January 2026"
    assert numbers.day("not a time at all") == "not a time"
    assert numbers.clock(62.5) == "1:02.5"
    assert [numbers.duration(s) for s in (30, 150, 7200)] == ["30 seconds", "2.5 minutes", "2 hours"]
