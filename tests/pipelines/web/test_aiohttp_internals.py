"""Tests of response heads on real connections, with raw answers; they fail if aiohttp makes protocols another way."""

import asyncio
from collections.abc import Awaitable, Callable

import aiohttp
import pytest
from aiohttp import http_exceptions
from aiohttp.client_proto import ResponseHandler

from pipelines.web.aiohttp_internals import TolerantConnector
from pipelines.web.response_head import MAX_HEAD_BYTES

Write = Callable[[asyncio.StreamWriter], Awaitable[None]]


def asked(*answers: bytes | list[bytes]) -> list[tuple[int, str | None, dict[str, str], bytes]]:
    """Status, reason, headers and body of each answer, given in order on one connection as long as it lasts."""
    left = list(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while left:
                await reader.readuntil(b"\r\n\r\n")
                answer = left.pop(0)
                for piece in [answer] if isinstance(answer, bytes) else answer:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    async def main() -> list[tuple[int, str | None, dict[str, str], bytes]]:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        found = []
        limits = {"max_line_size": MAX_HEAD_BYTES, "max_field_size": MAX_HEAD_BYTES, "max_headers": MAX_HEAD_BYTES}
        timeout = aiohttp.ClientTimeout(total=20)
        async with server, aiohttp.ClientSession(connector=TolerantConnector(), timeout=timeout, **limits) as session:
            for _ in answers:
                async with session.get(url) as answer:
                    found.append((answer.status, answer.reason, dict(answer.headers), await answer.read()))
        return found

    return asyncio.run(main())


def test_aiohttp_still_makes_protocols_by_the_factory() -> None:
    async def made() -> object:
        async with TolerantConnector() as connector:
            return connector._factory()

    protocol = asyncio.run(made())
    assert isinstance(protocol, ResponseHandler)
    assert type(protocol).set_response_params is not ResponseHandler.set_response_params


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1  200 OK\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/2 200 OK\r\nContent-Length: 2\r\n\r\n",
        b"\r\n\r\nHTTP/1.1 200 OK\nContent-Length : 2\n\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nthis is no field\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1  200 OK\r\nContent-Length: 2\r\n\r\n",
    ],
)
def test_answers_are_taken_in_any_number_of_pieces(head: bytes) -> None:
    answer = head + b"hi"
    for pieces in ([answer], [answer[i : i + 1] for i in range(len(answer))]):
        ((status, reason, _, body),) = asked(pieces)
        assert (status, reason, body) == (200, "OK", b"hi")


def test_chunks_count_where_a_length_stands_beside_them() -> None:
    both = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
    assert asked(both)[0][3] == b"hi"


def split(answer: bytes) -> list[bytes]:
    """Head and body apart."""
    at = answer.index(b"\r\n\r\n") + 4
    return [answer[:at], answer[at:]]


