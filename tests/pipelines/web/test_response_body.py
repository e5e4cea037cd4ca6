"""Tests of where the body of a response ends, in whatever pieces it arrives."""

import random

import pytest

from pipelines.web.response_body import MAX_CHUNK_HEAD, Body, ChunkedBody, SizedBody, body_after


def taken(body: Body | None, data: bytes, cuts: list[int]) -> tuple[bytes, bytes]:
    """Return what belongs to a body that arrives cut at these places, and what is sent beyond it."""
    assert body is not None
    pairs = [body.take(data[a:b]) for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    return b"".join(found for found, _ in pairs), b"".join(rest for _, rest in pairs)


@pytest.mark.parametrize(
    ("sent", "found", "rest"),
    [
        (b"3\r\nabc\r\n0\r\n\r\n", b"3\r\nabc\r\n0\r\n\r\n", b"\r\n"),
        (b"3\nabc\n0\n\n", b"3\r\nabc\r\n0\r\n\r\n", b"\n"),
        (b"3 ;x=y\r\nabc\r\n00\r\nTrailer: 1\r\n\r\n", b"3\r\nabc\r\n0\r\n\r\n", b"Trailer: 1\r\n\r\n"),
        (b"A\r\n0123456789\r\n0\r\n\r\n<!-- x -->", b"a\r\n0123456789\r\n0\r\n\r\n", b"\r\n<!-- x -->"),
        (b"3\r\nabc\r\nno chunk\r\nmore", b"3\r\nabc\r\nno chunk\r\nmore", b""),
    ],
)
def test_chunks_end_with_the_last_one_however_they_arrive(sent: bytes, found: bytes, rest: bytes) -> None:
    for seed in range(50):
        rng = random.Random(seed)
        cuts = sorted(rng.choices(range(len(sent) + 1), k=seed % 9))
        assert taken(ChunkedBody(), sent, cuts) == (found, rest)


@pytest.mark.parametrize("before", [b"", b"3\r\nabc\r\n"])
@pytest.mark.parametrize("size", [MAX_CHUNK_HEAD - 1, MAX_CHUNK_HEAD, MAX_CHUNK_HEAD + 1, 3 * MAX_CHUNK_HEAD])
def test_the_head_of_a_chunk_that_does_not_end_is_left_to_the_parser(before: bytes, size: int) -> None:
    sent = before + b"3;" + b"x" * size
    for cuts in ([], [len(before) + 9], [len(sent) - 1]):
        assert taken(ChunkedBody(), sent + b"more", cuts) == (sent + b"more", b"")


def test_a_body_is_as_long_as_its_head_says() -> None:
    head = b"HTTP/1.1 %d OK\r\n%b\r\n\r\n"
    assert taken(body_after(head % (200, b"Content-Length: 3")), b"abc<!-- x -->", [1]) == (b"abc", b"<!-- x -->")
    assert taken(body_after(head % (204, b"Content-Length: 3")), b"abc", []) == (b"", b"abc")
    assert isinstance(body_after(head % (200, b"Content-Length: 3"), is_expected=False), SizedBody)
    assert isinstance(body_after(head % (200, b"Transfer-Encoding: chunked")), ChunkedBody)
    assert body_after(head % (200, b"Server: x")) is None
