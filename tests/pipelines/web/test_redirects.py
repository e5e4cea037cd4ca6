"""Tests of reading refreshes as browsers do."""

import pytest

from pipelines.web.redirects import parse_refresh

PAGE = "http://a.org/dir/page"


@pytest.mark.parametrize(
    ("value", "seconds", "url"),
    [
        ("0; url=en/latest/", 0, "http://a.org/dir/en/latest/"),
        ("0;URL='/x'", 0, "http://a.org/x"),
        ('5 ; Url = "http://b.org/" trailing', 5, "http://b.org/"),
        ("3,url=/x", 3, "http://a.org/x"),
        ("0 /x", 0, "http://a.org/x"),
        ("0; /x", 0, "http://a.org/x"),
        ("1.9; url=/x", 1, "http://a.org/x"),
        (".5; url=/x", 0, "http://a.org/x"),
        ("\n 0;\n url=/caf\u00e9?a=1&b=2#top", 0, "http://a.org/caf%C3%A9?a=1&b=2"),
        ("0; url='/x y", 0, "http://a.org/x%20y"),
        ("300; url=/x", 300, "http://a.org/x"),
    ],
)
def test_a_refresh_names_a_page_and_a_time(value: str, seconds: float, url: str) -> None:
    found = parse_refresh(value, PAGE)
    assert found == (seconds, url)
    assert found.is_redirect is (seconds < 100)


@pytest.mark.parametrize(
    "value",
    [None, "", "5", "5;", "5; url=", "0; url=''", "url=/x", "x; url=/x", "5x; url=/x", "0; url=javascript:void(0)",
     "0; url=page", "0; url=#top", "0; url=http://"],
)  # fmt: skip
def test_a_reload_or_nonsense_is_no_redirect(value: str | None) -> None:
    assert parse_refresh(value, PAGE) is None


def test_a_relative_target_stands_on_the_base() -> None:
    assert parse_refresh("0; url=x", PAGE, "http://b.org/sub/") == (0, "http://b.org/sub/x")