@pytest.mark.parametrize(
    ("head", "sent", "body"),
    [
        ("200 OK\r\nContent-Length: 2", b"hi</html>", b"hi"),
        ("200 OK\r\nContent-Length: 2", b"hi\n", b"hi"),
        ("200 OK\r\nContent-Length: 2", b"hiHTTP/1.1 404 No\r\n\r\n", b"hi"),
        ("200 OK\r\nConnection: close\r\nContent-Length: 2", b"hi</html>", b"hi"),
        ("404 No\r\nContent-Length: 0", b"<html>", b""),
        ("300 Multiple\r\nContent-Length: 0", b"<html>moved</html>", b""),
        ("204 None", b"<html>", b""),
        ("204 None\r\nContent-Length: 6", b"<html>", b""),
        ("304 Same\r\nTransfer-Encoding: chunked", b"2\r\nhi\r\n0\r\n\r\n", b""),
        ("404 No", b"<html>", b"<html>"),
        ("200 OK\r\nTransfer-Encoding: chunked", b"2\r\nhi\r\n0\r\n\r\n<!-- x -->", b"hi"),
        ("200 OK\r\nTransfer-Encoding: chunked", b"1;x=y\r\nh\r\n01\r\ni\r\n0;z\r\nX-Trailer: y\r\n\r\n", b"hi"),
        ("200 OK\r\nTransfer-Encoding: chunked", b"1\nh\n1 \ni\n0\n\n", b"hi"),
        ("200 OK\r\nContent-Length: abc", b"hi", b"hi"),
        ("200 OK\r\nContent-Length: -1", b"hi", b"hi"),
        ("200 OK\r\nContent-Length: +23", b"hi", b"hi"),
        ("200 OK\r\nContent-Length: 99999999999999999999999999", b"hi", b"hi"),
        ("200 OK\r\nContent-Length: abc, 2", b"hi</html>", b"hi"),
        ("200 OK\r\nTransfer-Encoding: identity\r\nContent-Length: 2", b"hi", b"hi"),
        ("200 OK\r\nTransfer-Encoding: unknown", b"hi", b"hi"),
    ],
)
def test_a_body_ends_where_browsers_take_its_end(head: str, sent: bytes, body: bytes) -> None:
    for start in ("HTTP/1.1", "HTTP", "ICY"):
        answer = f"{start} {head}\r\n\r\n".encode() + sent
        for pieces in ([answer], split(answer), [answer[i : i + 1] for i in range(len(answer))]):
            assert [found for *_, found in asked(pieces)] == [body]


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhi\r\n",
    ],
)
def test_a_body_that_is_cut_is_still_told(answer: bytes) -> None:
    for pieces in ([answer], split(answer)):
        with pytest.raises(aiohttp.ClientPayloadError):
            asked(pieces)


def test_after_a_surplus_the_connection_is_not_used_again() -> None:
    surplus = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno"
    good = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nho"
    chunks = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
    answers = (surplus, good, [*split(surplus)], good, [chunks[:-2], chunks[-2:]], good)
    assert [body for *_, body in asked(*answers)] == [b"hi", b"ho"] * 3


def test_a_large_body_arrives_whole_though_nobody_reads_it_at_first() -> None:
    body = bytes(range(256)) * 40_000
    plain = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    chunk = b"%x\r\n%b\r\n" % (len(body), body)
    assert asked(plain)[0][3] == body
    assert asked(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk + b"0\r\n\r\n")[0][3] == body


def test_a_connection_is_used_again() -> None:
    loose = b"HTTP/1.1  200 OK\r\nContent-Length: 2\r\n\r\n"
    assert [body for *_, body in asked(loose + b"hi", loose + b"ho", loose + b"ha")] == [b"hi", b"ho", b"ha"]


def test_a_body_that_looks_like_a_head_is_a_body() -> None:
    body = b"HTTP/1.1  404 Not Found\r\n\r\n"
    assert asked(b"HTTP/1.1  200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))[0][3] == body


def test_headers_are_taken_up_to_256_kilobytes() -> None:
    def head(size: int) -> bytes:
        start = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: "
        return start + b"x" * (size - len(start) - 4) + b"\r\n\r\n"

    assert len(asked(head(MAX_HEAD_BYTES) + b"hi")[0][2]["X"]) > 250_000
    many = b"".join(b"X-%d: y\r\n" % n for n in range(5000))
    assert len(asked(b"HTTP/1.1 200 OK\r\n" + many + b"Content-Length: 2\r\n\r\nhi")[0][2]) == 5001
    for large in (head(MAX_HEAD_BYTES + 1), b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * MAX_HEAD_BYTES):
        with pytest.raises(aiohttp.ClientResponseError, match="more than 262144 bytes of header"):
            asked(large)


@pytest.mark.parametrize(
    "answer",
    [
        b"no HTTP at all\r\n\r\n",
        b"<html>an answer of 1990</html>",
        b"HTTP/1.1 2x0 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nno chunk\r\n",
    ],
)
def test_what_is_no_answer_is_refused_at_once(answer: bytes) -> None:
    with pytest.raises(aiohttp.ClientResponseError) as caught:
        asked(answer)
    assert isinstance(caught.value.__cause__, http_exceptions.HttpProcessingError)
