"""Tests of the media type of a response, by its header or by its bytes."""

import pytest

from pipelines.web.media_types import media_type


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("text/html", "text/html"),
        ("Text/HTML; Charset=UTF-8", "text/html"),
        (" text/html ;charset=utf-8", "text/html"),
        ("text/html, text/html; charset=utf-8", "text/html"),
        ("text/html,application/pdf", "text/html"),
        ("text/html charset=utf-8", "text/html"),
        ("application/xhtml+xml", "application/xhtml+xml"),
        ("application/pdf", "application/pdf"),
        ("text/plain", "text/plain"),
    ],
)
def test_what_the_server_states_counts(content_type: str, expected: str) -> None:
    assert media_type(content_type, b"<!doctype html><p>x") == expected


@pytest.mark.parametrize(
    "content_type", [None, "", "  ", "html", "*/*", "text/", "/html", "charset=utf-8", "unknown/unknown"]
)
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"<!doctype html><p>x", "text/html"),
        (b"\xef\xbb\xbf \r\n<HTML lang=en>", "text/html"),
        (b"<html\n>", "text/html"),
        (b"<!-- saved from the web --><html>", "text/html"),
        (b"<?xml version='1.0'?><!DOCTYPE html PUBLIC 'x'><html>", "application/xhtml+xml"),
        (b"<?xml version='1.0'?><rss/>", "text/xml"),
        (b"<bread>", None),
        (b"plain text <html>", None),
        (b"%PDF-1.7", None),
        (b"", None),
    ],
)
def test_without_a_type_the_bytes_tell(content_type: str | None, body: bytes, expected: str | None) -> None:
    assert media_type(content_type, body) == expected
