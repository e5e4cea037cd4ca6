"""Tests of rewriting heads that browsers take for parsers that are stricter."""

import time

import pytest

from pipelines.web.response_head import MAX_HEAD_BYTES, repaired_head


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        (b"HTTP/1.1 200 OK", b"HTTP/1.1 200 OK"),
        (b"HTTP/1.1  200 OK", b"HTTP/1.1 200 OK"),
        (b"HTTP/1.1\t200\tOK", b"HTTP/1.1 200 OK"),
        (b"HTTP/1.1 200   Very  well ", b"HTTP/1.1 200 Very  well"),
        (b"HTTP/1.1 200", b"HTTP/1.1 200 "),
        (b"http/1.0 404 Not Found", b"HTTP/1.0 404 Not Found"),
        (b"HTTP/0.9 200 OK", b"HTTP/1.0 200 OK"),
        (b"HTTP/1.2 200 OK", b"HTTP/1.1 200 OK"),
        (b"HTTP/2 200 OK", b"HTTP/1.1 200 OK"),
        (b"HTTP/3.0 200", b"HTTP/1.1 200 "),
        ("HTTP/1.1 200 Успех".encode(), "HTTP/1.1 200 Успех".encode()),
        (b"HTTP/1.1 301 D\xe9plac\xe9", b"HTTP/1.1 301 D\xe9plac\xe9"),
    ],
)
def test_a_status_line_may_be_written_loosely(first: bytes, expected: bytes) -> None:
    assert repaired_head(first + b"\r\nA: b") == expected + b"\r\nA: b\r\n\r\n"


@pytest.mark.parametrize("first", [b"HTTP/1.1 20 OK", b"HTTP/1.1 2000", b"<html>", b"", b"HTTP/1.1"])
def test_what_is_no_status_line_is_left(first: bytes) -> None:
    assert repaired_head(first) == first


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (b"A : b\r\nC:d\r\nE: ", [b"A: b", b"C: d", b"E: "]),
        (b"A: b\nC: d", [b"A: b", b"C: d"]),
        (b"A: b\r\n c\r\n\td\r\nE: f", [b"A: b c d", b"E: f"]),
        (b" folded: first\r\nA: b", [b"A: b"]),
        (b"no field\r\nA B: c\r\n\xc3\x9c: x\r\n: y\r\nA: b", [b"A: b"]),
        (b"A: \xc3\xa9\xff", [b"A: \xc3\xa9\xff"]),
        (b"Content-Length: 2\r\nA: b\r\ncontent-length: 2", [b"A: b", b"Content-Length: 2"]),
        (b"Content-Length: 2, 2", [b"Content-Length: 2"]),
        (b"Content-Length:", []),
        (b"Content-Length: 2\r\nContent-Length: 3", [b"Content-Length: 2", b"Content-Length: 3"]),
        (b"Content-Length: 2\r\nTransfer-Encoding: Chunked", [b"Transfer-Encoding: Chunked"]),
    ],
)
def test_fields_are_those_that_a_browser_finds(fields: bytes, expected: list[bytes]) -> None:
    assert repaired_head(b"HTTP/1.1 200 OK\r\n" + fields).split(b"\r\n") == [b"HTTP/1.1 200 OK", *expected, b"", b""]


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1" + b" " * MAX_HEAD_BYTES,
        b"HTTP/" + b"1" * MAX_HEAD_BYTES,
        b"HTTP/1.1 200 OK" + b"\r" * MAX_HEAD_BYTES,
        b"HTTP/1.1 200 OK\r\nA: b" + b"\n " * (MAX_HEAD_BYTES // 2),
        b"HTTP/1.1 200 OK\r\n" + b"a" * MAX_HEAD_BYTES,
        b"HTTP/1.1 200 OK\r\nA" + b" " * MAX_HEAD_BYTES,
    ],
)
def test_the_largest_heads_take_no_time(head: bytes) -> None:
    begun = time.process_time()
    repaired_head(head)
    assert time.process_time() - begun < 0.5
